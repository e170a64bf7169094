"""Layer directories without overlays: a step runs in a copy of the merged tree (rootless-runtime 5b).

For hosts whose kernel or file system refuses overlays. What a step changed is found by comparing
inode numbers and change times, which no process can set, before and after. In a line of steps the
tree is handed on instead of copied again.
"""

from __future__ import annotations

import os
import stat
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from assembler.layer.changeset import Entry, Kind
from assembler.layer.overlay import HardLinks, describe
from assembler.layer.realise import realise
from assembler.layer.tree import DirectoryTree, MergedTree, Tree, everything
from assembler.linux.ownership import ROOT, Owner, read_table
from assembler.linux.syscalls import birth_time
from assembler.runtime.base import Root
from assembler.snapshot.overlay import OverlaySnapshotter

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Mark:
    """What tells whether a path was changed since: no process can set a change time. Inode numbers
    are used again, so a directory is told from its successor by when it was made."""

    inode: int
    ctime: int
    is_directory: bool
    born: int
    owner: Owner | None = None
    """As recorded, of a link or FIFO: no time of the file tells when that changes."""


Marks = Mapping[str, Mark]


class CopySnapshotter(OverlaySnapshotter):
    """Published directories are those of `OverlaySnapshotter`; roots are plain trees."""

    name = "copy"

    def __init__(self, directory: str, *, recorded: bool = False) -> None:
        super().__init__(directory, recorded=recorded)
        self._guard = threading.Lock()
        self._trees: dict[tuple[str, ...], str] = {}

    @contextmanager
    def prepare(self, id: str, lowers: Sequence[str]) -> Iterator[Root]:
        """See `snapshot.base.Snapshotter.prepare`; the root's `upper` is the whole tree."""
        below = MergedTree([DirectoryTree(path) for path in lowers])
        with self._scratch() as scratch:
            copy, change = os.path.join(scratch, "copy"), os.path.join(scratch, "change")
            os.mkdir(change)
            if self._handed_on(tuple(lowers), copy):
                tree = self._layer(copy)
            else:
                os.mkdir(copy)
                tree = self._fresh(copy)
                realise(everything(below), tree)
            before = marks(tree)
            yield Root((), tree, "", scratch)
            upper = self._fresh(change)
            realise(changed(tree, before, below), upper, lower=below.lookup)
            self._publish(upper, id)
            published = self.find(id)
            if published is not None:
                self._hand_on((published, *lowers), copy)

    def _handed_on(self, lowers: tuple[str, ...], into: str) -> bool:
        with self._guard:
            kept = self._trees.pop(lowers, None)
        if kept is None:
            return False
        os.rename(kept, into)
        return True

    def _hand_on(self, lowers: tuple[str, ...], copy: str) -> None:
        kept = os.path.join(self._work, uuid.uuid4().hex[:12])
        os.rename(copy, kept)
        with self._guard:
            replaced = self._trees.get(lowers)
            self._trees[lowers] = kept
        if replaced is not None:
            self._discard(replaced)


def marks(tree: str) -> Marks:
    """What tells whether a path of the directory `tree` was changed since."""
    owners = read_table(tree)
    found = {"": _mark(tree, os.stat(tree))}
    for path, item in _walk(tree):
        status = item.stat(follow_symlinks=False)
        if not stat.S_ISSOCK(status.st_mode):  # no layer holds one
            found[path] = _mark(item.path, status, owners.get(path))
    return found


def _mark(location: str, status: os.stat_result, owner: Owner | None = None) -> Mark:
    is_directory = stat.S_ISDIR(status.st_mode)
    born = birth_time(location) if is_directory else 0
    # A table may lack what belongs to 0:0 (`linux.ownership`).
    return Mark(
        status.st_ino, status.st_ctime_ns, is_directory, born, None if owner == ROOT else owner
    )


def changed(tree: str, before: Marks, below: Tree) -> Iterator[Entry]:
    """What was changed in `tree`, a copy of `below`, since `before`, as a changeset: deletions as
    whiteouts, a directory that was made anew as opaque, as an overlay has it. A directory that only
    had mount points come and go is as it was."""
    links = HardLinks()
    now: set[str] = set()
    kept = {""}  # directories that are the ones they were
    anew = ""
    owners = read_table(tree)
    root = describe("", tree, os.stat(tree), owners)
    if root is not None:
        yield root
    for path, item in _walk(tree):
        now.add(path)
        if anew and not path.startswith(f"{anew}/"):
            anew = ""
        status = item.stat(follow_symlinks=False)
        mark, known = _mark(item.path, status, owners.get(path)), before.get(path)
        same = not anew and known is not None and _is_same(known, mark)
        if same and mark.is_directory:
            kept.add(path)
        if same and known == mark:
            continue
        entry = describe(path, item.path, status, owners)
        single = mark.is_directory or status.st_nlink == 1
        if entry is None:
            if not anew and below.lookup(path) is not None:
                yield Entry(path, Kind.WHITEOUT)
            continue
        if same and single and _like(entry, below.lookup(path)):
            continue
        if not mark.is_directory:
            yield links.link(entry, status)
            continue
        yield entry
        if not anew and known is not None and known.is_directory and not same:
            anew = path
            yield Entry(path, Kind.OPAQUE)
    for path in before:
        if path and path not in now and path.rpartition("/")[0] in kept:
            yield Entry(path, Kind.WHITEOUT)


def _is_same(before: Mark, now: Mark) -> bool:
    """Whether it is the inode that it was."""
    identities = ((one.inode, one.born, one.is_directory) for one in (before, now))
    return next(identities) == next(identities)


def _like(entry: Entry, other: Entry | None) -> bool:
    """Whether `entry` is what `other` was, whatever its change time says: mount points came and
    went in a directory, or a file was moved away and back. A file with another name is another."""
    names = ("kind", "mode", "uid", "gid", "mtime", "size", "xattrs")
    if other is None or any(getattr(entry, name) != getattr(other, name) for name in names):
        return False
    if entry.kind is Kind.DIRECTORY:
        return True
    if entry.source is None or other.source is None or other.inode is not None:
        return False
    with entry.source.open() as one, other.source.open() as two:
        while piece := one.read(_PIECE):
            if piece != two.read(_PIECE):
                return False
    return True


def _walk(tree: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below `tree` with its path, parents first, siblings by name."""
    pending = [_listing("", tree)]
    while pending:
        found = next(pending[-1], None)
        if found is None:
            pending.pop()
            continue
        yield found
        path, item = found
        if item.is_dir(follow_symlinks=False):
            pending.append(_listing(path, item.path))


def _listing(path: str, location: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(location) as found:
        items = sorted(found, key=lambda item: item.name)
    prefix = f"{path}/" if path else ""
    return ((prefix + item.name, item) for item in items)
