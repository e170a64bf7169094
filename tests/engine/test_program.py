"""What a step would execute, and why it could not: over trees that are given."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from assembler.engine.program import Programs, Refused
from assembler.errors import StepError
from assembler.layer.changeset import Entry
from assembler.layer.tree import DirectoryTree
from assembler.linux.binfmt import Emulator
from assembler.linux.elf import program_for
from assembler.linux.emulators import Host
from assembler.plan.steps import CacheMount, Mount, Run
from assembler.source import Source, Span
from tests.engine.conftest import file, link, tree_of
from tests.linux.test_elf import dynamic
from tests.linux.test_emulators import emulator, host

NATIVE, FOREIGN = program_for("amd64"), program_for("arm64")
SPAN = Span(Source("Dockerfile", "RUN x\n"), 1, 1)


def program(path: str, content: bytes, mode: int = 0o755) -> Entry:
    """A file that may be executed."""
    return file(path, content, mode=mode)


def programs(
    entries: Iterable[Entry], *mounts: Mount, path: str = "/usr/bin:/bin", on: Host | None = None
) -> Programs:
    """Those of a step in a tree of `entries`, in the working directory /w."""
    step = Run(
        argv=("x",), env=(("PATH", path),), cwd="/w", user="", mounts=mounts, span=SPAN, name="RUN"
    )  # fmt: skip
    return Programs(tree_of(entries), step, on or host())


def refused(content: bytes, *others: Entry, mode: int = 0o755) -> Refused | None:
    """Why /bin/x of that content is refused in a tree that has others too."""
    return programs([program("bin/x", content, mode), *others]).refused("/bin/x")


def reason(content: bytes, *others: Entry) -> str:
    """The same in words, that are empty where it is not."""
    found = refused(content, *others)
    return "" if found is None else found.reason


def test_a_program_is_looked_for_where_the_kernel_or_the_path_says() -> None:
    found = programs([], path="/usr/bin::rel")
    assert found.paths("/bin/sh") == ["/bin/sh"]
    assert found.paths("./x") == ["/w/./x"] and found.paths("a/x") == ["/w/a/x"]
    assert found.paths("x") == ["/usr/bin/x", "/w/x", "/w/rel/x"]


def test_a_program_for_another_architecture_is_named_with_the_hosts() -> None:
    found = refused(FOREIGN)
    assert found is not None
    assert found.reason == (
        "/bin/x is a program for linux/arm64, this host is linux/amd64: no emulator for linux/arm64"
        " is registered here"
    )
    assert found.remedy.endswith("--install arm64")


def test_links_are_followed_inside_the_tree() -> None:
    entries = [
        link("bin", "usr/bin"), link("usr/bin/sh", "/etc/alternatives/sh"),
        link("etc/alternatives/sh", "../../../../usr/bin/dash"), program("usr/bin/dash", FOREIGN),
    ]  # fmt: skip
    found = programs(entries)
    assert found.foreign("/bin/sh")
    assert {"bin", "usr/bin/sh", "etc/alternatives/sh", "usr/bin/dash"} <= found.seen


def test_links_without_an_end_are_an_error() -> None:
    with pytest.raises(StepError, match="too many levels"):
        programs([link("bin/x", "x")]).foreign("/bin/x")


@pytest.mark.parametrize("interpreter", ["/bin/sh", " /bin/sh -e", "\t/bin/sh\t-e", "/bin/env sh"])
def test_a_script_is_what_its_interpreter_is(interpreter: str) -> None:
    script = program("w/run", f"#!{interpreter}\necho\n".encode())
    for content, foreign in ((FOREIGN, True), (NATIVE, False)):
        shells = [program("bin/sh", content), program("bin/env", content)]
        found = programs([script, *shells])
        assert bool(found.foreign("/w/run")) is foreign
        assert bool(found.refused("/w/run")) is foreign


def test_a_script_of_a_script() -> None:
    entries = [program("a", b"#!/b\n"), program("b", b"#!/c x\n"), program("c", FOREIGN)]
    assert programs(entries).foreign("/a") == (
        "/c is a program for linux/arm64: no emulator for linux/arm64 is registered here"
    )
    assert programs([program("a", b"#!/a\n")]).foreign("/a") == ""
    assert programs([program("a", b"#!/a\n")]).refused("/a") is None


def test_a_loader_that_is_not_there_is_named() -> None:
    musl, glibc = dynamic(b"/lib/ld-musl-x86_64.so.1\0"), dynamic(b"/lib64/ld-linux-x86-64.so.2\0")
    assert "started by /lib/ld-musl-x86_64.so.1, which the stage does not have" in reason(musl)
    assert "musl, as on Alpine" in reason(musl) and "with glibc" in reason(glibc)
    there = [link("lib64", "usr/lib"), program("usr/lib/ld-linux-x86-64.so.2", NATIVE)]
    assert reason(glibc, *there) == ""
    assert reason(glibc, link("lib64/ld-linux-x86-64.so.2", "/nowhere")) != ""


def test_the_loader_of_an_emulated_program_is_the_emulators_matter() -> None:
    program_of_arm = bytearray(dynamic(b"/lib/ld-linux-aarch64.so.1\0"))
    program_of_arm[18:20] = (183).to_bytes(2, "little")
    given = [program("bin/x", bytes(program_of_arm))]
    assert programs(given, on=host(emulator(fixed=True))).refused("/bin/x") is None


def test_a_line_that_ends_as_on_windows_is_told_as_such() -> None:
    for line in (b"#!/bin/sh\r\n", b"#!/usr/bin/env bash\r\n"):
        assert "ends with CR LF" in reason(line + b"echo\r\n", program("bin/sh", NATIVE))
        found = refused(line)
        assert found is not None and "RUN sed -i 's/\\r$//' /bin/x" in found.remedy
    assert reason(b"#!/bin/sh\necho\r\n", program("bin/sh", NATIVE)) == ""


def test_an_interpreter_that_is_not_there_is_named() -> None:
    assert reason(b"#!/usr/bin/bash\n") == (
        "/bin/x is for the interpreter /usr/bin/bash, which the stage does not have"
    )
    assert reason(b"#!" + b"/" * 300 + b"\n") == ""  # whose name the kernel does not see whole


@pytest.mark.parametrize(
    ("content", "words", "by_shells"),
    [
        (b"", "is empty", False),
        (b"echo hi\n", "names no interpreter", False),
        (b"MZ\x90\x00", "for Windows", True),
        (b"\xcf\xfa\xed\xfe\x07\x00\x00\x01", "for macOS", True),
        (b"\x00\x01\x02", "no program that Linux knows", True),
    ],
)
def test_what_else_the_kernel_does_not_take(content: bytes, words: str, by_shells: bool) -> None:
    found = refused(content)
    assert found is not None
    assert words in found.reason and found.by_shells is by_shells


def test_a_file_that_nobody_may_execute() -> None:
    found = refused(NATIVE, mode=0o644)
    assert found is not None
    assert "(mode 0644)" in found.reason and not found.permitted


def test_whatever_an_emulator_takes_is_not_refused() -> None:
    wine = replace_extension(emulator(fixed=True))
    for content in (b"MZ", b"#!/nowhere\n"):
        given = [program("bin/x.exe", content)]
        assert programs(given, on=host(wine)).refused("/bin/x.exe") is None
        assert programs(given, on=host(wine)).foreign("/bin/x.exe") == ""


def replace_extension(of: Emulator) -> Emulator:
    """The emulator of everything called .exe."""
    return replace(of, extension="exe")


def test_an_emulator_may_lie_in_the_tree() -> None:
    on = host(emulator(fixed=False))
    given = [program("bin/x", FOREIGN), program("usr/bin/qemu-aarch64", NATIVE)]
    assert programs(given, on=on).foreign("/bin/x") == ""
    found = programs(given[:1], on=on)
    assert "without the flag F" in (found.foreign("/bin/x") or "")
    assert "usr/bin/qemu-aarch64" in found.seen  # so a COPY that brings it counts


@pytest.mark.parametrize("path", ["/dev/pipes/EOF", "/proc/self/exe", "/sys/x"])
def test_what_a_step_sees_elsewhere_is_not_told_by_the_tree(path: str) -> None:
    assert programs([program(path[1:], FOREIGN)]).foreign(path) is None


def test_what_a_mount_hides_is_not_told_by_the_tree() -> None:
    given = [program("opt/bin/x", FOREIGN), link("o", "opt"), program("y", b"#!/opt/bin/x\n")]
    mount = CacheMount(target="/o/bin", id="c")
    assert programs(given, mount).foreign("/opt/bin/x") is None
    assert programs(given, mount).refused("/y") is None
    assert programs(given).foreign("/opt/bin/x")


@pytest.mark.parametrize(
    "name", ["/bin/\0", "/\ud800", "/" + "x" * 300, "/" + "d/" * 3000, "", "/", "."]
)
def test_what_no_file_can_be_called_is_not_there(name: str, tmp_path: Path) -> None:
    step = programs([]).step
    found = Programs(DirectoryTree(str(tmp_path)), step, host())
    for path in found.paths(name):
        with suppress(OSError):
            assert found.foreign(path) is None and found.refused(path) is None


def test_H9_a_script_of_the_step_is_shown_where_the_tree_has_nothing() -> None:
    texts = (("EOF", "#!/usr/bin/perl\n"), ("OK", "#!/bin/sh\n"), ("CR", "#!/bin/sh\r\n"))
    step = replace(programs([]).step, scripts=texts)
    found = Programs(tree_of([program("bin/sh", NATIVE)]), step, host())
    refused = found.refused("/dev/pipes/EOF")
    assert refused is not None
    assert refused.reason == (
        "/dev/pipes/EOF is for the interpreter /usr/bin/perl, which the stage does not have"
    )
    ended = found.refused("/dev/pipes/CR")
    assert ended is not None and ended.remedy.startswith("save the Dockerfile with LF")
    assert found.refused("/dev/pipes/OK") is None and found.refused("/dev/pipes/other") is None
