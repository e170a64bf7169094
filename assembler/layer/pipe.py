"""Two threads at one stream: hashing and (de)compression release the interpreter lock, so they run
beside the thread that reads or writes the file system (speed.md 4, 5).

Both classes are used by `with`; when the block ends, well or not, no thread is left.
"""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

DEPTH = 8


class Behind:
    """Calls `consume` with each piece that is `put`, in order, in a thread of its own.

    An exception there is raised by the next `put`, or at the end of the block.
    """

    def __init__(self, consume: Callable[[bytes], None], name: str) -> None:
        self._consume = consume
        self._pieces: queue.Queue[bytes | None] = queue.Queue(DEPTH)
        self._failure: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def put(self, piece: bytes) -> None:
        """Hand `piece` over; waits while too many are waiting."""
        if self._failure is not None:
            raise self._failure
        self._pieces.put(piece)

    def _work(self) -> None:
        while (piece := self._pieces.get()) is not None:
            if self._failure is not None or self._stopped:
                continue  # keep taking, so that `put` never waits for ever
            try:
                self._consume(piece)
            except BaseException as error:
                self._failure = error

    def __enter__(self) -> Behind:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped = error is not None
        self._pieces.put(None)
        self._thread.join()
        if error is None and self._failure is not None:
            raise self._failure


class Ahead(io.RawIOBase):
    """A stream of what `produce` returns until it returns b"", called in a thread of its own.

    An exception there is raised by `readinto` once everything before it was read.
    """

    def __init__(self, produce: Callable[[], bytes], name: str) -> None:
        self._produce = produce
        self._pieces: queue.Queue[bytes | BaseException] = queue.Queue(DEPTH)
        self._stop = threading.Event()
        self._rest = memoryview(b"")
        self._ended = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with what is there, at least one byte; 0 at the end."""
        while not len(self._rest):
            if self._ended:
                return 0
            piece = self._pieces.get()
            if isinstance(piece, BaseException):
                self._ended = True
                raise piece
            self._ended = not piece
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def _work(self) -> None:
        piece = b"-"
        while piece and not self._stop.is_set():
            try:
                piece = self._produce()
            except BaseException as error:
                self._pieces.put(error)
                return
            self._pieces.put(piece)

    def __enter__(self) -> Ahead:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._pieces.get(timeout=0.05)  # make room for a producer that waits
            except queue.Empty:
                continue
        self._thread.join()
        self.close()
