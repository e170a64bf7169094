"""The output seam."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, Protocol

from assembler.layer.write import nothing
from assembler.oci.descriptor import Descriptor
from assembler.oci.image import Image

Blobs = Callable[[Descriptor], BinaryIO]
"""Opens a blob of the image for reading from the start; the caller closes it."""

Check = Callable[[], None]


class Output(Protocol):
    """Writes one image somewhere."""

    name: str
    """What progress shows: `exporting to OCI layout /x`, `pushing 127.0.0.1:5000/a:1`."""

    def write(self, image: Image, blobs: Blobs, check: Check = nothing) -> Descriptor:
        """The descriptor of the manifest written. `check` is called for each MiB and while another
        process is waited for, and may raise. Raises RegistryError, StoreError."""
        ...

    def reads(self, layer: Descriptor) -> bool:
        """Whether `write` will need the bytes of `layer`, as far as can be told before."""
        ...
