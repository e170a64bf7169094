"""Layer directories without overlays: a step runs in a copy of the merged tree (rootless-runtime 5b).

For hosts whose kernel or file system refuses overlays. What a step changed is found by comparing
inode numbers and change times, which no process can set, before and after. In a line of steps the
tree is handed on instead of copied again.

An overlay lets go of a file's other names when one of them is written to. So every name in a copy is
a file of its own, and a tree in which a step made links is not handed on. What remains different: a
step does not see that names were linked below.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass

from assembler.layer.changeset import Entry, Kind
from assembler.layer.overlay import HardLinks, describe
from assembler.layer.realise import realise
from assembler.layer.tree import DirectoryTree, MergedTree, Tree, everything, join
from assembler.linux.ownership import ROOT, Owner, read_table
from assembler.linux.syscalls import birth_time
from assembler.runtime.base import Root
from assembler.snapshot.overlay import OverlaySnapshotter
from assembler.snapshot.written import WatchedTree

_PIECE = 1 << 20
_COARSE = 5  # CLOCK_REALTIME_COARSE of clock_gettime(2)
_LONGEST = 0.02  # seconds that a tick of that clock may take, and some more


@dataclass(frozen=True, slots=True)
class Mark:
    """What tells whether a path was changed since: no process can set a change time. Inode numbers
    are used again, so a directory is told from its successor by when it was made."""

    inode: int
    ctime: int
    is_directory: bool
    born: int
    owner: Owner = ROOT
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
        scratch = self._place()
        copy = f"{scratch}.copy"
        os.mkdir(scratch, 0o700)
        if self._handed_on(tuple(lowers), copy):
            tree = self._tree(copy)
        else:
            tree = self._fresh(copy)
            realise(everything(below, linked=False), tree)
        before = marks(tree)
        root = Root((), tree, "", scratch)
        directories = ((path, join(tree, path)) for path in before if before[path].is_directory)
        watched = WatchedTree(directories)
        try:
            yield root
        finally:
            written = watched.close() - root.moved
        upper = self._fresh(f"{scratch}.layer")
        links: list[Entry] = []
        away = watched.moved - root.moved
        found = changed(tree, before, below, root.moved, written, away)
        realise(_noting_links(found, links), upper, lower=below.lookup)
        self._publish(upper, id)
        published = self.find(id)
        if published is not None and not links:
            self._hand_on((published, *lowers), copy)

    @contextmanager
    def writable(self, id: str) -> Iterator[str | None]:
        """See `snapshot.base.Snapshotter.writable`."""
        copy = self._fresh(self._place())
        realise(everything(DirectoryTree(self._found(id))), copy)
        yield copy

    def _handed_on(self, lowers: tuple[str, ...], into: str) -> bool:
        with self._guard:
            kept = self._trees.pop(lowers, None)
        if kept is None:
            return False
        os.rename(kept, into)
        return True

    def _hand_on(self, lowers: tuple[str, ...], copy: str) -> None:
        kept = self._place()
        os.rename(copy, kept)
        with self._guard:
            replaced = self._trees.get(lowers)
            self._trees[lowers] = kept
        if replaced is not None:
            self._discard(replaced)


def _noting_links(changes: Iterable[Entry], links: list[Entry]) -> Iterator[Entry]:
    """`changes`; the first hard link among them is put into `links`."""
    for entry in changes:
        if entry.kind is Kind.HARDLINK and not links:
            links.append(entry)
        yield entry


def marks(tree: str) -> Marks:
    """What tells whether a path of the directory `tree` was changed since. What is changed from now
    on has a later time than all that is there: kernels before 6.13 give files the time of their last
    tick."""
    owners = read_table(tree)
    found = {"": _mark(tree, os.stat(tree))}
    for path, item in _walk(tree):
        status = item.stat(follow_symlinks=False)
        if not stat.S_ISSOCK(status.st_mode):  # no layer holds one
            found[path] = _mark(item.path, status, owners.get(path, ROOT))
    _await_tick(max(max(mark.ctime, mark.born) for mark in found.values()))
    return found


def _await_tick(newest: int) -> None:
    """Wait until a file that is changed gets a later time than `newest`, where that is of the past."""
    end = time.monotonic() + _LONGEST
    while time.clock_gettime_ns(_COARSE) <= newest and time.monotonic() < end:
        time.sleep(0.001)


def _mark(location: str, status: os.stat_result, owner: Owner = ROOT) -> Mark:
    is_directory = stat.S_ISDIR(status.st_mode)
    born = birth_time(location) if is_directory else 0
    return Mark(status.st_ino, status.st_ctime_ns, is_directory, born, owner)


def changed(
    tree: str,
    before: Marks,
    below: Tree,
    moved: AbstractSet[str] = frozenset(),
    written: AbstractSet[str] = frozenset(),
    away: AbstractSet[str] = frozenset(),
) -> Iterator[Entry]:
    """What was changed in `tree`, a copy of `below`, since `before`, as a changeset: deletions as
    whiteouts, a directory that was made anew as opaque, as an overlay has it. A directory that only
    had mount points come and go is as it was, and so is a file of `moved` that is like before. One
    of `written` was changed, though it may be like before; a directory of `away`, which was moved
    meanwhile, was made anew."""
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
        mark, known = _mark(item.path, status, owners.get(path, ROOT)), before.get(path)
        same = not anew and known is not None and _is_same(known, mark) and path not in away
        if same and mark.is_directory:
            kept.add(path)
        if same and known == mark and not (path in written and stat.S_ISREG(status.st_mode)):
            continue
        entry = describe(path, item.path, status, owners)
        known_to_move = mark.is_directory or (status.st_nlink == 1 and path in moved)
        if entry is None:
            if not anew and below.lookup(path) is not None:
                yield Entry(path, Kind.WHITEOUT)
            continue
        if same and known_to_move and _like(entry, below.lookup(path)):
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
    went in a directory, or a file was moved away and back."""
    names = ("kind", "mode", "uid", "gid", "mtime", "size", "xattrs", "link", "device")
    if other is None or any(getattr(entry, name) != getattr(other, name) for name in names):
        return False
    if entry.source is None or other.source is None:
        return True
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
