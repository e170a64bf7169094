"""Work that one of several processes does for all: waited for, taken over, never lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from assembler.cancellation import Cancellation
from assembler.errors import Cancelled, StepError
from assembler.store import working
from assembler.store.store import Store
from assembler.store.working import Turn, Working

OWNER = """\
import sys
from assembler.store.working import Working
with Working(sys.argv[1]).claim("make", print) as turn:
    turn.say(b"compiling\\n")
    print(flush=True)
    if sys.stdin.readline() == "fail\\n":
        raise ValueError
"""


@contextmanager
def owner(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process whose turn it is at `make`; a line of input ends it."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(directory)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "\n"
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


class Told:
    """What is shown to who waits; `until` waits for a part of it."""

    def __init__(self) -> None:
        self.text = ""
        self._more = threading.Condition()

    def __call__(self, said: bytes | str) -> None:
        with self._more:
            self.text += f"[{said}]\n" if isinstance(said, str) else said.decode()
            self._more.notify_all()

    def until(self, part: str) -> None:
        with self._more:
            assert self._more.wait_for(lambda: part in self.text, 60), self.text


@contextmanager
def waiter(
    directory: Path, cancellation: Cancellation | None = None
) -> Iterator[tuple[Told, list[object]]]:
    """A thread that wants its turn; what it is told, and how it ended."""
    told, ended = Told(), list[object]()

    def wait() -> None:
        try:
            with Working(str(directory), cancellation).claim("make", told) as turn:
                ended.append(turn)
        except Cancelled as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    yield told, ended
    thread.join(60)
    assert not thread.is_alive()


def test_a_turn_that_nobody_else_has_is_not_waited_for_and_leaves_nothing(tmp_path: Path) -> None:
    told = Told()
    with Working(str(tmp_path / "working")).claim("make", told) as turn:
        assert not turn.waited
        assert len(os.listdir(tmp_path / "working")) == 1
    assert os.listdir(tmp_path / "working") == [] and told.text == ""


def test_who_waits_is_told_for_whom_and_what_that_one_says(tmp_path: Path) -> None:
    with owner(tmp_path) as process, waiter(tmp_path) as (told, ended):
        told.until("compiling\n")
        line, said = told.text.split("\n", 1)
        assert line.startswith(f"[waiting for process {process.pid}, which has been at it for ")
        assert said == "compiling\n", "what the owner said is told apart from lines about it"
        assert not ended
        process.communicate("done\n")
    assert isinstance(ended[0], Turn) and ended[0].waited
    assert os.listdir(tmp_path) == []


def test_a_killed_owner_is_followed_by_who_waited(tmp_path: Path) -> None:
    with owner(tmp_path) as process, waiter(tmp_path) as (told, ended):
        told.until("compiling")
        process.kill()
    assert isinstance(ended[0], Turn) and ended[0].waited
    assert f"process {process.pid} is gone" in told.text
    assert os.listdir(tmp_path) == []


def test_a_stopped_owner_is_told_of_and_waiting_for_it_ends_at_once(tmp_path: Path) -> None:
    with Cancellation() as cancellation, owner(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        with waiter(tmp_path, cancellation) as (told, ended):
            told.until("is stopped")
            assert not ended
            cancellation.cancel(signal.SIGINT)
        assert isinstance(ended[0], Cancelled)


def test_what_an_owner_failed_at_all_others_try_at_once(tmp_path: Path) -> None:
    every = threading.Barrier(3)  # as many as are at it at the same time
    told = [Told() for _ in range(3)]

    def attempt(number: int) -> None:
        with Working(str(tmp_path)).claim("make", told[number]) as turn:
            assert turn.waited
            every.wait(60)

    with owner(tmp_path) as process:
        threads = [threading.Thread(target=attempt, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for one in told:
            one.until("compiling")
        process.communicate("fail\n")
        for thread in threads:
            thread.join(60)
    assert not every.broken
    assert all("failed; trying it here" in one.text for one in told)


def test_threads_of_one_process_wait_for_each_other(tmp_path: Path) -> None:
    claims = Working(str(tmp_path))
    with claims.claim("make", print), waiter(tmp_path) as (told, ended):
        told.until("waiting for another stage of this build")
        assert not ended
        with claims.claim("else", print) as turn:
            assert not turn.waited
        (file,) = Path(tmp_path).iterdir()
        file.unlink()  # as somebody does who removes the whole store
    assert isinstance(ended[0], Turn)


def test_a_thread_that_would_wait_for_itself_is_told(tmp_path: Path) -> None:
    claims = Working(str(tmp_path))
    with claims.claim("make", print), pytest.raises(RuntimeError):
        claims.claim("make", lambda output: None).__enter__()


def test_of_much_output_the_beginning_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "_SAID", 10)
    with Working(str(tmp_path)).claim("make", print) as turn:
        for _ in range(5):
            turn.say(b"1234")
        (file,) = tmp_path.iterdir()
        assert file.read_bytes().partition(b"\n")[2] == b"1234123412"


def test_where_no_file_can_be_made_everybody_works(tmp_path: Path) -> None:
    (tmp_path / "working").write_text("")  # as where the store cannot be written
    with Working(str(tmp_path / "working")).claim("make", print) as turn:
        assert not turn.waited
        turn.say(b"x")


def test_files_of_killed_processes_are_swept_and_those_of_live_ones_stay(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    with Store.open(store):
        pass
    directory = tmp_path / "store/working"
    with owner(directory) as process:
        (directory / "dead").write_bytes(b" {}\n")
        (directory / "unlocked").write_bytes(b"")  # its maker died between two system calls
        with Store.open(store):
            assert len(os.listdir(directory)) == 1
        process.kill()
        process.wait()
        with Store.open(store):
            assert os.listdir(directory) == []


def test_what_cannot_be_swept_keeps_nobody_from_the_store(tmp_path: Path) -> None:
    """As the files of a command that was run as root, and killed."""
    store = str(tmp_path / "store")
    with Store.open(store):
        pass
    directory = tmp_path / "store/working"
    (directory / "strange").mkdir(parents=True)
    (directory / "dead").write_bytes(b" {}\n")
    with Store.open(store) as opened, opened.working.claim("make", print) as turn:
        assert not turn.waited
    assert os.listdir(directory) == ["strange"]


def test_a_turn_whose_file_cannot_be_removed_ends_no_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: str) -> None:
        raise PermissionError(path)

    with Working(str(tmp_path)).claim("make", print):
        monkeypatch.setattr(working.os, "unlink", refused)
    with Working(str(tmp_path)).claim("make", print) as turn:  # left as by a dead process
        assert not turn.waited


ROUNDS = """\
import os, sys, time
from assembler.store.working import Working
claims, made = Working(sys.argv[1]), sys.argv[2]
print(flush=True)
for number in range(int(sys.argv[3])):
    with claims.claim(str(number), lambda text: None):
        place = f"{made}/{number}"
        if not os.path.exists(place):
            time.sleep(0.001)
            with open(f"{place}.{os.getpid()}", "w"):
                pass
            os.rename(f"{place}.{os.getpid()}", place)
            with open(f"{made}.log", "a") as log:
                log.write(f"{number}\\n")
