"""One build's wish to stop: set once, seen by every thread and every poll loop."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

from assembler.errors import Cancelled, TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOTICING = 0.2
"""Seconds that a main thread may wait for others without a look: signals that came while the process
was stopped may be taken by any thread, and Python's handlers run in the main one, which is not woken
by that."""


def nothing() -> None:
    """A check that never stops anything."""


class Cancellation:
    """A flag with a file descriptor, so that `poll(2)` loops and plain code both see it.

    `fileno()` becomes readable (for ever) once `cancel` was called, `urgent_fileno()` once `hurry`
    was. Close it by `with`. Both are safe in a signal handler: one `write(2)` each.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._urgent_reader, self._urgent_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._event = threading.Event()
        self._closed = False
        self._signal = 0
        self._expired = ""
        self._later: Callable[[], None] | None = None
        self._last_acts: list[Callable[[], None]] = []

    def cancel(self, signal: int = 0) -> None:
        """Ask everything to stop; `signal` is the number that caused it, 0 for a failed step."""
        if not self._event.is_set():
            self._signal = signal
            self._event.set()
            self._wake(self._writer)
        elif signal and self._later is None:
            self._later = lambda: self.cancel(signal)

    def expire(self, seconds: float, what: str = "build") -> None:
        """Ask everything to stop because `what` was asked for has had its `seconds`."""
        if not self._event.is_set():
            self._expired = f"the {what} took longer than {seconds:g} s"
            self.cancel()
        elif self._later is None:
            self._later = lambda: self.expire(seconds, what)

    def renew(self) -> None:
        """Let work begin again after a failed step asked everything to stop, and everything has.
        Raises what `check` raises where somebody else asked for it too."""
        if self.asked:
            self.check()
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 8)
        self._event.clear()
        if self._later is not None:  # looked at last: a signal from here on is the first one
            self._later()
            self.check()

    def hurry(self) -> None:
        """Ask everything to stop at once: processes get no time to end by themselves."""
        self.cancel()
        self._wake(self._urgent_writer)

    def before_death(self, act: Callable[[], None]) -> None:
        """Have `act` done by `die`."""
        self._last_acts.append(act)

    def die(self) -> None:
        """Do what is to be done when this process is about to end without leaving any block."""
        for act in self._last_acts:
            with contextlib.suppress(OSError):  # whatever happens, the end is near
                act()

    def _wake(self, writer: int) -> None:
        if not self._closed:  # else the number may be of another file by now
            os.write(writer, b"x")

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._event.is_set()

    @property
    def asked(self) -> bool:
        """Whether a signal or the end of the time came first, not a failed step."""
        return self._signal != 0 or bool(self._expired)

    @property
    def signal(self) -> int:
        """The signal that was given to the first `cancel`, else 0."""
        return self._signal

    def check(self) -> None:
        """Raise `Cancelled` if `cancel` was called, `TimedOut` after `expire`; call it in every
        long loop."""
        if not self._event.is_set():
            return
        if self._expired:
            raise TimedOut(self._expired)
        raise Cancelled(signal=self._signal)

    def wait(self, seconds: float) -> bool:
        """Sleep up to `seconds`; true as soon as cancelled."""
        return self._event.wait(seconds)

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[Cancellation]:
        """One for work that nobody needs: it is cancelled after `seconds`, and with this one."""
        over, end = threading.Event(), time.monotonic() + seconds

        def watch() -> None:
            while not over.wait(max(0.0, min(NOTICING, end - time.monotonic()))):
                if self.cancelled or time.monotonic() >= end:
                    return limit.cancel()

        with Cancellation() as limit:
            watcher = threading.Thread(target=watch, name="time limit", daemon=True)
            watcher.start()
            try:
                yield limit
            finally:
                over.set()
                watcher.join()

    def fileno(self) -> int:
        """A descriptor that polls readable once cancelled."""
        return self._reader

    def urgent_fileno(self) -> int:
        """A descriptor that polls readable once there is no time left."""
        return self._urgent_reader

    def close(self) -> None:
        """Close every descriptor; `cancel` still sets the flag."""
        self._closed = True
        pipes = (self._reader, self._writer, self._urgent_reader, self._urgent_writer)
        for descriptor in pipes:
            os.close(descriptor)

    def __enter__(self) -> Cancellation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
