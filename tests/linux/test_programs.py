"""Programs of the host: what they say, and that none of them outlives whoever ran it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from assembler.cancellation import Cancellation
from assembler.errors import Cancelled
from assembler.linux import programs
from assembler.linux.programs import Ended
from tests.bounds import watchdog

ENV = {"PATH": os.environ["PATH"]}
NUMBERS = iter(range(300_000 + os.getpid() % 10_000 * 100, 1 << 30))


@pytest.fixture
def cancellation() -> Iterator[Cancellation]:
    with Cancellation() as wish:
        yield wish


def shell(script: str, cancellation: Cancellation, **more: object) -> Ended:
    return programs.run(["sh", "-c", script], env=ENV, cancellation=cancellation, **more)  # type: ignore[arg-type]


def running(number: int) -> list[str]:
    """The processes here that sleep for `number` seconds."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if line.startswith(b"sleep\0%d\0" % number):
            found.append(path.parent.name)
    return found


def soon_gone(number: int, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while running(number) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not running(number)


def test_what_a_program_says_and_how_it_ends(cancellation: Cancellation) -> None:
    assert shell("echo out; echo err >&2; exit 3", cancellation) == Ended(3, b"out\n", b"err\n")
    assert shell("kill -9 $$", cancellation).status == -9
    assert shell("cat", cancellation).output == b"", "stdin is empty"
    with pytest.raises(FileNotFoundError):
        programs.run(["no-such-program"], env=ENV, cancellation=cancellation)


@pytest.mark.parametrize("size", [1, 1 << 22])
def test_stdin_is_what_it_is_given(cancellation: Cancellation, size: int) -> None:
    content = os.urandom(size)
    assert shell("cat; ls /proc/self/fd >&2", cancellation, content=content).output == content


def test_a_program_has_no_other_descriptors_of_ours(cancellation: Cancellation) -> None:
    listed = shell("ls -l /proc/self/fd", cancellation).output.decode()
    assert "socket" not in listed, "the end that keeps it alive is ours alone"


def test_what_it_leaves_running_in_its_group_ends_with_it(cancellation: Cancellation) -> None:
    number = next(NUMBERS)
    with watchdog():  # nobody waits for what holds the pipe open
        assert shell(f"sleep {number} & echo done", cancellation).output == b"done\n"
    assert soon_gone(number)


@pytest.mark.parametrize("script", ["sleep {0} & sleep {0}", "trap '' TERM; sleep {0} & sleep {0}"])
def test_CN02_it_ends_when_its_caller_is_killed(script: str) -> None:
    number = next(NUMBERS)
    code = (
        "import os, sys; from assembler.cancellation import Cancellation\n"
        "from assembler.linux import programs\n"
        "with Cancellation() as wish:\n"
        "    programs.run(['sh', '-c', sys.argv[1]], env=dict(os.environ), cancellation=wish)\n"
    )
    caller = subprocess.Popen([sys.executable, "-c", code, script.format(number)])
    while len(running(number)) < 2:
        assert caller.poll() is None
        time.sleep(0.02)
    caller.kill()
    caller.wait()
    assert soon_gone(number)


def test_a_cancelled_program_may_end_by_itself(
    cancellation: Cancellation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, number = tmp_path / "cleaned", next(NUMBERS)
    monkeypatch.setattr(programs, "GRACE", 90.0)

    def tell() -> None:
        while not running(number):
            time.sleep(0.02)
        cancellation.cancel()

    threading.Thread(target=tell).start()
    with watchdog(), pytest.raises(Cancelled):
        shell(f"trap 'echo > {mark}; exit' TERM; sleep {number} & wait", cancellation)
    assert mark.exists()


def test_a_second_signal_gives_it_no_time(
    cancellation: Cancellation, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = next(NUMBERS)
    monkeypatch.setattr(programs, "GRACE", 90.0)

    def tell() -> None:
        while not running(number):
            time.sleep(0.02)
        cancellation.cancel(signal.SIGINT)
        time.sleep(0.3)
        cancellation.hurry()

    threading.Thread(target=tell).start()
    with watchdog(), pytest.raises(Cancelled):
        shell(f"trap '' TERM; sleep {number} & wait; sleep {number}", cancellation)
    assert soon_gone(number)


def test_patience_and_size_have_bounds(cancellation: Cancellation) -> None:
    number = next(NUMBERS)
    with pytest.raises(TimeoutError):
        shell(f"sleep {number}", cancellation, silence=0.2)
    with pytest.raises(TimeoutError):
        shell(f"while echo x; do sleep 0.05; done; sleep {number}", cancellation, seconds=0.4)
    with pytest.raises(OverflowError):
        shell(f"yes & sleep {number}", cancellation, most=1 << 20)
    assert len(shell("yes err | head -c 1000000 >&2", cancellation).said) == 64 << 10
    assert soon_gone(number)
