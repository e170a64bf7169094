"""Who draws, and when: a thread, which is there only while there is something to draw."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from assembler.cli.display.live import Live
from assembler.cli.display.tty import Tty
from assembler.events import (
    Finished,
    Forking,
    Planned,
    Requested,
    VertexDone,
    VertexOutput,
    VertexStarted,
    Warned,
)

RUN = VertexStarted("0/0", "[build 1/2] RUN make", 100.0)
SIZE = (60, 24)


class Slow(io.StringIO):
    """A terminal that takes nothing until it is let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.going_on = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        assert self.going_on.wait(60)
        return super().write(text)


def drawers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "display"]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No thread, and the signal as before."""
    before = signal.getsignal(signal.SIGTSTP)
    yield
    assert not drawers() and signal.getsignal(signal.SIGTSTP) == before


def test_a_thread_draws_while_there_is_work_and_none_when_all_is_over() -> None:
    stream = Slow()
    stream.going_on.set()
    live = Live(Tty(stream, lambda: SIZE))
    live(Planned(("0/0",), 100.0))
    assert not drawers()
    live(RUN)
    assert stream.reached.wait(60), "nothing else happens, and it is drawn"
    live(Finished(101.0))
    assert not drawers() and "FINISHED" in stream.getvalue()


def test_who_forks_is_alone_until_work_begins() -> None:
    live = Live(Tty(io.StringIO(), lambda: SIZE))
    live(RUN)
    assert drawers()
    live(Forking(100.0))
    assert not drawers()
    live(Warned("no cgroups here", 100.0))
    assert not drawers()
    live(RUN)
    assert drawers()
    live(Finished(100.0))


def test_what_is_said_before_any_work_is_shown_at_once() -> None:
    stream = io.StringIO()
    live = Live(Tty(stream, lambda: SIZE))
    live(Warned("the store is elsewhere", 100.0))
    live(Requested("GET https://r.example/v2/ 200", 100.0))
    assert stream.getvalue() == (
        "WARNING: the store is elsewhere\r\nDEBUG: GET https://r.example/v2/ 200\r\n"
    )
    live(Finished(100.0))


def test_a_terminal_that_takes_nothing_holds_up_no_step() -> None:
    stream = Slow()
    live = Live(Tty(stream, lambda: SIZE))
    live(RUN)
    assert stream.reached.wait(60)
    for _ in range(1000):
        live.watch(VertexOutput("0/0", b"cc\n" * 1000, 100.5))
    live(VertexDone("0/0", RUN.name, 101.0))
    stream.going_on.set()
    live(Finished(101.0))
    assert "FINISHED" in stream.getvalue()


def test_who_stops_the_process_has_the_terminal_first(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, stopped = io.StringIO(), threading.Event()

    def kill(thread: int, number: int) -> None:
        assert thread == threading.get_ident() and number == signal.SIGSTOP
        assert stream.getvalue().endswith("\x1b[?7h\x1b[?25h")
        stopped.set()

    live = Live(Tty(stream, lambda: SIZE))
    live(RUN)
    monkeypatch.setattr(signal, "pthread_kill", kill)
    while not stream.getvalue():
        drawers()[0].join(0.01)
    signal.raise_signal(signal.SIGTSTP)
    assert stopped.wait(60)
    live(Finished(101.0))


def test_a_stop_is_ignored_where_it_was() -> None:
    before = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        live = Live(Tty(io.StringIO(), lambda: SIZE))
        assert signal.getsignal(signal.SIGTSTP) is signal.SIG_IGN
        live(Finished(100.0))
    finally:
        signal.signal(signal.SIGTSTP, before)


def test_signals_are_not_for_the_thread() -> None:
    masks: list[set[signal.Signals]] = []

    def size() -> tuple[int, int]:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))  # type: ignore[arg-type]
        drawn.set()
        return SIZE

    drawn = threading.Event()
    live = Live(Tty(io.StringIO(), size))
    live(RUN)
    assert drawn.wait(60)
    live(Finished(100.0))
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP} <= masks[0]


def test_the_terminal_is_given_back_though_the_end_goes_wrong(
    capfd: pytest.CaptureFixture[str],
) -> None:
    size = [SIZE]
    display = Tty(io.StringIO(), lambda: size[0])
    live = Live(display)
    live(RUN)
    live(Forking(100.0))
    display.draw()
    size.clear()
    with pytest.raises(IndexError):
        live(Finished(101.0))
    assert capfd.readouterr().err == "\r\n\r\n\x1b[?7h\x1b[?25h"
    signal.signal(signal.SIGTSTP, signal.SIG_DFL)


def test_giving_back_a_terminal_that_takes_nothing_is_not_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    display = Tty(io.StringIO(), lambda: SIZE)
    display(RUN)
    display.draw()
    live, before = Live(display), os.dup(2)
    try:
        os.dup2(writer, 2)
        live.restore()
    finally:
        os.dup2(before, 2)
        live(Finished(100.0))
    for descriptor in (reader, writer, before):
        os.close(descriptor)
