"""Programs that are run by a child which was forked before: what they are given, and that none stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from assembler.cancellation import Cancellation
from assembler.errors import Cancelled, HostError
from assembler.linux import outside
from assembler.linux.outside import Outside, Over
from tests.leftovers import descriptors
from tests.processes import naming

NUMBERS = iter(range(400_000 + os.getpid() % 10_000 * 100, 1 << 30))


@pytest.fixture
def cancellation() -> Iterator[Cancellation]:
    with Cancellation() as wish:
        yield wish


def shell(script: str, cancellation: Cancellation, **env: str) -> Outside:
    return Outside(["/bin/sh", "-c", script], {"PATH": os.environ["PATH"], **env}, cancellation)


def said(program: Outside, content: bytes = b"") -> tuple[int, str]:
    with program.running() as running:
        with suppress(Over):
            left = memoryview(content)
            while left:
                left = left[running.write(left) :]
        return running.finish()


def children() -> set[int]:
    """The children of this process."""
    return set(map(int, Path("/proc/thread-self/children").read_text().split()))


def gone(number: int) -> None:
    """Wait until no process has `number` in its command line: signals take their time."""
    deadline = time.monotonic() + 60
    while left := naming(number):
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def test_a_program_reads_what_is_written_and_its_last_words_are_kept(
    cancellation: Cancellation,
) -> None:
    before = descriptors()
    script = "wc -c; echo $WORD >&2; exit 3"
    with shell(script, cancellation, WORD="heard") as program:
        for size in (0, 1, 5 << 20):  # one child runs it any number of times
            assert said(program, bytes(size)) == (3, f"{size}\nheard\n")
    with shell("kill -9 $$", cancellation) as program:
        assert said(program)[0] == -9
    with shell("seq 100000; echo last", cancellation) as program:
        status, words = said(program)
        assert status == 0 and words.endswith("100000\nlast\n") and len(words) <= 4096
    assert descriptors() == before


def test_a_program_that_ends_before_it_has_read_all(cancellation: Cancellation) -> None:
    with shell("head -c 3; exit 5", cancellation) as program:
        assert said(program, b"abc" + bytes(32 << 20)) == (5, "abc")


def test_what_holds_the_output_of_a_program_that_ended_is_not_waited_for(
    cancellation: Cancellation,
) -> None:
    with shell("sleep 1000 & echo $!", cancellation) as program:
        status, words = said(program)
    assert status == 0
    os.kill(int(words), signal.SIGKILL)


def test_a_program_that_is_not_there(cancellation: Cancellation) -> None:
    no_file = pytest.raises(HostError, match="could not be run: No such file or directory")
    with Outside(["/nothing/here"], {}, cancellation) as program, no_file:
        said(program, b"x" * (2 << 20))


def test_it_is_where_it_was_when_its_user_goes_into_a_namespace(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from assembler.cancellation import Cancellation\n"
        "from assembler.linux import userns\n"
        "from assembler.linux.outside import Outside\n"
        "with Cancellation() as wish, Outside(['/bin/sh', '-c',\n"
        "        'readlink /proc/self/ns/user; id -u'], {'PATH': os.defpath}, wish) as program:\n"
        "    before = os.readlink('/proc/self/ns/user'), os.getuid()\n"
        "    userns.enter()\n"
        "    assert os.readlink('/proc/self/ns/user') != before[0]\n"
        "    with program.running() as running:\n"
        "        assert running.finish() == (0, '%s\\n%d\\n' % before), before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_cancellation_ends_a_program_and_what_it_started(
    cancellation: Cancellation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "GRACE", 0.1)
    number = next(NUMBERS)
    script = f"trap '' TERM; sleep {number} & sleep {number}"
    with (
        shell(script, cancellation) as program,
        pytest.raises(Cancelled),
        program.running() as running,
    ):
        while not naming(number):
            time.sleep(0.01)
        threading.Timer(0.1, cancellation.cancel).start()
        while True:
            running.write(memoryview(bytes(1 << 20)))  # nobody reads
    gone(number)


def test_a_program_sees_the_end_of_its_stdin_first(
    cancellation: Cancellation, tmp_path: Path
) -> None:
    script = "cat >/dev/null; echo ended >$D/note"
    with (
        shell(script, cancellation, D=str(tmp_path)) as program,
        pytest.raises(KeyError),
        program.running() as running,
    ):
        running.write(memoryview(b"half"))
        raise KeyError
    assert (tmp_path / "note").read_text() == "ended\n"


def test_a_program_gets_time_after_SIGTERM(
    cancellation: Cancellation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "GRACE", 0.5)
    script = "trap 'echo ended >$D/note; kill $!; exit' TERM; sleep 1000 & echo >$D/begun; wait"
    env = {"D": str(tmp_path)}
    with shell(script, cancellation, **env) as program, pytest.raises(KeyError), program.running():
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        raise KeyError
    assert (tmp_path / "note").read_text() == "ended\n"


def test_nothing_stays_of_who_is_killed(tmp_path: Path) -> None:
    number = next(NUMBERS)
    code = (
        "import os, signal, sys\n"
        "from assembler.cancellation import Cancellation\n"
        "from assembler.linux import outside\n"
        "outside.GRACE = 0.1\n"
        "argv = ['/bin/sh', '-c', \"trap '' TERM; echo >note; sleep %s & sleep %s\" % ((sys.argv[1],) * 2)]\n"
        "with Cancellation() as wish, outside.Outside(argv, {'PATH': os.defpath}, wish) as program:\n"
        "    with program.running():\n"
        "        while not os.path.exists('note'): pass\n"
        "        signal.raise_signal(signal.SIGKILL)\n"
    )
    root = os.getcwd()
    done = subprocess.run(
        [sys.executable, "-c", code, str(number)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.returncode == -signal.SIGKILL
    gone(number)


def test_a_child_that_was_killed_is_an_error(cancellation: Cancellation) -> None:
    before = children()
    with shell("sleep 1000", cancellation) as program:
        (child,) = children() - before
        os.kill(child, signal.SIGKILL)
        with pytest.raises(HostError, match="whoever was to do that was killed"):
            said(program, b"x")
