"""A directory as build context: read in place, ignore rules applied, never left.

Every file is opened below the context's root without following a link, and must be the file that
was seen when the context was walked (reliability B2).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from assembler.dockerfile.ignore import IgnoreRules
from assembler.errors import ContextChanged, UsageError
from assembler.layer.changeset import Entry, Kind
from assembler.layer.tree import Tree, join
from assembler.linux import syscalls
from assembler.source import Source

_KINDS = {
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFREG: Kind.FILE,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
}
_STAY = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS


@dataclass(frozen=True, slots=True)
class ContextBytes:
    """A file of a context, as it was when it was seen: inode, size, modification time."""

    root: str
    path: str
    seen: tuple[int, int, int]

    def open(self) -> BinaryIO:
        """The file's bytes. Raises ContextChanged when it is another one by now."""
        root = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = syscalls.openat2(root, self.path, flags, 0, _STAY)
        except OSError as error:
            raise ContextChanged(
                f"{self.path} in the build context cannot be read: {error.strerror}"
            ) from error
        finally:
            os.close(root)
        if _identity(os.fstat(descriptor)) != self.seen:
            os.close(descriptor)
            raise ContextChanged(
                f"{self.path} in the build context changed during the build",
                hint="build again when nothing writes to the context",
            )
        return os.fdopen(descriptor, "rb", buffering=0)


class DirectoryContext:
    """The files below `path` that `rules` let through."""

    def __init__(self, path: str, rules: IgnoreRules | None, name: str = "") -> None:
        self.name = name
        self.rules = rules
        self.epoch: int | None = None
        self._root = os.path.realpath(path)

    def tree(self) -> Tree:
        """The files as they are now; entries belong to 0:0 (rule C16)."""
        return _ContextTree(self._root, self.rules)

    def ignored(self, path: str) -> str | None:
        """See `context.base.Context.ignored`."""
        rule = None if self.rules is None else self.rules.match(path.strip("/"))
        return None if rule is None else str(rule)


class _ContextTree:
    def __init__(self, root: str, rules: IgnoreRules | None) -> None:
        self._root = root
        self._rules = rules

    def lookup(self, path: str) -> Entry | None:
        host = os.path.join(self._root, path) if path else self._root
        try:
            found = os.lstat(host)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if path and not self._shown(path, found):
            return None
        return self._entry(path, host, found)

    def children(self, path: str) -> Iterable[Entry]:
        host = os.path.join(self._root, path) if path else self._root
        with os.scandir(host) as names:
            items = sorted(names, key=lambda item: item.name)
        found = []
        for item in items:
            below = join(path, item.name)
            status = item.stat(follow_symlinks=False)
            entry = self._entry(below, item.path, status) if self._shown(below, status) else None
            if entry is not None:
                found.append(entry)
        return found

    def _shown(self, path: str, found: os.stat_result) -> bool:
        """Whether the rules let `path` through; an excluded directory is there when something
        below it was included again (rule G5)."""
        if self._rules is None or self._rules.match(path) is None:
            return True
        if not stat.S_ISDIR(found.st_mode) or not self._rules.may_reinclude_below(path):
            return False
        return any(True for _ in self.children(path))

    def _entry(self, path: str, host: str, found: os.stat_result) -> Entry | None:
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            return None  # sockets and devices of the host are no files of a context
        regular = kind is Kind.FILE
        return Entry(
            path=path,
            kind=kind,
            mode=stat.S_IMODE(found.st_mode),
            mtime=found.st_mtime_ns,
            size=found.st_size if regular else 0,
            link=os.readlink(host) if kind is Kind.SYMLINK else "",
            source=ContextBytes(self._root, path, _identity(found)) if regular else None,
            inode=(found.st_dev, found.st_ino) if regular and found.st_nlink > 1 else None,
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
