"""The seccomp program, interpreted: what is allowed, refused, and unknown."""

from __future__ import annotations

import errno
import stat
import struct

import pytest

from assembler.linux import allowed_calls, seccomp

ALLOW = 0x7FFF0000
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def verdict(machine: str, number: int, argument: int = 0, audit: int | None = None) -> int:
    """Run the BPF program over one system call (seccomp_data: nr, arch, ip, args)."""
    architecture = AUDIT[machine] if audit is None else audit
    memory = struct.pack("=IIQ6Q", number, architecture, 0, argument, 0, 0, 0, 0, 0)
    code = list(struct.iter_unpack("=HBBI", seccomp.profile(machine)))
    accumulator, at = 0, 0
    while True:
        operation, true, false, value = code[at]
        at += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("=I", memory, value)[0]
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


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_dangerous_calls_are_refused_and_new_ones_unknown(machine: str) -> None:
    calls = {"x86_64": {"mount": 165, "unshare": 272}, "aarch64": {"mount": 40, "unshare": 97}}
    for number in calls[machine].values():
        assert verdict(machine, number) == refused(errno.EPERM)
    assert verdict(machine, 435) == refused(errno.ENOSYS), "clone3: C libraries fall back to clone"
    assert verdict(machine, 9999) == refused(errno.ENOSYS)


@pytest.mark.parametrize(("machine", "read"), [("x86_64", 0), ("aarch64", 63)])
def test_ordinary_calls_are_allowed(machine: str, read: int) -> None:
    assert verdict(machine, read) == ALLOW


def test_clone_may_make_threads_but_no_namespaces() -> None:
    assert verdict("x86_64", 56, 0x3D0F00) == ALLOW
    assert verdict("x86_64", 56, 0x10000000) == refused(errno.EPERM)


def test_netlink_is_open_for_useradd_and_alg_sockets_are_not() -> None:
    assert verdict("x86_64", 41, 16) == ALLOW
    assert verdict("x86_64", 41, 38) == refused(errno.EPERM)


def test_personality_may_only_be_harmless() -> None:
    assert verdict("x86_64", 135, 0) == ALLOW
    assert verdict("x86_64", 135, 0xFFFFFFFF) == ALLOW
    assert verdict("x86_64", 135, 0x400000) == refused(errno.EPERM)


def test_another_abi_of_the_kernel_is_unknown() -> None:
    assert verdict("x86_64", 0, audit=0x40000003) == refused(errno.ENOSYS)
    assert verdict("x86_64", 0x40000000) == refused(errno.ENOSYS)


CONDITIONAL = {"x86_64": {56, 41, 135, 435}, "aarch64": {220, 198, 92, 435}}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_program_lets_through_just_what_the_table_names(machine: str) -> None:
    allowed = allowed_calls.numbers(machine)
    for number in set(range(allowed_calls.NEWEST + 1)) - CONDITIONAL[machine]:
        wanted = ALLOW if number in allowed else refused(errno.EPERM)
        assert verdict(machine, number) == wanted, number
    assert verdict(machine, allowed_calls.NEWEST + 1) == refused(errno.ENOSYS)


def test_numbers_above_424_are_the_same_everywhere() -> None:
    new = [{n for n in allowed_calls.numbers(m) if n > 424} for m in ("x86_64", "aarch64")]
    assert new[0] == new[1]


def test_the_specification_names_what_the_program_allows() -> None:
    document = seccomp.specification("x86_64")
    assert document["defaultAction"] == "SCMP_ACT_ERRNO"
    assert document["defaultErrnoRet"] == errno.EPERM
    unconditional = [rule for rule in document["syscalls"] if "args" not in rule]
    assert unconditional[0]["names"] == list(allowed_calls.names())
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
