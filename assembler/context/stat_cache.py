"""What was found in the files of a context before, by their inodes: they need not be read again.

A file of the store holds, of each directory below one selection, the digest of all files in it by
the digest of their names and stats (a *part*), and the digest of each file by its stat. It is derived
data: it may be missing, older or newer, cut short or garbled, and is not believed then. Builds at
once each write a whole one, and the last stays. Nothing in it is a path, and no path of the host
enters a key.

    16 magic and version   32 SHA-256 of the index   4 × 4 lengths of the index's sections
    the index:   a 77-byte row for each directory; 16-byte keys of listings that ignore rules show
                 whole; 20-byte rows of others, and their verdicts, a byte for each name
    64 bytes for each file: inode, size, mtime, ctime, SHA-256
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from struct import Struct

from assembler.linux.replacing import replacing
from assembler.values import NamedTuple

MAGIC = b"assemble stats 1"
KEY = 16
LINKED, PARENT = 1, 2
"""What a part's last byte says: there are files of several names, there are directories."""
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_MOST_FILES = 32  # of selections; the oldest go
_HEADER = Struct("<16s32s4Q")
_ROW = Struct("<16s33sQQIQ")  # key, part, inode of the directory, offset, files, check
_PART = Struct("<16s33s28x")
_PLACE = Struct("<49xQQIQ")
_VERDICT = Struct("<16sI")
_KEY = Struct("<16s")
_FILE = Struct("<32s32s")
_STAT = Struct("<4Q")
_MASK = (1 << 64) - 1

Group = dict[bytes, bytes]
"""The SHA-256 digests of a directory's files, by their `stat_key`s."""


class Directory(NamedTuple):
    """What was found in a directory now, its group `packed`. A `part` that may not be believed later
    is empty."""

    part: bytes
    inode: int
    files: bytes


class StatCache:
    """What is known of a selection. `parts` and `verdicts` are by the first KEY bytes of digests;
    a part is the digest of a directory's files and a byte of flags."""

    def __init__(self, directory: str = "", context: str = "", selection: str = "") -> None:
        """Of `selection` in `context`, in the file system's `directory`; of nothing without one.

        Where there is nothing of this selection, another's of the same context is as good a start.
        """
        self.parts: dict[bytes, bytes] = {}
        self.verdicts: dict[bytes, bytes] = {}
        self._directory = directory
        self._path = os.path.join(directory, f"{context}-{selection}")
        self._rows = b""
        self._start = 0
        self._descriptor = -1
        self._places: dict[int, tuple[int, int, int]] | None = None
        if directory:
            with suppress(OSError, ValueError, struct.error):
                self._load(self._path if os.path.exists(self._path) else self._largest(context))

    def __enter__(self) -> StatCache:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def group(self, inode: int) -> Group:
        """The files that were in the directory `inode`."""
        if self._places is None:
            rows = _PLACE.iter_unpack(self._rows)
            self._places = {number: (offset, count, check) for number, offset, count, check in rows}
        return dict(_FILE.iter_unpack(self._group(self._places.get(inode, (0, 0, 0)))))

    def save(
        self,
        kept: Iterable[bytes],
        found: dict[bytes, Directory],
        verdicts: dict[bytes, bytes],
    ) -> None:
        """Write the directories whose parts, or listings' verdicts, were used (`kept`), and those
        of `found`. What cannot be written is not: it is found again."""
        if not self._directory:
            return
        with suppress(OSError):
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            rows, groups = self._rows_of(kept, found)
            plain = [key for key, verdict in verdicts.items() if not verdict]
            others = [(key, verdict) for key, verdict in verdicts.items() if verdict]
            sections = (
                b"".join(rows),
                b"".join(plain),
                b"".join(_VERDICT.pack(key, len(verdict)) for key, verdict in others),
                b"".join(verdict for _, verdict in others),
            )
            index = b"".join(sections)
            check = hashlib.sha256(index).digest()
            with replacing(self._path, 0o600) as stream:
                stream.write(_HEADER.pack(MAGIC, check, *map(len, sections)))
                stream.write(index)
                for group in groups:
                    stream.write(group)
            self._tidy()

    def _load(self, path: str) -> None:
        """Raises OSError, ValueError for what is not believed."""
        self._descriptor = os.open(path, _FLAGS)
        header = os.read(self._descriptor, _HEADER.size)
        if len(header) < _HEADER.size:
            raise ValueError("too short")
        magic, check, *lengths = _HEADER.unpack(header)
        if magic != MAGIC or sum(lengths) > os.fstat(self._descriptor).st_size:
            raise ValueError("another version, or cut short")
        index = os.read(self._descriptor, sum(lengths))
        if hashlib.sha256(index).digest() != check:
            raise ValueError("garbled")
        self._start = _HEADER.size + len(index)
        sections = []
        for length in lengths:
            sections.append(index[:length])
            index = index[length:]
        rows, plain, others, text = sections
        self.parts = dict(_PART.iter_unpack(rows))
        self.verdicts = dict.fromkeys((key for (key,) in _KEY.iter_unpack(plain)), b"")
        start = 0
        for key, length in _VERDICT.iter_unpack(others):
            self.verdicts[key] = text[start : start + length]
            start += length
        self._rows = rows

    def _largest(self, context: str) -> str:
        """The file of the selection of the same context that knows most."""
        names = [name for name in os.listdir(self._directory) if name.startswith(f"{context}-")]
        paths = [os.path.join(self._directory, name) for name in names]
        return max(paths, key=lambda path: os.stat(path).st_size)  # ValueError: there is none

    def _group(self, place: tuple[int, int, int]) -> bytes:
        offset, count, check = place
        if not count:
            return b""
        group = os.pread(self._descriptor, count * _FILE.size, self._start + offset)
        return group if _check(group) == check else b""

    def _rows_of(
        self, kept: Iterable[bytes], found: dict[bytes, Directory]
    ) -> tuple[list[bytes], list[bytes]]:
        known = {row[0]: row for row in _ROW.iter_unpack(self._rows)} if self._rows else {}
        rows: list[bytes] = []
        groups: list[bytes] = []
        offset = 0

        def put(key: bytes, part: bytes, inode: int, group: bytes) -> None:
            nonlocal offset
            count = len(group) // _FILE.size
            rows.append(_ROW.pack(key, part, inode, offset, count, _check(group)))
            groups.append(group)
            offset += len(group)

        for key in kept:
            if key in known:
                _, part, inode, *place = known[key]
                put(key, part, inode, self._group((place[0], place[1], place[2])))
        for key, directory in found.items():
            key = key if directory.part else bytes(KEY)
            put(key, directory.part, directory.inode, directory.files)
        return rows, groups

    def _tidy(self) -> None:
        names = os.listdir(self._directory)
        if len(names) > _MOST_FILES:
            paths = [os.path.join(self._directory, name) for name in names]
            for path in sorted(paths, key=lambda path: os.stat(path).st_mtime_ns)[:-_MOST_FILES]:
                os.unlink(path)


def packed(group: Group) -> bytes:
    """A group in a quarter of its memory, as the file has it."""
    return b"".join(map(_FILE.pack, group, group.values()))


def stat_key(inode: int, size: int, mtime: int, ctime: int) -> bytes:
    """What of a file's stat(2) says that its bytes are the same; times in nanoseconds."""
    return _STAT.pack(inode, size, mtime & _MASK, ctime & _MASK)


def _check(group: bytes) -> int:
    return int.from_bytes(hashlib.sha256(group).digest()[:8], "little")
