"""What a host executes, by a binfmt_misc that is made up and by what the kernel says."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from assembler.linux.binfmt import Emulator
from assembler.linux.elf import Elf, program_for
from assembler.linux.emulators import Foreign, Host, knows, registered, remedy
from tests.linux.test_binfmt import AARCH64

OWN = Host.here().architecture
UNHEARD = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, 0xFEED)


def directory(path: Path, status: str = "enabled\n", **entries: str) -> str:
    """A binfmt_misc as it looks when it is mounted."""
    path.mkdir()
    (path / "register").touch(0o200)
    (path / "status").write_text(status)
    for name, text in entries.items():
        (path / name).write_text(text)
    return str(path)


def kernel(*executed: str) -> Callable[[bytes], bool | None]:
    """One that executes the programs of these architectures."""

    def known(program: bytes) -> bool:
        elf = Elf.of(program)
        assert elf is not None
        return elf.architecture in executed

    return known


def emulator(*, fixed: bool, interpreter: str = "/usr/bin/qemu-aarch64") -> Emulator:
    """That of arm64."""
    return Emulator("qemu-aarch64", interpreter, fixed, 0, program_for("arm64")[:20])


Known = Callable[[bytes], bool | None]


def host(*emulators: Emulator, known: Known | None = None) -> Host:
    """A host for amd64, whose kernel executes nothing else by itself."""
    return Host("amd64", emulators, known or kernel("amd64"))


def refusal(of: Host, *files: str) -> str:
    """Why `of` refuses a program for arm64 in a root with `files`."""
    return of.refusal(program_for("arm64"), "/bin/sh", lambda path: path in files)


def test_the_entries_that_are_in_effect(tmp_path: Path) -> None:
    other = AARCH64.replace("enabled", "disabled")
    found = registered(directory(tmp_path / "b", aarch64=AARCH64, off=other, odd="\0"))
    assert found is not None
    assert [one.name for one in found] == ["aarch64"]


@pytest.mark.parametrize(
    ("status", "wanted"), [("disabled\n", ()), ("", None), ("what\n", None)]
)  # fmt: skip
def test_when_all_are_off_there_are_none_and_without_a_status_nothing_is_known(
    tmp_path: Path, status: str, wanted: tuple[()] | None
) -> None:
    assert registered(directory(tmp_path / "b", status, aarch64=AARCH64)) == wanted


def test_where_binfmt_misc_is_not_mounted_nothing_is_known(tmp_path: Path) -> None:
    assert registered(str(tmp_path)) is None
    assert registered(str(tmp_path / "none")) is None
    assert Host.here(str(tmp_path)).emulators is None


def test_an_entry_of_any_bytes_and_one_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    path = directory(tmp_path / "b", aarch64=AARCH64)
    (tmp_path / "b/odd").write_bytes(b"enabled\ninterpreter /\xff\nflags: F\noffset 0\nmagic 61\n")
    (tmp_path / "b/gone").symlink_to("nowhere")
    (tmp_path / "b/dir").mkdir()
    found = registered(path)
    assert found is not None
    assert [os.fsencode(one.interpreter) for one in found if one.name == "odd"] == [b"/\xff"]
    assert len(found) == 2


def test_the_kernel_is_asked_where_nothing_is_registered() -> None:
    assert host(known=kernel("amd64", "386")).executes("386")
    assert not host().executes("386")
    assert host(known=lambda program: None).executes("386")  # which proves nothing against it
    assert Host("amd64", None, kernel("arm64")).executes("arm64")


def test_what_nobody_can_ask_for_is_believed() -> None:
    assert host(known=kernel()).executes("amd64") and host(known=kernel()).executes("pdp11")


def test_an_emulator_that_images_would_have_to_bring_along_is_not_enough() -> None:
    asked = kernel("amd64", "arm64")
    assert host(emulator(fixed=True), known=kernel()).executes("arm64")
    assert not host(emulator(fixed=False), known=asked).executes("arm64")
    assert host(emulator(fixed=False), emulator(fixed=True), known=asked).executes("arm64")


def test_a_refusal_says_what_is_missing() -> None:
    assert refusal(host()) == "no emulator for linux/arm64 is registered here"
    assert refusal(host(known=lambda program: None)) == ""
    assert refusal(host(emulator(fixed=True), known=kernel())) == ""
    given = host(emulator(fixed=False), known=kernel("arm64"))
    assert refusal(given, "/usr/bin/qemu-aarch64") == ""
    assert refusal(given) == (
        "the emulator /usr/bin/qemu-aarch64 is registered without the flag F (binfmt_misc entry"
        " qemu-aarch64), and the stage has no such file"
    )


@pytest.mark.parametrize("head", [program_for("amd64"), b"#!/bin/sh\n", b"", b"MZ"])
def test_its_own_programs_and_what_is_none_are_not_refused(head: bytes) -> None:
    assert host(known=kernel()).refusal(head, "/x", lambda path: False) == ""


def test_what_else_is_executed_and_by_whom() -> None:
    fixed, loose = emulator(fixed=True), emulator(fixed=False)
    asked = kernel("386", "arm64")
    assert host(known=asked).foreign() == [Foreign("386", None), Foreign("arm64", None)]
    assert host(loose, known=kernel()).foreign() == [Foreign("arm64", loose)]
    assert host(loose, fixed, known=kernel()).foreign() == [Foreign("arm64", fixed)]


def test_the_line_that_helps_names_what_is_to_be_registered() -> None:
    assert remedy("arm64").endswith("--install arm64")
    assert remedy("pdp11").endswith("--install all") and remedy().endswith("--install all")


def test_this_kernel_executes_what_it_is_made_for_and_nothing_unheard_of() -> None:
    assert knows(program_for(OWN)) is True
    unheard = Elf.of(UNHEARD)
    assert unheard is not None
    assert knows(unheard.program) is False
    assert knows(b"") is False  # no format either


def test_nothing_is_left_of_asking() -> None:
    code = (
        "import os\n"
        "from assembler.linux.elf import EMULATED, program_for\n"
        "from assembler.linux.emulators import knows\n"
        "before = set(os.listdir('/proc/self/fd'))\n"
        "for architecture in EMULATED:\n"
        "    knows(program_for(architecture))\n"
        "assert set(os.listdir('/proc/self/fd')) == before\n"
        "try:\n"
        "    os.waitpid(-1, os.WNOHANG)\n"
        "except ChildProcessError:\n"
        "    print('nothing')\n"
    )  # in a process of its own: that of the tests has children
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert (done.stdout, done.stderr) == ("nothing\n", "")
