"""Blobs that come from registries: each once, however many builds on the store want it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from assembler.cancellation import Cancellation, nothing
from assembler.engine.recorder import vertex
from assembler.engine.sharing import shared
from assembler.engine.take import Take, hand
from assembler.errors import BlobMissing, RegistryError
from assembler.events import Sink, VertexProgress
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.oci.reference import Reference
from assembler.store.refs import REMOTE
from assembler.store.store import Store

if TYPE_CHECKING:
    from assembler.registry.client import RegistryClient
    from assembler.registry.parallel import Check
    from assembler.store.working import Turn

_LITTLE = 256 << 10  # bytes of a layer
_SOME = 4
_OFTEN = 0.1  # seconds between two reports of one transfer


class BlobFetcher:
    """Fetches blobs into `store` for one command, by the client that `client` gives. Each is shown as
    a vertex."""

    def __init__(
        self,
        store: Store,
        client: Callable[[], RegistryClient],
        sink: Sink,
        cancellation: Cancellation,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._client = client
        self._sink = sink
        self._cancellation = cancellation
        self._clock = clock
        self._ours: set[Digest] = set()
        """What this command has a turn at already."""

    def fetch(
        self, reference: Reference, blob: Descriptor, take: Take, check: Callable[[], None]
    ) -> None:
        """Bring `blob` from where `reference` is into the store; `take` is handed its bytes on the
        way. `check` is called meanwhile, and may raise. Raises RegistryError, BlobMissing, StoreError."""
        if blob.digest in self._ours:
            return self._received(reference, blob, take, check)
        title = _title("pull", reference, blob)
        with self._turn(f"blob {blob.digest}", title, check):
            if self._store.blobs.has(blob.digest):  # another build was first
                return hand(self._store.blobs, blob.digest, take)
            self._received(reference, blob, take, check)

    def _received(
        self, reference: Reference, blob: Descriptor, take: Take, check: Callable[[], None]
    ) -> None:
        with self._store.blobs.ingest(blob.size, hashed=False) as ingest:

            def write(piece: bytes | memoryview) -> None:
                check()
                ingest.write(piece)
                take(piece)

            self._transfer("pull", reference, blob, write)  # it compares the digest
            ingest.commit_as(blob.digest, blob.size)

    @contextmanager
    def missing(self, blobs: Sequence[Descriptor]) -> Iterator[list[Descriptor]]:
        """Those of `blobs` that the store lacks. Of several, little ones have one turn together, that
        of whoever wants the same: one for each takes as long as a fetch."""
        missing = self._store.blobs.missing(blobs)
        little = sorted({str(one.digest) for one in blobs if one.size < _LITTLE})
        if len(little) < _SOME or not any(one.size < _LITTLE for one in missing):
            yield missing
            return
        name = f"blobs {Digest.of(' '.join(little).encode())}"
        with self._turn(name, f"[internal] pull {len(little)} small layers"):
            missing = self._store.blobs.missing(blobs)
            self._ours.update(one.digest for one in missing if one.size < _LITTLE)
            try:
                yield missing
            finally:
                self._ours.clear()

    def _turn(
        self, name: str, title: str, check: Callable[[], None] = nothing
    ) -> AbstractContextManager[Turn]:
        return shared(self._store.working.claim, name, title, self._sink, self._clock, check)

    def at_once(
        self, blobs: Sequence[Descriptor], bring: Callable[[Descriptor, Check], None]
    ) -> None:
        """Call `bring` for several of `blobs` at once. The first failure ends the others, at its
        argument."""
        from assembler.registry.parallel import all_at_once

        def bringing(blob: Descriptor) -> Callable[[Check], None]:
            return lambda check: bring(blob, check)

        _ = self._client()  # made before there are threads
        all_at_once(list(map(bringing, blobs)), self._cancellation.check)

    def read(self, reference: Reference, blob: Descriptor, take: Take) -> None:
        """Hand the bytes of `blob` to `take`, verified at the end; nothing is stored."""
        self._transfer("read", reference, blob, take)

    def part(self, reference: Reference, blob: Descriptor, offset: int, size: int) -> bytes | None:
        """Bytes of `blob`, not verified; None where its registry gives no parts."""
        from assembler.registry.download import fetch_part

        title = f"[internal] read table of {reference.familiar} {blob.digest.hex[:12]}"
        with vertex(f"part {blob.digest}", title, self._sink, self._clock):
            return fetch_part(self._client(), reference, blob, offset, size)

    def _transfer(self, verb: str, reference: Reference, layer: Descriptor, take: Take) -> None:
        from assembler.registry.download import fetch_blob

        vertex_id = f"{verb} {layer.digest}"
        title = _title(verb, reference, layer)
        with vertex(vertex_id, title, self._sink, self._clock):
            progress = reporting(vertex_id, str(layer.digest), self._sink, self._clock)
            try:
                fetch_blob(
                    self._client(),
                    reference,
                    layer,
                    take,
                    progress=progress,
                    cancellation=self._cancellation,
                )
            except RegistryError as error:
                if self._is_remote(str(reference)):
                    raise
                raise BlobMissing(
                    f"blob {layer.digest} of {reference.familiar} is not in the store, and cannot be"
                    f" fetched: {error.message}",
                    self._store.blobs.path(layer.digest),
                    hint=f"{reference.familiar} came from no registry: build or import it again",
                ) from error

    def _is_remote(self, name: str) -> bool:
        """Whether the layers of the image `name` are in a registry, as far as the store knows."""
        entry = self._store.refs.get(name)
        return entry is None or REMOTE in entry.annotations


def reporting(
    vertex_id: str, item: str, sink: Sink, clock: Callable[[], float]
) -> Callable[[int, int], None]:
    """What tells `sink` how much there is of `item`, and of how much: now and then, and at the end."""
    told = clock()

    def progress(current: int, total: int) -> None:
        nonlocal told
        now = clock()
        if current == total or not 0 <= now - told < _OFTEN:
            told = now
            sink(VertexProgress(vertex_id, item, current, total, now))

    return progress


def _title(verb: str, reference: Reference, blob: Descriptor) -> str:
    return f"[internal] {verb} {reference.familiar} {blob.digest.hex[:12]}"
