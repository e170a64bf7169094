"""Entries of binfmt_misc, as the kernel writes and matches them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembler.linux.binfmt import Emulator, parse
from assembler.linux.elf import program_for

AARCH64 = """\
enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: POCF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""


def entry(text: str, name: str = "one") -> Emulator:
    """The entry that `text` describes."""
    found = parse(name, text)
    assert found is not None
    return found


def test_an_entry_by_magic_number() -> None:
    found = entry(AARCH64, "qemu-aarch64")
    assert (found.name, found.fixed) == ("qemu-aarch64", True)
    assert found.interpreter == "/usr/libexec/qemu-binfmt/aarch64-binfmt-P"
    assert found.matches(program_for("arm64"))
    assert not any(found.matches(program_for(one)) for one in ("arm", "amd64", "riscv64", "s390x"))


def test_the_mask_lets_positions_and_abis_differ() -> None:
    program = bytearray(program_for("arm64"))
    program[16], program[7] = 3, 3
    assert entry(AARCH64).matches(bytes(program))
    program[16] = 4
    assert not entry(AARCH64).matches(bytes(program))


def test_without_a_mask_every_bit_counts_and_without_flags_the_path_is_the_roots() -> None:
    found = entry("enabled\ninterpreter /bin/x y\nflags: \noffset 3\nmagic 616263\n")
    assert (found.interpreter, found.fixed) == ("/bin/x y", False)
    assert found.matches(b"---abc") and found.matches(b"---abcd")
    assert not found.matches(b"---abd") and not found.matches(b"abc")


def test_a_magic_number_may_match_the_zeros_behind_a_short_file() -> None:
    found = entry("enabled\ninterpreter /x\nflags: F\noffset 250\nmagic 000000000000\n")
    assert found.matches(b"")
    beyond = entry("enabled\ninterpreter /x\nflags: F\noffset 251\nmagic 000000000000\n")
    assert not beyond.matches(b"")  # the kernel looks at 256 bytes


def test_an_entry_by_extension() -> None:
    found = entry("enabled\ninterpreter /usr/bin/wine\nflags: \nextension .exe\n")
    assert found.matches(b"MZ", "/bin/a.exe") and found.matches(b"", "b.exe")
    assert not found.matches(b"MZ", "/bin/exe") and not found.matches(b"MZ", "/bin/a.exe.x")


@pytest.mark.parametrize(
    "text",
    [
        "", "disabled\ninterpreter /x\nflags: F\noffset 0\nmagic 61\n", "enabled\n",
        "enabled\ninterpreter /x\nflags: F\noffset 0\n",
        "enabled\ninterpreter /x\nflags: F\noffset 0\nmagic 6z\n",
        "enabled\ninterpreter /x\nflags: F\noffset -1\nmagic 61\n",
        "enabled\ninterpreter /x\nflags: F\noffset 0\nmagic 6162\nmask ff\n",
        "enabled\ninterpreter /x\nflags: F\nextension .\n",
    ],
)  # fmt: skip
def test_what_is_disabled_or_no_entry_is_none(text: str) -> None:
    assert parse("one", text) is None


_LINES = st.sampled_from(
    ["enabled", "disabled", "interpreter /x", "flags: F", "offset 7", "magic 00ff", "mask 00ff", "extension .a"]
)  # fmt: skip


@given(st.lists(_LINES | st.text(max_size=20)), st.binary(max_size=300), st.text(max_size=10))
def test_whatever_a_file_holds_an_entry_or_none_is_made_of_it(
    lines: list[str], head: bytes, name: str
) -> None:
    found = parse("one", "\n".join(lines))
    assert found is None or found.matches(head, name) in (True, False)
