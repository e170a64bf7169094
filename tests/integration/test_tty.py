"""Builds on a real terminal: what stands there while they run, and what they leave."""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_cached import HEAVY, WATCHED
from tests.integration.test_cancel import leftovers, processes, soon
from tests.terminal import Terminal

pytestmark = pytest.mark.integration
PATIENT = """FROM busybox AS one
RUN printf 'begun\\n\\033]0;title\\007\\033[2J10%%\\r20%%'; sleep 3600
FROM busybox
COPY --from=one / /
"""


class Session:
    """A command on a terminal of its own, which controls it."""

    def __init__(self, command: list[str], env: dict[str, str], columns: int, rows: int) -> None:
        self.terminal = Terminal(columns, rows, "$ assemble\n")
        self._read, theirs = pty.openpty()
        self.resize(columns, rows)
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(2, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(theirs)
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def resize(self, columns: int, rows: int) -> None:
        if (columns, rows) != (self.terminal.columns, self.terminal.rows):
            self.terminal.resize(columns, rows)
        fcntl.ioctl(self._read, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._read, keys)

    def until(self, holds: Callable[[str], object]) -> str:
        """The screen as soon as that holds of it; the seconds are for a busy machine."""
        deadline = time.monotonic() + 60
        while not holds(self.terminal.screen):
            assert time.monotonic() < deadline, self.terminal.everything
            assert self._take(), f"it has ended\n{self.terminal.everything}"
        return self.terminal.screen

    def end(self) -> tuple[int, str]:
        """The exit status, and what can be read afterwards."""
        while self._take():
            pass
        assert not self.terminal.hidden and self.terminal.wraps
        return self.process.wait(60), self.terminal.everything

    def hang_up(self) -> None:
        os.close(self._read)
        self._read = -1

    def close(self) -> None:
        if self._read >= 0:
            os.close(self._read)
        self.process.kill()
        self.process.wait()

    def _take(self) -> bool:
        if not select.select([self._read], [], [], 60)[0]:
            return True
        try:
            got = os.read(self._read, 1 << 16)
        except OSError:  # nobody has the other side any more
            return False
        self.terminal.write(self._decoder.decode(got))
        return bool(got)


Begin = Callable[..., Session]


@pytest.fixture
def begin(assemble: Any, tmp_path: Path) -> Iterator[Begin]:
    """Begins a build of a Dockerfile on a terminal."""
    sessions: list[Session] = []

    def begun(
        dockerfile: str, *options: str, columns: int = 80, rows: int = 24, **env: str
    ) -> Session:
        (tmp_path / "context").mkdir(exist_ok=True)
        (tmp_path / "context/Dockerfile").write_text(dockerfile)
        command = assemble.command("build", *options, tmp_path / "context")
        sessions.append(Session(command, {**assemble.env, "TERM": "xterm", **env}, columns, rows))
        return sessions[-1]

    yield begun
    for session in sessions:
        session.close()


def running(begin: Begin, **options: Any) -> Session:
    session = begin(PATIENT, **options)
    session.until(lambda screen: " => => # 20%" in screen)
    return session


def test_a_build_is_drawn_in_place_and_ctrl_c_leaves_what_became_of_it(begin: Begin) -> None:
    session = running(begin)
    first = session.terminal.screen.splitlines()[1]
    screen = session.until(lambda screen: screen.splitlines()[1] != first)  # nothing else happens
    lines = screen.splitlines()
    assert lines[0] == "$ assemble" and session.terminal.hidden
    assert lines[1].startswith("[+] Building ") and lines[1].endswith("(2/5)"), screen
    assert lines[2].startswith(" => CACHED [one 1/2] FROM docker.io/library/busybox:latest")
    at = next(n for n, line in enumerate(lines) if line.startswith(" => [one 2/2] RUN printf"))
    assert lines[at + 1 : at + 3] == [" => => # begun", " => => # 20%"]
    session.type(b"\x03")
    status, left = session.end()
    assert status == 130 and "(2/5) CANCELED\n" in left
    assert " => CANCELED [one 2/2] RUN printf" in left and " => => # " not in left
    assert left.count("[+] Building") == 1 and left.startswith("$ assemble\n[+] Building")
    assert "ERROR: cancelled by SIGINT while running [one 2/2] RUN" in left.replace("\n", "")


def test_a_terminal_that_is_resized_is_drawn_anew(begin: Begin) -> None:
    session = running(begin)
    session.resize(40, 6)
    narrow = session.until(lambda screen: " => CACHED [one 1/2] FROM docker.… 0.0s\n" in screen)
    assert narrow.count("[+] Building") == 1 and len(narrow.splitlines()) <= 6
    session.resize(100, 24)
    wide = session.until(lambda screen: "10%%" in screen)
    assert wide.count("[+] Building") == 1
    session.process.send_signal(signal.SIGTERM)
    status, left = session.end()
    assert status == 143 and left.count("[+] Building") == 1


def test_a_build_that_is_stopped_gives_the_terminal_back_and_takes_it_again(begin: Begin) -> None:
    session = running(begin)
    session.process.send_signal(signal.SIGTSTP)
    session.until(lambda screen: not session.terminal.hidden)
    assert os.WIFSTOPPED(os.waitpid(session.process.pid, os.WUNTRACED)[1])
    session.terminal.write("$ fg\r\n")
    session.process.send_signal(signal.SIGCONT)
    session.until(lambda screen: screen.partition("$ fg\n")[2].count(" => => # 20%"))
    session.type(b"\x03")
    status, left = session.end()
    assert status == 130 and left.count(" => CANCELED [one 2/2]") == 1


def test_CN03_a_third_signal_leaves_the_terminal_as_it_was(begin: Begin, tmp_path: Path) -> None:
    session = running(begin)
    for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCONT):
        session.process.send_signal(number)
    status, left = session.end()
    assert status < 0, left
    assert soon(lambda: leftovers(tmp_path / "store") == [])
    assert soon(lambda: processes(str(tmp_path / "store")) == [])


