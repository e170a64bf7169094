"""The output seam."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Protocol

from assembler.cancellation import nothing
from assembler.oci.descriptor import Descriptor
from assembler.oci.image import Result
from assembler.store.growing import Growing

if TYPE_CHECKING:
    from assembler.layer.tree import Tree

Blobs = Callable[[Descriptor], BinaryIO]
"""Opens a blob of the image for reading from the start; the caller closes it."""

Check = Callable[[], None]
Refused = Callable[[Exception], None]
"""Told of an error that will not pass, so that nothing can be written there."""


class Transfer(Protocol):
    """An output that has begun before its image is finished. Use it with `with`: no thread is left
    when that ends, and what is not done is given up."""

    def announce(self) -> None:
        """Begin to find out whether the image can be written there: it takes a while before there is
        something of it. Returns at once."""
        ...

    def layer(self, layer: Descriptor) -> None:
        """Begin with `layer`, which the image will have. Returns at once."""
        ...

    def growing(self, blob: Growing) -> None:
        """Begin with a layer that is being packed. Returns at once."""
        ...

    def write(self, image: Result) -> Descriptor:
        """See `Output.write`; what has begun is completed first."""
        ...

    def __enter__(self) -> Transfer: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class FilesOutput(Protocol):
    """Writes the files of a build's target somewhere: no image is made for it."""

    name: str
    """What progress shows: `exporting to directory out`."""
    split: bool
    """Whether what is written has a directory for each platform."""

    def write(self, tree: Tree, check: Check = nothing) -> None:
        """Write all of `tree`. `check` is called for each entry and few MiB, and may raise. Raises
        StoreError, HostError, and what reading files raises."""
        ...


class Output(Protocol):
    """Writes one image, or an index with its images, somewhere."""

    name: str
    """What progress shows: `exporting to OCI layout /x`, `pushing 127.0.0.1:5000/a:1`."""

    def begin(self, blobs: Blobs, refused: Refused) -> Transfer | None:
        """The output, begun; None where nothing can be done without the whole image."""
        ...

    def write(self, image: Result, blobs: Blobs, check: Check = nothing) -> Descriptor:
        """The descriptor of the manifest or index. `check` is called for each MiB and while another
        process is waited for, and may raise. Raises RegistryError, StoreError."""
        ...

    def reads(self, layer: Descriptor) -> bool:
        """Whether `write` will need the bytes of `layer`, as far as can be told before."""
        ...
