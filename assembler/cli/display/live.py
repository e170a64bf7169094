"""A thread that draws, as long as there is something to be drawn."""

from __future__ import annotations

import os
import select
import signal
import threading
from contextlib import suppress
from types import FrameType

from assembler.cli.display.tty import OFTEN, Tty
from assembler.events import (
    Event,
    Finished,
    Forking,
    Requested,
    VertexOutput,
    VertexProgress,
    VertexStarted,
    Warned,
)


class Live:
    """A sink in front of `display`, which it draws now and then: never in a thread that has work to
    do, so that a slow terminal holds up nothing. To be made and ended in the main thread.

    When the terminal's user stops the process (SIGTSTP), the terminal is given back before.
    """

    def __init__(self, display: Tty) -> None:
        self._display = display
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._before = signal.getsignal(signal.SIGTSTP)
        if self._before is signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, self._on_stop)

    def __call__(self, event: Event) -> None:
        """Pass `event` on. See `events.Forking`."""
        if isinstance(event, Forking | Finished):
            self._end()
        try:
            self._display(event)
        finally:
            if isinstance(event, Finished):
                self.restore()  # whatever became of that
        if isinstance(event, VertexStarted | VertexProgress):
            if self._thread is None:
                self._begin()
        elif isinstance(event, Warned | Requested) and self._thread is None:
            self._display.draw()
        elif isinstance(event, Finished) and self._before is signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, self._before)

    def watch(self, event: VertexOutput) -> None:
        """See `Tty.watch`."""
        self._display.watch(event)

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None:
                self._over.clear()
                self._thread = threading.Thread(target=self._work, name="display", daemon=True)
                self._thread.start()

    def _end(self) -> None:
        if self._thread is not None:
            self._over.set()
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        # Signals are for the main thread, whose waiting they end.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while not self._over.wait(OFTEN):
            if self._stopping:
                self._stopping = False
                self._display.pause()
                _stop()
            self._display.draw()

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        if self._thread is not None:
            self._stopping = True  # whoever draws is to finish that
        else:
            _stop()

    def restore(self) -> None:
        """Give the terminal back at once, if it was not yet. For a signal handler, too: it does not
        wait for a terminal that takes nothing."""
        text = self._display.restoring
        ready = select.poll()
        ready.register(2, select.POLLOUT)
        if text and ready.poll(0):
            with suppress(OSError):
                os.write(2, text.encode())


def _stop() -> None:
    """Stop this process; to return when it goes on. By its thread: a signal to the process might
    be noticed by another one only after this has gone on."""
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
