"""Layer directories seen from outside every namespace: found, never made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager

from assembler.errors import StoreError
from assembler.linux.ownership import TREE
from assembler.runtime.base import Root

RECORDED = "recorded"
"""The kind of layer directories whose owners are records, as the id map expresses only one."""


class PublishedLayers:
    """The layer directories below `directory`, of every kind of id map."""

    name = "published"

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def find(self, id: str) -> str | None:
        """See `snapshot.base.Snapshotter.find`."""
        with os.scandir(self._directory) as kinds:
            paths = [
                os.path.join(kind.path, id, *((TREE,) if kind.name == RECORDED else ()))
                for kind in kinds
            ]
        return next((path for path in paths if os.path.isdir(path)), None)

    def create(self, id: str) -> AbstractContextManager[str]:
        """Refused: nothing is made here. Raises StoreError."""
        raise StoreError(f"layer {id} would have to be unpacked", id)

    def prepare(self, id: str, lowers: Sequence[str]) -> AbstractContextManager[Root]:
        """Refused. Raises StoreError."""
        raise StoreError(f"layer {id} would have to be made by a process", id)

    def writable(self, id: str) -> AbstractContextManager[str | None]:
        """Refused. Raises StoreError."""
        raise StoreError(f"layer {id} would have to be copied", id)

    def remove(self, id: str) -> None:
        """Refused. Raises StoreError."""
        raise StoreError(f"layer {id} cannot be removed from outside", id)
