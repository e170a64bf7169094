"""A registry as output: every name of the image, pushed."""

from __future__ import annotations

from collections.abc import Sequence

from assembler.errors import RegistryError
from assembler.layer.write import nothing
from assembler.oci.descriptor import Descriptor
from assembler.oci.image import Image
from assembler.oci.reference import Reference
from assembler.output.base import Blobs, Check
from assembler.registry.client import RegistryClient
from assembler.registry.push import Sources, push_image, would_send


class RegistryOutput:
    """Pushes to `references`; a blob may be mounted from the repositories that `mount_from` names."""

    def __init__(
        self,
        client: RegistryClient,
        references: Sequence[Reference],
        mount_from: Sources = lambda blob: (),
    ) -> None:
        self._client = client
        self._references = tuple(references)
        self._mount_from = mount_from
        self.name = f"pushing {', '.join(map(str, references))}"

    def write(self, image: Image, blobs: Blobs, check: Check = nothing) -> Descriptor:
        """See `output.base.Output.write`."""
        return push_image(
            self._client,
            self._references,
            image,
            blobs,
            mount_from=self._mount_from,
            cancellation=self._client.cancellation,
        )

    def reads(self, layer: Descriptor) -> bool:
        """Whether `write` will need the bytes of `layer`, as far as can be told before."""
        try:
            return would_send(
                self._client, self._references, layer, self._mount_from, self._client.cancellation
            )
        except RegistryError:  # which `write` will meet too, when there is something to write
            return True
