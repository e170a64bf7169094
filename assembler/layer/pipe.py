"""Two threads at one stream: hashing and (de)compression release the interpreter lock, so they run
beside the thread that reads or writes the file system (speed.md 4, 5).

All classes are used by `with`; when the block ends, well or not, no thread is left.
"""

from __future__ import annotations

import io
import mmap
import queue
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

ARENAS = 4
DEPTH = 8


class _Consumer:
    """Calls `consume` with each piece that is `put`, in order, in a thread of its own. An exception
    there is raised by the next `put`, or at the end of the block."""

    def __init__(self, consume: Callable[[Any], object], name: str) -> None:
        self._consume = consume
        self._pieces: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def _put(self, piece: bytes | memoryview) -> None:
        if self._failure is not None:
            raise self._failure
        self._pieces.put(piece)

    def _consumed(self, piece: Any) -> None:
        """Make room for another piece."""
        raise NotImplementedError

    def _work(self) -> None:
        while (piece := self._pieces.get()) is not None:
            try:
                if self._failure is None and not self._stopped:
                    self._consume(piece)
            except BaseException as error:
                self._failure = error
            self._consumed(piece)  # whatever happened, so that nobody waits for ever

    def __enter__(self) -> Self:
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


class Behind(_Consumer):
    """A thread to which pieces are handed over.

    They are views of a few arenas of `size` bytes that go round: no byte is copied between the
    threads, and `consume` must not keep the view.
    """

    def __init__(self, consume: Callable[[memoryview], object], name: str, size: int) -> None:
        super().__init__(consume, name)
        self._size = size
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._spare = ARENAS

    def arena(self) -> memoryview:
        """Memory for the next piece; waits while too many pieces are waiting."""
        if self._spare:
            self._spare -= 1
            return memoryview(mmap.mmap(-1, self._size))  # zeros that are not touched cost nothing
        return self._free.get()

    def put(self, piece: memoryview) -> None:
        """Hand over `piece`, a view of the beginning of an arena."""
        self._put(piece)

    def _consumed(self, piece: memoryview) -> None:
        self._free.put(memoryview(piece.obj))


class Beside(_Consumer):
    """A thread that sees pieces which somebody else has as well; a few of them wait at most."""

    def __init__(self, consume: Callable[[bytes], object], name: str) -> None:
        super().__init__(consume, name)
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(DEPTH):
            self._room.put(None)

    def put(self, piece: bytes) -> None:
        """Show `piece`; waits while too many are waiting."""
        self._room.get()
        self._put(piece)

    def _consumed(self, piece: bytes) -> None:
        self._room.put(None)


class Ahead(io.RawIOBase):
    """A stream of what `produce` returns until it returns b"", called in a thread of its own.

    An exception there is raised by `readinto` once everything before it was read.
    """

    def __init__(self, produce: Callable[[], bytes], name: str) -> None:
        self._produce = produce
        self._pieces: queue.Queue[bytes | BaseException] = queue.Queue(DEPTH)
        self._stop = threading.Event()
        self._piece = b""
        self._rest = memoryview(b"")
        self._ended = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with what is there, at least one byte; 0 at the end."""
        size = min(len(buffer), self._ready())
        buffer[:size] = self._take(size)
        return size

    def read(self, size: int | None = -1, /) -> bytes:
        """`size` bytes, less at the end; without copying where that is a piece as it came."""
        left = sys.maxsize if size is None or size < 0 else size
        parts: list[bytes] = []
        while left and (ready := self._ready()):
            part = self._take(min(left, ready))
            parts.append(self._piece if len(part) == len(self._piece) else bytes(part))
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip(self, size: int) -> int:
        """Pass over some bytes, `size` at most: how many, 0 at the end."""
        return len(self._take(min(size, self._ready())))

    def _ready(self) -> int:
        """How many bytes are there, at least one; 0 at the end."""
        while not len(self._rest) and not self._ended:
            piece = self._pieces.get()
            if isinstance(piece, BaseException):
                self._ended = True
                raise piece
            self._ended = not piece
            self._piece, self._rest = piece, memoryview(piece)
        return len(self._rest)

    def _take(self, size: int) -> memoryview:
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

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
