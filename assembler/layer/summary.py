"""The digest of what is below a directory: names, kinds, modes, owners, links, bytes; never times
(rule C21).

A directory is its directories, each a record and what is below it, and then one digest of the records
of all else in it. So whoever knows that digest need not look at the files again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

from assembler.layer.changeset import Entry, Kind
from assembler.values import NamedTuple

EMPTY = hashlib.sha256().digest()
"""The part of a directory in which there are directories only, or nothing."""
END = b")"
_LETTERS = MappingProxyType(
    {
        Kind.DIRECTORY: b"d",
        Kind.FILE: b"f",
        Kind.SYMLINK: b"l",
        Kind.FIFO: b"p",
        Kind.CHARACTER: b"c",
        Kind.BLOCK: b"b",
    }
)


class Summary(NamedTuple):
    """What is below a directory. `links` are the paths, relative to it, of files that are one, each
    group and the whole sorted."""

    digest: bytes
    links: tuple[tuple[str, ...], ...] = ()


def record(name: str, entry: Entry, content: bytes = b"", *, implied: bool = False) -> bytes:
    """`entry` as bytes that no other entry has; `content` is the digest of a file's bytes.

    An `implied` directory is there because something below it is (see `selection.Below`).
    """
    called = name.encode("utf-8", "surrogateescape")
    link = entry.link.encode("utf-8", "surrogateescape")
    xattrs = b"".join(map(_framed, entry.xattrs)) if entry.xattrs else b""
    return b"%s %o %d:%d %d:%d %d:%s%d:%s%d:%s%d:%s" % (
        b"i" if implied else _LETTERS[entry.kind],
        entry.mode,
        entry.uid,
        entry.gid,
        *entry.device,
        len(called),
        called,
        len(link),
        link,
        len(xattrs),
        xattrs,
        len(content),
        content,
    )


def plain_file(name: str, mode: int, content: bytes) -> bytes:
    """The `record` of a file that belongs to 0:0 and has no attributes."""
    called = name.encode("utf-8", "surrogateescape")
    size = len(content)
    return b"f %o 0:0 0:0 %d:%s0:0:%d:%s" % (mode, len(called), called, size, content)


def plain_directory(name: str, mode: int) -> bytes:
    """The `record` of a directory that belongs to 0:0 and has no attributes."""
    called = name.encode("utf-8", "surrogateescape")
    return b"d %o 0:0 0:0 %d:%s0:0:0:" % (mode, len(called), called)


def _framed(xattr: tuple[str, bytes]) -> bytes:
    name = xattr[0].encode("utf-8", "surrogateescape")
    return b"%d:%s%d:%s" % (len(name), name, len(xattr[1]), xattr[1])


def groups(links: Iterable[Iterable[str]]) -> tuple[tuple[str, ...], ...]:
    """Paths that share an inode as `Summary.links` has them; one that is alone is no link."""
    found = (tuple(sorted(paths)) for paths in links)
    return tuple(sorted(paths for paths in found if len(paths) > 1))


class Summing:
    """Makes a summary of entries that come parents first, each directory's sorted by name."""

    def __init__(self) -> None:
        self._whole: Any = hashlib.sha256()
        self._open: list[tuple[str, Any]] = [("", hashlib.sha256())]
        self._links: dict[tuple[int, int], list[str]] = {}

    def add(self, path: str, entry: Entry, content: bytes = b"", *, implied: bool = False) -> None:
        """Take note of what is at `path`, relative to the directory that is summed up."""
        above, _, name = path.rpartition("/")
        while self._open[-1][0] != above:
            self._close()
        described = record(name, entry, content, implied=implied)
        if entry.kind is Kind.DIRECTORY:
            self._whole.update(described)
            self._open.append((path, hashlib.sha256()))
            return
        self._open[-1][1].update(described)
        if entry.inode is not None:
            self._links.setdefault(entry.inode, []).append(path)

    def result(self) -> Summary:
        """The summary. Nothing can be added afterwards."""
        while self._open:
            self._close()
        return Summary(self._whole.digest(), groups(self._links.values()))

    def _close(self) -> None:
        self._whole.update(END + self._open.pop()[1].digest())
