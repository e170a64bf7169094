"""The compression seam: what turns a tar into a blob, and a blob back into a tar.

The same input and `identity` always give the same bytes, whatever the number of threads (speed.md
2, 3). Reading is in `decompression`.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from assembler.cancellation import nothing
from assembler.errors import UsageError
from assembler.layer.deflate import GZIP_HEADER, Engine, gzip_trailer
from assembler.oci.descriptor import LAYER_GZIP, LAYER_TAR, LAYER_ZSTD
from assembler.values import field, value

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

Sink = Callable[[bytes | memoryview], None]
"""Takes bytes, and keeps no view of them."""

Check = Callable[[], None]


BLOCK = 1 << 20
WINDOW = 32 << 10
FRAME = 4 << 20
_ROOM = 128 << 20
_SLOW = 13  # the first level of libzstd at which a frame may take seconds
_PIECE = 128 << 10  # what libzstd compresses at once: 0.4 s at most, at level 22
MAX_THREADS = 8


def _nothing(sink: Sink) -> None:
    """For formats that add nothing to the tar."""


@value
class Ending:
    """What a format with a table of contents made of a layer besides its bytes: `annotations` that
    its descriptor must have. `added` gives a sink the bytes that came to the tar, behind what was
    written. `note` says why there is no table, where there is none: the layer is a plain one."""

    annotations: Mapping[str, str] = field(default_factory=dict)
    added: Callable[[Sink], None] = _nothing
    note: str = ""


class CompressionWriter(Protocol):
    """One stream being compressed. After `close` or `abort` no thread of it is left."""

    def write(self, data: bytes | memoryview) -> None:
        """Compress `data`, of which nothing is kept; the sink may be called."""
        ...

    def close(self) -> Ending | None:
        """Finish the stream; the sink has received all of it."""
        ...

    def abort(self) -> None:
        """Give up: nothing more reaches the sink. Harmless after `close`."""
        ...


class Compression(Protocol):
    """A way to compress layers. `identity` names engine, level and version: with the bytes that go
    in it decides the bytes that come out, and so belongs in cache keys."""

    @property
    def name(self) -> str: ...

    @property
    def media_type(self) -> str: ...

    @property
    def identity(self) -> str: ...

    def writer(self, sink: Sink, check: Check = nothing) -> CompressionWriter:
        """A new stream whose compressed bytes are given to `sink` in order, in this thread. `check`
        is called in any thread, at least once in about half a second, and may raise: no more comes
        then, and `write` or `close` raise it."""
        ...


LEVELS = {"gzip": (0, 9), "estargz": (0, 9), "zstd": (0, 22), "zstd:chunked": (0, 22)}
"""The levels that may be asked for (rule Z7)."""


def by_name(name: str, level: int | None = None) -> Compression:
    """The compression called `gzip`, `zstd`, `estargz`, `zstd:chunked` or `uncompressed` (rule Z7).
    Raises UsageError, which says the range of levels."""
    if name == "uncompressed":
        if level is not None:
            raise UsageError("compression-level has no meaning without compression")
        return Plain()
    if name not in LEVELS:
        known = ", ".join(LEVELS)
        raise UsageError(
            f"unknown compression {name!r}", hint=f"known are {known} and uncompressed"
        )
    low, high = LEVELS[name]
    if level is not None and not low <= level <= high:
        raise UsageError(f"compression level {level} for {name} is not in {low}..{high}")
    if name == "gzip":
        return Gzip() if level is None else Gzip(level)
    if name == "zstd":
        return Zstd() if not level else Zstd(level)  # libzstd: level 0 is the default level
    if name == "estargz":
        from assembler.layer.estargz import EStargz

        return EStargz() if level is None else EStargz(level)
    from assembler.layer.zstd_chunked import ZstdChunked

    return ZstdChunked() if not level else ZstdChunked(level)


def oci_only(compression: Compression) -> bool:
    """Whether Docker's schema 2 has no words for `compression` (rule Y7)."""
    return compression.name not in ("gzip", "uncompressed")


def processors() -> int:
    """How many threads compress where nothing else is said."""
    return max(1, min(MAX_THREADS, len(os.sched_getaffinity(0))))


@value
class Plain:
    """No compression."""

    name: str = "uncompressed"
    media_type: str = LAYER_TAR
    identity: str = "uncompressed"

    def writer(self, sink: Sink, check: Check = nothing) -> CompressionWriter:
        """A stream that passes bytes on."""
        return _PlainWriter(sink)


class _PlainWriter:
    def __init__(self, sink: Sink) -> None:
        self._sink: Sink = sink

    def write(self, data: bytes | memoryview) -> None:
        self._sink(data)

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


@value
class Zstd:
    """Frames of 4 MiB, each with its content's size and checksum, compressed independently: their
    number of threads does not show, they can be decompressed in parallel, and libzstd needs no more
    than their size for its window, whatever the level (speed.md 3)."""

    level: int = 3
    threads: int = 0
    """Threads that compress; 0 means one for each processor."""

    @property
    def name(self) -> str:
        """`zstd`."""
        return "zstd"

    @property
    def media_type(self) -> str:
        """The media type of the layers it makes."""
        return LAYER_ZSTD

    @property
    def identity(self) -> str:
        """Engine, version, level and frame size."""
        return f"zstd/{libzstd()} level={self.level} frame={FRAME}{piecewise(self.level)}"

    def writer(self, sink: Sink, check: Check = nothing) -> CompressionWriter:
        """A new row of frames."""
        return _ZstdWriter(self.level, self.threads or processors(), sink, check)


