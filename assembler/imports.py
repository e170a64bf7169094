"""Shared caches of one build: read when the store knows no answer, and their layers when those are
needed. Nothing here fails a build: what cannot be used is told in one line, and the step runs."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from assembler.cache.document import CacheDocument
from assembler.cache.imported import Import, ImportedCache
from assembler.cache.local import LocalCache
from assembler.cache.origins import Origins
from assembler.cache.places import (
    CacheSource,
    LayoutPlace,
    Place,
    RegistryPlace,
    has_removed,
    place_of,
)
from assembler.cancellation import Cancellation
from assembler.engine.recorder import vertex
from assembler.engine.sharing import shared
from assembler.engine.take import Take, hand, unseen
from assembler.errors import (
    AssemblerError,
    BadArchive,
    BlobCorrupt,
    Cancelled,
    LayerError,
    NoSpace,
    NotFound,
    ProtocolViolation,
    Unreachable,
)
from assembler.events import Sink, Warned
from assembler.fetcher import reporting
from assembler.images import Images
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Layer
from assembler.oci.platform import Platform
from assembler.oci.reference import LAYOUT, Reference
from assembler.store.store import Store

if TYPE_CHECKING:
    from assembler.cache.listings import Offer, Offers
    from assembler.registry.client import RegistryClient

_PIECE = 1 << 20


class SharedCaches:
    """The caches `sources` of one build for `platforms`, and those that earlier builds took layers
    from. It is the engine's `CachedBlobs`."""

    def __init__(
        self,
        sources: Sequence[CacheSource],
        platforms: Sequence[Platform],
        *,
        local: LocalCache,
        store: Store,
        images: Images,
        sink: Sink,
        cancellation: Cancellation,
        clock: Callable[[], float],
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._platforms = tuple(platforms)
        self._local = local
        self._origins = Origins(local)
        self._store = store
        self._images = images
        self._sink = sink
        self._cancellation = cancellation
        self._clock = clock
        self._limits = limits
        self._places_by_text: dict[str, Place] = {}
        self._read_places: list[Place] = []
        self._losing = threading.Lock()
        self._dead: set[str] = set()
        self._refused: set[Digest] = set()
        self._lost: set[Digest] = set()
        self.imports = [(one, self._import(one)) for one in sources]
        self._offers: Offers | None = None
        self._listing = threading.Lock()

    def cache(self, since: float | None = None) -> ImportedCache | LocalCache:
        """What the engine asks for records and packed layers; see `ImportedCache` for `since`."""
        imports = [one for _, one in self.imports]
        if not imports:
            return self._local
        return ImportedCache(self._local, imports, self._usable, since)

    def _import(self, source: CacheSource) -> Import:
        place = place_of(source, self._images.impatient, self._cancellation)
        self._places_by_text.setdefault(place.text, place)
        return Import(place.text, partial(self._read, place))

    def _read(self, place: Place) -> CacheDocument:
        """What is at `place`; nothing, and a warning, where that cannot be used."""
        title = f"importing cache manifest from {place.name}"
        if place.text in self._dead:
            return CacheDocument()
        self._read_places.append(place)
        with vertex(title, title, self._sink, self._clock):
            try:
                return place.document(self._platforms).without(self._refused)
            except Cancelled:
                raise
            except (AssemblerError, ValueError, OSError) as error:
                if isinstance(error, Unreachable):
                    self._dead.add(place.text)
                said = error.message if isinstance(error, AssemblerError) else str(error)
                self._warn(f"the cache {place.name} is not used: {said}")
                return CacheDocument()

    def _lose(self, place: Place, why: str) -> None:
        """Use `place` no more in this build, and say so once."""
        with self._losing:
            known = place.text in self._dead
            self._dead.add(place.text)
        if not known:
            self._warn(f"the cache {place.name} is not used any more: {why}")

    def _warn(self, text: str) -> None:
        self._sink(Warned(text, self._clock()))

    def _usable(self, blob: Descriptor) -> bool:
        if blob.digest in self._refused:
            return False
        return self._store.blobs.has(blob.digest) or self.holds(blob)

    def _places(self, blob: Digest) -> list[str]:
        if blob in self._refused:
            return []
        return [place for place in self._said(blob) if place not in self._dead]

    def _said(self, blob: Digest) -> list[str]:
        """The places that are said to have `blob`: those of this build first."""
        named = [one.place for _, one in self.imports if one.diff_ids(blob)]
        known = (place for place in self._origins.of(blob) if not has_removed(place, blob))
        return list(dict.fromkeys((*named, *known)))

    def release(self) -> None:
        """Ask no longer that what was read stays where it is."""
        for place in self._read_places:
            place.release()

    def holds(self, blob: Descriptor) -> bool:
        """See `engine.services.CachedBlobs.holds`."""
        return bool(self._places(blob.digest))

    def lost(self, blob: Descriptor) -> bool:
        """Whether one of them was to have `blob`, and in this build none has it any more."""
        known = blob.digest in self._lost or bool(self._said(blob.digest))
        return known and not self.holds(blob)

    def find(self, name: str) -> Layer | None:
        """See `engine.services.CarriedMounts.find`."""
        for source, one in self.imports:
            if not source.mounts or one.place in self._dead:
                continue
            for mount in one.document.mounts:
                if mount.name == name:
                    return mount.layer
        return None

    def told(self, selection: Digest) -> Mapping[str, str] | None:
        """What one of the caches says that `selection` holds. Whatever goes wrong with that is told to
        nobody. Raises Cancelled."""
        found = self._told(selection)
        return None if found is None else found[1]

    def listing(self, selection: Digest) -> Mapping[str, str] | None:
        """The same; the store has it from then on."""
        found = self._told(selection)
        if found is None:
            return None
        with suppress(OSError):
            self._store.listings.take(str(selection), found[0])
        return found[1]

    def _told(self, selection: Digest) -> tuple[bytes, Mapping[str, str]] | None:
        from assembler.cache.listings import Offers

        with self._listing:
            self._offers = self._offers or Offers(self._offered)
            return self._offers.find(selection)

    def _offered(self) -> Iterator[Offer]:
        from assembler.cache.listings import Offer

        for source, one in self.imports:
            listings = one.document.listings if one.known else None
            if listings is not None and one.place not in self._dead:
                yield Offer(one.place, listings, partial(self._hastily, source, listings.blob))

    def _hastily(self, source: CacheSource, blob: Descriptor, seconds: float) -> bytes | None:
        self._cancellation.check()
        content = bytearray()
        with self._cancellation.within(seconds) as limit, ExitStack() as stack:

            def client() -> RegistryClient:
                return stack.enter_context(self._images.hasty(limit))

            try:
                place_of(source, client, limit).fetch(blob, content.extend, lambda *_: None)
            except (AssemblerError, OSError, ValueError):
                self._cancellation.check()
                return None
        return bytes(content)

    def references(self, blob: Descriptor) -> tuple[Reference, ...]:
        """The repositories that have `blob`, to mount it from."""
        places = self._places(blob.digest)
        return tuple(Reference.parse(one) for one in places if not one.startswith(LAYOUT))

    def fetch(self, blob: Descriptor, take: Take = unseen, *, judged: bool = False) -> None:
        """See `engine.services.CachedBlobs.fetch`."""
        title = f"[internal] pull cached layer {blob.digest.hex[:12]}"
        claim, name = self._store.working.claim, f"blob {blob.digest}"
        with shared(claim, name, title, self._sink, self._clock):
            if not self._store.blobs.has(blob.digest):
                self._fetch(blob, take, judged)
            else:
                hand(self._store.blobs, blob.digest, take)

    def _wrong(self, blob: Descriptor, content: BinaryIO) -> BadArchive | None:
        """What is wrong with `content`, whose digest is that of `blob`, if its tar is not what it was
        said to be."""
        from assembler.layer.decompression import reader

        said = self._origins.diff_ids(blob.digest)
        said = said.union(*(one.diff_ids(blob.digest) for _, one in self.imports))
        try:
            tar = reader(content, self._limits.size)
            hasher = hashlib.sha256()
            while piece := tar.read(_PIECE):
                self._cancellation.check()
                hasher.update(piece)
        except BadArchive as error:
            return error
        if said - {Digest("sha256", hasher.hexdigest())}:
            return BadArchive(f"layer {blob.digest} has another diff_id")
        return None

    def _fetch(self, blob: Descriptor, take: Take, judged: bool) -> None:
        cause: AssemblerError | None = None
        taking = _Taking(take)
        self._lost.add(blob.digest)  # unless it comes
        for text in self._places(blob.digest):
            place = self._known(text)
            cause = self._failure(place, blob, taking, judged)
            if cause is None:
                self._lost.discard(blob.digest)
                return
            if isinstance(cause, BadArchive):
                self.refuse(blob, cause)
                raise _untrue(blob, cause) from cause
            self._give_up(place, blob, cause)
            if taking.begun:  # whoever takes it has the beginning of something else
                break
        said = f"nobody has {blob.digest} any more" if cause is None else cause.message
        raise _gone(f"a cached layer cannot be had: {said}", blob) from cause

    def _known(self, text: str) -> Place:
        if text in self._places_by_text:
            return self._places_by_text[text]
        if text.startswith(LAYOUT):
            return LayoutPlace(text.removeprefix(LAYOUT), "", self._cancellation)
        return RegistryPlace.of_text(text, self._images.impatient, self._cancellation)

    def _give_up(self, place: Place, blob: Descriptor, error: AssemblerError) -> None:
        """What fails once is not asked for again in this build; what is not there is forgotten."""
        self._lose(place, error.message)
        if isinstance(error, NotFound | ProtocolViolation | BlobCorrupt):
            self._origins.lost(blob.digest, place.text)

    def _failure(
        self, place: Place, blob: Descriptor, take: Take, judged: bool
    ) -> AssemblerError | None:
        """What kept `blob` from being brought into the store from `place`: BadArchive if nobody else has
        `judged` what is in it, and it is wrong. Raises Cancelled, NoSpace, and what is in the blob
        where `take` says so."""
        vertex_id = f"pull {blob.digest}"
        title = f"[internal] pull {place.name} {blob.digest.hex[:12]}"
        progress = reporting(vertex_id, str(blob.digest), self._sink, self._clock)
        with vertex(vertex_id, title, self._sink, self._clock):
            try:
                self._store.blobs.reserve(blob.size)
            except NoSpace as error:  # as far as a cache says, which may be wrong: the step may fit
                return error
            try:
                with self._store.blobs.ingest(blob.size, hashed=False) as ingest:

                    def write(piece: bytes | memoryview) -> None:
                        ingest.write(piece)
                        take(piece)

                    place.fetch(blob, write, progress)  # it compares the digest
                    if not judged:
                        with ingest.content() as content:
                            wrong = self._wrong(blob, content)
                        if wrong is not None:  # not in the store: the next build would believe it
                            return wrong
                    ingest.commit_as(blob.digest, blob.size)
            except (Cancelled, NoSpace, LayerError):
                raise
            except AssemblerError as error:
                return error
        return None

    def refuse(self, blob: Descriptor, cause: LayerError) -> None:
        """See `engine.services.CachedBlobs.refuse`."""
        places = self._said(blob.digest)
        if not places and blob.digest not in self._refused:
            return
        self._refused.add(blob.digest)
        for text in places:
            self._lose(self._known(text), cause.message)
        self._origins.refuse(blob.digest)
        for _, one in self.imports:
            one.refuse(self._refused)
        raise _untrue(blob, cause) from cause


class _Taking:
    """Hands bytes on, and knows whether it has."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self.begun = False

    def __call__(self, piece: bytes | memoryview) -> None:
        self.begun = True
        self._take(piece)


def _untrue(blob: Descriptor, cause: LayerError) -> BlobCorrupt:
    return _gone(f"a cached layer is not what it was said to be: {cause.message}", blob)


def _gone(message: str, blob: Descriptor) -> BlobCorrupt:
    error = BlobCorrupt(message, str(blob.digest))
    error.removed = error.told = True
    return error