def test_a_terminal_that_hangs_up_ends_the_build(begin: Begin) -> None:
    session = running(begin)
    session.hang_up()
    assert session.process.wait(60) == 129


def test_what_failed_is_told_with_its_output_and_where_it_stands(begin: Begin) -> None:
    session = begin(
        "FROM busybox\nRUN echo fine\nRUN seq 40; echo a\tb >&2; false\n", columns=50, rows=10
    )
    status, left = session.end()
    lines = left.splitlines()
    assert status == 1 and lines[1].endswith(" FAILED")
    assert any(line.startswith(" => [2/3] RUN echo fine ") for line in lines)
    assert " > [3/3] RUN seq 40; echo a b >&2; false:" in lines
    told = lines[lines.index("------") + 2 : lines.index("------", lines.index("------") + 1)]
    assert [line.partition(" ")[2] for line in told] == [*map(str, range(1, 41)), "a b"]
    assert "   3 | >>> RUN seq 40; echo a b >&2; false" in [
        line.strip(" ").rjust(len(line)) for line in lines
    ]
    assert any(line.startswith("ERROR: process ") for line in lines)


def test_what_is_cached_is_drawn_once_and_imports_nothing_heavy(
    begin: Begin, assemble: Any, tmp_path: Path
) -> None:
    session = begin("FROM busybox\nRUN echo one\nRUN echo two\n", NO_COLOR="1")
    assert session.end()[0] == 0
    command = [sys.executable, "-c", WATCHED, "build", str(tmp_path / "context")]
    again = Session(command, {**assemble.env, "TERM": "xterm"}, 80, 24)
    status, left = again.end()
    again.close()
    assert status == 0
    found = left.replace("\n", "")
    seen, modules = json.loads(found[found.index("[[") :])
    assert not seen and not HEAVY & set(modules)
    assert left.count("[+] Building") == 1 and "(4/4) FINISHED" in left
    assert left.count(" => CACHED ") == 4


@pytest.mark.parametrize(
    ("options", "env"), [((), {"TERM": "dumb"}), (("--progress=tty",), {"TERM": "dumb"}),
                         (("--progress=plain",), {}), ((), {"BUILDKIT_PROGRESS": "plain"})]
)  # fmt: skip
def test_a_terminal_that_cannot_move_its_cursor_or_whoever_asks_gets_the_log(
    begin: Begin, options: tuple[str, ...], env: dict[str, str]
) -> None:
    status, left = begin("FROM busybox\n", *options, **env).end()
    assert status == 0 and "\n#1 " in left and "[+]" not in left


def test_what_is_no_terminal_gets_the_log_though_another_is_asked_for(
    assemble: Any, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\n")
    done = assemble(
        "build", "--progress=tty", "-f", tmp_path / "Dockerfile", tmp_path, TERM="xterm"
    )
    assert done.stderr.startswith("#1 ") and "\x1b" not in done.stderr
