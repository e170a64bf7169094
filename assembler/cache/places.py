"""Places that hold a shared cache: a tag of a repository, a tag of a layout on disk.

What is there is a cache by itself (a manifest or an index with such a configuration), or an image
with a cache in its configuration. Of a result only those layers are taken that what names it holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Protocol

from assembler.cache.document import CacheDocument
from assembler.cancellation import Cancellation
from assembler.errors import BlobCorrupt, NotFound, StoreError
from assembler.linux.claims import sharing
from assembler.oci.config import INLINE_CACHE, MAX_CONFIG
from assembler.oci.descriptor import (
    CACHE_CONFIG,
    CONFIGS,
    FOREIGN_CACHE,
    INDEXES,
    MANIFESTS,
    Descriptor,
)
from assembler.oci.digest import Digest
from assembler.oci.document import load
from assembler.oci.manifest import Document, Index, Manifest
from assembler.oci.platform import Platform
from assembler.oci.reference import LAYOUT, Reference
from assembler.values import replace, value

if TYPE_CHECKING:
    from assembler.registry.client import RegistryClient

_PIECE = 1 << 20

Take = Callable[[bytes | memoryview], object]
Progress = Callable[[int, int], None]


@value
class CacheSource:
    """One `--cache-from`. `reference` is of a registry; without it `path` is a layout, in which
    `choice` is a tag or digest. With `mounts`, cache mounts are taken from it too."""

    reference: Reference | None = None
    path: str = ""
    choice: str = "latest"
    mounts: bool = False


class Place(Protocol):
    """Holds a cache, and blobs."""

    name: str
    """For people: `ghcr.io/o/app:cache`, the path of a layout."""
    text: str
    """What remembers it: its blobs are there whatever its tag means by then."""

    def document(self, platforms: Sequence[Platform]) -> CacheDocument:
        """The cache that is there; of an index of images what those for `platforms` have. Raises
        RegistryError, StoreError, BadArchive, ValueError."""
        ...

    def fetch(self, blob: Descriptor, take: Take, progress: Progress) -> None:
        """Hand the bytes of `blob` to `take`, verified at the end. Raises RegistryError, StoreError."""
        ...

    def release(self) -> None:
        """Ask no longer that what the document names stays there."""
        ...


class RegistryPlace:
    """What `reference` means in its registry, asked by `client`."""

    def __init__(
        self,
        reference: Reference,
        client: Callable[[], RegistryClient],
        cancellation: Cancellation,
    ) -> None:
        self.reference = reference
        self.name = reference.familiar
        self.text = str(replace(reference, tag="", digest=None))
        self._client = client
        self._cancellation = cancellation

    @classmethod
    def of_text(
        cls, text: str, client: Callable[[], RegistryClient], cancellation: Cancellation
    ) -> RegistryPlace:
        """The place that `text` remembers: its blobs."""
        place = cls(Reference.parse(text), client, cancellation)
        place.name = replace(place.reference, tag="").familiar
        return place

    def document(self, platforms: Sequence[Platform]) -> CacheDocument:
        """See `Place.document`."""
        from assembler.registry.documents import configuration, described, named

        client = self._client()
        return _cache(
            named(client, self.reference),
            lambda entry: described(client, self.reference, entry),
            lambda blob: configuration(client, self.reference, blob),
            platforms,
            self.name,
        )

    def fetch(self, blob: Descriptor, take: Take, progress: Progress) -> None:
        """See `Place.fetch`."""
        from assembler.registry.download import fetch_blob

        fetch_blob(
            self._client(),
            self.reference,
            blob,
            take,
            progress=progress,
            cancellation=self._cancellation,
        )

    def release(self) -> None:
        """See `Place.release`."""


class LayoutPlace:
    """What `choice`, a tag or digest, means in the layout at `path`. From the document on until
    `release` no export to it removes blobs (`output.superseded`)."""

    def __init__(self, path: str, choice: str, cancellation: Cancellation) -> None:
        self.name = path
        self.text = f"{LAYOUT}{os.path.abspath(path)}"
        self._path = path
        self._choice = choice
        self._cancellation = cancellation
        self._reading = ExitStack()

    def document(self, platforms: Sequence[Platform]) -> CacheDocument:
        """See `Place.document`."""
        from assembler.store.importing import LayoutFiles

        if not os.path.lexists(os.path.join(self._path, "index.json")):
            raise NotFound("there is no such layout")
        with suppress(OSError):  # where nothing can be locked, nothing is removed either
            directory = os.path.join(self._path, "blobs")
            self._reading.enter_context(sharing(directory, self._cancellation.check))
        layout = LayoutFiles(self._path)
        return _cache(
            layout.document(layout.entry(self._choice)),
            layout.document,
            self._content,
            platforms,
            self.name,
        )

    def _content(self, blob: Descriptor) -> bytes:
        content = bytearray()
        if blob.size > MAX_CONFIG:
            raise ValueError(f"{blob.digest} has {blob.size} bytes, more than {MAX_CONFIG}")
        self.fetch(blob, content.extend, lambda current, total: None)
        return bytes(content)

    def fetch(self, blob: Descriptor, take: Take, progress: Progress) -> None:
        """See `Place.fetch`."""
        import hashlib

        from assembler.store.importing import LayoutFiles

        hasher, size = hashlib.new(blob.digest.algorithm), 0
        try:
            opened = LayoutFiles(self._path).open(blob)
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise NotFound(error.message) from error
            raise
        with opened as stream:
            while piece := stream.read(_PIECE):
                self._cancellation.check()
                size += len(piece)
                if size > blob.size:
                    break
                hasher.update(piece)
                take(piece)
                progress(size, blob.size)
        if size != blob.size or hasher.hexdigest() != blob.digest.hex:
            raise BlobCorrupt(f"{blob.digest} has other bytes than its digest says", self._path)

    def release(self) -> None:
        """See `Place.release`."""
        self._reading.close()


def has_removed(text: str, blob: Digest) -> bool:
    """Whether the place that `text` remembers is a layout which has not got `blob` any more: what no
    tag leads to goes (`output.superseded`), and other blobs are still there."""
    if not text.startswith(LAYOUT):
        return False
    path = text.removeprefix(LAYOUT)
    file = os.path.join(path, "blobs", blob.algorithm, blob.hex)
    return not os.path.lexists(file) and os.path.lexists(os.path.join(path, "index.json"))


def place_of(
    source: CacheSource, client: Callable[[], RegistryClient], cancellation: Cancellation
) -> Place:
    """What `source` names; a registry is asked by `client`."""
    if source.reference is None:
        return LayoutPlace(source.path, source.choice, cancellation)
    return RegistryPlace(source.reference, client, cancellation)


def _cache(
    top: Document,
    below: Callable[[Descriptor], Document],
    content: Callable[[Descriptor], bytes],
    platforms: Sequence[Platform],
    source: str,
) -> CacheDocument:
    """The cache in `top`. `below` gives what an index names, `content` a small blob."""
    if not isinstance(top, Index):
        return _of_manifest(top, content, source)
    own = next((one for one in top.manifests if one.media_type == CACHE_CONFIG), None)
    if own is not None:
        return _holding(CacheDocument.parse(content(own), source), top.manifests)
    _refuse_foreign([entry.media_type for entry in top.manifests])
    images = [one for one in top.manifests if one.media_type in MANIFESTS | INDEXES]
    chosen = [entry for one in platforms if (entry := top.select(one)) is not None]
    chosen = chosen or (images if len(images) == 1 else [])
    if not chosen:
        raise ValueError(f"it has no image for {' or '.join(map(str, platforms))}")
    found: CacheDocument | None = None
    failure: ValueError | None = None
    for entry in {one.digest: one for one in chosen}.values():
        image = below(entry)
        try:
            if isinstance(image, Index):
                raise ValueError("it is an index of indexes")
            document = _of_manifest(image, content, source)
        except ValueError as error:  # the image for another platform may have one
            failure = failure or error
            continue
        found = document if found is None else found.with_all_of(document)
    if found is None:
        assert failure is not None
        raise failure
    return found


def _of_manifest(
    top: Manifest, content: Callable[[Descriptor], bytes], source: str
) -> CacheDocument:
    """The cache that is an image manifest of its own, or is in an image."""
    kind = top.config.media_type
    if kind == CACHE_CONFIG:
        return _holding(CacheDocument.parse(content(top.config), source), top.layers)
    _refuse_foreign([kind])
    if kind not in CONFIGS:
        raise ValueError(f"it is no cache, but {kind[:100]!r}")
    configuration = load(content(top.config), "its configuration")
    if INLINE_CACHE not in configuration:
        raise ValueError("it is an image without a cache in it (--cache-to type=inline)")
    return _holding(CacheDocument.of(configuration[INLINE_CACHE], source), top.layers)


def _holding(document: CacheDocument, blobs: tuple[Descriptor, ...]) -> CacheDocument:
    """`document` with those results only whose blobs are among `blobs`."""
    sizes = {blob.digest: blob.size for blob in blobs}
    return document.without(
        {blob.digest for blob in document.blobs if sizes.get(blob.digest) != blob.size}
    )


def _refuse_foreign(kinds: list[str]) -> None:
    if any(kind.startswith(FOREIGN_CACHE) for kind in kinds):
        raise ValueError("it is a cache of BuildKit's, whose keys mean nothing here")
