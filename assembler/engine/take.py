"""What is handed the bytes of a blob while they pass by."""

from __future__ import annotations

from collections.abc import Callable

Take = Callable[[bytes | memoryview], object]
"""Takes the next bytes of a blob, and keeps no view of them."""


def unseen(piece: bytes | memoryview) -> None:
    """For blobs that nobody reads on their way into the store."""
