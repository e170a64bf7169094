"""Read-only trees: one view of layer directories and changesets, merged by overlay rules.

Everything that asks "what is at this path of the stage?" asks a `Tree`; nobody opens stage paths
on the host by name. `resolve` walks symlinks inside a tree and cannot leave it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from heapq import merge
from itertools import groupby
from operator import attrgetter
from typing import Protocol

from assembler.errors import StepError
from assembler.layer.changeset import Entry, Kind, is_nowhere

MAX_LINKS = 40  # as the kernel, path_resolution(7)
_MOST = 50_000  # directories whose layers are remembered
_PATH = attrgetter("path")


class Lookup(Protocol):
    """Something that knows what is at a path."""

    def lookup(self, path: str) -> Entry | None:
        """The entry at `path` itself (no symlink is followed, parents neither), or None."""
        ...


class Tree(Lookup, Protocol):
    """A file tree that does not change while it is used."""

    def children(self, path: str) -> Iterable[Entry]:
        """The entries directly below the directory at `path`, sorted by name."""
        ...


class LayerTree(Tree, Protocol):
    """A tree that is one layer: entries may be whiteouts, directories may be opaque."""

    def opaque(self, path: str) -> bool:
        """Whether nothing of the directory at `path` shows from lower layers."""
        ...


def join(directory: str, name: str) -> str:
    """The path of `name` in `directory`."""
    return f"{directory}/{name}" if directory else name


class EmptyTree:
    """A tree with only its root."""

    def lookup(self, path: str) -> Entry | None:
        """The root, and nothing else."""
        return Entry("", Kind.DIRECTORY, mode=0o755) if path == "" else None

    def children(self, path: str) -> Iterable[Entry]:
        """Nothing."""
        return ()


class DirectoryTree:
    """A layer directory in overlay form. It is ours and immutable; entries are read on demand."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        from assembler.layer import overlay
        from assembler.linux.ownership import read_table

        self._overlay = overlay
        self._owners = read_table(directory)
        self._files = overlay.as_files(directory)

    def lookup(self, path: str) -> Entry | None:
        """See `Tree.lookup`. Parents of `path` must be directories of this layer."""
        host = os.path.join(self._directory, path) if path else self._directory
        try:
            found = os.lstat(host)
        except (FileNotFoundError, NotADirectoryError):
            if self._files and os.path.lexists(self._overlay.whiteout_file(host)):
                return Entry(path, Kind.WHITEOUT)
            return None
        except OSError:
            if is_nowhere(path):
                return None
            raise
        return self._entry(path, host, found)

    def children(self, path: str) -> Iterable[Entry]:
        """See `Tree.children`; whiteouts are among them, and sockets as such."""
        host = os.path.join(self._directory, path)
        found = []
        for below, item, whiteout in self._overlay.listing(path, host, self._files):
            if whiteout:
                found.append(Entry(below, Kind.WHITEOUT))
                continue
            entry = self._entry(below, item.path, item.stat(follow_symlinks=False))
            if entry is not None:
                found.append(entry)
        return found

    def opaque(self, path: str) -> bool:
        """See `LayerTree.opaque`."""
        return self._overlay.is_opaque(os.path.join(self._directory, path))

    def _entry(self, path: str, host: str, status: os.stat_result) -> Entry | None:
        if self._overlay.hides(status):
            return Entry(path, Kind.WHITEOUT)
        return self._overlay.describe(path, host, status, self._owners)


class ChangesetTree:
    """A changeset in memory as a layer."""

    def __init__(self, changeset: Iterable[Entry]) -> None:
        self._entries: dict[str, Entry] = {}
        self._below: dict[str, list[str]] = {}
        self._opaque: set[str] = set()
        for number, entry in enumerate(changeset):
            if entry.kind is Kind.OPAQUE:
                self._opaque.add(entry.path)
                continue
            if entry.path and entry.path not in self._entries:
                self._below.setdefault(entry.parent, []).append(entry.path)
            self._entries[entry.path] = self._file(entry, number)
        self._entries.setdefault("", Entry("", Kind.DIRECTORY, mode=0o755))

    def lookup(self, path: str) -> Entry | None:
        """See `Tree.lookup`."""
        return self._entries.get(path)

    def children(self, path: str) -> Iterable[Entry]:
        """See `Tree.children`."""
        return [self._entries[below] for below in sorted(self._below.get(path, ()))]

    def opaque(self, path: str) -> bool:
        """See `LayerTree.opaque`."""
        return path in self._opaque

    def _file(self, entry: Entry, number: int) -> Entry:
        """A hard link as the file it is, sharing an identity with its other names."""
        if entry.kind is not Kind.HARDLINK:
            return entry
        first = self._entries[entry.link]
        inode = first.inode or (-1, number)
        self._entries[entry.link] = first._replace(inode=inode)
        return first._replace(path=entry.path, inode=inode)


