"""Read-only trees: one view of layer directories, changesets and contexts, merged by overlay rules.

Everything that asks "what is at this path of the stage?" asks a `Tree`; nobody opens stage paths
on the host by name. Implementations are in this module; `resolve` walks symlinks inside the tree.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from assembler.layer.changeset import Entry


class Tree(Protocol):
    """A file tree that does not change while it is used."""

    def lookup(self, path: str) -> Entry | None:
        """The entry at `path` itself (no symlink is followed, parents neither), or None."""
        ...

    def children(self, path: str) -> Iterable[Entry]:
        """The entries directly below the directory at `path`, sorted by name."""
        ...
