"""The store's cache, and behind it caches from elsewhere, which are read when it first knows no answer.

What is taken from them is recorded in the store: the next build asks nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterator, Mapping, Sequence

from assembler.cache.base import Cache, Record
from assembler.cache.document import CachedLayer, CacheDocument
from assembler.cache.local import LocalCache
from assembler.cache.origins import Origins
from assembler.cache.variants import same_tar, serves
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Layer
from assembler.values import replace

_KEYS = 20
"""Keys of one result that go along with those that were looked up: builds of other sources lead to it
by ever more of them, and a document that has all would in the end be too large for anybody."""


class Import:
    """One cache from elsewhere, whose blobs are at `place`. `read` gives what it holds, an empty one
    where it cannot be used; it is called once."""

    def __init__(self, place: str, read: Callable[[], CacheDocument]) -> None:
        self.place = place
        self._read = read
        self._reading = threading.Lock()
        self._document: CacheDocument | None = None
        self._keys: dict[Digest, list[Digest]] = {}
        self._blobs: dict[Digest, set[Digest]] = {}

    @property
    def known(self) -> bool:
        """Whether it was read."""
        return self._document is not None

    @property
    def document(self) -> CacheDocument:
        """What it holds. Threads take turns."""
        with self._reading:
            if self._document is None:
                document = self._read()
                for key, record in document.records.items():
                    self._keys.setdefault(record.identity, []).append(key)
                self._have(document)
                return document
            return self._document

    def _have(self, document: CacheDocument) -> None:
        blobs: dict[Digest, set[Digest]] = {}
        layers = [one.layer for one in document.results.values()]
        layers += [one.layer for one in document.mounts]
        for layer in layers:
            blobs.setdefault(layer.descriptor.digest, set()).add(layer.diff_id)
        self._blobs, self._document = blobs, document

    def diff_ids(self, blob: Digest) -> set[Digest]:
        """What it says of the tar in `blob`, if it was read; nothing of a blob that it has not."""
        return self._blobs.get(blob, set())

    def refuse(self, blobs: Container[Digest]) -> None:
        """Believe nothing of it any more that is in `blobs`."""
        if self._document is not None:
            self._have(self._document.without(blobs))

    def of(self, key: Digest, identity: Digest) -> dict[Digest, Record]:
        """What it knows of `identity`, to which `key` leads, by no more than `_KEYS` keys besides."""
        records = self.document.records
        known = {one: records[one] for one in self._keys.get(identity, ())}
        return {key: records[key]} | {one: known[one] for one in _first(known, identity)}


class ImportedCache:
    """`local` and `imports`, which are asked in order; a `cache.base.Cache`, and
    `engine.services.PackedLayers`. `usable` says whether the blob of a layer is here, or can be had.
    For what ran before `since`, they are asked for something younger.
    """

    def __init__(
        self,
        local: LocalCache,
        imports: Sequence[Import],
        usable: Callable[[Descriptor], bool],
        since: float | None = None,
    ) -> None:
        self._local = local
        self._origins = Origins(local)
        self._imports = tuple(imports)
        self._usable = usable
        self._since = since
        self._lock = threading.Lock()
        self._looked: set[Digest] = set()

    def lookup(self, key: Digest) -> Record | None:
        """See `cache.base.Cache.lookup`."""
        found = self._local.lookup(key)
        if found is None or self._old(found):
            found = self._imported(key) or found
        if found is not None:
            self._looked.add(found.identity)
        return found

    def _old(self, record: Record) -> bool:
        return self._since is not None and record.ran < self._since

    def _imported(self, key: Digest) -> Record | None:
        with self._lock:
            for one in self._imports:
                record = one.document.records.get(key)
                if record is not None and not self._old(record):
                    result = one.document.results.get(record.identity)
                    self._origins.take(key, one.of(key, record.identity), result, one.place)
                    return record
        return None

    def record(self, key: Digest, record: Record) -> None:
        """See `cache.base.Cache.record`."""
        self._local.record(key, record)

    def packed(self, identity: Digest, variant: str) -> Layer | None:
        """The packed form of the change `identity` under the compressor `variant`: also one that
        another engine or level of the same compression made elsewhere, as its tar is the same."""
        known = self._local.packed(identity, variant)
        if known is not None and self._usable(known.descriptor):
            return known
        for place, found in self._results(identity):
            if serves(found.variant, variant) and not self._origins.contradicts(found.layer):
                self._origins.take_layer(identity, variant, found.layer, place)
                if self._usable(found.layer.descriptor):
                    return found.layer
        return known

    def otherwise(self, identity: Digest, variant: str) -> tuple[Layer, str] | None:
        """See `engine.services.PackedLayers.otherwise`."""
        known = self._local.otherwise(identity, variant)
        if known is not None and self._usable(known[0].descriptor):
            return known
        for place, found in self._results(identity):
            if same_tar(found.variant, variant) and not self._origins.contradicts(found.layer):
                self._origins.take_layer(identity, found.variant, found.layer, place)
                if self._usable(found.layer.descriptor):
                    return found.layer, found.variant
        return known

    def _results(self, identity: Digest) -> Iterator[tuple[str, CachedLayer]]:
        """What the caches have `identity` packed in. Nobody is asked for what was never looked up: it
        is new, and nobody else's."""
        for one in self._imports:
            if one.known or identity in self._looked:
                with self._lock:
                    found = one.document.results.get(identity)
                if found is not None:
                    yield one.place, found

    def record_packed(self, identity: Digest, variant: str, layer: Layer) -> None:
        """Remember a packed form."""
        self._local.record_packed(identity, variant, layer)

    def recall(self, key: Digest) -> Descriptor | None:
        """See `engine.services.PackedLayers.recall`."""
        return self._local.recall(key)

    def remember(self, key: Digest, descriptor: Descriptor) -> None:
        """See `engine.services.PackedLayers.remember`."""
        self._local.remember(key, descriptor)


class Seen:
    """A `cache.base.Cache` that notes what of `cache` was found, by key."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.records: dict[Digest, Record] = {}

    def lookup(self, key: Digest) -> Record | None:
        """See `cache.base.Cache.lookup`."""
        found = self._cache.lookup(key)
        if found is not None:
            self.records[key] = found
        return found

    def record(self, key: Digest, record: Record) -> None:
        """See `cache.base.Cache.record`."""
        self._cache.record(key, record)


def exported(seen: Seen, origins: Origins) -> dict[Digest, Record]:
    """What a shared cache tells of the steps that were `seen`: by the keys that the store has for the
    same result of the same run, and none of where it came from. What went into other builds' keys is
    left out, which for a thousand steps would be too much."""
    records = {key: replace(record, source="") for key, record in seen.records.items()}
    runs: dict[Digest, set[tuple[str, float]]] = {}
    for record in records.values():
        runs.setdefault(record.identity, set()).add((record.created, record.ran))
    for identity, known in origins.keys(runs).items():
        same = {key: one for key, one in known.items() if (one.created, one.ran) in runs[identity]}
        for key in _first(same, identity):
            inputs = known[key].inputs if key == identity else "{}"
            records.setdefault(key, replace(known[key], inputs=inputs, source=""))
    return records


def _first(records: Mapping[Digest, Record], identity: Digest) -> list[Digest]:
    """`_KEYS` keys of `records`, always the same ones: `identity`, then those of contents, which all
    builds share, and then those of definitions, which say what went into them."""

    def rank(key: Digest) -> tuple[bool, bool, Digest]:
        return key != identity, records[key].inputs != "{}", key

    return sorted(records, key=rank)[:_KEYS]
