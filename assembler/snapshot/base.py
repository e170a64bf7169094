"""The snapshot seam. A layer directory is one changeset in overlay form (see `layer.overlay`),
whichever snapshotter made it.

Ids are lower-case hex (of a diff_id or a step's key). Directories are immutable once published.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from assembler.runtime.base import Root


class Snapshotter(Protocol):
    """Makes, finds and mounts layer directories."""

    name: str

    def find(self, id: str) -> str | None:
        """The path of the published layer directory `id`, None when there is none."""
        ...

    def create(self, id: str) -> AbstractContextManager[str]:
        """A fresh directory to fill; published under `id` when the block ends well, discarded
        when it raises. Publishing an id that exists meanwhile keeps the existing one."""
        ...

    def prepare(self, id: str, lowers: Sequence[str]) -> AbstractContextManager[Root]:
        """A root over `lowers` (paths of layer directories, TOPMOST FIRST) for one process; its
        upper directory is published under `id` when the block ends well."""
        ...

    def writable(self, id: str) -> AbstractContextManager[str | None]:
        """A copy of the published layer directory `id` that is thrown away when the block ends; None
        where an overlay above it serves as well."""
        ...

    def remove(self, id: str) -> None:
        """Remove a published layer directory; nothing happens when there is none."""
        ...
