"""Two threads at one stream: hashing and (de)compression release the interpreter lock, so they run
beside the thread that reads or writes the file system (speed.md 4, 5).

Both classes are used by `with`; when the block ends, well or not, no thread is left.
"""

from __future__ import annotations

import io
import mmap
import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

ARENAS = 4
DEPTH = 8


class Behind:
    """Calls `consume` with each piece that is `put`, in order, in a thread of its own.

    Pieces are views of a few arenas of `size` bytes that go round: no byte is copied between the
    threads, and `consume` must not keep the view. An exception there is raised by the next `put`, or
    at the end of the block.
    """

    def __init__(self, consume: Callable[[memoryview], None], name: str, size: int) -> None:
        self._consume = consume
        self._size = size
        self._pieces: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._spare = ARENAS
        self._failure: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def arena(self) -> memoryview:
        """Memory for the next piece; waits while too many pieces are waiting."""
        if self._spare:
            self._spare -= 1
            return memoryview(mmap.mmap(-1, self._size))  # zeros that are not touched cost nothing
        return self._free.get()

    def put(self, piece: memoryview) -> None:
        """Hand over `piece`, a view of the beginning of an arena."""
        if self._failure is not None:
            raise self._failure
        self._pieces.put(piece)

    def _work(self) -> None:
        while (piece := self._pieces.get()) is not None:
            try:
                if self._failure is None and not self._stopped:
                    self._consume(piece)
            except BaseException as error:
                self._failure = error
            self._free.put(memoryview(piece.obj))  # whatever happened, so that `arena` gets it

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
