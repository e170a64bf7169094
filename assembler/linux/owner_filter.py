"""Which system calls owners need a supervisor for, as a BPF program (seccomp(2))."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable
from enum import Enum

from assembler.linux import allowed_calls

RLIMIT_LOCKS = 10
O_TMPFILE = 0o20000000
CREATES = os.O_CREAT | O_TMPFILE

_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _EQUAL, _BITS, _AND, _JUMP, _RETURN = 0x20, 0x15, 0x45, 0x54, 0x05, 0x06
_ALLOW, _NOTIFY, _PRETEND = 0x7FFF0000, 0x7FC00000, 0x50000

_OWNER_CALLS = ("chown", "lchown", "fchown", "fchownat")
_SET_CALLS = (
    "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid",
    "setgroups",
)  # fmt: skip
_GET_CALLS = (
    "getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups",
)  # fmt: skip
_CREATE_CALLS = ("creat", "openat2", "mkdir", "mkdirat", "symlink", "symlinkat", "mknod", "mknodat")
_STAT_CALLS = ("stat", "lstat", "fstat", "newfstatat", "statx")
_PROGRAM_CALLS = ("execve", "execveat", "chroot")
_FLAG_ARGUMENT = {"open": 1, "openat": 2}
MODE_ARGUMENT = {"mknod": 1, "mknodat": 2}
PRETENDED = (*_OWNER_CALLS, *_SET_CALLS, "capset")
"""What does nothing where nobody can be supervised; and so does making a device by MODE_ARGUMENT."""


class Ownership(Enum):
    """How a sandbox keeps owners: MAPPED by the kernel, SUPERVISED by its first process, or IGNORED
    (calls that would change them succeed and do nothing)."""

    MAPPED = "mapped"
    SUPERVISED = "supervised"
    IGNORED = "ignored"


def program(machine: str, ownership: Ownership, rest: bytes = b"") -> bytes:
    """The filter for `machine` (`x86_64`, `aarch64`). Raises KeyError for another one.

    `rest` is the program that decides about all other calls; without it they are allowed. Two
    filters would say the same, but each costs as much to install as starting a process.
    """
    code: list[tuple[int, int, int, int]] = []

    def on(name: str, *tests: tuple[int, int, int, int]) -> None:
        number = allowed_calls.number(name, machine)
        if number is not None:
            code.append((_EQUAL, 0, len(tests), number))
            code.extend(tests)

    def always(names: Iterable[str], verdict: int) -> None:
        for name in names:
            on(name, (_RETURN, 0, 0, verdict))

    def devices(verdict: int) -> None:
        for name, argument in MODE_ARGUMENT.items():
            on(
                name,
                (_LOAD, 0, 0, 16 + 8 * argument),
                (_AND, 0, 0, stat.S_IFMT(0xFFFF)),
                (_EQUAL, 1, 0, stat.S_IFCHR),
                (_EQUAL, 0, 1, stat.S_IFBLK),
                (_RETURN, 0, 0, verdict),
                (_RETURN, 0, 0, _ALLOW),
            )

    if ownership is Ownership.MAPPED:
        devices(_NOTIFY)
    elif ownership is Ownership.IGNORED:
        always(PRETENDED, _PRETEND)
        devices(_PRETEND)
    else:
        names = (*_OWNER_CALLS, *_SET_CALLS, *_GET_CALLS, *_CREATE_CALLS, *_PROGRAM_CALLS)
        always((*names, *_STAT_CALLS), _NOTIFY)
        for name, argument in _FLAG_ARGUMENT.items():
            on(
                name,
                (_LOAD, 0, 0, 16 + 8 * argument),
                (_BITS, 0, 1, CREATES),
                (_RETURN, 0, 0, _NOTIFY),
                (_RETURN, 0, 0, _ALLOW),
            )
        on(
            "setrlimit",
            (_LOAD, 0, 0, 16),
            (_EQUAL, 0, 1, RLIMIT_LOCKS),
            (_RETURN, 0, 0, _PRETEND),
            (_RETURN, 0, 0, _ALLOW),
        )
        on(
            "prlimit64",
            (_LOAD, 0, 0, 24),
            (_EQUAL, 0, 4, RLIMIT_LOCKS),
            (_LOAD, 0, 0, 32),
            (_BITS, 1, 0, 0xFFFFFFFF),
            (_LOAD, 0, 0, 36),
            (_BITS, 1, 0, 0xFFFFFFFF),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _PRETEND),
        )
    head = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _AUDIT[machine]), (_JUMP, 0, 0, 1 + len(code))]
    code = [*head, (_LOAD, 0, 0, 0), *code]
    found = b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
    return found + (rest or struct.pack("=HBBI", _RETURN, 0, 0, _ALLOW))
