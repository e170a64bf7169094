"""Where the bytes of a blob come from when it is uploaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, Protocol

from assembler.oci.descriptor import Descriptor


class Source(Protocol):
    """The bytes of a blob, of which there may be more every moment. Any may be read again."""

    @property
    def blob(self) -> Descriptor | None:
        """What it is, None until its last byte is there."""
        ...

    def available(self, least: int) -> int:
        """How many bytes there are, as soon as that is `least` or all; `blob` is known if it is
        all. Raises what keeps its maker from going on."""
        ...

    def read(self, offset: int, most: int) -> bytes:
        """Some bytes from `offset`, waited for; none only at the end."""
        ...


class Stored:
    """A finished blob, opened each time that it is read."""

    def __init__(self, blob: Descriptor, blobs: Callable[[Descriptor], BinaryIO]) -> None:
        self.blob = blob
        self._blobs = blobs

    def open(self) -> BinaryIO:
        """The blob from its beginning."""
        return self._blobs(self.blob)

    def available(self, least: int) -> int:
        """All of it."""
        return self.blob.size

    def read(self, offset: int, most: int) -> bytes:
        """See `Source.read`."""
        with self.open() as stream:
            stream.seek(offset)
            return stream.read(most)
