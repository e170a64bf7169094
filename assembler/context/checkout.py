"""The files of a git checkout, as trees."""

from __future__ import annotations

from collections.abc import Iterable

from assembler.layer.changeset import Entry, Kind
from assembler.layer.tree import Tree
from assembler.values import value


@value
class CheckoutTree:
    """A checkout with the modes git knows, 0755 and 0644, whatever umask it was made under."""

    files: Tree
    keep: bool
    mtime: int | None = None

    def lookup(self, path: str) -> Entry | None:
        """See `Tree.lookup`."""
        if not self.keep and ".git" in path.split("/"):
            return None
        entry = self.files.lookup(path)
        return None if entry is None else self._normal(entry)

    def children(self, path: str) -> Iterable[Entry]:
        """See `Tree.children`."""
        found = self.files.children(path)
        return [self._normal(entry) for entry in found if self.keep or entry.name != ".git"]

    def _normal(self, entry: Entry) -> Entry:
        if entry.kind is Kind.SYMLINK:
            mode = 0o777
        else:
            executable = entry.kind is Kind.DIRECTORY or entry.mode & 0o100
            mode = 0o755 if executable else 0o644
        return entry._replace(mode=mode, mtime=entry.mtime if self.mtime is None else self.mtime)


@value
class Subtree:
    """What is below one directory of a tree, as a tree of its own."""

    tree: Tree
    root: str

    def lookup(self, path: str) -> Entry | None:
        """See `Tree.lookup`."""
        entry = self.tree.lookup(f"{self.root}/{path}" if path else self.root)
        return None if entry is None else entry._replace(path=path)

    def children(self, path: str) -> Iterable[Entry]:
        """See `Tree.children`."""
        found = self.tree.children(f"{self.root}/{path}" if path else self.root)
        return [entry._replace(path=f"{path}/{entry.name}".lstrip("/")) for entry in found]
