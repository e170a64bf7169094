"""The caches of a build: the store's, the shared ones behind it, and those that it leaves behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from assembler.cancellation import Cancellation
from assembler.errors import LayerError
from assembler.events import Sink, Warned
from assembler.images import Images, host_platform
from assembler.layer.limits import Limits
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Layer, Result
from assembler.oci.platform import Platform
from assembler.oci.reference import Reference
from assembler.store.store import Store

if TYPE_CHECKING:
    from assembler.cache.base import Record
    from assembler.cache.document import CachedMount
    from assembler.cache.exporting import CacheTarget
    from assembler.cache.imported import ImportedCache
    from assembler.cache.local import LocalCache
    from assembler.cache.places import CacheSource
    from assembler.engine.earlier import Elsewhere
    from assembler.engine.services import Described, Services
    from assembler.engine.take import Take
    from assembler.imports import SharedCaches
    from assembler.plan.plan import Plan
    from assembler.request import BuildRequest


class Caches:
    """The caches of the builds on one store. Use it with `with`: the store's is closed at the end.

    `ids` enters the user namespace, for the cache mounts that go along with an export; see
    `sandboxes.Sandboxes.entered`.
    """

    def __init__(
        self,
        store: Store,
        images: Images,
        *,
        ids: Callable[[], str],
        sink: Sink,
        cancellation: Cancellation,
        clock: Callable[[], float],
        limits: Limits,
    ) -> None:
        self._store = store
        self._images = images
        self._ids = ids
        self._sink = sink
        self._cancellation = cancellation
        self._clock = clock
        self._limits = limits
        self._stack = ExitStack()
        self._local: LocalCache | None = None
        self._shared: dict[tuple[tuple[CacheSource, ...], tuple[Platform, ...]], SharedCaches] = {}

    def __enter__(self) -> Caches:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()
        self._stack.close()

    @property
    def local(self) -> LocalCache:
        """The store's cache, opened on first use."""
        if self._local is None:
            from assembler.cache.local import LocalCache

            path = os.path.join(self._store.path, "cache.db")
            cache = LocalCache(path, self._cancellation.check, self._warn)
            self._local = self._stack.enter_context(cache)
        return self._local

    def inputs(self, key: Digest) -> str:
        """The document of what went into `key`, empty where the store's cache has none."""
        record = self.local.lookup(key)
        return "" if record is None else record.inputs

    def records(self, request: BuildRequest) -> ImportedCache | LocalCache:
        """What a build of `request` asks for records and packed layers."""
        if not request.cache_from:
            return self.local
        return self._shared_by(request).cache(request.since)

    def elsewhere(self, request: BuildRequest) -> Elsewhere:
        """What the shared caches tell that were read for `request`."""
        from assembler.engine.earlier import Elsewhere

        if not request.cache_from:
            return Elsewhere()
        shared = self._shared_by(request)

        def records() -> list[tuple[str, Mapping[Digest, Record]]]:
            return [(one.place, one.document.records) for _, one in shared.imports if one.known]

        return Elsewhere(records, shared.told, shared.listing)

    def layers(self, request: BuildRequest | None = None) -> CachedLayers:
        """What the shared caches of `request`, and those of earlier builds, have of layers."""
        return CachedLayers(lambda: self._shared_by(request))

    def _shared_by(self, request: BuildRequest | None) -> SharedCaches:
        """The shared caches of `request`; each is read once, however often it is built."""
        sources: tuple[CacheSource, ...] = ()
        platforms: tuple[Platform, ...] = (host_platform(),)
        if request is not None:
            sources = request.cache_from
            platforms = (request.platform or platforms[0], *request.others)
        key = sources, platforms
        if key not in self._shared:
            from assembler.imports import SharedCaches

            self._shared[key] = SharedCaches(
                *key,
                local=self.local,
                store=self._store,
                images=self._images,
                sink=self._sink,
                cancellation=self._cancellation,
                clock=self._clock,
                limits=self._limits,
            )
        return self._shared[key]

    def export(
        self,
        request: BuildRequest,
        plan: Plan,
        image: Result | None,
        names: Sequence[Reference],
        services: Callable[[], Services],
    ) -> None:
        """Write the caches that `request` asks for, once `image`, if one is made, was built of `plan`
        with `services` and pushed to `names`. Raises AssemblerError, unless that is to be ignored."""
        targets = [target for target in request.cache_to if not target.inline]
        if not targets:
            return
        from assembler.cache.origins import Origins
        from assembler.exports import Exports

        given = services()
        Exports(
            plan,
            image,
            request.compression,
            names,
            services=given,
            origins=Origins(self.local),
            images=self._images,
            mounts=lambda target: self._mounts(given, plan, target),
            told=self.elsewhere(request).keep,
            lost=self.layers(request).lost,
            release=self._release,
        ).write(targets)

    def _release(self) -> None:
        for one in self._shared.values():
            one.release()

    def _mounts(
        self, services: Services, plan: Plan, target: CacheTarget
    ) -> tuple[CachedMount, ...]:
        """The cache mounts of `plan` that go to `target`; enters the user namespace for them."""
        if not target.mounts:
            return ()
        from assembler.engine.caches import exported

        return exported(plan, services, self._ids, target.largest_mount)

    def inline(self, request: BuildRequest, services: Callable[[], Services]) -> Described:
        """What gives the cache that leads to the image of `request` as a field of its configuration,
        where that is asked for."""
        from assembler.engine.services import nothing_more

        if not any(target.inline for target in request.cache_to):
            return nothing_more

        def described(
            plan: Plan, layers: Mapping[Digest, Layer], variant: str
        ) -> Mapping[str, object]:
            from assembler.cache.origins import Origins
            from assembler.exports import inline

            return inline(plan, services(), Origins(self.local), layers, variant)

        return described

    def _warn(self, text: str) -> None:
        self._sink(Warned(text, self._clock()))


class CachedLayers:
    """The shared caches of a build, looked for when a blob is not here: see `imports`."""

    def __init__(self, find: Callable[[], SharedCaches]) -> None:
        self._find = find
        self._lock = threading.Lock()

    def _shared(self) -> SharedCaches:
        with self._lock:
            return self._find()

    def holds(self, blob: Descriptor) -> bool:
        """See `engine.services.CachedBlobs.holds`."""
        return self._shared().holds(blob)

    def lost(self, blob: Descriptor) -> bool:
        """See `imports.SharedCaches.lost`."""
        return self._shared().lost(blob)

    def fetch(self, blob: Descriptor, take: Take, *, judged: bool = False) -> None:
        """See `engine.services.CachedBlobs.fetch`."""
        self._shared().fetch(blob, take, judged=judged)

    def refuse(self, blob: Descriptor, cause: LayerError) -> None:
        """See `engine.services.CachedBlobs.refuse`."""
        self._shared().refuse(blob, cause)

    def references(self, blob: Descriptor) -> tuple[Reference, ...]:
        """The repositories that have `blob`, to mount it from."""
        return self._shared().references(blob)

    def find(self, name: str) -> Layer | None:
        """See `engine.services.CarriedMounts.find`."""
        return self._shared().find(name)
