"""The context seam: a named, read-only tree of files that arrive as 0:0 (rule C16)."""

from __future__ import annotations

from typing import Protocol

from assembler.dockerfile.ignore import IgnoreRules
from assembler.layer.tree import Tree


class Context(Protocol):
    """A build context."""

    name: str

    @property
    def rules(self) -> IgnoreRules | None:
        """The ignore rules that are applied, None when there are none."""
        ...

    @property
    def epoch(self) -> int | None:
        """When the whole was made, in seconds since the epoch; None when that means nothing."""
        ...

    def tree(self) -> Tree:
        """The files, ignore rules applied; entries' sources open the bytes."""
        ...

    def ignored(self, path: str) -> str | None:
        """The ignore rule (`.dockerignore:3 *.sh`) that hides `path`; None when none does, or
        when there is nothing at `path`."""
        ...
