"""A registry as output: every name of the image, pushed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from assembler.cancellation import nothing
from assembler.errors import RegistryError
from assembler.oci.descriptor import Descriptor
from assembler.oci.image import ImageIndex, Result
from assembler.oci.reference import Reference
from assembler.output.base import Blobs, Check, Refused
from assembler.output.probe import Probe
from assembler.output.sending import Sending
from assembler.registry.client import RegistryClient
from assembler.registry.push import Sent, Sources, one_of, push, would_send
from assembler.store.growing import Growing
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

    def begin(self, blobs: Blobs, refused: Refused) -> RegistryTransfer:
        """See `output.base.Output.begin`: each layer goes to one repository of every registry, from
        where the others mount it. Only when all repositories refuse, it is `refused`."""
        firsts = {reference.registry: reference for reference in reversed(self._references)}
        each: dict[tuple[str, str], Reference] = {}
        for one in self._references:
            each.setdefault((one.registry, one.repository), one)
        refusals: dict[tuple[str, str], RegistryError] = {}

        def note(reference: Reference, error: RegistryError) -> None:
            refusals.setdefault((reference.registry, reference.repository), error)
            if len(refusals) == len(each):
                refused(one_of(list(refusals.values()), len(each)))

        sendings = {
            registry: Sending(
                self._client,
                reference,
                blobs=blobs,
                mount_from=self._mount_from,
                uploads=self._uploads,
                progress=partial(self._progress, self.name),
                refused=partial(note, reference),
            )
            for registry, reference in firsts.items()
        }
        probe = Probe(self._client, tuple(each.values()), note)
        return RegistryTransfer(sendings, probe, lambda image, sent: self._push(image, blobs, sent))

    def write(self, image: Result, blobs: Blobs, check: Check = nothing) -> Descriptor:
        """See `output.base.Output.write`."""
        return self._push(image, blobs, lambda reference, layer: False)

    def _push(self, image: Result, blobs: Blobs, sent: Sent) -> Descriptor:
        images = image.images if isinstance(image, ImageIndex) else (image,)
        manifests = {one.digest: one.manifest for one in images}
        return push(
            self._client,
            self._references,
            image.document,
            blobs,
            documents=lambda entry: manifests[entry.digest],
            mount_from=self._mount_from,
            progress=self._told,
            cancellation=self._client.cancellation,
            uploads=self._uploads,
            sent=sent,
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


class RegistryTransfer:
    """A push that begins while its image is built."""

    def __init__(
        self,
        sendings: Mapping[str, Sending],
        probe: Probe,
        push: Callable[[Result, Sent], Descriptor],
    ) -> None:
        self._sendings = sendings
        self._probe = probe
        self._push = push

    def announce(self) -> None:
        """See `output.base.Transfer.announce`."""
        self._probe.begin()

    def layer(self, layer: Descriptor) -> None:
        """See `output.base.Transfer.layer`."""
        for sending in self._sendings.values():
            sending.layer(layer)

    def growing(self, blob: Growing) -> None:
        """See `output.base.Transfer.growing`."""
        for sending in self._sendings.values():
            sending.growing(blob)

    def write(self, image: Result) -> Descriptor:
        """See `output.base.Transfer.write`."""
        self._probe.stop()
        return self._push(image, self._sent)

    def _sent(self, reference: Reference, layer: Descriptor) -> bool:
        sending = self._sendings[reference.registry]
        return sending.repository == reference.repository and sending.sent(layer)

    def __enter__(self) -> RegistryTransfer:
        return self

    def __exit__(self, *_: object) -> None:
        parts: list[Probe | Sending] = [*self._sendings.values(), self._probe]
        for part in parts:
            part.stop()
        for part in parts:
            part.close()
