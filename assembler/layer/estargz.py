"""eStargz: gzip layers that can be read file by file (stargz-snapshotter, docs/estargz.md).

Each chunk of a file begins a gzip member, the table `stargz.index.json` is the last file, and the
last member tells where it is. Table and landmark come behind the end mark of the tar, as BuildKit
puts its table: who unpacks the layer from its start gets the files of the image and no others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from assembler.cancellation import nothing
from assembler.layer.boundaries import Member, Untellable
from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.compression import Check, CompressionWriter, Ending, Gzip, Sink
from assembler.layer.deflate import Engine
from assembler.layer.tar_writer import TarWriter
from assembler.layer.toc import CHUNK, Spool, TocWriter, attributes, date, encode
from assembler.oci.descriptor import ESTARGZ_SIZE, ESTARGZ_TOC, LAYER_GZIP

TABLE = "stargz.index.json"
LANDMARK = ".no.prefetch.landmark"
_RESERVED = frozenset((TABLE, LANDMARK, ".prefetch.landmark"))


@dataclass(frozen=True, slots=True)
class EStargz:
    """gzip members of at most 4 MiB of a file each, and a table of them."""

    level: int = 5
    threads: int = 0
    """Threads that compress; 0 means one for each processor."""

    @property
    def name(self) -> str:
        """`estargz`."""
        return "estargz"

    @property
    def media_type(self) -> str:
        """The media type of the layers it makes."""
        return LAYER_GZIP

    @property
    def identity(self) -> str:
        """Engine, version, level, and the version of what is written here."""
        return f"estargz/1 {Engine.of(self.level).identity} chunk={CHUNK}"

    def writer(self, sink: Sink, check: Check = nothing) -> CompressionWriter:
        """A new blob."""
        return _Writer(self.level, sink, self.threads)


class _Writer(TocWriter):
    def __init__(self, level: int, sink: Sink, threads: int) -> None:
        super().__init__(sink, threads)
        self._level = level
        self._engine = Engine.of(level)
        self._toc = Spool()
        self._separator = '{"version":1,"entries":['

    def compress(self, data: bytes) -> bytes:
        return self._engine.member(data)

    def member(self, member: Member) -> None:
        if member.name.removeprefix("./") in _RESERVED:
            raise Untellable(f"{member.name!r}, a name that the format uses itself")
        super().member(member)

    def row(self, member: Member) -> None:
        for row in _rows(member):
            self._toc.write(self._separator + encode(row))
            self._separator = ","

    def table(self) -> Ending:
        landmark = _landmark()
        header, content, padding = landmark[:512], landmark[512:513], landmark[513:]
        self.between(header)
        super().member(Member(LANDMARK, "reg", 0o444, 0, 0, 0, 1))
        self.content(content)
        self.between(padding)
        self.settle()
        self._toc.write("]}")
        toc, at = self._toc, self.offset
        added = _Counted()

        def write_table(sink: Sink) -> None:
            writer = TarWriter(sink)
            writer.add(Entry(TABLE, Kind.FILE, 0o444, size=toc.size, source=toc))
            writer.close()

        member = Gzip(self._level, self.threads).writer(self.emit)
        try:
            write_table(added.through(member.write))
            member.close()
        finally:
            member.abort()
        self.emit(footer(at))
        size = self.tar_size + len(landmark) + added.size

        def add(sink: Sink) -> None:
            sink(landmark)
            write_table(sink)

        return Ending({ESTARGZ_TOC: toc.digest, ESTARGZ_SIZE: str(size)}, add)


class _Counted:
    def __init__(self) -> None:
        self.size = 0

    def through(self, sink: Sink) -> Sink:
        def count(data: bytes | memoryview) -> None:
            self.size += len(data)
            sink(data)

        return count


def _landmark() -> bytes:
    """The file that says that nothing is to be fetched beforehand, as a member of a tar."""
    pieces: list[bytes] = []
    writer = TarWriter(lambda piece: pieces.append(bytes(piece)))
    writer.add(Entry(LANDMARK, Kind.FILE, 0o444, size=1, source=InlineBytes(b"\x0f")))
    writer.close()
    return b"".join(pieces)[:1024]


def _rows(member: Member) -> Iterator[dict[str, Any]]:
    row: dict[str, Any] = {"name": member.name, "type": member.kind}
    if member.size:
        row["size"] = member.size
    row["modtime"] = date(member.mtime // 1_000_000_000 * 1_000_000_000)
    row |= {"linkName": member.link} if member.link else {}
    row |= {"mode": member.mode, "uid": member.uid, "gid": member.gid}
    if member.kind in ("char", "block"):
        row["devMajor"], row["devMinor"] = member.device
    if member.xattrs:
        row["xattrs"] = attributes(member)
    if member.digest:
        row["digest"] = member.digest
    for number, chunk in enumerate(member.chunks):
        if number:
            row = {"name": member.name, "type": "chunk", "chunkOffset": chunk.at}
        row["offset"] = chunk.offset
        if number < len(member.chunks) - 1:
            row["chunkSize"] = chunk.size
        row["chunkDigest"] = chunk.digest
        yield row
    if not member.chunks:
        yield row


def footer(offset: int) -> bytes:
    """An empty gzip member whose extra field says that the table is at `offset`; 51 bytes."""
    text = b"%016xSTARGZ" % offset
    field = b"SG" + len(text).to_bytes(2, "little") + text
    head = b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff" + len(field).to_bytes(2, "little")
    return head + field + b"\x01\x00\x00\xff\xff" + bytes(8)
