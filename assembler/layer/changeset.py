"""Changesets: what a step changed, as entries whose bytes live somewhere else.

A changeset becomes a directory only when a process needs one, and a tar only when an image that
is written contains it (image-spec layer.md, "Creating").

Paths are relative to the root, without leading or trailing slash; "" is the root itself. They are
text with surrogateescape, so any file name survives (`os.fsencode` gives the bytes).
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection
from enum import Enum
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from assembler.values import NamedTuple, value

if TYPE_CHECKING:
    from assembler.linux.beneath import Openings


class Kind(Enum):
    """What an entry is. HARDLINK names an earlier entry of the same changeset in `link`."""

    DIRECTORY = "directory"
    FILE = "file"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    CHARACTER = "character"
    BLOCK = "block"
    FIFO = "fifo"
    WHITEOUT = "whiteout"
    """The path, which a lower layer holds, is gone."""
    OPAQUE = "opaque"
    """Nothing of the directory at this path shows from lower layers."""


class ByteSource(Protocol):
    """Where a file's bytes live."""

    def open(self) -> BinaryIO:
        """The bytes from the start, unbuffered or buffered; the caller closes it."""
        ...


class FileSource(ByteSource, Protocol):
    """A source that is a file of its own."""

    def descriptor(self, near: Openings) -> int:
        """The file, which the caller closes, opened by way of `near`; it may be another one by now.
        Raises OSError and what `open` raises."""
        ...

    def check(self, descriptor: int) -> None:
        """Raises ContextChanged unless what is open, and was read, is the file that is meant, as it
        was when it was seen."""
        ...

    def fill(self, near: Openings, view: memoryview) -> int:
        """Read the file into `view` by one call, and check it: how many bytes that gave. Raises what
        the others raise; an OSError says no more than that it cannot be read so."""
        ...


@value
class InlineBytes:
    """Bytes held in memory: here-documents, scripts."""

    content: bytes

    def open(self) -> BinaryIO:
        """The bytes as a stream."""
        return io.BytesIO(self.content)


class PathBytes(NamedTuple):
    """A regular file on disk below a directory that only we write (a layer directory)."""

    path: str

    def open(self) -> BinaryIO:
        """The file, opened without following a symlink in the last component."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        return os.fdopen(descriptor, "rb", buffering=0)

    def descriptor(self, near: Openings) -> int:
        """See `FileSource`."""
        name = self.path.rpartition("/")[2]
        directory = self.path[: len(self.path) - len(name)] or "."
        return near.open(directory, name, os.O_RDONLY | os.O_NONBLOCK)

    def check(self, descriptor: int) -> None:
        """See `FileSource`. Nobody else writes there."""

    def fill(self, near: Openings, view: memoryview) -> int:
        """See `FileSource`."""
        descriptor = self.descriptor(near)
        try:
            return os.readv(descriptor, (view,))
        finally:
            os.close(descriptor)


class RangeBytes(NamedTuple):
    """`size` bytes at `offset` of a file that only we write (the spooled files of an archive)."""

    path: str
    offset: int
    size: int

    def open(self) -> BinaryIO:
        """The range as a stream that ends where the range does."""
        stream = _Range(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb")
        stream.left = self.size
        stream.seek(self.offset)
        return io.BufferedReader(stream)


class _Range(io.FileIO):
    """A file of which `left` bytes are still to be read."""

    left = 0

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: self.left]
        count = super().readinto(view) or 0
        self.left -= count
        return count

    def read(self, size: int | None = -1) -> bytes:
        wanted = self.left if size is None or size < 0 else min(size, self.left)
        data = super().read(wanted) or b""
        self.left -= len(data)
        return data

    def readall(self) -> bytes:
        return self.read(self.left)


class Entry(NamedTuple):
    """One path of a changeset or tree. `mtime` is nanoseconds since the epoch, `size` bytes.

    `mode` are the permission bits (07777). `link` is a symlink's text, verbatim, or the path a
    hard link names. `xattrs` are (name, value), sorted. Where the bytes are and which other names
    they have is no part of what an entry is: `source` and `inode` do not count when entries are
    compared. A tuple, because a tree has 100,000 of them; `_replace` gives a changed copy.
    """

    path: str
    kind: Kind
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    link: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()
    source: ByteSource | None = None
    inode: tuple[int, int] | None = None
    """What names of one file share, in a tree; None where the file has one name."""

    @property
    def name(self) -> str:
        """The last component."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> str:
        """The path without its last component."""
        return self.path.rpartition("/")[0]

    def at(self, path: str) -> Entry:
        """The same at `path`; a `_replace` that takes a fifth of the time."""
        return tuple.__new__(Entry, (path, *self[1:]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and self[:_COMPARED] == other[:_COMPARED]

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self[:_COMPARED])


_COMPARED = Entry._fields.index("source")


Changeset = Collection[Entry]
"""Entries in an order in which parents come before children and files before their hard links."""


LONGEST_NAME = 255
"""Bytes of a name that Linux has room for (NAME_MAX)."""


def is_nowhere(path: str) -> bool:
    """Whether the last name of `path` is too long for any file system."""
    name = path.rpartition("/")[2]
    return len(name) * 4 > LONGEST_NAME and len(os.fsencode(name)) > LONGEST_NAME


def walk_order(path: str) -> str:
    """What sorts paths as a walk meets them: everything in a directory before its next sibling."""
    return path.replace("/", "\0")
