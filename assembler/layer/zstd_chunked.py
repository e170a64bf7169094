"""zstd:chunked: zstd layers that can be fetched file by file (containers/storage, pkg/chunked).

Each chunk of a file is a frame of its own. The table, the raw headers of the tar (tar-split) and
where both are come behind the frames, in frames that other readers skip: the tar is the same.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from assembler.cancellation import nothing
from assembler.layer.boundaries import Member, Untellable
from assembler.layer.changeset import walk_order
from assembler.layer.compression import (
    Check,
    CompressionWriter,
    Ending,
    Frames,
    Sink,
    frame_threads,
    libzstd,
    piecewise,
    processors,
)
from assembler.layer.crc64 import crc64
from assembler.layer.fields import normalise
from assembler.layer.toc import CHUNK, Spool, TocWriter, attributes, date, encode
from assembler.oci.descriptor import (
    CHUNKED_CHECKSUM,
    CHUNKED_POSITION,
    CHUNKED_TAR_SPLIT,
    CHUNKED_TAR_SPLIT_CHECKSUM,
    LAYER_ZSTD,
)

MAGIC = b"GNUlInUx"
SKIPPABLE = b"\x50\x2a\x4d\x18"
_CRFS = 1  # the only kind of table there is
_PIECE = 128 << 10
_TABLES = 9  # the highest level that needs little memory for a stream whose size is not known
_SEGMENT = 8 << 20


@dataclass(frozen=True, slots=True)
class ZstdChunked:
    """zstd frames of at most 4 MiB of a file each, and a table of them."""

    level: int = 3
    threads: int = 0
    """Threads that compress; 0 means one for each processor."""

    @property
    def name(self) -> str:
        """`zstd:chunked`."""
        return "zstd:chunked"

    @property
    def media_type(self) -> str:
        """The media type of the layers it makes."""
        return LAYER_ZSTD

    @property
    def identity(self) -> str:
        """Engine, version, level, and the version of what is written here."""
        return f"zstd:chunked/1 {libzstd()} level={self.level} chunk={CHUNK}{piecewise(self.level)}"

    def writer(self, sink: Sink, check: Check = nothing) -> CompressionWriter:
        """A new blob."""
        return _Writer(self.level, sink, self.threads, check)


class _Compressed:
    """A text compressed while it is written: when it is finished, `pieces` are all of it."""

    def __init__(self, level: int) -> None:
        import zstandard

        self._stream = zstandard.ZstdCompressor(level=min(level, _TABLES)).compressobj()
        self.pieces: list[bytes] = []
        self._waiting = bytearray()
        self._hasher = hashlib.sha256()
        self.size = self.stored = 0

    def write(self, text: str) -> None:
        data = text.encode()
        self.size += len(data)
        self._waiting += data
        if len(self._waiting) >= _PIECE:
            self._settle()

    def _settle(self) -> None:
        self._take(self._stream.compress(bytes(self._waiting)))
        self._waiting.clear()

    def _take(self, piece: bytes) -> None:
        if piece:
            self._hasher.update(piece)
            self.stored += len(piece)
            self.pieces.append(piece)

    def finish(self) -> None:
        self._settle()
        self._take(self._stream.flush())

    @property
    def digest(self) -> str:
        """`sha256:…` of the pieces."""
        return f"sha256:{self._hasher.hexdigest()}"


class _Writer(TocWriter):
    alone = True

    def __init__(self, level: int, sink: Sink, threads: int, check: Check) -> None:
        super().__init__(sink, frame_threads(level, threads or processors()))
        self._frames = Frames(level, check)
        self._toc = _Compressed(level)
        self._separator = '{"version":1,"entries":['
        self._split = _TarSplit(_Compressed(level))

    def compress(self, data: bytes) -> bytes:
        return self._frames(data)

    def between(self, data: bytes) -> None:
        super().between(data)
        if not self.note and not self._split.segment(data):
            self.untellable("an archive with too much behind its end")

    def member(self, member: Member) -> None:
        self._split.file(member)
        super().member(member)

    def content(self, data: bytes) -> None:
        super().content(data)
        self._split.content(data)

    def row(self, member: Member) -> None:
        for row in _rows(member):
            self._toc.write(self._separator + encode(row))
            self._separator = ","

    def table(self) -> Ending:
        split = self._split.finish()
        head = self._separator if self._separator != "," else ""
        self._toc.write(f'{head}],"tarSplitDigest":"{split.digest}"}}')
        toc = self._toc
        toc.finish()
        toc_at = self._skippable(toc.pieces, toc.stored)
        split_at = self._skippable(split.pieces, split.stored)
        numbers = (
            (toc_at, toc.stored, toc.size, _CRFS),
            (split_at, split.stored, split.size),
        )
        footer = b"".join(n.to_bytes(8, "little") for part in numbers for n in part) + MAGIC
        self._skippable([footer], len(footer))
        return Ending(
            {
                CHUNKED_CHECKSUM: toc.digest,
                CHUNKED_POSITION: ":".join(map(str, numbers[0])),
                CHUNKED_TAR_SPLIT: ":".join(map(str, numbers[1])),
                CHUNKED_TAR_SPLIT_CHECKSUM: split.digest,
            }
        )

    def _skippable(self, data: list[bytes], size: int) -> int:
        """Write `data`, of that size, as a frame that decompressors skip (RFC 8878 3.1.2); where it
        begins."""
        self.emit(SKIPPABLE + size.to_bytes(4, "little"))
        at = self.offset
        for piece in data:
            self.emit(piece)
        return at


class _TarSplit:
    """What besides the files' bytes a tar is made of, as lines of JSON (vbatts/tar-split): who has
    the files makes the same tar again."""

    def __init__(self, lines: _Compressed) -> None:
        self._lines = lines
        self._position = 0
        self._names = _Names()
        self._member: Member | None = None
        self._got = 0
        self._checksum = 0
        self._waiting: list[bytes] = []
        self._waits = 0

    def segment(self, data: bytes) -> bool:
        """Take what is between files; whether that is still little enough for one line, which
        readers want."""
        self._waiting.append(data)
        self._waits += len(data)
        return self._waits <= _SEGMENT

    def _settle(self) -> None:
        if data := b"".join(self._waiting):
            payload = base64.b64encode(data).decode()
            self._line(f'{{"type":2,"payload":"{payload}"')
        self._waiting, self._waits = [], 0

    def file(self, member: Member) -> None:
        self._settle()
        if not self._names.add(normalise(member.name)):
            raise Untellable(f"{member.name!r}, which is there twice")
        self._member, self._got, self._checksum = member, 0, 0
        if not member.size:
            self._file(member, "null")

    def content(self, data: bytes) -> None:
        member = self._member
        assert member is not None
        self._checksum = crc64(data, self._checksum)
        self._got += len(data)
        if self._got == member.size:
            payload = base64.b64encode(self._checksum.to_bytes(8, "big")).decode()
            self._file(member, f'"{payload}"')

    def _file(self, member: Member, payload: str) -> None:
        size = f'"size":{member.size},' if member.size else ""
        self._line(f'{{"type":1,"name":{encode(member.name)},{size}"payload":{payload}')

    def _line(self, start: str) -> None:
        self._lines.write(f'{start},"position":{self._position}}}\n')
        self._position += 1

    def finish(self) -> _Compressed:
        """All lines, complete."""
        self._settle()
        self._lines.finish()
        return self._lines


class _Names:
    """The names that were there: as long as they come in the order of a walk, they are packed away."""

    def __init__(self) -> None:
        self._passed = Spool()
        self._last: str | None = None
        self._known: set[bytes] | None = None

    def add(self, name: str) -> bool:
        """Whether `name` was not there before; it is from now on."""
        if self._known is None:
            place = walk_order(name)
            if self._last is None or place > self._last:
                self._last = place
                self._passed.write(f"{name}\0")
                return True
            passed = (one for piece in self._passed for one in piece.split(b"\0")[:-1])
            self._known = set(map(_short, passed))
        before = len(self._known)
        self._known.add(_short(name.encode()))
        return len(self._known) > before


def _short(name: bytes) -> bytes:
    return hashlib.blake2b(name, digest_size=12).digest()


def _rows(member: Member) -> Iterator[dict[str, Any]]:
    row: dict[str, Any] = {"type": member.kind, "name": member.name}
    row |= {"linkName": member.link} if member.link else {}
    row["mode"] = member.mode
    row |= {"size": member.size} if member.size else {}
    row |= {"uid": member.uid, "gid": member.gid, "modtime": date(member.mtime)}
    row |= {"accesstime": date(member.atime)} if member.atime is not None else {}
    row |= {"changetime": date(member.ctime)} if member.ctime is not None else {}
    if member.kind in ("char", "block"):
        row["devMajor"], row["devMinor"] = member.device
    if member.xattrs:
        row["xattrs"] = attributes(member)
    chunks = member.chunks
    if chunks:
        row |= {"digest": member.digest, "offset": chunks[0].offset, "endOffset": chunks[-1].end}
    for number, chunk in enumerate(chunks if len(chunks) > 1 else ()):
        if number:
            row = {"type": "chunk", "name": member.name, "offset": chunk.offset}
            row |= {"endOffset": chunk.end, "chunkOffset": chunk.at}
        row |= {"chunkSize": chunk.size, "chunkDigest": chunk.digest}
        yield row
    if len(chunks) < 2:
        yield row
