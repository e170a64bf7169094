"""What is handed the bytes of a blob while they pass by."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assembler.oci.digest import Digest
    from assembler.store.blobs import Blobs

_PIECE = 1 << 20

Take = Callable[[bytes | memoryview], object]
"""Takes the next bytes of a blob, and keeps no view of them."""


def unseen(piece: bytes | memoryview) -> None:
    """For blobs that nobody reads on their way into the store."""


def hand(blobs: Blobs, digest: Digest, take: Take) -> None:
    """Hand the bytes of the blob `digest`, which is in `blobs`, to `take`. Raises as `Blobs.reading`
    does."""
    if take is not unseen:
        with blobs.reading(digest) as stream:
            while piece := stream.read(_PIECE):
                take(piece)
