"""ELF headers, as far as they tell whose program a file is and what starts it (elf(5)). Pure: whoever
has the bytes gives them, and nothing in them is believed."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

HEAD = 256
"""The bytes of a file that the kernel decides by (BINPRM_BUF_SIZE)."""

_MAGIC = b"\x7fELF"
_IDENTITY, _TABLE, _PATH = (
    20,
    64 << 10,
    4096,
)  # bytes; of the table and the path the kernel's bounds
_PT_LOAD, _PT_INTERP = 1, 3
_PLACE = 0x400000

Kind = tuple[int, int, str]
"""e_machine, bits of an address, byte order as `struct` has it."""

_KINDS: Mapping[Kind, str] = MappingProxyType(
    {
        (62, 64, "<"): "amd64", (62, 32, "<"): "x32", (3, 32, "<"): "386",
        (183, 64, "<"): "arm64", (183, 64, ">"): "arm64be",
        (40, 32, "<"): "arm", (40, 32, ">"): "armbe",
        (243, 64, "<"): "riscv64", (243, 32, "<"): "riscv",
        (21, 64, "<"): "ppc64le", (21, 64, ">"): "ppc64", (20, 32, ">"): "ppc",
        (22, 64, ">"): "s390x", (22, 32, ">"): "s390",
        (8, 64, "<"): "mips64le", (8, 64, ">"): "mips64",
        (8, 32, "<"): "mipsle", (8, 32, ">"): "mips",
        (258, 64, "<"): "loong64", (43, 64, ">"): "sparc64",
    }
)  # fmt: skip
"""Architectures by the names that OCI platforms have for them, which are Go's."""

_EXITS: Mapping[str, tuple[int, bytes]] = MappingProxyType(
    {
        "amd64": (0, bytes.fromhex("b83c000000 31ff 0f05")),
        "386": (0, bytes.fromhex("b801000000 31db cd80")),
        "arm64": (0, bytes.fromhex("a80b8052 000080d2 010000d4")),
        "arm": (0x05000000, bytes.fromhex("0170a0e3 0000a0e3 000000ef")),
        "riscv64": (0, bytes.fromhex("9308d005 13050000 73000000")),
        "ppc64le": (2, bytes.fromhex("01000038 00006038 02000044")),
        "s390x": (0, bytes.fromhex("a7290000 0a01")),
        "mips64le": (0, bytes.fromhex("c2130224 25200000 0c000000")),
        "loong64": (3, bytes.fromhex("0b748103 04001500 00002b00")),
    }
)
"""e_flags of a program, and instructions that call exit(0)."""

EMULATED = tuple(_EXITS)
"""The architectures that there is a `program_for`."""


@dataclass(frozen=True, slots=True)
class Elf:
    """What the first bytes of an ELF file say of it: its e_ident, e_type and e_machine as they are."""

    identity: bytes
    kind: Kind

    @classmethod
    def of(cls, head: bytes) -> Elf | None:
        """That of a file that begins with `head`; None for anything that is no ELF file."""
        if len(head) < _IDENTITY or not head.startswith(_MAGIC):
            return None
        bits, order = {1: 32, 2: 64}.get(head[4]), {1: "<", 2: ">"}.get(head[5])
        if bits is None or order is None:
            return None
        (machine,) = struct.unpack_from(f"{order}H", head, 18)
        return cls(head[:_IDENTITY], (machine, bits, order))

    @property
    def architecture(self) -> str:
        """The architecture as OCI platforms have it; empty for one without a name here."""
        return _KINDS.get(self.kind, "")

    @property
    def platform(self) -> str:
        """What people are told: `linux/arm64`, or the machine's number in elf.h."""
        return f"linux/{self.architecture}" if self.architecture else f"ELF machine {self.kind[0]}"

    @property
    def program(self) -> bytes:
        """A program of ours that the kernel treats as this one: it does nothing but end."""
        return _program(self.identity, self.kind, *_EXITS.get(self.architecture, (0, bytes(16))))


def program_for(architecture: str) -> bytes:
    """A program for linux on `architecture` that does nothing but end; empty for unknown ones."""
    if architecture not in _EXITS:
        return b""
    machine, bits, order = kind = next(one for one, name in _KINDS.items() if name == architecture)
    identity = _MAGIC + bytes((bits // 32, 1 if order == "<" else 2, 1)) + bytes(9)
    identity += struct.pack(f"{order}HH", 2, machine)  # ET_EXEC
    return _program(identity, kind, *_EXITS[architecture])


def _program(identity: bytes, kind: Kind, flags: int, code: bytes) -> bytes:
    _, bits, order = kind
    address, header, segment = ("Q", 64, 56) if bits == 64 else ("I", 52, 32)
    entry, size = _PLACE + header + segment, header + segment + len(code)
    words = (1, entry, header, 0, flags, header, segment, 1, 0, 0, 0)
    head = identity + struct.pack(f"{order}I3{address}I6H", *words)
    if bits == 64:
        load = struct.pack(f"{order}2I6Q", _PT_LOAD, 5, 0, _PLACE, _PLACE, size, size, 0x10000)
    else:
        load = struct.pack(f"{order}8I", _PT_LOAD, 0, _PLACE, _PLACE, size, size, 5, 0x10000)
    return head + load + code


def loader(at: Callable[[int, int], bytes]) -> str:
    """The program that an ELF file wants to be started by (PT_INTERP); empty for none. `at` gives
    the bytes of the file at an offset, as many as asked for or what there is."""
    head = at(0, 64)
    elf = Elf.of(head)
    if elf is None or len(head) < 64:
        return ""
    _, bits, order = elf.kind
    place, counts, address = (32, 54, "Q") if bits == 64 else (28, 42, "I")
    (offset,) = struct.unpack_from(order + address, head, place)
    size, count = struct.unpack_from(f"{order}HH", head, counts)
    if size != (56 if bits == 64 else 32) or not 0 < size * count <= _TABLE:
        return ""
    table = _at(at, offset, size * count)
    for start in range(0, len(table) - size + 1, size):
        (kind,) = struct.unpack_from(f"{order}I", table, start)
        if kind == _PT_INTERP:
            fields = (8, 32) if bits == 64 else (4, 16)
            offset, length = (
                struct.unpack_from(order + address, table, start + field)[0] for field in fields
            )
            return _text(at, offset, length)
    return ""


def _text(at: Callable[[int, int], bytes], offset: int, length: int) -> str:
    if not 2 <= length <= _PATH:
        return ""
    content = _at(at, offset, length)
    if len(content) != length or content[-1]:
        return ""
    return content.split(b"\0")[0].decode("utf-8", "surrogateescape")


def _at(at: Callable[[int, int], bytes], offset: int, size: int) -> bytes:
    """No file reaches beyond what off_t holds."""
    return at(offset, size) if offset + size < 1 << 63 else b""
