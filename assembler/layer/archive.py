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
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.layer.sparse import SparseBody
from assembler.layer.tar_reader import read
from assembler.layer.write import walk_order

__all__ = ["RangeBytes", "expand", "is_archive"]

_MAX_LINKS = 40
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
    """The files of the archive `source`, in canonical order, as `tar -x` would leave them. The
    SHA-256 digest of its own bytes is `seen`.

    File bytes are put into one new file in the directory `spool`, which the caller removes when the
    changeset is used no more. `..` and `/` stop at the archive's own root, and names that go
    through the archive's links are followed inside it. Directories that the archive does not name
    are not in the changeset. Whiteouts mean nothing here: `.wh.x` is a file. Raises BadArchive,
    NoSpace; the spooled file is removed then.
    """
    import tempfile

    descriptor, path = tempfile.mkstemp(prefix="archive-", dir=spool)
    try:
        with os.fdopen(descriptor, "wb") as out, source.open() as stream:
            expansion = _Expansion(path, out)
            told = None if seen is None else _Hashed(stream)
            for entry, body in read(reader(told or stream, limits.size, check), limits):
                check()
                expansion.take(entry, body, check)
            if told is not None and seen is not None:
                seen(told.whole(check))
        return expansion.changeset()
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
    """What is at each path, while members come. Names of one file share one entry."""

    def __init__(self, path: str, out: BinaryIO) -> None:
        self._path = path
        self._out = out
        self._offset = 0
        self._found: dict[str, Entry] = {}
        self._below: dict[str, set[str]] = {}
        self._followed: dict[str, str] = {}
        self._shared: set[int] = set()
        """The entries that several names have had; one that none has may be another's by now."""
        self._implied = 0

    def take(self, entry: Entry, body: BinaryIO, check: Callable[[], None]) -> None:
        if not entry.path:
            self._found[""] = entry
            return
        path = self._inside(entry.path)
        if not path:
            raise BadArchive(f"{entry.path!r} would replace the root directory", entry.path)
        if entry.kind is Kind.HARDLINK:
            target = self._found.get(self._inside(entry.link)) if entry.link else None
            if target is None or target.kind is Kind.DIRECTORY:
                raise BadArchive(
                    f"{entry.path!r} is a hard link to {entry.link!r}, which the archive does not "
                    "hold before it",
                    entry.path,
                )
            entry = target
            self._shared.add(id(target))
        elif entry.kind is Kind.CHARACTER and entry.device == (0, 0):
            raise BadArchive(f"{entry.path!r}: no layer can hold a device 0:0", entry.path)
        elif entry.kind is Kind.FILE:
            entry = entry._replace(path=path, source=self._spool(body, entry.size, check))
        else:
            entry = entry._replace(path=path)
        self._put(path, entry)

    def changeset(self) -> Changeset:
        """The entries, after which nothing is left here; of a file's names the first in order carries
        it."""
        self._below.clear()
        self._followed.clear()
        first: dict[int, str] = {}
        result: list[Entry] = []
        for path in sorted(self._found, key=walk_order):
            entry = self._found[path]
            if id(entry) in self._shared:
                name = first.setdefault(id(entry), path)
                entry = entry._replace(path=path)
                if name != path:
                    entry = entry._replace(
                        kind=Kind.HARDLINK, link=name, size=0, xattrs=(), source=None
                    )
            result.append(entry)
        self._found.clear()
        return tuple(result)

    def _put(self, path: str, entry: Entry) -> None:
        before = self._found.get(path)
        if before is not None and before.kind is Kind.SYMLINK:
            self._followed.clear()
        if entry.kind is not Kind.DIRECTORY and path in self._below:
            self._followed.clear()
            self._remove_below(path)
        self._found[path] = entry
        while path:
            above = path.rpartition("/")[0]
            siblings = self._below.setdefault(above, set())
            if path in siblings:
                break
            siblings.add(path)
            path = above
            if path not in self._found:
                self._implied += len(path)
                if self._implied > _MAX_IMPLIED:
                    raise BadArchive(f"{entry.path[:200]!r}: too many directories have no member")

    def _remove_below(self, path: str) -> None:
        pending = list(self._below.pop(path, ()))
        while pending:
            gone = pending.pop()
            self._found.pop(gone, None)
            pending += self._below.pop(gone, ())

    def _inside(self, path: str) -> str:
        """`path` with the links among its parents followed inside the archive."""
        above, _, name = path.rpartition("/")
        if not above:
            return path
        parent = self._followed.get(above)
        if parent is None:
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
