"""The compression seam: what turns a tar into a blob, and a blob back into a tar.

The same input and `identity` always give the same bytes, whatever the number of threads (speed.md
2, 3). Reading is in `decompression`; `reader` is offered here because it is the other half.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from assembler.errors import UsageError
from assembler.layer.decompression import reader
from assembler.oci.descriptor import LAYER_GZIP, LAYER_TAR, LAYER_ZSTD

__all__ = ["Compression", "CompressionWriter", "Gzip", "Plain", "Zstd", "by_name", "reader"]

Sink = Callable[[bytes], None]

BLOCK = 1 << 20
WINDOW = 32 << 10
GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # deflate, no name, no time, unknown OS
MAX_THREADS = 8


class CompressionWriter(Protocol):
    """One stream being compressed. After `close` or `abort` no thread of it is left."""

    def write(self, data: bytes) -> None:
        """Compress `data`; the sink may be called."""
        ...

    def close(self) -> None:
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

    def writer(self, sink: Sink) -> CompressionWriter:
        """A new stream whose compressed bytes are given to `sink` in order, in this thread."""
        ...


def by_name(name: str, level: int | None = None) -> Compression:
    """The compression called `gzip`, `zstd` or `uncompressed` (rule Z7). Raises UsageError."""
    limits = {"gzip": (0, 9), "zstd": (0, 22)}
    if name == "uncompressed":
        if level is not None:
            raise UsageError("compression-level has no meaning without compression")
        return Plain()
    if name not in limits:
        raise UsageError(
            f"unknown compression {name!r}", hint="known are gzip, zstd and uncompressed"
        )
    low, high = limits[name]
    if level is not None and not low <= level <= high:
        raise UsageError(f"compression level {level} for {name} is not in {low}..{high}")
    if name == "gzip":
        return Gzip() if level is None else Gzip(level)
    return Zstd() if not level else Zstd(level)  # libzstd: level 0 is the default level


def _processors() -> int:
    return max(1, min(MAX_THREADS, len(os.sched_getaffinity(0))))


@dataclass(frozen=True, slots=True)
class Plain:
    """No compression."""

    name: str = "uncompressed"
    media_type: str = LAYER_TAR
    identity: str = "uncompressed"

    def writer(self, sink: Sink) -> CompressionWriter:
        """A stream that passes bytes on."""
        return _PlainWriter(sink)


class _PlainWriter:
    def __init__(self, sink: Sink) -> None:
        self._sink: Sink = sink

    def write(self, data: bytes) -> None:
        self._sink(data)

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Zstd:
    """One zstd frame with a content checksum. libzstd's workers give the same bytes for any number
    of them but not for none, so there is always at least one."""

    level: int = 3
    threads: int = 0
    """Worker threads; 0 means one for each processor."""

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
        """Engine, version and level."""
        import zstandard

        version = ".".join(map(str, zstandard.ZSTD_VERSION))
        return f"zstd/libzstd-{version} level={self.level} workers"

    def writer(self, sink: Sink) -> CompressionWriter:
        """A new frame."""
        import zstandard

        compressor = zstandard.ZstdCompressor(
            level=self.level,
            threads=self.threads or _processors(),
            write_checksum=True,
            write_content_size=False,
        )
        return _ZstdWriter(compressor.compressobj(), sink)


class _ZstdWriter:
    def __init__(self, stream: Any, sink: Sink) -> None:
        self._stream = stream
        self._sink: Sink = sink

    def write(self, data: bytes) -> None:
        if compressed := self._stream.compress(data):
            self._sink(compressed)

    def close(self) -> None:
        if rest := self._stream.flush():
            self._sink(rest)
        self._stream = None

    def abort(self) -> None:
        self._stream = None  # frees libzstd's workers


@dataclass(frozen=True, slots=True)
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
        return f"gzip/{_deflate_engine()[0]} level={self.level} block={BLOCK}"

    def writer(self, sink: Sink) -> CompressionWriter:
        """A new gzip member."""
        return _GzipWriter(self.level, self.threads or _processors(), sink)


def _deflate_engine() -> tuple[str, Any]:
    """The name with version, and the module, of the best deflate there is."""
    try:
        from zlib_ng import zlib_ng
    except ImportError:
        return f"zlib-{zlib.ZLIB_RUNTIME_VERSION}", zlib
    return f"zlib-ng-{zlib_ng.ZLIBNG_VERSION}", zlib_ng


class _GzipWriter:
    def __init__(self, level: int, threads: int, sink: Sink) -> None:
        self._engine = _deflate_engine()[1]
        self._level = level
        self._threads = threads
        self._sink: Sink = sink
        self._pending = bytearray()
        self._window = b""
        self._crc = 0
        self._size = 0
        self._pool: ThreadPoolExecutor | None = None
        self._running: deque[Future[bytes]] = deque()
        self._sink(GZIP_HEADER)

    def write(self, data: bytes) -> None:
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
        self._sink(_deflate(self._engine, self._level, last, self._window, True))
        self._sink(
            self._crc.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little")
        )
        self.abort()

    def abort(self) -> None:
        self._running.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _submit(self, block: bytes) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "deflate")
        self._running.append(
            self._pool.submit(_deflate, self._engine, self._level, block, self._window, False)
        )
        self._window = block[-WINDOW:]
        self._drain(2 * self._threads)

    def _drain(self, allowed: int) -> None:
        while len(self._running) > allowed:
            self._sink(self._running.popleft().result())


def _deflate(engine: Any, level: int, block: bytes, window: bytes, last: bool) -> bytes:
    """`block` as raw deflate that ends on a byte boundary, or ends the stream."""
    if window:
        stream = engine.compressobj(level, zlib.DEFLATED, -15, 8, 0, window)
    else:
        stream = engine.compressobj(level, zlib.DEFLATED, -15, 8, 0)
    head: bytes = stream.compress(block)
    tail: bytes = stream.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
    return head + tail