"""


def test_CR06_processes_killed_at_any_moment_leave_nothing_undone_or_done_twice(
    tmp_path: Path,
) -> None:
    """Six processes want the same 60 things; two of them are killed, at a random moment."""
    generator = random.Random(time.time_ns())
    for number in range(5):
        made = tmp_path / f"made-{number}"
        made.mkdir()
        argv = [sys.executable, "-c", ROUNDS, str(tmp_path / "working"), str(made), "60"]
        processes = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(6)]
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == b"\n"
        for process in processes[:2]:
            time.sleep(generator.uniform(0, 0.08))
            process.kill()
        for process in processes:
            process.communicate(timeout=300)
        assert [process.returncode for process in processes[2:]] == [0] * 4
        done = (tmp_path / f"made-{number}.log").read_text().splitlines()
        assert {path.name for path in made.iterdir() if "." not in path.name} == set(
            map(str, range(60))
        )
        assert len(done) == len(set(done))  # who was killed between two lines made one unnoticed
    working.sweep(str(tmp_path / "working"))
    assert os.listdir(tmp_path / "working") == []


def test_a_failing_block_does_not_hide_its_error_and_lets_go(tmp_path: Path) -> None:
    claims = Working(str(tmp_path))

    def fails(error: Exception) -> Callable[[], None]:
        def act() -> None:
            with claims.claim("make", print):
                raise error

        return act

    for error in (StepError("no"), Cancelled()):
        with pytest.raises(type(error)):
            fails(error)()
        assert os.listdir(tmp_path) == []
