"""One file of a directory context: what it is, and its bytes as long as it is the one that was seen.

Every file is opened below the context's root without following a link (reliability B2).
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable
from operator import attrgetter
from types import MappingProxyType
from typing import Any, BinaryIO

from assembler.errors import ContextChanged, StepError
from assembler.layer.changeset import Entry, Kind
from assembler.linux import paths
from assembler.linux.beneath import Openings
from assembler.values import NamedTuple

GONE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL))
"""What is not there, or not what it was: EINVAL is readlink(2)'s for what is no link."""
KINDS = MappingProxyType(
    {
        stat.S_IFDIR: Kind.DIRECTORY,
        stat.S_IFREG: Kind.FILE,
        stat.S_IFLNK: Kind.SYMLINK,
        stat.S_IFIFO: Kind.FIFO,
    }
)
"""What a context holds: sockets and devices of the host are no files of it."""
_FILE = os.O_RDONLY | os.O_NONBLOCK
_ROOT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_PLAIN_FILE = 0o170111  # of a mode: it is a file, and no program
_FILE_KIND, _NONE = Kind.FILE, (0, 0)
_CAPABILITY = "security.capability"

Identity = tuple[int, int, int]
"""What tells whether a file is the one that was seen: inode, size, modification time."""
Details = tuple[str, tuple[tuple[str, bytes], ...]]
"""The text of a link, the attributes of a file."""
PLAIN: Details = ("", ())


class ContextBytes(NamedTuple):
    """A file of a context, as it was when it was seen."""

    root: str
    path: str
    seen: Identity

    def open(self) -> BinaryIO:
        """The file's bytes; who reads to their end learns whether they are one state of it. Opening
        and reading raise ContextChanged when it is another one by now, StepError when it cannot be
        read."""
        with Openings() as near:
            descriptor = self.descriptor(near)
        try:
            self.check(descriptor)
        except ContextChanged:
            os.close(descriptor)
            raise
        return _Watched(descriptor, self)

    def descriptor(self, near: Openings) -> int:
        """See `layer.changeset.FileSource`."""
        try:
            return near.open(self.root, self.path, _FILE)
        except OSError as error:
            raise unreadable(self.path, error) from error

    def look(self, near: Openings) -> os.stat_result:
        """The stat of the file. Raises ContextChanged unless it is the one that was seen."""
        try:
            found = near.stat(self.root, self.path)
        except OSError as error:
            raise unreadable(self.path, error) from error
        if identity(found) != self.seen:
            raise changed(self.path)
        return found

    def check(self, descriptor: int) -> None:
        """Raises ContextChanged unless what is open as `descriptor` is the file that was seen."""
        if identity(os.fstat(descriptor)) != self.seen:
            raise changed(self.path)

    def fill(self, near: Openings, view: memoryview) -> int:
        """See `layer.changeset.FileSource`."""
        root, path, seen = self
        descriptor = near.open(root, path, _FILE)
        try:
            count = os.readv(descriptor, (view,))
            if identity(os.fstat(descriptor)) != seen:
                raise changed(path)
        finally:
            os.close(descriptor)
        return count


class _Watched(io.FileIO):
    """A file that is looked at again when all of it has been read."""

    def __init__(self, descriptor: int, source: ContextBytes) -> None:
        super().__init__(descriptor, "rb")
        self._source = source

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        if not count:
            self._source.check(self.fileno())
        return count

    def readall(self) -> bytes:
        data = super().readall()
        self._source.check(self.fileno())
        return data

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            return self.readall()
        data = super().read(size)
        if size and not data:
            self._source.check(self.fileno())
        return data


def open_beneath(root: str, path: str, flags: int) -> int:
    """Open `path` of the context at `root`, through directories only. Raises OSError."""
    top = os.open(root, _ROOT)
    try:
        return paths.open_beneath(top, path, flags)
    finally:
        os.close(top)


def open_directory(root: str, path: str) -> int:
    """A descriptor of the directory at `path` of the context at `root`. Raises ContextChanged where
    there is none, StepError where it cannot be read."""
    try:
        return open_beneath(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise unreadable(path, error) from error


def entry_of(root: str, path: str, directory: int, found: os.stat_result) -> Entry | None:
    """What is at `path` of the context at `root`, in the directory open as `directory`; None where
    that is no file of a context. Raises OSError."""
    mode, details = found.st_mode, PLAIN
    if mode & _PLAIN_FILE == stat.S_IFREG and found.st_nlink == 1:  # as most are
        seen = identity(found)
        source = tuple.__new__(ContextBytes, (root, path, seen))
        return tuple.__new__(
            Entry,
            (path, _FILE_KIND, mode & 0o7777, 0, 0, seen[2], seen[1], "", _NONE, (), source, None),
        )
    shared = (found.st_dev, found.st_ino) if found.st_nlink > 1 else None
    if mode & 0o111 or stat.S_ISLNK(mode):
        details = details_of(path.rpartition("/")[2], directory, mode)
    return entry_as_seen(root, path, mode, identity(found), details, shared)


def entry_as_seen(
    root: str,
    path: str,
    mode: int,
    seen: Identity,
    details: Details,
    shared: tuple[int, int] | None,
) -> Entry | None:
    """`entry_of` from what is known already; `shared` is what the names of one file share."""
    kind = KINDS.get(stat.S_IFMT(mode))
    mode &= 0o7777
    link, xattrs = details
    if kind is Kind.FILE:
        _, size, mtime = seen
        source = tuple.__new__(ContextBytes, (root, path, seen))  # half the time: there are many
        return tuple.__new__(
            Entry, (path, kind, mode, 0, 0, mtime, size, "", (0, 0), xattrs, source, shared)
        )
    if kind is None:
        return None
    return Entry(path, kind, mode, mtime=seen[2], link=link)


def details_of(name: str, directory: int, mode: int) -> Details:
    """What stat(2) does not tell of `name` in the directory open as `directory`. Raises OSError."""
    if stat.S_ISLNK(mode):
        return os.readlink(name, dir_fd=directory), ()
    if mode & 0o111 and stat.S_ISREG(mode):
        return "", _capability(name, directory)
    return PLAIN


def _capability(name: str, directory: int) -> tuple[tuple[str, bytes], ...]:
    """The capabilities of a program, the only attribute that BuildKit's layers keep of a context's
    file (rules C20, Z4); what cannot be read is left out."""
    try:
        value = os.getxattr(f"/proc/self/fd/{directory}/{name}", _CAPABILITY, follow_symlinks=False)
    except OSError:
        return ()
    return ((_CAPABILITY, value),)


def unreadable(path: str, error: OSError) -> StepError:
    """The error for what cannot be read at `path`."""
    if error.errno in GONE:
        return changed(path)
    return StepError(
        f"{path or '.'} in the build context cannot be read: {error.strerror}",
        hint="make it readable, or exclude it in .dockerignore",
    )


def changed(path: str) -> ContextChanged:
    """The error for something that is not what it was when it was seen."""
    return ContextChanged(
        f"{path or '.'} in the build context changed during the build",
        hint="build again when nothing writes to the context",
    )


identity: Callable[[os.stat_result], Identity] = attrgetter("st_ino", "st_size", "st_mtime_ns")
"""What is compared of a file."""
