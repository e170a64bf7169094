"""Archives for tests, made entry by entry or header by header."""

from __future__ import annotations

import io
import os
from typing import Any

from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.tar_reader import read
from assembler.layer.tar_writer import TarWriter

UID, GID = os.geteuid(), os.getegid()
ZEROS = bytes(1024)


def file(path: str, content: bytes = b"", mode: int = 0o644, mtime: int = 0) -> Entry:
    """A regular file of ours."""
    return Entry(
        path, Kind.FILE, mode, UID, GID, mtime * 10**9, len(content), source=InlineBytes(content)
    )


def directory(path: str, mode: int = 0o755, mtime: int = 0) -> Entry:
    """A directory of ours."""
    return Entry(path, Kind.DIRECTORY, mode, UID, GID, mtime * 10**9)


def symlink(path: str, target: str) -> Entry:
    """A symbolic link of ours."""
    return Entry(path, Kind.SYMLINK, 0o777, UID, GID, link=target)


def hardlink(path: str, target: str) -> Entry:
    """A further name of `target`."""
    return Entry(path, Kind.HARDLINK, 0o644, UID, GID, link=target)


def whiteout(path: str) -> Entry:
    """What says that `path` is gone."""
    return Entry(path, Kind.WHITEOUT)


def opaque(path: str) -> Entry:
    """What says that nothing shows in `path` from below."""
    return Entry(path, Kind.OPAQUE)


def tar(*entries: Entry) -> bytes:
    """The entries in this order."""
    out: list[bytes] = []
    writer = TarWriter(lambda piece: out.append(bytes(piece)))
    for entry in entries:
        writer.add(entry)
    writer.close()
    return b"".join(out)


def raw(
    name: bytes,
    content: bytes = b"",
    *,
    kind: bytes = b"0",
    link: bytes = b"",
    mode: bytes = b"",
    size: bytes = b"",
    magic: bytes = b"ustar\x0000",
    at: tuple[int, bytes] = (0, b""),
) -> bytes:
    """One member, its header's checksum right whatever the fields say; `at` overwrites bytes."""
    header = bytearray(512)
    size = size or b"%011o\0" % len(content)
    mode = mode or (b"0000755\0" if kind == b"5" or name.endswith(b"/") else b"0000644\0")
    owners = b"%07o\0%07o\0" % (UID, GID)
    fields = ((0, name), (100, mode), (108, owners), (124, size), (136, b"%011o\0" % 0))
    for offset, value in (*fields, (156, kind), (157, link), (257, magic), at):
        header[offset : offset + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content.ljust(-(-len(content) // 512) * 512, b"\0")


def record(key: bytes, value: bytes) -> bytes:
    """One pax record."""
    size = len(key) + len(value) + 3
    size += len(str(size + len(str(size))))
    return b"%d %s=%s\n" % (size, key, value)


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    """An extended header."""
    return raw(b"PaxHeaders/0", b"".join(records), kind=kind)


def listed(content: bytes, *, layers: bool = True) -> list[tuple[Entry, bytes]]:
    """What the reader finds: entries and their bytes."""
    stream = io.BufferedReader(io.BytesIO(content))  # type: ignore[arg-type]
    return [(entry, body.read()) for entry, body in read(stream, layers=layers)]


class Endless(io.RawIOBase):
    """`start`, and then zeros for ever; it counts what was read."""

    def __init__(self, start: bytes) -> None:
        self.count = 0
        self._start = memoryview(start)

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`."""
        size = len(buffer)
        there, self._start = self._start[:size], self._start[size:]
        buffer[:] = bytes(there).ljust(size, b"\0")
        self.count += size
        return size
