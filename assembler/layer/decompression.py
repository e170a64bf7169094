"""Compressed streams back to bytes: gzip, zstd, bzip2, xz, or as they are.

Memory is bounded whatever the input claims, truncation and damage are found (reliability.md T12 to
T14), and output is capped: `limit` bytes in all, and a hundred times the input plus 1 GiB.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Protocol

from assembler.errors import BadArchive
from assembler.layer.limits import DEFAULT_LIMIT

ALLOWANCE = 1 << 30
RATIO = 100

_PIECE = 256 << 10
_SHORT = 1 << 10
_OUTPUT = 512 << 10  # of a size that malloc(3) keeps when it is freed: no page is new each time
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


class Readable(Protocol):
    """The least of a stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        ...


def sniff(head: bytes) -> str:
    """The compression that a stream beginning with `head` (6 bytes) has; "" for none."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        return "zstd"  # a skippable frame comes first
    return ""


def reader(
    stream: Readable, limit: int = DEFAULT_LIMIT, check: Callable[[], None] = lambda: None
) -> BinaryIO:
    """The decompressed bytes of `stream`, whose compression is recognised by its first bytes.

    The result reads ahead of what was asked for; closing it does not close `stream`. Reading
    raises what `pieces` raises.
    """
    return io.BufferedReader(_Decompressed(pieces(stream, limit, check)), 256 << 10)


def pieces(
    stream: Readable, limit: int = DEFAULT_LIMIT, check: Callable[[], None] = lambda: None
) -> Iterator[bytes]:
    """The same, as pieces of about 1 MiB at most, none of them empty.

    `check` is called for each of them and each member or frame, and may raise. Raises BadArchive
    for damage, truncation, trailing garbage and decompression bombs.
    """
    source = _Source(stream)
    name = sniff(source.peek(MAGIC_SIZE))
    decompress = {
        "gzip": _gunzip,
        "zstd": _unzstd,
        "bzip2": _bunzip2,
        "xz": _unxz,
        "": _pass,
    }[name]
    produced = 0
    try:
        for piece in decompress(source):
            check()
            produced += len(piece)
            if produced > limit:
                raise BadArchive(
                    f"{name or 'archive'} stream holds more than {limit} bytes",
                    hint="ASSEMBLE_MAX_LAYER allows more",
                )
            if name and produced > RATIO * source.consumed + ALLOWANCE:
                raise BadArchive(
                    f"{name} stream expands more than {RATIO} times: {produced} bytes out of "
                    f"{source.consumed}",
                    hint="this looks like a decompression bomb",
                )
            if piece:
                yield piece
    except EOFError as error:
        raise BadArchive(f"truncated {name} stream") from error
    except _errors_of(name) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the stream itself: bz2 has no error of its own
        raise BadArchive(f"damaged {name} stream: {error}") from error


class _Source:
    """Compressed bytes with a little look-ahead; `consumed` counts what was taken."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._held = b""
        self._at = 0
        self.consumed = 0

    def peek(self, size: int) -> bytes:
        while len(self._held) - self._at < size:
            more = self._stream.read(_PIECE)
            if not more:
                break
            self._held, self._at = self._held[self._at :] + more, 0
        return self._held[self._at : self._at + size]

    def piece(self, most: int = _PIECE) -> memoryview:
        """Some bytes, `most` at most; empty at the end."""
        if self._at == len(self._held):
            self._held, self._at = self._stream.read(_PIECE), 0
        data = memoryview(self._held)[self._at : self._at + most]
        self._at += len(data)
        self.consumed += len(data)
        return data

    def unread(self, count: int) -> None:
        """Take back the last `count` bytes of the last piece."""
        self._at -= count
        self.consumed -= count

    def exactly(self, size: int) -> bytes:
        parts = []
        while size > 0:
            data = self.piece(size)
            if not data:
                raise EOFError
            parts.append(data)
            size -= len(data)
        return b"".join(parts)


class _Decompressed(io.RawIOBase):
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not len(self._rest):
            self._rest = memoryview(next(self._pieces, b""))
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def _errors_of(name: str) -> tuple[type[Exception], ...]:
    if name == "gzip":
        import zlib

        igzip = _igzip()
        return (zlib.error,) if igzip is None else (zlib.error, igzip.error)
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
        yield bytes(data)


def _igzip() -> Any:
    try:
        from isal import igzip_lib
    except ImportError:
        return None
    return igzip_lib


def _gunzip(source: _Source) -> Iterator[bytes]:
    import zlib

    igzip = _igzip()
    while (head := source.peek(4))[:2] == b"\x1f\x8b":
        if head[3:] >= b"\x20":  # RFC 1952 2.3.1.2, which igzip does not look at
            raise BadArchive("damaged gzip stream: reserved flags are set")
        if igzip is None:
            yield from _inflated(zlib.decompressobj(31), source)
        else:
            yield from _member(igzip.IgzipDecompressor(igzip.DECOMP_GZIP), source)
    _only_padding(source)


def _inflated(stream: Any, source: _Source) -> Iterator[bytes]:
    """A gzip member by zlib's own interface."""
    most = _SHORT
    while not stream.eof:
        data = stream.unconsumed_tail
        if not data:  # little at first: what a short member leaves is copied
            data = source.piece(most)
            most = min(2 * most, _PIECE)
        output = stream.decompress(data, _OUTPUT)
        if not data and not output and not stream.eof:
            raise EOFError
        yield output
    source.unread(len(stream.unused_data))


class _Member(Protocol):
    """What igzip's, bz2's and lzma's decompressors have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: memoryview, max_length: int = -1) -> bytes: ...


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
    most = _SHORT
    while not stream.eof:
        data = memoryview(b"")
        if stream.needs_input:
            data = source.piece(most)
            most = min(2 * most, _PIECE)
            if not data:
                raise EOFError
        yield stream.decompress(data, _OUTPUT)
    source.unread(len(stream.unused_data))


def _unzstd(source: _Source) -> Iterator[bytes]:
    """Frame by frame and block by block (RFC 8878 3.1): a block gives at most 128 KiB, so memory
    stays small, and a missing last block is noticed, which libzstd's bindings do not tell."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor()
    while magic := source.peek(4):
        if len(magic) == 4 and magic[1:] == b"\x2a\x4d\x18" and magic[0] & 0xF0 == 0x50:
            _skip(source, int.from_bytes(source.exactly(8)[4:], "little"))
            yield b""
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
                yield stream.decompress(b"".join(batch))
                batch.clear()
        if not stream.eof:
            raise EOFError


def _skip(source: _Source, size: int) -> None:
    while size > 0:
        data = source.piece(size)
        if not data:
            raise EOFError
        size -= len(data)


def _only_padding(source: _Source) -> None:
    while data := source.piece():
        if bytes(data).strip(b"\0"):
            raise BadArchive("garbage after the end of the compressed stream")
