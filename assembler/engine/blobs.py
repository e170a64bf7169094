"""The blobs of changes: fetched when they are needed, and whole when they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO, TypeVar

from assembler.engine.change import BaseChange, Change, StepChange
from assembler.engine.locks import Locks
from assembler.engine.services import Services
from assembler.engine.take import Take, hand, unseen
from assembler.errors import BadArchive, BlobCorrupt, StoreError
from assembler.events import Warned
from assembler.oci.digest import Digest
from assembler.oci.image import Layer

Result = TypeVar("Result")


class ChangeBlobs:
    """Finds and reads blobs of changes, packed for a build of the time `epoch`. Threads share it."""

    def __init__(self, services: Services, epoch: int | None) -> None:
        self._services = services
        self._epoch = epoch
        self.locks = Locks()

    @property
    def variant(self) -> str:
        """What besides its identity decides a packed layer's bytes."""
        return f"{self._services.compression.identity} epoch={self._epoch}"

    def packed(self, change: Change) -> Layer | None:
        """The packed form of `change` if its blob is here, or can be fetched: where its base is, or
        from a shared cache."""
        if isinstance(change, BaseChange):
            return Layer(change.descriptor, change.diff_id)
        return self.of_step(change.identity)

    def of_step(self, identity: Digest) -> Layer | None:
        """The packed form of the step `identity` if its blob is here, or a shared cache has it: in
        the compression asked for, else in another."""
        exact = self.exact(identity)
        if exact is None:
            found = self._services.packed.otherwise(identity, self.variant)
            return self._had(None if found is None else found[0])
        return exact

    def exact(self, identity: Digest) -> Layer | None:
        """The same, in the compression asked for only."""
        return self._had(self._services.packed.packed(identity, self.variant))

    def _had(self, layer: Layer | None) -> Layer | None:
        if layer is None:
            return None
        here = self._services.store.blobs.has(layer.descriptor.digest)
        return layer if here or self._services.cached.holds(layer.descriptor) else None

    def base(self, change: BaseChange) -> Layer:
        """The layer of a base as the image has it: in the store afterwards, if it is another than
        its registry's or the build needs every layer."""
        layer, services = Layer(change.descriptor, change.diff_id), self._services
        if services.recompress:
            from assembler.engine.recompression import recompression

            again = partial(recompression(services).layer, layer, partial(self.fetch, change))
            made = self.with_intact(change, again)
            if made != layer:
                return made
        if services.whole:
            self.fetch(change)
        return layer

    def bring(self, layers: Iterable[Layer]) -> None:
        """Have the blobs of `layers` in the store that only shared caches have, several at once."""
        services = self._services
        lacking = services.store.blobs.missing(layer.descriptor for layer in layers)
        if not lacking:
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(max_workers=max(1, services.jobs)) as pool:
            for brought in [pool.submit(services.cached.fetch, one, unseen) for one in lacking]:
                brought.result()

    def layer(self, change: Change) -> Layer:
        """See `packed`. Raises StoreError where there is none."""
        layer = self.packed(change)
        if layer is None:
            raise StoreError(f"the result {change.id} of an earlier step is gone", change.id)
        return layer

    def lacks(self, change: Change) -> bool:
        """Whether the blob of `change` must be fetched before it is read."""
        layer = self.packed(change)
        return layer is not None and not self._services.store.blobs.has(layer.descriptor.digest)

    def fetch(
        self,
        change: Change,
        take: Take = unseen,
        *,
        judged: bool = True,
    ) -> None:
        """Bring the blob of a layer into the store unless it is there; `take` is handed its bytes.
        Unless it is `judged` by who reads it, its diff_id is compared."""
        blob, blobs = self.layer(change).descriptor, self._services.store.blobs
        with self.locks[str(blob.digest)]:
            if not blobs.has(blob.digest):
                if isinstance(change, BaseChange):
                    self._services.fetch(change.image, blob, take)
                else:
                    self._services.cached.fetch(blob, take, judged=judged)
            else:  # somebody else has just brought it
                hand(blobs, blob.digest, take)

    @contextmanager
    def reading(self, change: Change) -> Iterator[BinaryIO]:
        """The blob of `change`, fetched if it is not here, for who reads it to its end. Errors about
        what is in it say which layer it is."""
        layer = self.layer(change)
        try:
            self.fetch(change)
            with self._services.store.blobs.reading(layer.descriptor.digest) as blob:
                yield blob
        except BadArchive as error:
            if isinstance(change, StepChange):
                self._services.cached.refuse(layer.descriptor, error)
            raise named(error, layer) from error

    def intact(self, change: Change) -> BinaryIO:
        """The blob of `change`, fetched if it is not here, for who reads a part of it."""
        blobs, digest = self._services.store.blobs, self.layer(change).descriptor.digest
        self.fetch(change, judged=False)
        try:
            blobs.verify(digest)
        except BlobCorrupt as error:
            self._refetch(change, error)
        return blobs.open(digest)

    def with_intact(self, change: Change, work: Callable[[], Result]) -> Result:
        """What `work`, which reads the blob of `change`, gives: done again where the blob was damaged
        and can be fetched. One of a step that cannot raises BlobCorrupt: the step is to run again."""
        try:
            return work()
        except BlobCorrupt as error:
            self._refetch(change, error)
            return work()

    def _refetch(self, change: Change, damage: BlobCorrupt) -> None:
        services = self._services
        if isinstance(change, StepChange) and self.packed(change) is None:
            raise damage
        if not damage.told:
            services.sink(Warned(f"{damage.message}: it is fetched again", services.clock()))
        self.fetch(change)


def named(error: BadArchive, layer: Layer) -> BadArchive:
    """`error` about what is in `layer`, with the layer's name."""
    message = f"layer {layer.descriptor.digest}: {error.message}"
    return BadArchive(message, error.entry, hint=error.hint)
