"""The seccomp program, interpreted: what is allowed, refused, and unknown."""

from __future__ import annotations

import ctypes
import errno
import stat
import struct

import pytest

from assembler.linux import allowed_calls, seccomp

ALLOW = 0x7FFF0000
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "i386": 0x40000003, "arm": 0x40000028}
HOST = {"x86_64": "x86_64", "i386": "x86_64", "aarch64": "aarch64", "arm": "aarch64"}
machines = pytest.mark.parametrize("machine", AUDIT)


def verdict(machine: str, number: int, argument: int = 0, audit: int | None = None) -> int:
    """Run the BPF program over one system call of a program for `machine` (seccomp_data: nr, arch,
    ip, args)."""
    architecture = AUDIT[machine] if audit is None else audit
    memory = struct.pack("=IIQ6Q", number, architecture, 0, argument, 0, 0, 0, 0, 0)
    code = list(struct.iter_unpack("=HBBI", seccomp.profile(HOST[machine])))
    accumulator, at = 0, 0
    while True:
        operation, true, false, value = code[at]
        at += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("=I", memory, value)[0]
        elif operation == 0x05:
            at += value
        elif operation == 0x06:
            return int(value)
        else:
            holds = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }
            at += true if holds[operation] else false


def refused(number: int) -> int:
    return 0x50000 | number


MOUNT_AND_UNSHARE = {"x86_64": (165, 272), "aarch64": (40, 97), "i386": (21, 310), "arm": (21, 337)}


@machines
def test_dangerous_calls_are_refused_and_new_ones_unknown(machine: str) -> None:
    for number in MOUNT_AND_UNSHARE[machine]:
        assert verdict(machine, number) == refused(errno.EPERM)
    assert verdict(machine, 435) == refused(errno.ENOSYS), "clone3: C libraries fall back to clone"
    assert verdict(machine, 9999) == refused(errno.ENOSYS)


CLONE = {"x86_64": 56, "aarch64": 220, "i386": 120, "arm": 120}
SOCKET = {"x86_64": 41, "aarch64": 198, "i386": 359, "arm": 281}
PERSONALITY = {"x86_64": 135, "aarch64": 92, "i386": 136, "arm": 136}


@machines
def test_ordinary_calls_are_allowed(machine: str) -> None:
    read = {"x86_64": 0, "aarch64": 63, "i386": 3, "arm": 3}[machine]
    assert verdict(machine, read) == ALLOW


@machines
def test_clone_may_make_threads_but_no_namespaces(machine: str) -> None:
    assert verdict(machine, CLONE[machine], 0x3D0F00) == ALLOW
    assert verdict(machine, CLONE[machine], 0x10000000) == refused(errno.EPERM)


@machines
def test_netlink_is_open_for_useradd_and_alg_sockets_are_not(machine: str) -> None:
    assert verdict(machine, SOCKET[machine], 16) == ALLOW
    assert verdict(machine, SOCKET[machine], 38) == refused(errno.EPERM)


@machines
def test_personality_may_only_be_harmless(machine: str) -> None:
    assert verdict(machine, PERSONALITY[machine], 0) == ALLOW
    assert verdict(machine, PERSONALITY[machine], 0xFFFFFFFF) == ALLOW
    assert verdict(machine, PERSONALITY[machine], 0x400000) == refused(errno.EPERM)


def test_another_abi_of_the_kernel_is_unknown() -> None:
    assert verdict("x86_64", 0, audit=AUDIT["arm"]) == refused(errno.ENOSYS)
    assert verdict("aarch64", 63, audit=AUDIT["i386"]) == refused(errno.ENOSYS)
    assert verdict("x86_64", 0x40000000) == refused(errno.ENOSYS), "x32"


def test_the_private_calls_of_arm_are_allowed() -> None:
    assert [verdict("arm", 0xF0000 + number) == ALLOW for number in range(1, 7)] == [
        True, True, False, False, True, False,
    ], "breakpoint, cacheflush, usr26, usr32, set_tls, get_tls"  # fmt: skip
    assert verdict("i386", 0xF0002) == refused(errno.ENOSYS)


@machines
def test_the_program_lets_through_just_what_the_table_names(machine: str) -> None:
    allowed = allowed_calls.numbers(machine)
    conditional = {CLONE[machine], SOCKET[machine], PERSONALITY[machine], 435}
    for number in set(range(allowed_calls.NEWEST + 1)) - conditional:
        wanted = ALLOW if number in allowed else refused(errno.EPERM)
        assert verdict(machine, number) == wanted, number
    assert verdict(machine, allowed_calls.NEWEST + 1) == refused(errno.ENOSYS)


