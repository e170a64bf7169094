"""A directory as build context: read in place, ignore rules applied, never left.

Every file is opened below the context's root without following a link, and must be the file that
was seen when the context was walked (reliability B2).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from assembler.context.filtered import FilteredTree, hidden_by
from assembler.dockerfile.ignore import IgnoreRules
from assembler.errors import ContextChanged, StepError, UsageError
from assembler.layer.changeset import Entry, Kind
from assembler.layer.tree import Tree, join
from assembler.linux import paths
from assembler.linux.beneath import Openings
from assembler.source import Source

_KINDS = {
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFREG: Kind.FILE,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
}
_GONE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP))
_ROOT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_FILE = os.O_RDONLY | os.O_NONBLOCK
_CAPABILITY = "security.capability"


class ContextBytes(NamedTuple):
    """A file of a context, as it was when it was seen: inode, size, modification time."""

    root: str
    path: str
    seen: tuple[int, int, int]

    def open(self) -> BinaryIO:
        """The file's bytes. Raises ContextChanged when it is another one by now, StepError when it
        cannot be read."""
        with Openings() as near:
            return os.fdopen(self.descriptor(near), "rb", buffering=0)

    def descriptor(self, near: Openings) -> int:
        """See `layer.changeset.FileSource.descriptor`."""
        try:
            descriptor = near.open(self.root, self.path, _FILE)
        except OSError as error:
            raise _unreadable(self.path, error) from error
        if _identity(os.fstat(descriptor)) != self.seen:
            os.close(descriptor)
            raise _changed(self.path)
        return descriptor


class DirectoryContext:
    """The files below `path` that `rules` let through."""

    def __init__(self, path: str, rules: IgnoreRules | None, name: str = "") -> None:
        self.name = name
        self.rules = rules
        self.epoch: int | None = None
        self._root = os.path.realpath(path)

    def tree(self) -> Tree:
        """The files as they are now; entries belong to 0:0 (rule C16)."""
        return FilteredTree(_Files(self._root), self.rules)

    def ignored(self, path: str) -> str | None:
        """See `context.base.Context.ignored`."""
        return hidden_by(_Files(self._root), self.rules, path)


@dataclass(frozen=True, slots=True)
class _Files:
    """What is in a directory, found without following a link."""

    root: str

    def lookup(self, path: str) -> Entry | None:
        above, _, name = path.rpartition("/")
        try:
            with self._open(above) as directory:
                status = os.lstat(name or ".", dir_fd=directory)
                return _entry(self.root, path, directory, status)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise _unreadable(path, error) from error

    def children(self, path: str) -> Iterable[Entry]:
        below = path
        found = []
        try:
            with self._open(path) as directory:
                with os.scandir(directory) as names:
                    items = sorted(names, key=lambda item: item.name)
                for item in items:
                    below = join(path, item.name)
                    status = item.stat(follow_symlinks=False)
                    entry = _entry(self.root, below, directory, status)
                    if entry is not None:
                        found.append(entry)
        except OSError as error:
            raise _unreadable(below, error) from error
        return found

    @contextmanager
    def _open(self, path: str) -> Iterator[int]:
        root = os.open(self.root, _ROOT)
        try:
            descriptor = paths.open_beneath(root, path, _DIRECTORY)
        finally:
            os.close(root)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _entry(root: str, path: str, directory: int, found: os.stat_result) -> Entry | None:
    """What is at `path` of the context at `root`, in the directory open as `directory`."""
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        return None  # sockets and devices of the host are no files of a context
    mode = stat.S_IMODE(found.st_mode)
    if kind is not Kind.FILE:
        name = path.rpartition("/")[2]
        link = os.readlink(name, dir_fd=directory) if kind is Kind.SYMLINK else ""
        return Entry(path, kind, mode, mtime=found.st_mtime_ns, link=link)
    return Entry(
        path=path,
        kind=kind,
        mode=mode,
        mtime=found.st_mtime_ns,
        size=found.st_size,
        xattrs=_capability(path, directory) if mode & 0o111 else (),
        source=ContextBytes(root, path, _identity(found)),
        inode=(found.st_dev, found.st_ino) if found.st_nlink > 1 else None,
    )


def _capability(path: str, directory: int) -> tuple[tuple[str, bytes], ...]:
    """The capabilities of a program, the only attribute that BuildKit's layers keep of a context's
    file (rules C20, Z4); what cannot be read is left out."""
    name = path.rpartition("/")[2]
    try:
        value = os.getxattr(f"/proc/self/fd/{directory}/{name}", _CAPABILITY, follow_symlinks=False)
    except OSError:
        return ()
    return ((_CAPABILITY, value),)


def _unreadable(path: str, error: OSError) -> StepError:
    if error.errno in _GONE:
        return _changed(path)
    return StepError(
        f"{path or '.'} in the build context cannot be read: {error.strerror}",
        hint="make it readable, or exclude it in .dockerignore",
    )


def _changed(path: str) -> ContextChanged:
    return ContextChanged(
        f"{path or '.'} in the build context changed during the build",
        hint="build again when nothing writes to the context",
    )


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns


def find_ignore_file(context: str, dockerfile: str) -> Source | None:
    """The ignore file of a build (rule G1), None when there is none.

    `<Dockerfile>.dockerignore` beside the Dockerfile, else `.dockerignore`, else
    `.containerignore` in the context. Raises UsageError for one that is a link.
    """
    candidates = [f"{dockerfile}.dockerignore"] if dockerfile else []
    candidates += [os.path.join(context, name) for name in (".dockerignore", ".containerignore")]
    for path in candidates:
        if os.path.islink(path):
            raise UsageError(f"{path} is a symbolic link", hint="an ignore file must be a file")
        if os.path.isfile(path):
            with open(path, "rb") as stream:
                content = stream.read()
            return Source(os.path.basename(path), content.decode("utf-8", "surrogateescape"))
    return None
