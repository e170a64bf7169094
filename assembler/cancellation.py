"""One build's wish to stop: set once, seen by every thread and every poll loop."""

from __future__ import annotations

import os
import threading

from assembler.errors import Cancelled


class Cancellation:
    """A flag with a file descriptor, so that `poll(2)` loops and plain code both see it.

    `fileno()` becomes readable (for ever) once `cancel` was called. Close it by `with`.
    `cancel` is safe in a signal handler: it does one `write(2)`.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._event = threading.Event()
        self._signal = 0

    def cancel(self, signal: int = 0) -> None:
        """Ask everything to stop; `signal` is the number that caused it, 0 for a failed step."""
        if not self._event.is_set():
            self._signal = signal
            self._event.set()
            os.write(self._writer, b"x")

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._event.is_set()

    @property
    def signal(self) -> int:
        """The signal that was given to the first `cancel`, else 0."""
        return self._signal

    def check(self) -> None:
        """Raise `Cancelled` if `cancel` was called; call it in every long loop."""
        if self._event.is_set():
            raise Cancelled(signal=self._signal)

    def wait(self, seconds: float) -> bool:
        """Sleep up to `seconds`; true as soon as cancelled."""
        return self._event.wait(seconds)

    def fileno(self) -> int:
        """A descriptor that polls readable once cancelled."""
        return self._reader

    def close(self) -> None:
        """Close both descriptors."""
        for descriptor in (self._reader, self._writer):
            os.close(descriptor)

    def __enter__(self) -> Cancellation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
