"""The process around a command: its streams, and what becomes of the status when they are odd."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from assembler.store.builds import BuildRecord, StepRecord
from assembler.store.store import Store

ASSEMBLE = (sys.executable, "-m", "assembler")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with the record of a build."""
    moved = {"what": "args", "name": "VERSION", "change": "changed", "old": "1", "new": "2"}
    step = StepRecord(
        stage="a", number=0, name="[a 1/1] RUN x", line=2, kind="RUN", verdict="run",
        because=(moved,), differences=1,
    )  # fmt: skip
    with Store.open(str(tmp_path / "store")) as opened:
        build = BuildRecord(
            id="0123456789ab", started=1.0, seconds=1.0, status="completed", steps=(step,)
        )
        opened.builds.write(build, {})
    return tmp_path / "store"


def test_a_locale_without_an_arrow_has_its_number(store: Path) -> None:
    done = subprocess.run(
        [*ASSEMBLE, "explain", "--store", store],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert done.stderr == b"" and done.returncode == 0
    assert rb"ARG VERSION 1 \u2192 2" in done.stdout


@pytest.mark.parametrize("words", [("history",), ("build", "--help"), ("--help",)])
def test_a_pipe_that_nobody_reads_ends_the_command_as_sigpipe_would(
    store: Path, words: tuple[str, ...]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*ASSEMBLE, *words],
            stdout=writing,
            stderr=subprocess.PIPE,
            env={**os.environ, "ASSEMBLE_STORE": str(store)},
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_streams_that_are_closed_are_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY x /\n")
    (tmp_path / "x").write_text("x")
    build = [*ASSEMBLE, "build", "--store", "store", "--iidfile", "id", "."]
    closing = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([*closing, *build], cwd=tmp_path, env=env).returncode == 0
    assert (tmp_path / "id").read_text().startswith("sha256:")
    check = [*ASSEMBLE, "store", "check", "--store", "store"]
    assert subprocess.run(check, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL).returncode == 0


def test_whoever_is_asked_for_a_password_may_leave(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    command = [*ASSEMBLE, "build", "--creds=me", f"--store={tmp_path}", str(tmp_path)]
    with subprocess.Popen(
        command, stdin=theirs, stderr=subprocess.PIPE, start_new_session=True
    ) as running:
        os.close(theirs)
        assert running.stderr is not None
        said = b""
        while not said.endswith(b"Password: "):  # the blank comes when the terminal is ready
            more = os.read(running.stderr.fileno(), 100)
            assert more, said
            said += more
        os.write(ours, b"\x04")
        rest = running.stderr.read()
    os.close(ours)
    assert running.returncode == 130
    assert rest.strip() == b"ERROR: cancelled by SIGINT"
