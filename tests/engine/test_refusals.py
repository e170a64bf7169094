"""What is told of steps that failed because something could not be executed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembler.engine.refusals import refusal
from assembler.linux.elf import program_for
from assembler.plan.steps import Run
from assembler.runtime.base import Root
from assembler.source import Source, Span
from tests.linux.test_elf import dynamic
from tests.linux.test_emulators import host

NATIVE, FOREIGN = program_for("amd64"), program_for("arm64")
MUSL = dynamic(b"/lib/ld-musl-x86_64.so.1\0")
STEP = Run(
    argv=("/bin/sh", "-c", "x"), env=(("PATH", "/bin"),), cwd="/w", user="",
    span=Span(Source("Dockerfile", "RUN x\n"), 1, 1), name="RUN x",
)  # fmt: skip


class Stage:
    """A root of one lower and an upper directory: /bin/sh is one of this host, until it is changed."""

    def __init__(self, directory: Path) -> None:
        self.lower, self.upper = directory / "lower", directory / "upper"
        for one in (self.lower, self.upper):
            one.mkdir()
        self.put("bin/sh", NATIVE, below=True)

    def put(self, path: str, content: bytes, mode: int = 0o755, *, below: bool = False) -> None:
        """A file below the step, or one that it wrote."""
        place = (self.lower if below else self.upper) / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        place.chmod(mode)

    def told(self, status: int, said: str = "", step: Run = STEP, *, whole: bool = False) -> str:
        """What is told of it; `whole` is a root that is a copy."""
        root = Root((str(self.lower),), str(self.upper), str(self.upper), str(self.upper))
        if whole:
            root = Root((), str(self.lower), "", str(self.upper))
        return refusal(status, step, root, said, host())


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_the_steps_own_program_is_told_whatever_was_said(stage: Stage) -> None:
    stage.put("bin/sh", FOREIGN, below=True)
    for status in (126, 127):
        assert "/bin/sh is a program for linux/arm64" in stage.told(status)
        assert "/bin/sh is a program for linux/arm64" in stage.told(status, whole=True)


def test_containers_end_with_1_and_say_why(stage: Stage) -> None:
    stage.put("bin/sh", FOREIGN, below=True)
    assert stage.told(1) == "" and stage.told(1, "make: *** [all] Error 1\n") == ""
    for said in (
        '{"msg":"exec container process `/bin/sh`: Exec format error","level":"error"}\n',
        "exec /bin/sh: exec format error\n",
    ):
        assert "/bin/sh is a program for linux/arm64" in stage.told(1, said)


def test_any_other_status_is_the_programs_own(stage: Stage) -> None:
    stage.put("bin/sh", FOREIGN, below=True)
    for status in (2, 125, 137, 255):
        assert stage.told(status, "x: Exec format error\n") == ""


def test_what_the_step_did_to_its_own_program_is_not_why_it_failed(stage: Stage) -> None:
    stage.put("bin/sh", MUSL)
    assert stage.told(127, "/bin/sh: y: not found\n") == ""


@pytest.mark.parametrize(
    "complaint",
    [
        "/bin/sh: 1: /w/x: not found", "/bin/sh: /w/x: not found",
        "/bin/bash: line 1: ./x: No such file or directory",
        "/bin/bash: line 1: /w/x: cannot execute: required file not found",
        "env: ‘./x’: No such file or directory", "sh: exec: line 1: ./x: not found",
        "/bin/sh: x: not found",
    ],
)  # fmt: skip
def test_the_program_that_a_shell_complains_of(stage: Stage, complaint: str) -> None:
    stage.put("w/x", MUSL)
    stage.put("bin/x", MUSL)
    found = stage.told(127, f"working\n{complaint}\nand more\n")
    assert "is started by /lib/ld-musl-x86_64.so.1" in found


def test_a_shell_that_reads_a_program_as_a_script(stage: Stage) -> None:
    stage.put("bin/x", FOREIGN)
    said = "/bin/x: line 1: \x7fELF\x02\x01\x0b\x0c@: not found\n"
    assert "/bin/x is a program for linux/arm64" in stage.told(127, said)


def test_only_the_last_complaint_counts(stage: Stage) -> None:
    stage.put("w/x", MUSL)
    assert stage.told(127, "sh: /w/x: not found\nsh: y: not found\n") == ""


def test_a_file_that_lacks_its_permission_is_told_where_the_status_says_so(stage: Stage) -> None:
    stage.put("w/x", b"#!/bin/sh\n", 0o644)
    said = "/bin/sh: 1: ./x: Permission denied\n"
    assert "no execute permission (mode 0644)" in stage.told(126, said)
    assert stage.told(127, said) == ""  # something else was not there


def test_a_script_that_shells_read_is_not_what_failed(stage: Stage) -> None:
    stage.put("w/x", b"y\n", below=True)
    assert stage.told(127, "./x: line 1: y: not found\n") == ""
    assert "names no interpreter" in stage.told(126, step=replace(STEP, argv=("/w/x",)))


def test_what_a_step_says_leads_to_no_file_outside(stage: Stage, tmp_path: Path) -> None:
    secret = tmp_path / "outside"
    secret.write_bytes(FOREIGN)
    secret.chmod(0o755)
    (stage.upper / "w").mkdir()
    (stage.upper / "w/x").symlink_to(secret)
    (stage.upper / "w/up").symlink_to("../../..")
    for name in ("./x", str(secret), f"up/{tmp_path.name}/outside", "../../../outside"):
        assert stage.told(127, f"sh: {name}: not found\n") == ""


def test_a_pipe_in_place_of_a_program_holds_nobody_up(stage: Stage) -> None:
    os.mkfifo(stage.upper / "x")
    assert stage.told(127, "sh: /x: not found\n") == ""


def test_programs_and_names_without_end_are_not_explained(stage: Stage) -> None:
    (stage.upper / "loop").symlink_to("loop")
    for name in ("/loop", "x" * 5000, "/" + "y" * 300, "a\0b", "", "/", ".."):
        assert stage.told(127, f"sh: {name}: not found\n") == ""


@given(said=st.text(max_size=200))
def test_whatever_is_said_is_looked_through(
    said: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stage = Stage(tmp_path_factory.mktemp("stage"))
    assert stage.told(127, f"{said}: not found\n") == ""