class MergedTree:
    """Layers, TOPMOST FIRST, as one tree (overlayfs.rst: whiteouts and opaque directories).

    `packed` says that bytes of files may be in blobs (`layer.members`).
    """

    def __init__(self, layers: Sequence[LayerTree], *, packed: bool = False) -> None:
        self.packed = packed
        self._layers = showing(layers)
        self._showing: dict[str, tuple[LayerTree, ...]] = {"": self._layers}

    def lookup(self, path: str) -> Entry | None:
        """See `Tree.lookup`."""
        if path == "":
            for layer in self._layers:
                root = layer.lookup("")
                if root is not None:
                    return root
            return Entry("", Kind.DIRECTORY, mode=0o755)
        for layer in self._layers_of(path.rpartition("/")[0]):
            entry = layer.lookup(path)
            if entry is not None:
                return None if entry.kind is Kind.WHITEOUT else entry
        return None

    def children(self, path: str) -> Iterator[Entry]:
        """See `Tree.children`."""
        layers = [layer.children(path) for layer in self._layers_of(path)]
        for _, found in groupby(merge(*layers, key=_PATH), _PATH):  # there may be a million
            entry = next(found)
            if entry.kind is not Kind.WHITEOUT:
                yield entry

    def _layers_of(self, directory: str) -> tuple[LayerTree, ...]:
        """The layers that contribute to `directory`; none where it is no directory."""
        known = self._showing
        if len(known) > _MOST:
            known = self._showing = {"": self._layers}
        unknown: list[str] = []
        while directory not in known:
            unknown.append(directory)
            directory = directory.rpartition("/")[0]
        layers = known[directory]
        for here in reversed(unknown):
            layers = known[here] = _contributing(layers, here)
        return layers


def showing(layers: Sequence[LayerTree]) -> tuple[LayerTree, ...]:
    """Those of `layers`, TOPMOST FIRST, that show: none below one whose root is opaque."""
    for number, layer in enumerate(layers, 1):
        if layer.opaque(""):
            return tuple(layers[:number])
    return tuple(layers)


def _contributing(layers: tuple[LayerTree, ...], directory: str) -> tuple[LayerTree, ...]:
    """Those of the layers that hold `directory`'s parent which show in `directory`."""
    showing: list[LayerTree] = []
    for layer in layers:
        entry = layer.lookup(directory)
        if entry is None:
            continue
        if entry.kind is not Kind.DIRECTORY:
            break
        showing.append(layer)
        if layer.opaque(directory):
            break
    return tuple(showing)


def resolve(tree: Lookup, path: str, *, follow_last: bool = True) -> str:
    """`path` with every symlink in it followed inside `tree`; `..` stops at the root.

    Components that do not exist are kept. Raises StepError after 40 links.
    """
    pending = [part for part in path.split("/") if part not in ("", ".")][::-1]
    done: list[str] = []
    links = 0
    while pending:
        part = pending.pop()
        if part == "..":
            del done[-1:]
            continue
        here = "/".join((*done, part))
        entry = tree.lookup(here) if pending or follow_last else None
        if entry is None or entry.kind is not Kind.SYMLINK:
            done.append(part)
            continue
        links += 1
        if links > MAX_LINKS:
            raise StepError(f"/{path.lstrip('/')}: too many levels of symbolic links")
        if entry.link.startswith("/"):
            done = []
        pending += [step for step in entry.link.split("/") if step not in ("", ".")][::-1]
    return "/".join(done)


def everything(tree: Tree, *, linked: bool = True) -> Generator[Entry, None, None]:
    """All entries of `tree`, parents first, further names of one inode as hard links, or as files of
    their own where not `linked`."""
    first: dict[tuple[int, int], str] = {}
    root = tree.lookup("")
    if root is not None:
        yield root
    below: Callable[[], Iterable[Entry]] | None = getattr(tree, "below", None)
    for entry in _below(tree) if below is None else below():
        if entry.inode is not None and linked:
            known = first.setdefault(entry.inode, entry.path)
            if known != entry.path:
                yield _further_name(entry, known)
                continue
        yield entry


def _below(tree: Tree) -> Iterator[Entry]:
    """All entries but the root, parents first; a tree may have a `below` that does it quicker."""
    pending = [iter(tree.children(""))]
    while pending:
        for entry in pending[-1]:
            yield entry
            if entry.kind is Kind.DIRECTORY:
                pending.append(iter(tree.children(entry.path)))
                break
        else:
            pending.pop()


def _further_name(entry: Entry, first: str) -> Entry:
    return Entry(
        entry.path, Kind.HARDLINK, entry.mode, entry.uid, entry.gid, entry.mtime, link=first
    )
