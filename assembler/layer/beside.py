"""Trees of several platforms as one tree: each in a directory of its own, or all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from assembler.errors import BadArchive
from assembler.layer.changeset import Entry, Kind
from assembler.layer.tree import Tree

_MODE = 0o755


class Beside:
    """`trees`, each in the directory with its name."""

    def __init__(self, trees: Mapping[str, Tree]) -> None:
        self._trees = dict(sorted(trees.items()))
        self._numbers = {name: number for number, name in enumerate(self._trees)}

    def lookup(self, path: str) -> Entry | None:
        """See `layer.tree.Tree.lookup`."""
        name, _, rest = path.partition("/")
        if not path or (name in self._trees and not rest):
            return Entry(path, Kind.DIRECTORY, _MODE)
        found = self._trees[name].lookup(rest) if name in self._trees else None
        return None if found is None else self._moved(name, found)

    def children(self, path: str) -> Iterable[Entry]:
        """See `layer.tree.Tree.children`."""
        if not path:
            return [Entry(name, Kind.DIRECTORY, _MODE) for name in self._trees]
        name, _, rest = path.partition("/")
        if name not in self._trees:
            return []
        return (self._moved(name, entry) for entry in self._trees[name].children(rest))

    def _moved(self, name: str, entry: Entry) -> Entry:
        """`entry` below the directory `name`."""
        own = _apart(entry, self._numbers[name], len(self._trees))
        return own.at(f"{name}/{entry.path}")


class Together:
    """All of `trees`, which may have directories in common, and nothing else: where two have something
    at a path, reading it raises BadArchive."""

    def __init__(self, trees: Mapping[str, Tree]) -> None:
        self._trees = dict(trees)

    def lookup(self, path: str) -> Entry | None:
        """See `layer.tree.Tree.lookup`."""
        found = (tree.lookup(path) for tree in self._trees.values())
        return next((entry for entry in found if entry is not None), None)

    def children(self, path: str) -> Iterable[Entry]:
        """See `layer.tree.Tree.children`."""
        found: dict[str, tuple[str, Entry]] = {}
        for number, (name, tree) in enumerate(self._trees.items()):
            here = tree.lookup(path)
            if here is None or here.kind is not Kind.DIRECTORY:
                continue
            for entry in tree.children(path):
                own = _apart(entry, number, len(self._trees))
                first, other = found.setdefault(entry.name, (name, own))
                if first != name and (other.kind, entry.kind) != (Kind.DIRECTORY, Kind.DIRECTORY):
                    raise BadArchive(
                        f"{entry.path!r} of {name} would take the place of that of {first}",
                        entry.path,
                        hint="leave platform-split=false out",
                    )
        return [entry for _, (_, entry) in sorted(found.items())]


def _apart(entry: Entry, number: int, count: int) -> Entry:
    """`entry` of the tree `number` of `count`: names of one file in others are of other files."""
    if entry.inode is None:
        return entry
    device, inode = entry.inode
    return entry._replace(inode=(device * count + number, inode))
