"""A layer's file index, made while its blob passes through."""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType

from assembler.cancellation import nothing
from assembler.errors import BadArchive
from assembler.layer.index import LayerIndex, index
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.layer.pipe import DEPTH
from assembler.oci.digest import Digest

_GATHERED = 256 << 10


class Indexer:
    """Indexes a layer while its blob passes through `write`, in a thread of its own.

    Use it with `with`; when the block ends no thread is left. `check`, `limits` and `spool`
    as for `index`.
    """

    def __init__(
        self,
        diff_id: Digest,
        check: Callable[[], None] = nothing,
        limits: Limits = DEFAULT_LIMITS,
        spool: str = "",
    ) -> None:
        self._make = partial(index, diff_id=diff_id, check=check, limits=limits, spool=spool)
        self._pieces = _Pieces()
        self._index: LayerIndex | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="indexer", daemon=True)

    def write(self, piece: bytes | memoryview) -> None:
        """Take the next bytes of the blob, and keep no view of them. Raises what `index` raised."""
        if self._failure is not None:
            raise self._failure
        if piece:
            self._pieces.put(piece)

    def result(self) -> LayerIndex:
        """The index, once all of the blob was written. Raises what `index` raises."""
        self._end()
        if self._failure is not None:
            raise self._failure
        assert self._index is not None
        return self._index

    def __enter__(self) -> Indexer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pieces.broken = error is not None
        self._end()

    def _end(self) -> None:
        if self._thread.is_alive():
            self._pieces.put(b"")
            self._thread.join()

    def _work(self) -> None:
        try:
            self._index = self._make(self._pieces)
        except BaseException as error:  # for the thread that writes
            self._failure = error
        finally:
            self._pieces.drain()


class _Pieces(io.RawIOBase):
    """What was put, as a stream; an empty piece is its end."""

    def __init__(self) -> None:
        self._queue: queue.Queue[bytes] = queue.Queue(DEPTH)
        self._gathered: list[bytes] = []
        self._size = 0
        self._rest = b""
        self._ended = False
        self.broken = False

    def put(self, piece: bytes | memoryview) -> None:
        """Little pieces are gathered: each that is handed to another thread has its price."""
        self._gathered.append(bytes(piece))  # a view may change
        self._size += len(piece)
        if self._size >= _GATHERED or not piece:
            self._queue.put(b"".join(self._gathered))
            if not piece and self._size:
                self._queue.put(b"")
            self._gathered.clear()
            self._size = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """What came last, `size` bytes of it at most."""
        if not self._rest and not self._ended:
            self._rest = self._queue.get()
            self._ended = not self._rest
        if self.broken:
            raise BadArchive("the layer did not come to its end")
        found = self._rest if size is None or size < 0 else self._rest[:size]
        self._rest = self._rest[len(found) :]
        return found

    def drain(self) -> None:
        """Take everything up to the end, so that `put` never waits for ever."""
        while not self._ended:
            self._ended = not self._queue.get()
