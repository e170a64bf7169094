"""What a RUN may ask of the kernel: moby's default profile as a BPF program (seccomp(2)), and as
the runtime specification's `linux.seccomp`.

Calls that moby ties to capabilities a step does not have are refused with EPERM. clone3 and
numbers newer than the profile get ENOSYS, so that C libraries fall back to what can be checked.
32-bit programs have rules of their own, as moby's sub-architectures; x32 has none.
AF_NETLINK stays open: groupadd and useradd die when the audit socket fails with EPERM.
"""

from __future__ import annotations

import errno
import stat
import struct
from collections.abc import Iterable, Iterator
from typing import Any

from assembler.linux import allowed_calls
from assembler.linux.owner_filter import MODE_ARGUMENT, PRETENDED

_CLONE3 = 435
_ARCHITECTURES = {
    # audit architecture, clone, socket, personality, name in the runtime specification
    "x86_64": (0xC000003E, 56, 41, 135, "SCMP_ARCH_X86_64"),
    "i386": (0x40000003, 120, 359, 136, "SCMP_ARCH_X86"),
    "aarch64": (0xC00000B7, 220, 198, 92, "SCMP_ARCH_AARCH64"),
    "arm": (0x40000028, 120, 281, 136, "SCMP_ARCH_ARM"),
}
_PROGRAMS = {"x86_64": ("x86_64", "i386"), "aarch64": ("aarch64", "arm")}
"""Whose programs a machine runs: its own, and the 32-bit ones of images for linux/386 and arm."""

_NAMESPACE_FLAGS = 0x7E020000
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
_AF_ALG, _AF_VSOCK = 38, 40

_LOAD, _EQUAL, _AT_LEAST, _ABOVE, _BITS, _RETURN = 0x20, 0x15, 0x35, 0x25, 0x45, 0x06
_JUMP = 0x05
_ALLOW = 0x7FFF0000

_Instruction = tuple[int, int, int, int]


def _refuse(number: int) -> int:
    return 0x50000 | number


def profile(machine: str) -> bytes:
    """The program for `machine` (`x86_64`, `aarch64`). Raises KeyError for another one."""
    native, other = _PROGRAMS[machine]
    rules = _rules(native)
    code = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 3, 0, _ARCHITECTURES[native][0]),
        (_EQUAL, 0, 1, _ARCHITECTURES[other][0]),
        (_JUMP, 0, 0, 1 + len(rules)),
        (_RETURN, 0, 0, _refuse(errno.ENOSYS)),  # another ABI of the same kernel
        *rules,
        *_rules(other),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _rules(machine: str) -> list[_Instruction]:
    """What the programs of `machine` may call; it returns in any case."""
    _, clone, socket, personality, _ = _ARCHITECTURES[machine]
    allowed = allowed_calls.numbers(machine)
    code: list[_Instruction] = [(_LOAD, 0, 0, 0)]

    def test(operation: int, value: int, result: int) -> None:
        code.append((operation, 0, 1, value))
        code.append((_RETURN, 0, 0, result))

    def on_argument(number: int, tests: list[tuple[int, int, int]], otherwise: int) -> None:
        # Skips itself when the call is another one; the argument's low half is enough for flags.
        code.append((_EQUAL, 0, 2 * len(tests) + 2, number))
        code.append((_LOAD, 0, 0, 16))
        for operation, value, result in tests:
            test(operation, value, result)
        code.append((_RETURN, 0, 0, otherwise))

    refused = _refuse(errno.EPERM)
    for number in sorted(allowed):
        if number > allowed_calls.NEWEST:
            test(_EQUAL, number, _ALLOW)
    test(_ABOVE, allowed_calls.NEWEST, _refuse(errno.ENOSYS))  # x32 calls (2^30 and up), too
    test(_EQUAL, _CLONE3, _refuse(errno.ENOSYS))
    on_argument(clone, [(_BITS, _NAMESPACE_FLAGS, refused)], _ALLOW)
    families = [(_EQUAL, _AF_ALG, refused), (_EQUAL, _AF_VSOCK, refused)]
    on_argument(socket, families, _ALLOW)
    on_argument(personality, [(_EQUAL, value, _ALLOW) for value in _PERSONALITIES], refused)
    below_newest = (number for number in allowed if number <= allowed_calls.NEWEST)
    return [*code, *_search(list(_ranges(below_newest)), refused)]


def _search(ranges: list[tuple[int, int]], refused: int) -> list[_Instruction]:
    """Whether a number is in one of `ranges`, by halves: the kernel tries every number there is
    when a program is installed, to know which it need not run it for."""
    if len(ranges) > 2:
        middle = len(ranges) // 2
        below, above = _search(ranges[:middle], refused), _search(ranges[middle:], refused)
        return [(_AT_LEAST, len(below), 0, ranges[middle][0]), *below, *above]
    code: list[_Instruction] = []
    for first, last in ranges:
        code.append((_ABOVE, 3, 0, last))
        code += [(_AT_LEAST, 0, 1, first), (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, refused)]
    return [*code, (_RETURN, 0, 0, refused)]


def specification(machine: str, *, pretending: bool = False) -> dict[str, Any]:
    """The same rules as `linux.seccomp` of the runtime specification (config-linux.md, Seccomp).

    If `pretending`, calls that change owners or ids or make device nodes succeed and do nothing, as
    under the program for `Ownership.IGNORED`.
    """

    def rule(names: Iterable[str], *conditions: tuple[str, int], **more: int) -> dict[str, Any]:
        found: dict[str, Any] = {"names": list(names), "action": "SCMP_ACT_ALLOW"}
        if conditions:
            found["args"] = [
                {"index": 0, "value": value, "op": f"SCMP_CMP_{operation}", **more}
                for operation, value in conditions
            ]
        return found

    pretended = [*PRETENDED, *MODE_ARGUMENT] if pretending else []
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.EPERM,
        "architectures": [_ARCHITECTURES[each][-1] for each in _PROGRAMS[machine]],
        "syscalls": [
            rule(n for n in allowed_calls.names(*_PROGRAMS[machine]) if n not in pretended),
            *(_pretending() if pretending else ()),
            rule(["clone"], ("MASKED_EQ", _NAMESPACE_FLAGS), valueTwo=0),
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
            rule(["socket"], ("LT", _AF_ALG)),
            rule(["socket"], ("EQ", _AF_ALG + 1)),
            rule(["socket"], ("GT", _AF_VSOCK)),
            *(rule(["personality"], ("EQ", value)) for value in _PERSONALITIES),
        ],
    }


def _pretending() -> Iterator[dict[str, Any]]:
    nothing = {"action": "SCMP_ACT_ERRNO", "errnoRet": 0}
    yield {"names": list(PRETENDED), **nothing}
    for name, argument in MODE_ARGUMENT.items():
        for kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, 0):
            device = kind in (stat.S_IFCHR, stat.S_IFBLK)
            mask = {"value": stat.S_IFMT(0xFFFF), "valueTwo": kind, "op": "SCMP_CMP_MASKED_EQ"}
            verdict = nothing if device else {"action": "SCMP_ACT_ALLOW"}
            yield {"names": [name], "args": [{"index": argument, **mask}], **verdict}


def _ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The runs of consecutive numbers, first to last: a test each instead of one a number."""
    first = last = -2
    for number in sorted(numbers):
        if number != last + 1:
            if last >= 0:
                yield first, last
            first = number
        last = number
    yield first, last
