"""Archives that ADD unpacks: recognised by their bytes, their names made harmless (rule C26)."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from typing import BinaryIO

from assembler.cancellation import nothing
from assembler.errors import BadArchive, NoSpace
from assembler.layer.changeset import ByteSource, Changeset, Entry, Kind, RangeBytes
from assembler.layer.decompression import reader
from assembler.layer.entry_map import EntryMap
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.layer.sparse import SparseBody
from assembler.layer.tar_reader import read

__all__ = ["RangeBytes", "expand", "extract", "is_archive"]

_MAX_LINKS = 40
_MOST = 30_000  # entries that are held as such: who extracts holds as many again
_MOST_FOLLOWED = 50_000  # paths that are remembered
_MAX_IMPLIED = 64 << 20  # bytes of paths of directories that no member names
_PIECE = 1 << 20


def is_archive(source: ByteSource) -> bool:
    """Whether `source` is a tar, compressed by gzip, bzip2, xz or zstd or not at all.

    True when its first header is sound; an empty file is none.
    """
    with source.open() as stream:
        try:
            return next(iter(read(reader(stream))), None) is not None
        except BadArchive:
            return False


def expand(
    source: ByteSource,
    spool: str,
    *,
    check: Callable[[], None] = nothing,
    limits: Limits = DEFAULT_LIMITS,
    seen: Callable[[bytes], None] | None = None,
) -> Changeset:
    """What `extract` gives, as a changeset in canonical order."""
    return extract(source, spool, check=check, limits=limits, seen=seen).changeset()


def extract(
    source: ByteSource,
    spool: str,
    *,
    check: Callable[[], None] = nothing,
    limits: Limits = DEFAULT_LIMITS,
    seen: Callable[[bytes], None] | None = None,
) -> EntryMap:
    """The files of the archive `source`, as `tar -x` would leave them. The SHA-256 digest of its own
    bytes is `seen`.

    File bytes are put into one new file in the directory `spool`, which the caller removes when the
    files are used no more. `..` and `/` stop at the archive's own root, and names that go
    through the archive's links are followed inside it. Directories that the archive does not name
    are not there. Whiteouts mean nothing here: `.wh.x` is a file. Raises BadArchive,
    NoSpace; the spooled file is removed then.
    """
    import tempfile

    descriptor, path = tempfile.mkstemp(prefix="archive-", dir=spool)
    try:
        with os.fdopen(descriptor, "wb") as out, source.open() as stream:
            expansion = _Expansion(path, out, spool)
            told = None if seen is None else _Hashed(stream)
            for entry, body in read(reader(told or stream, limits.size, check), limits):
                check()
                expansion.take(entry, body, check)
            if told is not None and seen is not None:
                seen(told.whole(check))
        return expansion.result(check)
    except BaseException as error:
        os.unlink(path)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise NoSpace("no space left to unpack an archive", spool) from error
        raise


class _Hashed:
    """A stream that is hashed while it is read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hasher = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        piece = self._stream.read(size)
        self._hasher.update(piece)
        return piece

    def whole(self, check: Callable[[], None]) -> bytes:
        """The digest of all of it, what is behind the archive's end included."""
        while self.read(_PIECE):
            check()
        return self._hasher.digest()


_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))


class _Expansion:
    """What is at each path, while members come. Names of one file share an inode."""

    def __init__(self, path: str, out: BinaryIO, spool: str) -> None:
        self._path = path
        self._out = out
        self._offset = 0
        self._found = EntryMap(spool, _MOST)
        self._followed: dict[str, str] = {}
        self._inodes = 0

    def take(self, entry: Entry, body: BinaryIO, check: Callable[[], None]) -> None:
        if not entry.path:
            self._found.put(entry)
            return
        path = self._inside(entry.path)
        if not path:
            raise BadArchive(f"{entry.path!r} would replace the root directory", entry.path)
        if entry.kind is Kind.HARDLINK:
            entry = self._linked(entry)
        elif entry.kind is Kind.CHARACTER and entry.device == (0, 0):
            raise BadArchive(f"{entry.path!r}: no layer can hold a device 0:0", entry.path)
        elif entry.kind is Kind.FILE:
            entry = entry._replace(source=self._spool(body, entry.size, check))
        self._put(entry.at(path))

    def result(self, check: Callable[[], None]) -> EntryMap:
        """What is at each path in the end."""
        implied = 0
        before = ""
        for path in self._found.paths():
            check()
            above = path.rpartition("/")[0]
            while above and not f"{before}/".startswith(f"{above}/"):
                implied += len(above)
                above = above.rpartition("/")[0]
            if implied > _MAX_IMPLIED:
                raise BadArchive(f"{path[:200]!r}: too many directories have no member")
            before = path
        return self._found

    def _linked(self, entry: Entry) -> Entry:
        """The file that a hard link names."""
        path = self._inside(entry.link) if entry.link else ""
        target = self._found.get(path) if path else None
        if target is None or target.kind is Kind.DIRECTORY:
            raise BadArchive(
                f"{entry.path!r} is a hard link to {entry.link!r}, which the archive does not "
                "hold before it",
                entry.path,
            )
        if target.inode is None:
            self._inodes += 1
            target = target._replace(inode=(0, self._inodes))
            self._found.put(target)
        return target

    def _put(self, entry: Entry) -> None:
        before = self._found.get(entry.path)
        if before is not None and before.kind is Kind.SYMLINK:
            self._followed.clear()
        if entry.kind is not Kind.DIRECTORY and self._found.remove_below(entry.path):
            self._followed.clear()
        self._found.put(entry)

    def _inside(self, path: str) -> str:
        """`path` with the links among its parents followed inside the archive."""
        above, _, name = path.rpartition("/")
        if not above:
            return path
        parent = self._followed.get(above)
        if parent is None:
            if len(self._followed) >= _MOST_FOLLOWED:
                self._followed.clear()
            parent = self._followed[above] = self._follow(above)
        return f"{parent}/{name}" if parent else name

    def _follow(self, path: str) -> str:
        pending = path.split("/")[::-1]
        current = ""
        links = 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                current = current.rpartition("/")[0]
                continue
            step = f"{current}/{part}" if current else part
            found = self._found.get(step)
            if found is None or found.kind is Kind.DIRECTORY:
                current = step
            elif found.kind is Kind.SYMLINK:
                links += 1
                if links > _MAX_LINKS:
                    raise BadArchive(f"too many symbolic links in {path[:200]!r}", path)
                pending += found.link.split("/")[::-1]
                current = "" if found.link.startswith("/") else current
            else:
                raise BadArchive(f"{step!r} is no directory, but something is below it", path)
        return current

    def _spool(self, body: BinaryIO, size: int, check: Callable[[], None]) -> RangeBytes:
        start = self._offset
        if isinstance(body, SparseBody):
            for offset, piece in body.parts(_PIECE):
                check()
                self._out.seek(start + offset)
                self._out.write(piece)
            self._offset = self._out.seek(start + size)
            self._out.truncate()
            return RangeBytes(self._path, start, size)
        while piece := body.read(_PIECE):
            self._out.write(piece)
            self._offset += len(piece)
            check()
        return RangeBytes(self._path, start, self._offset - start)
