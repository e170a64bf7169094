"""Shared caches as a build leaves them behind: after its outputs, what it knows goes to registries and
layouts. What is there already does not go again, and the tag moves last."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

from assembler.cache.document import (
    MAX_LISTINGS,
    CachedLayer,
    CachedListings,
    CachedMount,
    CacheDocument,
)
from assembler.cache.exporting import CacheTarget, described, document_of
from assembler.cache.imported import Seen, exported
from assembler.cache.listings import bundled
from assembler.cache.origins import Origins
from assembler.engine.exporting import Packed, known_stages, packed_results, selections
from assembler.engine.recorder import Vertex, vertex
from assembler.engine.services import Services
from assembler.errors import AssemblerError, BlobCorrupt, Cancelled, RegistryError
from assembler.events import Sink, VertexProgress, Warned
from assembler.layer.compression import Compression, by_name
from assembler.oci.config import INLINE_CACHE
from assembler.oci.descriptor import REF_NAME, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Layer, Result
from assembler.oci.reference import Reference
from assembler.output.layout import existing, write_layout
from assembler.plan.plan import Plan
from assembler.snapshot.published import PublishedLayers
from assembler.store.disk import translated
from assembler.store.store import Store
from assembler.values import replace

if TYPE_CHECKING:
    from assembler.images import Images

Mounts = Callable[[CacheTarget], tuple[CachedMount, ...]]
"""The cache mounts that go along, their layers in the store."""
Bundle = tuple[CachedListings, bytes]
_REFUSED = frozenset({400, 405, 413, 415, 422})
"""What a registry answers that will not have something for what it is."""


class Exports:
    """Writes the cache of one `plan`, whose `image`, if any, was made in `compression` and pushed to
    `names`.
    `told` has the store take the listing of a selection from another cache, if one has it; `lost` says
    of what blobs a cache proved to be wrong, `release` lets go of the caches that were read."""

    def __init__(
        self,
        plan: Plan,
        image: Result | None,
        compression: Compression,
        names: Sequence[Reference],
        *,
        services: Services,
        origins: Origins,
        images: Images,
        mounts: Mounts,
        told: Callable[[Digest], object],
        lost: Callable[[Descriptor], bool],
        release: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._compression = compression
        self._names = tuple(names)
        self._layers = set() if image is None else {layer.digest for layer in image.blobs}
        self._seen = Seen(services.cache)
        self._services = replace(services, cache=self._seen, whole=False)
        self._store: Store = services.store
        self._sink: Sink = services.sink
        self._origins = origins
        self._images = images
        self._mounts = mounts
        self._told = told
        self._lost = lost
        self._release = release

    def write(self, targets: Sequence[CacheTarget]) -> None:
        """Write to every one of `targets`, each once. When one fails the others are written. Raises
        the first failure that is not to be ignored."""
        failure: AssemblerError | None = None
        layouts: dict[str, None] = {}
        for target in targets:
            try:
                self._one(target)
                if target.reference is None:
                    layouts[target.path] = None
            except Cancelled:
                raise
            except (AssemblerError, OSError, ValueError) as error:
                told = _told(error, target)
                if not target.ignore_error:
                    failure = failure or told
                    continue
                self._warn(told.message)
        if failure is not None:
            raise failure
        for path in layouts:  # all that could be needed from there has been read
            self._remove_superseded(path)

    def _remove_superseded(self, path: str) -> None:
        from assembler.output.superseded import remove_superseded

        self._release()
        try:
            remove_superseded(path, self._services.cancellation.check)
        except OSError as error:
            self._warn(f"{path} keeps blobs of earlier caches: {error.strerror}")

    def _one(self, target: CacheTarget) -> None:
        kind = "local directory" if target.reference is None else "registry"
        title = f"exporting cache to {kind} {target.name}"
        with vertex(title, title, self._sink, self._services.clock) as work:
            while True:
                try:
                    return self._written(target, *self._packed(target), work)
                except BlobCorrupt as error:  # what nobody has any more is left out
                    if not error.removed:
                        raise
                    if not error.told:
                        self._warn(f"{error.message}: the cache goes without it")

    def _packed(self, target: CacheTarget) -> tuple[Packed, Bundle | None]:
        compression = by_name(target.compression, target.level)
        services = replace(self._services, compression=compression, recompress=target.force)
        layers = PublishedLayers(self._store.layers_directory)
        known = known_stages(self._plan, services)
        packed = packed_results(
            self._plan,
            known,
            services,
            self._compression,
            every=target.mode == "max",
            exists=lambda change: layers.find(change.id) is not None,
        )
        wanted = selections(self._plan, known, lambda key: self._seen.records[key].inputs, packed)
        return packed, self._listings(wanted)

    def _listings(self, wanted: Iterable[Digest]) -> Bundle | None:
        """The listings of what was selected that are here, or that another cache has."""
        found: dict[Digest, bytes] = {}
        for selection in sorted(wanted):
            self._services.cancellation.check()
            listing = self._listing(selection)
            if listing is None and self._told(selection) is not None:
                listing = self._listing(selection)
            if listing is not None:
                found[selection] = listing
        return bundled(found)

    def _listing(self, selection: Digest) -> bytes | None:
        return self._store.listings.content(str(selection), MAX_LISTINGS)

    def _written(
        self, target: CacheTarget, packed: Packed, listings: Bundle | None, work: Vertex
    ) -> None:
        mounts = self._mounts(target)
        try:
            self._written_with(target, packed, mounts, listings, work)
        except (AssemblerError, OSError, ValueError) as error:
            if isinstance(error, Cancelled) or not mounts:
                raise
            self._written_with(target, packed, (), listings, work)  # what else is wrong is so again
            reason = error.message if isinstance(error, AssemblerError) else str(error)
            self._warn(f"cache mounts are not exported to {target.name}: {reason}")

    def _written_with(
        self,
        target: CacheTarget,
        packed: Packed,
        mounts: tuple[CachedMount, ...],
        listings: Bundle | None,
        work: Vertex,
    ) -> None:
        document = CacheDocument(
            exported(self._seen, self._origins),
            {identity: CachedLayer(*found) for identity, found in packed.items()},
            mounts,
        )
        if listings is not None:
            whole = replace(document, listings=listings[0])
            try:
                return self._written_as(target, whole, {listings[0].blob.digest: listings[1]}, work)
            except (RegistryError, ValueError) as error:
                if isinstance(error, RegistryError) and error.status not in _REFUSED:
                    raise
        self._written_as(target, document, {}, work)

    def _written_as(
        self,
        target: CacheTarget,
        document: CacheDocument,
        made: Mapping[Digest, bytes],
        work: Vertex,
    ) -> None:
        """Write `document`, of whose blobs some are `made` for it."""
        content = document.serialise()
        made = {**made, described(content).digest: content}
        if target.reference is None:
            self._to_layout(target, document, content, made, work)
        else:
            self._to_registry(target, target.reference, document, content, made, work)

    def _to_layout(
        self,
        target: CacheTarget,
        document: CacheDocument,
        content: bytes,
        made: Mapping[Digest, bytes],
        work: Vertex,
    ) -> None:
        from assembler.registry.parallel import all_at_once

        top = document_of(target, content, document.blobs)
        entry = replace(top.descriptor, annotations={REF_NAME: target.tag})
        blobs = [blob for blob in document.blobs if blob.digest not in made]
        documents = {**made, entry.digest: top.content}
        check = self._services.cancellation.check
        try:
            write_layout(
                target.path,
                entry,
                blobs,
                self._images.open,
                documents,
                check,
                all_at_once,
                cache=True,
                doubted=self._lost,
            )
        except OSError as error:
            raise translated(error, existing(target.path)) from error
        work.detail = str(entry.digest)

    def _to_registry(
        self,
        target: CacheTarget,
        reference: Reference,
        document: CacheDocument,
        content: bytes,
        made: Mapping[Digest, bytes],
        work: Vertex,
    ) -> None:
        from assembler.registry.push import means, push

        top, client = document_of(target, content, document.blobs), self._images.discreet()
        work.detail = str(top.descriptor.digest)
        if means(client, reference, top):
            return

        def open(blob: Descriptor) -> BinaryIO:
            own = made.get(blob.digest)
            return self._images.open(blob) if own is None else BytesIO(own)

        def progress(blob: Descriptor, current: int, total: int) -> None:
            now = self._services.clock()
            self._sink(VertexProgress(work.id, str(blob.digest), current, total, now))

        push(
            client,
            [reference],
            top,
            open,
            mount_from=self._beside,
            progress=progress,
            cancellation=client.cancellation,
            uploads=self._store.uploads,
        )

    def _beside(self, blob: Descriptor) -> tuple[Reference, ...]:
        pushed = self._names if blob.digest in self._layers else ()
        return (*pushed, *self._images.mountable(blob))

    def _warn(self, text: str) -> None:
        self._sink(Warned(text, self._services.clock()))


def inline(
    plan: Plan, services: Services, origins: Origins, layers: Mapping[Digest, Layer], variant: str
) -> dict[str, Any]:
    """The cache that leads to the image of `plan`, whose results are packed in `layers` of `variant`,
    as a field of its configuration. It says no more than an image should: not what went into keys,
    nor, where the image is to be the same every time, when a step ran. What nobody would read for its
    size is told, and left out."""
    seen = Seen(services.cache)
    known_stages(plan, replace(services, cache=seen))
    records = exported(seen, origins)
    if plan.epoch is not None:
        records = {key: replace(record, ran=0.0) for key, record in records.items()}
    results = {identity: CachedLayer(layer, variant) for identity, layer in layers.items()}
    try:
        content = CacheDocument(records, results).serialise(inputs=False)
    except ValueError as error:
        services.sink(Warned(f"the image goes without its cache: {error}", services.clock()))
        return {}
    return {INLINE_CACHE: json.loads(content)}


def _told(error: Exception, target: CacheTarget) -> AssemblerError:
    """`error`, which says that it is about the export."""
    what = f"the cache could not be exported to {target.name}"
    if isinstance(error, AssemblerError):
        error.message = f"{what}: {error.message}"
        return error
    told = AssemblerError(f"{what}: {error}")
    told.__cause__ = error
    return told