def test_numbers_above_424_are_the_same_everywhere() -> None:
    new = [{n for n in allowed_calls.numbers(m) if 424 < n < 0xF0000} for m in AUDIT]
    assert new[0] == new[1] == new[2]
    assert new[0] - new[3] == {447}, "memfd_secret, which 32-bit ARM lacks"


SINCE_LIBSECCOMP_2_5_4 = {
    "cachestat", "fchmodat2", "map_shadow_stack", "futex_wake", "futex_wait", "futex_requeue",
    "statmount", "listmount", "mseal", "setxattrat", "getxattrat", "listxattrat", "removexattrat",
    "uretprobe",
}  # fmt: skip


@machines
def test_numbers_are_those_that_libseccomp_knows(machine: str) -> None:
    """The library that runc and crun resolve names with (Debian: libseccomp2, which apt needs)."""
    resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name_arch
    resolve.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
    for name in allowed_calls.names(*AUDIT):
        known = resolve(AUDIT[machine], name.encode())
        if known == -1:
            assert name in SINCE_LIBSECCOMP_2_5_4 or allowed_calls.number(name, machine) is None
        elif known >= 0 or not socket_or_ipc(machine, name):  # below 0: the architecture lacks it
            assert allowed_calls.number(name, machine) == (known if known >= 0 else None), name


def socket_or_ipc(machine: str, name: str) -> bool:
    """Whether i386 has a call of its own, since Linux 4.3 or 5.1, for what libseccomp filters under
    socketcall or ipc."""
    number = allowed_calls.number(name, machine)
    return machine == "i386" and number in {337, 345, *range(359, 403)}


LEGACY = (
    "access", "alarm", "arch_prctl", "chmod", "chown", "creat", "dup2", "epoll_create",
    "epoll_wait", "eventfd", "fork", "futimesat", "getdents", "getpgrp", "inotify_init", "lchown",
    "link", "lstat", "mkdir", "mknod", "modify_ldt", "open", "pause", "pipe", "poll", "readlink",
    "rename", "rmdir", "select", "signalfd", "stat", "symlink", "time", "unlink", "utime",
    "utimes", "vfork",
)  # fmt: skip


def test_arm64_has_no_call_that_another_replaced() -> None:
    assert {allowed_calls.number(name, "aarch64") for name in LEGACY} == {None}
    assert None not in {allowed_calls.number(name, "x86_64") for name in LEGACY}


HOSTS = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}


@pytest.mark.parametrize("host", HOSTS)
def test_the_specification_names_what_the_program_allows(host: str) -> None:
    document = seccomp.specification(host)
    assert document["architectures"] == HOSTS[host]
    assert document["defaultAction"] == "SCMP_ACT_ERRNO"
    assert document["defaultErrnoRet"] == errno.EPERM
    unconditional = [rule for rule in document["syscalls"] if "args" not in rule]
    machines = [machine for machine in HOST if HOST[machine] == host]
    assert unconditional[0]["names"] == list(allowed_calls.names(*machines))
    assert ("cacheflush" in unconditional[0]["names"]) is (host == "aarch64")
    assert unconditional[1]["names"] == ["clone3"]
    assert unconditional[1]["errnoRet"] == errno.ENOSYS
    personalities = [
        r["args"][0]["value"] for r in document["syscalls"] if "personality" in r["names"]
    ]
    assert personalities == [0, 8, 0x20000, 0x20008, 0xFFFFFFFF]


def test_A1_the_specification_pretends_where_owners_are_ignored() -> None:
    rules = seccomp.specification("x86_64", pretending=True)["syscalls"]
    nothing = [rule for rule in rules if rule.get("errnoRet") == 0]
    assert {"chown", "fchownat", "setuid", "setgroups", "capset"} <= set(nothing[0]["names"])
    assert not set(nothing[0]["names"]) & set(rules[0]["names"]), "not allowed as well"
    asked = {
        (rule["names"][0], rule["args"][0]["index"], rule["args"][0]["valueTwo"])
        for rule in nothing[1:]
    }
    devices = (stat.S_IFCHR, stat.S_IFBLK)
    assert asked == {(n, i, kind) for n, i in (("mknod", 1), ("mknodat", 2)) for kind in devices}
    others = [rule for rule in rules if rule["names"] == ["mknod"] and rule not in nothing]
    kinds = {0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK}
    assert {rule["args"][0]["valueTwo"] for rule in others} == kinds
    assert {rule["action"] for rule in others} == {"SCMP_ACT_ALLOW"}
