"""One build's wish to stop: set once, seen by every thread and every poll loop."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import TYPE_CHECKING

from assembler.errors import Cancelled

if TYPE_CHECKING:
    from socket import socket

_BOTH_WAYS = 2  # SHUT_RDWR; socket is no import for a start
_MANY = 64


class Cancellation:
    """A flag with a file descriptor, so that `poll(2)` loops and plain code both see it.

    `fileno()` becomes readable (for ever) once `cancel` was called. Close it by `with`.
    `cancel` is safe in a signal handler: it does one `write(2)` and shuts connections down.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._event = threading.Event()
        self._signal = 0
        self._sockets: list[weakref.ref[socket]] = []

    def cancel(self, signal: int = 0) -> None:
        """Ask everything to stop; `signal` is the number that caused it, 0 for a failed step."""
        if not self._event.is_set():
            self._signal = signal
            self._event.set()
            os.write(self._writer, b"x")
            for reference in tuple(self._sockets):
                _shut(reference())

    def interrupts(self, connection: socket) -> None:
        """Let `cancel` end what waits for `connection`: a read(2) is not woken by anything else."""
        if len(self._sockets) >= _MANY:
            self._sockets = [one for one in self._sockets if one() is not None]
        self._sockets.append(weakref.ref(connection))
        if self._event.is_set():
            _shut(connection)

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


def _shut(connection: socket | None) -> None:
    if connection is not None:
        with contextlib.suppress(OSError):  # closed, or never connected
            connection.shutdown(_BOTH_WAYS)
