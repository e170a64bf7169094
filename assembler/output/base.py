"""The output seam."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, Protocol

from assembler.oci.descriptor import Descriptor
from assembler.oci.image import Image

Blobs = Callable[[Descriptor], BinaryIO]
"""Opens a blob of the image for reading from the start; the caller closes it."""


class Output(Protocol):
    """Writes one image somewhere."""

    name: str
    """What progress shows: `exporting to OCI layout /x`, `pushing 127.0.0.1:5000/a:1`."""

    def write(self, image: Image, blobs: Blobs) -> Descriptor:
        """The descriptor of the manifest written. Raises RegistryError, StoreError."""
        ...
