"""One build's wish to stop: set once, seen by every thread and every poll loop."""

from __future__ import annotations

import os
import threading

from assembler.errors import Cancelled, TimedOut


class Cancellation:
    """A flag with a file descriptor, so that `poll(2)` loops and plain code both see it.

    `fileno()` becomes readable (for ever) once `cancel` was called, `urgent_fileno()` once `hurry`
    was. Close it by `with`. `cancel` and `hurry` are safe in a signal handler: one `write(2)` each.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._urgent_reader, self._urgent_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._event = threading.Event()
        self._signal = 0
        self._seconds: float | None = None

    def cancel(self, signal: int = 0) -> None:
        """Ask everything to stop; `signal` is the number that caused it, 0 for a failed step."""
        if not self._event.is_set():
            self._signal = signal
            self._event.set()
            os.write(self._writer, b"x")

    def expire(self, seconds: float) -> None:
        """Ask everything to stop because the build has had its `seconds`."""
        if not self._event.is_set():
            self._seconds = seconds
            self.cancel()

    def hurry(self) -> None:
        """Ask everything to stop at once: processes get no time to end by themselves."""
        self.cancel()
        os.write(self._urgent_writer, b"x")

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._event.is_set()

    @property
    def signal(self) -> int:
        """The signal that was given to the first `cancel`, else 0."""
        return self._signal

    def check(self) -> None:
        """Raise `Cancelled` if `cancel` was called, `TimedOut` after `expire`; call it in every
        long loop."""
        if not self._event.is_set():
            return
        if self._seconds is not None:
            raise TimedOut(f"the build took longer than {self._seconds:g} s")
        raise Cancelled(signal=self._signal)

    def wait(self, seconds: float) -> bool:
        """Sleep up to `seconds`; true as soon as cancelled."""
        return self._event.wait(seconds)

    def fileno(self) -> int:
        """A descriptor that polls readable once cancelled."""
        return self._reader

    def urgent_fileno(self) -> int:
        """A descriptor that polls readable once there is no time left."""
        return self._urgent_reader

    def close(self) -> None:
        """Close every descriptor."""
        pipes = (self._reader, self._writer, self._urgent_reader, self._urgent_writer)
        for descriptor in pipes:
            os.close(descriptor)

    def __enter__(self) -> Cancellation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
