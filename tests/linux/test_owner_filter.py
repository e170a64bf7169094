"""The filter for owners, interpreted (rootless-runtime.md 5 a1, a2)."""

from __future__ import annotations

import os
import stat
import struct

import pytest

from assembler.linux import allowed_calls, seccomp
from assembler.linux.owner_filter import Ownership, program

ALLOW, NOTIFY, PRETEND = 0x7FFF0000, 0x7FC00000, 0x50000
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CREATE, TMPFILE = os.O_CREAT, 0o20000000


def verdict(machine: str, kind: Ownership, number: int, *arguments: int, audit: int = 0) -> int:
    """What the filter says to one system call."""
    return interpreted(program(machine, kind), machine, number, *arguments, audit=audit)


def interpreted(program: bytes, machine: str, number: int, *arguments: int, audit: int = 0) -> int:
    """Run a BPF program over one system call (seccomp_data: nr, arch, ip, args)."""
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    memory = struct.pack("=IIQ6Q", number, audit or AUDIT[machine], 0, *padded)
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        operation, true, false, value = code[at]
        at += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("=I", memory, value)[0]
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x05:
            at += value
        elif operation == 0x06:
            return int(value)
        else:
            holds = {0x15: accumulator == value, 0x45: bool(accumulator & value)}
            holds |= {0x25: accumulator > value, 0x35: accumulator >= value}
            at += true if holds[operation] else false


# chown lchown fchown fchownat setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid
# setgroups, mknod mknodat, capset, openat, read; None where the architecture has none
CALLS = {
    "x86_64": (
        (92, 94, 93, 260, 105, 106, 113, 114, 117, 119, 122, 123, 116), (133, 259), 126, 257, 0,
    ),
    "aarch64": ((55, 54, 146, 144, 145, 143, 147, 149, 151, 152, 159), (None, 33), 91, 56, 63),
}  # fmt: skip
machines = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])


@machines
def test_owners_and_ids_are_asked_for(machine: str) -> None:
    changes, _, _, openat, read = CALLS[machine]
    for number in changes:
        assert verdict(machine, Ownership.SUPERVISED, number) == NOTIFY
        assert verdict(machine, Ownership.MAPPED, number) == ALLOW
    assert verdict(machine, Ownership.SUPERVISED, read) == ALLOW
    assert verdict(machine, Ownership.SUPERVISED, openat, 0, 0, os.O_RDWR) == ALLOW
    assert verdict(machine, Ownership.SUPERVISED, openat, 0, 0, os.O_RDWR | CREATE) == NOTIFY
    assert verdict(machine, Ownership.SUPERVISED, openat, 0, 0, TMPFILE) == NOTIFY


@machines
def test_A1_the_filter_without_a_supervisor_pretends(machine: str) -> None:
    changes, mknod, capset, openat, read = CALLS[machine]
    for number in (*changes, capset):
        assert verdict(machine, Ownership.IGNORED, number) == PRETEND
    for number in (openat, read):
        assert verdict(machine, Ownership.IGNORED, number, 0, 0, CREATE) == ALLOW
    assert mknod[1] is not None
    for kind, expected in ((stat.S_IFCHR, PRETEND), (stat.S_IFBLK, PRETEND), (stat.S_IFIFO, ALLOW)):
        assert verdict(machine, Ownership.IGNORED, mknod[1], 0, 0, kind | 0o644) == expected


@machines
def test_with_a_full_map_only_device_nodes_are_asked_for(machine: str) -> None:
    for argument, number in enumerate(CALLS[machine][1], start=1):
        if number is None:
            continue
        for kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG, 0):
            arguments = (*(0,) * argument, kind | 0o644)
            device = kind in (stat.S_IFCHR, stat.S_IFBLK)
            assert verdict(machine, Ownership.MAPPED, number, *arguments) == (
                NOTIFY if device else ALLOW
            )
            assert verdict(machine, Ownership.SUPERVISED, number, *arguments) == NOTIFY


def test_the_limit_that_holds_the_ids_cannot_be_changed() -> None:
    setrlimit, prlimit = 160, 302
    assert verdict("x86_64", Ownership.SUPERVISED, setrlimit, 10) == PRETEND
    assert verdict("x86_64", Ownership.SUPERVISED, setrlimit, 7) == ALLOW
    assert verdict("x86_64", Ownership.SUPERVISED, prlimit, 0, 10, 0, 0x7F) == ALLOW, "only asked"
    for pointer in (0x7F, 0x7F << 32):
        assert verdict("x86_64", Ownership.SUPERVISED, prlimit, 0, 10, pointer) == PRETEND
        assert verdict("x86_64", Ownership.SUPERVISED, prlimit, 0, 7, pointer) == ALLOW


def test_another_abi_is_left_to_the_profile() -> None:
    assert verdict("x86_64", Ownership.SUPERVISED, 92, audit=0x40000003) == ALLOW


@pytest.mark.parametrize("machine", list(CALLS))
@pytest.mark.parametrize("kind", list(Ownership))
def test_one_program_says_what_the_filter_and_the_profile_say(
    machine: str, kind: Ownership
) -> None:
    profile = seccomp.profile(machine)
    together = program(machine, kind, profile)
    modes = (stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK)
    calls: list[tuple[int, ...]] = [(number,) for number in range(allowed_calls.NEWEST + 2)]
    calls += [(number, 0, mode, mode) for number in CALLS[machine][1] if number for mode in modes]
    for call in calls:
        alone = verdict(machine, kind, *call)
        wanted = interpreted(profile, machine, *call) if alone == ALLOW else alone
        assert interpreted(together, machine, *call) == wanted, call
    for audit in (0x40000003, 0x40000028, 0x80000016):  # i386, arm, s390x: the profile's to say
        for number in (0, 3, 21, 120, 122):
            wanted = interpreted(profile, machine, number, audit=audit)
            assert interpreted(together, machine, number, audit=audit) == wanted
    assert interpreted(together, machine, 0, audit=0x80000016) != ALLOW