def libzstd() -> str:
    """The name and version of the zstd library."""
    import zstandard

    return f"libzstd-{'.'.join(map(str, zstandard.ZSTD_VERSION))}"


def piecewise(level: int) -> str:
    """How the identity of a compression says that frames of `level` are made of pieces: the bytes are
    others than in one go."""
    return f" piece={_PIECE}" if level >= _SLOW else ""


class Frames:
    """Makes zstd frames of one level; several threads may call it at once. Where a frame takes
    seconds, `check` is called for each piece of it."""

    def __init__(self, level: int, check: Check = nothing) -> None:
        self._level = level
        self._check = check
        self._idle: list[Any] = []  # a compressor serves one thread at a time

    def __call__(self, data: bytes | memoryview) -> bytes:
        """`data` as one frame with content size and checksum. Raises what `check` raises."""
        try:
            compressor = self._idle.pop()
        except IndexError:
            import zstandard

            compressor = zstandard.ZstdCompressor(level=self._level, write_checksum=True)
        frame: bytes = self._frame(compressor, data)
        self._idle.append(compressor)
        return frame

    def _frame(self, compressor: Any, data: bytes | memoryview) -> Any:
        self._check()
        if self._level < _SLOW or len(data) <= _PIECE:
            return compressor.compress(data)
        stream = compressor.compressobj(size=len(data))
        parts = []
        for at in range(0, len(data), _PIECE):
            self._check()
            parts.append(stream.compress(data[at : at + _PIECE]))
        return b"".join((*parts, stream.flush()))


def frame_threads(level: int, threads: int) -> int:
    """At most `threads`, and no more than have room for what frames of `level` need."""
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level(level, source_size=FRAME)
    needs = parameters.estimated_compression_context_size() + 2 * FRAME
    return max(1, min(threads, _ROOM // needs))


class _ZstdWriter:
    def __init__(self, level: int, threads: int, sink: Sink, check: Check) -> None:
        from assembler.layer.ordered import InOrder

        self._sink: Sink = sink
        self._frames: InOrder[memoryview, bytes] = InOrder(
            Frames(level, check), self._receive, frame_threads(level, threads), "zstd"
        )
        self._free: list[memoryview] = []
        self._frame = memoryview(bytearray(FRAME))
        self._size = 0
        self._begun = False

    def write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            piece = rest[: FRAME - self._size]
            self._frame[self._size : self._size + len(piece)] = piece
            self._size += len(piece)
            rest = rest[len(piece) :]
            if self._size == FRAME:
                self._put()

    def _put(self) -> None:
        self._frames.put(self._frame[: self._size])
        self._frame = self._free.pop() if self._free else memoryview(bytearray(FRAME))
        self._size, self._begun = 0, True

    def _receive(self, done: memoryview, frame: bytes) -> None:
        self._sink(frame)
        self._free.append(memoryview(done.obj))

    def close(self) -> None:
        if self._size or not self._begun:
            self._put()
        self._frames.finish()
        self.abort()

    def abort(self) -> None:
        self._frames.close()


@value
class Gzip:
    """One gzip member made of independently deflated blocks of 1 MiB, each primed with the 32 KiB
    before it, so that several threads work on it and their number does not show in the bytes."""

    level: int = 5
    threads: int = 0
    """Threads that deflate; 0 means one for each processor."""

    @property
    def name(self) -> str:
        """`gzip`."""
        return "gzip"

    @property
    def media_type(self) -> str:
        """The media type of the layers it makes."""
        return LAYER_GZIP

    @property
    def identity(self) -> str:
        """Engine, version, level and block size."""
        return f"gzip/{Engine.of(self.level).identity} block={BLOCK}"

    def writer(self, sink: Sink, check: Check = nothing) -> CompressionWriter:
        """A new gzip member."""
        return _GzipWriter(self.level, self.threads or processors(), sink)


class _GzipWriter:
    def __init__(self, level: int, threads: int, sink: Sink) -> None:
        self._engine = Engine.of(level)
        self._threads = threads
        self._sink: Sink = sink
        self._pending = bytearray()
        self._window = b""
        self._crc = 0
        self._size = 0
        self._pool: ThreadPoolExecutor | None = None
        self._running: deque[Future[bytes]] = deque()
        self._sink(GZIP_HEADER)

    def write(self, data: bytes | memoryview) -> None:
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        self._pending += data
        while len(self._pending) > BLOCK:
            block = bytes(memoryview(self._pending)[:BLOCK])
            del self._pending[:BLOCK]
            self._submit(block)

    def close(self) -> None:
        self._drain(0)
        last = bytes(self._pending)
        self._pending.clear()
        self._sink(self._engine.block(last, self._window, last=True))
        self._sink(gzip_trailer(self._crc, self._size))
        self.abort()

    def abort(self) -> None:
        self._running.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _submit(self, block: bytes) -> None:
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(self._threads, "deflate")
        self._running.append(self._pool.submit(self._engine.block, block, self._window, last=False))
        self._window = block[-WINDOW:]
        self._drain(2 * self._threads)

    def _drain(self, allowed: int) -> None:
        while len(self._running) > allowed:
            self._sink(self._running.popleft().result())
