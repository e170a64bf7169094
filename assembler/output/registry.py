"""A registry as output: every name of the image, pushed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from assembler.errors import RegistryError
from assembler.layer.write import nothing
from assembler.oci.descriptor import Descriptor
from assembler.oci.image import Image
from assembler.oci.reference import Reference
from assembler.output.base import Blobs, Check
from assembler.registry.client import RegistryClient
from assembler.registry.push import Sources, push_image, would_send
from assembler.store.uploads import Uploads

Progress = Callable[[str, str, int, int], None]
"""Told the vertex, the digest of a blob, and its bytes: those that went, and all of them."""


class RegistryOutput:
    """Pushes to `references`; a blob may be mounted from the repositories that `mount_from` names.
    `uploads` remembers what is not finished; `progress` is told of each blob."""

    def __init__(
        self,
        client: RegistryClient,
        references: Sequence[Reference],
        mount_from: Sources = lambda blob: (),
        uploads: Uploads | None = None,
        progress: Progress = lambda vertex, item, current, total: None,
    ) -> None:
        self._client = client
        self._references = tuple(references)
        self._mount_from = mount_from
        self._uploads = uploads
        self._progress = progress
        self.name = f"pushing {', '.join(map(str, references))}"

    def write(self, image: Image, blobs: Blobs, check: Check = nothing) -> Descriptor:
        """See `output.base.Output.write`."""
        return push_image(
            self._client,
            self._references,
            image,
            blobs,
            mount_from=self._mount_from,
            progress=self._told,
            cancellation=self._client.cancellation,
            uploads=self._uploads,
        )

    def _told(self, blob: Descriptor, current: int, total: int) -> None:
        self._progress(self.name, str(blob.digest), current, total)

    def reads(self, layer: Descriptor) -> bool:
        """Whether `write` will need the bytes of `layer`, as far as can be told before."""
        try:
            return would_send(
                self._client, self._references, layer, self._mount_from, self._client.cancellation
            )
        except RegistryError:  # which `write` will meet too, when there is something to write
            return True
