"""What eStargz and zstd:chunked have in common: a tar compressed so that each file can be fetched
by itself, and a table that says where it is.

Files are cut into chunks of 4 MiB at most. Chunks, and what is between them, are compressed
independently by several threads, whose number does not show in the bytes. Rows of the table wait
until the chunks of their file have a place, and are kept compressed: a table of 100,000 rows needs
a few MiB.
"""

from __future__ import annotations

import base64
import hashlib
import io
import time
import zlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from json import JSONEncoder
from typing import Any, BinaryIO

from assembler.layer.boundaries import Chunk, Member, Members
from assembler.layer.compression import Ending, Sink, processors
from assembler.layer.ordered import InOrder

CHUNK = 4 << 20
_BATCH = 1 << 20  # bytes that are worth a thread's while
_MOST = 256  # blocks of a batch
_SPOOLED = 256 << 10

encode = JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class Spool:
    """Text that is written once and read several times, held in memory compressed."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._waiting: list[bytes] = []
        self._waits = 0
        self._hasher = hashlib.sha256()
        self.size = 0

    def write(self, text: str) -> None:
        """Append `text` as UTF-8."""
        data = text.encode()
        self._waiting.append(data)
        self._waits += len(data)
        self.size += len(data)
        if self._waits >= _SPOOLED:
            self._settle()

    def _settle(self) -> None:
        if not self._waiting:
            return
        data = b"".join(self._waiting)
        self._hasher.update(data)
        self._pieces.append(zlib.compress(data, 1))
        self._waiting, self._waits = [], 0

    @property
    def digest(self) -> str:
        """`sha256:…` of what was written."""
        self._settle()
        return f"sha256:{self._hasher.hexdigest()}"

    def __iter__(self) -> Iterator[bytes]:
        self._settle()
        return map(zlib.decompress, self._pieces)

    def open(self) -> BinaryIO:
        """The text as a stream."""
        return io.BufferedReader(_Pieces(iter(self)))


class _Pieces(io.RawIOBase):
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = next(self._pieces, b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class Block:
    """What becomes one gzip member or zstd frame: a chunk of a file, with what is behind it or
    without, or only what is between files."""

    __slots__ = ("chunk", "pieces", "size")

    def __init__(self, chunk: Chunk | None = None) -> None:
        self.chunk = chunk
        self.pieces: list[bytes] = []
        self.size = 0

    def add(self, data: bytes) -> None:
        """Append `data`."""
        self.pieces.append(data)
        self.size += len(data)


class TocWriter(ABC):
    """A `CompressionWriter` whose blob can be read file by file.

    A tar that the table cannot tell of becomes a blob without one, which is as good as any for who
    reads it from its start; `Ending.note` then says why.
    """

    alone = False
    """Whether a chunk's block holds nothing else."""

    def __init__(self, sink: Sink, threads: int) -> None:
        self._sink = sink
        self.threads = threads or processors()
        self.offset = 0
        """How long the blob is by now."""
        self.tar_size = 0
        self.note = ""
        self._members = Members(self)
        self._block = Block()
        self._batch: list[Block] = []
        self._batched = 0
        self._whole = hashlib.sha256()
        self._rows: deque[Member] = deque()
        self._last: Member | None = None
        self._got = 0
        self._blocks: InOrder[list[Block], list[tuple[bytes, str]]] = InOrder(
            self._compress, self._place, self.threads, "toc"
        )

    @abstractmethod
    def compress(self, data: bytes) -> bytes:
        """`data` as a member or frame of its own; called in several threads at once."""

    @abstractmethod
    def row(self, member: Member) -> None:
        """Take `member`, which is complete, into the table."""

    @abstractmethod
    def table(self) -> Ending:
        """Write the table and where it is."""

    def write(self, data: bytes | memoryview) -> None:
        """See `CompressionWriter.write`."""
        self.tar_size += len(data)
        self._members.feed(bytes(data))

    def close(self) -> Ending:
        """See `CompressionWriter.close`."""
        self._members.end()
        self.settle()
        ending = Ending(note=self.note) if self.note else self.table()
        self.abort()
        return ending

    def abort(self) -> None:
        """See `CompressionWriter.abort`."""
        self._blocks.close()

    def settle(self) -> None:
        """Compress and write what was told so far."""
        self._cut()
        self._put()
        self._blocks.finish()

    def emit(self, data: bytes | memoryview) -> None:
        """Append `data` to the blob."""
        self._sink(data)
        self.offset += len(data)

    def between(self, data: bytes) -> None:
        """See `Receiver.between`."""
        if self.alone and self._block.chunk is not None:
            self._cut()
        while data:
            room = CHUNK - self._block.size
            if self._block.chunk is not None:
                room += self._block.chunk.size
            self._block.add(data[:room])
            data = data[room:]
            if data:
                self._cut()

    def member(self, member: Member) -> None:
        """See `Receiver.member`."""
        self._last, self._got = member, 0
        if member.size > CHUNK:
            self._whole = hashlib.sha256()
        self._rows.append(member)
        self._flush_rows()

    def content(self, data: bytes) -> None:
        """See `Receiver.content`."""
        member = self._last
        assert member is not None
        while data:
            within = self._got % CHUNK
            if not within:
                self._cut()
                chunk = Chunk(self._got, min(CHUNK, member.size - self._got))
                member.chunks.append(chunk)
                self._block = Block(chunk)
            piece, data = data[: CHUNK - within], data[CHUNK - within :]
            self._block.add(piece)
            self._got += len(piece)
            if member.size > CHUNK:
                self._whole.update(piece)
                if self._got == member.size:
                    member.digest = f"sha256:{self._whole.hexdigest()}"

    def untellable(self, reason: str) -> None:
        """See `Receiver.untellable`."""
        self.note = self.note or reason
        self._rows.clear()

    def _cut(self) -> None:
        if not self._block.size:
            return
        self._batch.append(self._block)
        self._batched += self._block.size
        self._block = Block()
        if self._batched >= _BATCH or len(self._batch) >= _MOST:
            self._put()

    def _put(self) -> None:
        if self._batch:
            self._blocks.put(self._batch)
            self._batch, self._batched = [], 0

    def _compress(self, blocks: list[Block]) -> list[tuple[bytes, str]]:
        done = []
        for block in blocks:
            data = b"".join(block.pieces)
            block.pieces.clear()
            digest = ""
            if block.chunk is not None:
                digest = hashlib.sha256(memoryview(data)[: block.chunk.size]).hexdigest()
            done.append((self.compress(data), digest))
        return done

    def _place(self, blocks: list[Block], done: list[tuple[bytes, str]]) -> None:
        for block, (data, digest) in zip(blocks, done, strict=True):
            start = self.offset
            self.emit(data)
            if block.chunk is not None:
                block.chunk.digest = f"sha256:{digest}"
                block.chunk.offset, block.chunk.end = start, self.offset
        self._flush_rows()

    def _flush_rows(self) -> None:
        while self._rows and self._rows[0].placed:
            member = self._rows.popleft()
            if not self.note:
                if member.chunks and not member.digest:
                    member.digest = member.chunks[0].digest
                self.row(member)


def date(nanoseconds: int) -> str:
    """RFC 3339 in UTC, with decimals where there are any."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    found = time.gmtime(seconds)
    decimals = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{found.tm_year:04d}{time.strftime('-%m-%dT%H:%M:%S', found)}{decimals}Z"


def attributes(member: Member) -> dict[str, str]:
    """The extended attributes, values in base64."""
    return {name: base64.b64encode(value).decode() for name, value in member.xattrs}
