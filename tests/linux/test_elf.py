"""What ELF headers tell, and that garbage tells nothing."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembler.linux.elf import EMULATED, HEAD, Elf, loader, program_for


def reads(content: bytes) -> Callable[[int, int], bytes]:
    """A file of that content."""
    return lambda offset, size: content[offset : offset + size]


def dynamic(interpreter: bytes, bits: int = 64, order: str = "<", place: int = 0) -> bytes:
    """A program whose loader is `interpreter`, named at `place` or behind the table."""
    machine, header, entry = (62, 64, 56) if bits == 64 else (3, 52, 32)
    place = place or header + 2 * entry
    identity = b"\x7fELF" + bytes((bits // 32, 1 if order == "<" else 2, 1)) + bytes(9)
    address = "Q" if bits == 64 else "I"
    words = (2, machine, 1, 0, header, 0, 0, header, entry, 2, 0, 0, 0)
    head = identity + struct.pack(f"{order}HHI3{address}I6H", *words)
    size = len(interpreter)
    if bits == 64:
        load = struct.pack(f"{order}2I6Q", 1, 5, 0, 0, 0, 0, 0, 0)
        named = struct.pack(f"{order}2I6Q", 3, 4, place, 0, 0, size, size, 1)
    else:
        load = struct.pack(f"{order}8I", 1, 0, 0, 0, 0, 0, 5, 0)
        named = struct.pack(f"{order}8I", 3, place, 0, 0, size, size, 4, 1)
    return (head + load + named).ljust(place, b"\0") + interpreter


@pytest.mark.parametrize("architecture", EMULATED)
def test_a_program_of_ours_is_for_the_architecture_it_was_made_for(architecture: str) -> None:
    program = program_for(architecture)
    elf = Elf.of(program[:HEAD])
    assert elf is not None
    assert (elf.architecture, elf.platform) == (architecture, f"linux/{architecture}")
    assert elf.program == program


def test_the_copy_of_a_program_has_its_marks_and_none_of_its_code() -> None:
    theirs = program_for("arm64")[:16] + struct.pack("<HH", 3, 183) + b"\xcc" * 300
    theirs = theirs[:7] + b"\x03" + theirs[8:]  # of the GNU ABI, and to be loaded anywhere
    elf = Elf.of(theirs)
    assert elf is not None
    assert elf.program[:20] == theirs[:20]
    assert elf.program[20:] == program_for("arm64")[20:]


def test_a_machine_without_a_name_is_told_by_its_number() -> None:
    elf = Elf.of(b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, 4711))
    assert elf is not None
    assert (elf.architecture, elf.platform) == ("", "ELF machine 4711")
    assert Elf.of(elf.program) == elf


@pytest.mark.parametrize(
    "head",
    [b"", b"\x7fELF", b"#!/bin/sh\n", b"MZ" + bytes(60), b"\x7fELF\x03\x01" + bytes(60),
     b"\x7fELF\x02\x00" + bytes(60), program_for("arm64")[:19]],
)  # fmt: skip
def test_what_is_no_elf_file_is_none(head: bytes) -> None:
    assert Elf.of(head) is None


def test_an_architecture_that_is_not_known_has_no_program() -> None:
    assert program_for("pdp11") == b""


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("place", [0, 70_000])
def test_the_loader_is_found_wherever_it_is_named(bits: int, order: str, place: int) -> None:
    assert loader(reads(dynamic(b"/lib/ld.so.1\0", bits, order, place))) == "/lib/ld.so.1"


@pytest.mark.parametrize("architecture", EMULATED)
def test_a_static_program_has_no_loader(architecture: str) -> None:
    assert loader(reads(program_for(architecture))) == ""


@pytest.mark.parametrize(
    "interpreter", [b"", b"\0", b"/lib/ld.so.1", b"/" + b"x" * 4096 + b"\0"],
    ids=["none", "empty", "without an end", "too long"],
)  # fmt: skip
def test_a_name_that_the_kernel_would_refuse_is_none(interpreter: bytes) -> None:
    assert loader(reads(dynamic(interpreter))) == ""


@given(st.binary(max_size=400))
def test_garbage_behind_a_magic_number_is_no_program(rest: bytes) -> None:
    content = b"\x7fELF" + rest
    elf = Elf.of(content)
    assert elf is None or Elf.of(elf.program) == elf
    assert isinstance(loader(reads(content)), str)


@given(
    st.sampled_from(["amd64", "386", "s390x"]),
    st.lists(st.tuples(st.integers(16, 130), st.integers(0, 255)), max_size=12),
)
def test_any_damage_to_a_header_reads_no_more_than_the_kernel_would(
    architecture: str, damage: list[tuple[int, int]]
) -> None:
    content = bytearray(program_for(architecture) + bytes(256))
    for place, value in damage:
        content[place] = value
    asked: list[tuple[int, int]] = []

    def at(offset: int, size: int) -> bytes:
        asked.append((offset, size))
        assert 0 <= offset < 1 << 63
        return bytes(content[offset : offset + size])

    loader(at)
    assert len(asked) <= 3 and all(size <= 64 << 10 for _, size in asked)
