"""Signals to the builder while a step runs that forks away twice and ignores SIGTERM: nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

STUBBORN = "FROM busybox\nRUN trap '' TERM; (trap '' TERM; setsid sleep {0} & sleep {0}) & sleep {0}; sleep {0}\n"
PATIENT = "FROM busybox\nRUN sleep {0}\n"
MARKS = iter(range(100_000 + os.getpid() % 10_000 * 100, 1 << 30))


def processes(mark: int) -> list[str]:
    """The command lines that hold `mark`."""
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                line = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it has ended meanwhile
            if str(mark) in line and "/bin/sh" not in line.split(" ")[:1]:
                found.append(line)
    return found


def soon(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def leftovers(store: Path) -> list[str]:
    """What a build has in progress in a store."""
    found = [path for name in ("ingest", "scratch") for path in (store / name).iterdir()]
    found += [path for kind in (store / "layers").iterdir() for path in kind.glob(".*")]
    return [str(path.relative_to(store)) for path in found if path.name != ".lock"]


@pytest.fixture
def running(assemble: Any, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a build and waits until its step runs."""
    started: list[subprocess.Popen[bytes]] = []

    def start(dockerfile: str, mark: int, runtime: str) -> subprocess.Popen[bytes]:
        context = tmp_path / f"context-{mark}"
        context.mkdir()
        (context / "Dockerfile").write_text(dockerfile.format(mark))
        command = assemble.command("build", "--no-cache", "--runtime", runtime, context)
        process = subprocess.Popen(command, env=assemble.env, stderr=subprocess.PIPE)
        started.append(process)
        assert soon(lambda: len([p for p in processes(mark) if p.startswith("sleep")]) > 0, 30)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("runtime", ["native", "podman", "crun", "runc"])
def test_a_signal_ends_everything_within_ten_seconds(
    running: Any, tmp_path: Path, runtime: str, name: str
) -> None:
    mark, number = next(MARKS), signal.Signals[name]
    process = running(STUBBORN, mark, runtime)
    process.send_signal(number)
    assert process.wait(10) == 128 + number
    assert processes(mark) == []
    assert leftovers(tmp_path / "store") == []


@pytest.mark.parametrize("runtime", ["native", "podman", "crun", "runc"])
def test_a_second_signal_gives_no_more_time(running: Any, tmp_path: Path, runtime: str) -> None:
    mark = next(MARKS)
    process = running(STUBBORN, mark, runtime)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    before = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert time.monotonic() - before < 1.8, "the grace of two seconds is over at once"
    assert processes(mark) == [] and leftovers(tmp_path / "store") == []


def test_where_nothing_ignores_the_signal_the_grace_is_not_waited_for(
    running: Any, tmp_path: Path
) -> None:
    mark = next(MARKS)
    process = running(PATIENT, mark, "native")
    before = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert time.monotonic() - before < 1.8
    assert processes(mark) == [] and leftovers(tmp_path / "store") == []


@pytest.mark.parametrize("runtime", ["native", "podman", "crun", "runc"])
def test_when_the_builder_is_killed_its_processes_go_and_the_next_command_sweeps(
    running: Any, assemble: Any, tmp_path: Path, runtime: str
) -> None:
    mark = next(MARKS)
    process = running(STUBBORN, mark, runtime)
    process.kill()
    process.wait(10)
    assert soon(lambda: processes(mark) == [], 2), processes(mark)
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / "Dockerfile").write_text("FROM busybox\nRUN true\n")
    assemble("build", "--no-cache", tmp_path / "next")
    assert leftovers(tmp_path / "store") == []
