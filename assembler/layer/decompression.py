"""Compressed streams back to bytes: gzip, zstd, bzip2, xz, or as they are.

Memory is bounded whatever the input claims, truncation and damage are found (reliability.md T12 to
T14), and output is capped: `limit` bytes in all, and a hundred times the input plus 1 GiB.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

from assembler.errors import BadArchive

DEFAULT_LIMIT = 64 << 30
ALLOWANCE = 1 << 30
RATIO = 100

_PIECE = 128 << 10
_OUTPUT = 1 << 20
_XZ_MEMORY = 256 << 20
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_BATCH = 8
_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (_ZSTD_MAGIC, "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
)
MAGIC_SIZE = 6


def sniff(head: bytes) -> str:
    """The compression that a stream beginning with `head` (6 bytes) has; "" for none."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        return "zstd"  # a skippable frame comes first
    return ""


def reader(stream: BinaryIO, limit: int = DEFAULT_LIMIT) -> BinaryIO:
    """The decompressed bytes of `stream`, whose compression is recognised by its first bytes.

    The result reads ahead of what was asked for; closing it does not close `stream`. Reading
    raises BadArchive for damage, truncation, trailing garbage and decompression bombs.
    """
    source = _Source(stream)
    name = sniff(source.peek(MAGIC_SIZE))
    chunks = {
        "gzip": _gunzip,
        "zstd": _unzstd,
        "bzip2": _bunzip2,
        "xz": _unxz,
        "": _pass,
    }[name](source)
    return io.BufferedReader(_Decompressed(chunks, source, limit, name), 256 << 10)


class _Source:
    """Compressed bytes with a little look-ahead; `consumed` counts what was taken."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._ahead = b""
        self.consumed = 0

    def peek(self, size: int) -> bytes:
        while len(self._ahead) < size:
            more = self._stream.read(size - len(self._ahead))
            if not more:
                break
            self._ahead += more
        return self._ahead[:size]

    def piece(self) -> bytes:
        """Some bytes; empty at the end."""
        data = self._ahead or self._stream.read(_PIECE)
        self._ahead = b""
        self.consumed += len(data)
        return data

    def unread(self, data: bytes) -> None:
        self._ahead = bytes(data) + self._ahead
        self.consumed -= len(data)

    def exactly(self, size: int) -> bytes:
        parts = []
        while size > 0:
            data = self.piece()
            if not data:
                raise EOFError
            if len(data) > size:
                self.unread(data[size:])
                data = data[:size]
            parts.append(data)
            size -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class _Decompressed(io.RawIOBase):
    def __init__(self, chunks: Iterator[bytes], source: _Source, limit: int, name: str) -> None:
        self._chunks = chunks
        self._source = source
        self._limit = limit
        self._name = name
        self._rest = memoryview(b"")
        self._produced = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not len(self._rest):
            self._rest = memoryview(self._next())
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def _next(self) -> bytes:
        name = self._name or "archive"
        try:
            chunk = next(self._chunks, b"")
        except BadArchive:
            raise
        except EOFError as error:
            raise BadArchive(f"truncated {name} stream") from error
        except _errors_of(self._name) as error:
            raise BadArchive(f"damaged {name} stream: {error}") from error
        self._produced += len(chunk)
        if self._produced > self._limit:
            raise BadArchive(f"{name} stream holds more than {self._limit} bytes")
        if self._name and self._produced > RATIO * self._source.consumed + ALLOWANCE:
            raise BadArchive(
                f"{name} stream expands more than {RATIO} times: {self._produced} bytes out of "
                f"{self._source.consumed}",
                hint="this looks like a decompression bomb",
            )
        return chunk


def _errors_of(name: str) -> tuple[type[Exception], ...]:
    if name == "gzip":
        import zlib

        return (zlib.error, _inflater().error)
    if name == "zstd":
        import zstandard

        return (zstandard.ZstdError,)
    if name == "bzip2":
        return (OSError, ValueError)
    if name == "xz":
        import lzma

        return (lzma.LZMAError,)
    return ()


def _pass(source: _Source) -> Iterator[bytes]:
    while data := source.piece():
        yield data


def _inflater() -> Any:
    try:
        from isal import isal_zlib
    except ImportError:
        import zlib

        return zlib
    return isal_zlib


def _gunzip(source: _Source) -> Iterator[bytes]:
    engine = _inflater()
    while source.peek(2) == b"\x1f\x8b":
        stream = engine.decompressobj(31)
        while not stream.eof:
            data = stream.unconsumed_tail or source.piece()
            output = stream.decompress(data, _OUTPUT)
            if not data and not output and not stream.eof:
                raise EOFError
            yield from _nonempty(output)
        source.unread(stream.unused_data)
    _only_padding(source)


class _Member(Protocol):
    """What bz2 and lzma decompressors have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _bunzip2(source: _Source) -> Iterator[bytes]:
    import bz2

    while source.peek(3) == b"BZh":
        yield from _member(bz2.BZ2Decompressor(), source)
    _only_padding(source)


def _unxz(source: _Source) -> Iterator[bytes]:
    import lzma

    while source.peek(6) == b"\xfd7zXZ\x00":
        yield from _member(
            lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY), source
        )
        while source.peek(4) == bytes(4):  # stream padding (xz format 2.2)
            source.exactly(4)
    _only_padding(source)


def _member(stream: _Member, source: _Source) -> Iterator[bytes]:
    while not stream.eof:
        data = b""
        if stream.needs_input:
            data = source.piece()
            if not data:
                raise EOFError
        yield from _nonempty(stream.decompress(data, _OUTPUT))
    source.unread(stream.unused_data)


def _unzstd(source: _Source) -> Iterator[bytes]:
    """Frame by frame and block by block (RFC 8878 3.1): a block gives at most 128 KiB, so memory
    stays small, and a missing last block is noticed, which libzstd's bindings do not tell."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor()
    while magic := source.peek(4):
        if len(magic) == 4 and magic[1:] == b"\x2a\x4d\x18" and magic[0] & 0xF0 == 0x50:
            _skip(source, int.from_bytes(source.exactly(8)[4:], "little"))
            continue
        if magic != _ZSTD_MAGIC:
            _only_padding(source)
            return
        header = source.peek(18)
        size = zstandard.frame_header_size(header)
        has_checksum = zstandard.get_frame_parameters(header).has_checksum
        stream = decompressor.decompressobj()
        batch = [source.exactly(size)]
        last = False
        while not last:
            block = source.exactly(3)
            field = int.from_bytes(block, "little")
            last = bool(field & 1)
            kind, length = field >> 1 & 3, field >> 3
            batch += (block, source.exactly(1 if kind == 1 else length))
            if last and has_checksum:
                batch.append(source.exactly(4))
            if last or len(batch) > 2 * _ZSTD_BATCH:
                yield from _nonempty(stream.decompress(b"".join(batch)))
                batch.clear()
        if not stream.eof:
            raise EOFError


def _skip(source: _Source, size: int) -> None:
    while size > 0:
        data = source.piece()
        if not data:
            raise EOFError
        if len(data) > size:
            source.unread(data[size:])
        size -= len(data)


def _nonempty(data: bytes) -> Iterator[bytes]:
    if data:
        yield data


def _only_padding(source: _Source) -> None:
    while data := source.piece():
        if data.count(0) != len(data):
            raise BadArchive("garbage after the end of the compressed stream")
