"""Names to images: the store first, else a registry; and base layers' blobs when they are needed."""

from __future__ import annotations

import contextlib
import enum
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, BinaryIO, Protocol

from assembler.access import Access
from assembler.cancellation import Cancellation, nothing
from assembler.engine.recorder import Vertex, vertex
from assembler.engine.take import Take, hand, unseen
from assembler.environment import Environment
from assembler.errors import AssemblerError, DockerfileError, NotFound, RegistryError, UsageError
from assembler.events import Sink
from assembler.image_names import LayoutName
from assembler.oci.descriptor import INDEXES, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image
from assembler.oci.manifest import Document, Index
from assembler.oci.platform import Platform
from assembler.oci.reference import LAYOUT, Reference
from assembler.plan.resolved import ResolvedImage
from assembler.source import Span
from assembler.store.refs import REMOTE
from assembler.store.store import Store
from assembler.values import replace

if TYPE_CHECKING:
    from assembler.clients import RegistryClients
    from assembler.fetcher import BlobFetcher
    from assembler.registry.client import RegistryClient
    from assembler.registry.pull import Resolved
    from assembler.registry.registries_conf import Registries

RESOLVED = "assembler.resolved"
"""The annotation of a name in the store that has the digest it had in its registry: an index's, where
the store has one image of that."""


class Pull(enum.Enum):
    """When a registry is asked for an image (`--pull`, buildah's names). NEWER is content with what
    the store has where no registry answers."""

    MISSING = "missing"
    ALWAYS = "always"
    NEWER = "newer"
    NEVER = "never"


class Cached(Protocol):
    """Layers of step results that shared caches have (`imports.SharedCaches`)."""

    def holds(self, blob: Descriptor) -> bool: ...

    def lost(self, blob: Descriptor) -> bool: ...

    def fetch(self, blob: Descriptor, take: Take) -> None: ...

    def references(self, blob: Descriptor) -> tuple[Reference, ...]: ...


class Images:
    """Resolves image names for one build or command. The registry client is made on first use.
    `cached` has layers of what is built, None where there are none."""

    cached: Cached | None = None

    def __init__(
        self,
        store: Store,
        environment: Environment,
        *,
        access: Access,
        sink: Sink,
        cancellation: Cancellation,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._environment = environment
        self._access = access
        self._sink = sink
        self._cancellation = cancellation
        self._clock = clock
        self._stack = ExitStack()
        self._registries: Registries | None = None
        self._sources: dict[Digest, dict[str, ResolvedImage]] = {}
        self._learning = threading.Lock()
        self._learnt = False
        self._kept: dict[Digest, tuple[Reference, ...]] | None = None
        self._pulled: dict[tuple[str, Platform], Image] = {}
        self._meant: dict[str, Document] = {}
        self._now: dict[str, Digest | None] = {}
        self._names: dict[str, Reference] = {}
        self._making = threading.Lock()
        self._made_clients: RegistryClients | None = None
        self._made_fetcher: BlobFetcher | None = None

    def __enter__(self) -> Images:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def client(self) -> RegistryClient:
        """See `clients.RegistryClients.usual`."""
        return self._clients.usual

    def impatient(self) -> RegistryClient:
        """See `clients.RegistryClients.impatient`."""
        return self._clients.impatient

    def discreet(self) -> RegistryClient:
        """See `clients.RegistryClients.discreet`."""
        return self._clients.discreet

    def hasty(self, limit: Cancellation) -> AbstractContextManager[RegistryClient]:
        """See `clients.RegistryClients.hasty`."""
        return self._clients.hasty(limit)

    @property
    def _clients(self) -> RegistryClients:
        with self._making:
            if self._made_clients is None:
                from assembler.clients import RegistryClients

                self._made_clients = self._stack.enter_context(
                    RegistryClients(
                        self._environment, self._access, self._sink, self._cancellation, self._clock
                    )
                )
            return self._made_clients

    @property
    def _fetcher(self) -> BlobFetcher:
        with self._making:
            if self._made_fetcher is None:
                from assembler.fetcher import BlobFetcher

                self._made_fetcher = BlobFetcher(
                    self._store, lambda: self.client, self._sink, self._cancellation, self._clock
                )
            return self._made_fetcher

    def resolve(
        self,
        name: str,
        platform: Platform,
        *,
        pull: Pull = Pull.MISSING,
        span: Span | None = None,
        exact: bool = True,
        short: str = "",
    ) -> ResolvedImage:
        """The image `name` for `platform`: what the store has, or the registry's as `pull` says.

        A name `oci-layout://PATH[:TAG|@DIGEST]` is an image of a layout on disk. Without `exact`,
        an image the store has for another platform will do (rule S14). Its manifest and
        configuration are in the store afterwards. Where the name was written without a registry,
        `short`, registries.conf may say what it means. Raises RegistryError, as a DockerfileError
        at `span` when there is one.
        """
        known = None
        try:
            if pull is not Pull.ALWAYS:
                known = self.known(name, platform, exact=exact, short=short)
            if known is not None and (pull is not Pull.NEWER or name.startswith(LAYOUT)):
                return known
            if name.startswith(LAYOUT):
                return _resolved(name, self._from_layout(name, platform))
            names = self._meanings(name, short) if known is None else (known.name,)
            if pull is Pull.NEVER:
                raise NotFound(
                    f"the store has no image {Reference.parse(names[0]).familiar} for {platform}",
                    registry=Reference.parse(names[0]).registry,
                    hint="with --pull=missing it is pulled",
                )
            return self._first_pulled(names, platform)
        except RegistryError as error:
            if known is not None:
                return known
            if span is None:
                raise
            raise DockerfileError(error.message, span, hint=error.hint) from error

    def known(
        self, name: str, platform: Platform, *, exact: bool, short: str = ""
    ) -> ResolvedImage | None:
        """The image `name` if no registry need be asked for it; see `resolve`."""
        if name.startswith(LAYOUT):
            return _resolved(name, self._from_layout(name, platform))
        for meaning in self._meanings(name, short):
            reference = Reference.parse(meaning)
            image = self.stored(reference, platform)
            if image is None and not exact:
                image = self.stored(reference, None)
            if image is not None:
                return _resolved(meaning, image)
        return None

    def _meanings(self, name: str, short: str) -> tuple[str, ...]:
        """The full names that an image may have, in the order to try (registries.conf(5))."""
        if not short:
            return (name,)
        from assembler.registry.registries_conf import read

        if self._registries is None:
            self._registries = read(self._environment)
        return self._registries.short(short)

    def _first_pulled(self, names: tuple[str, ...], platform: Platform) -> ResolvedImage:
        """The first of `names` that its registry has. Raises what the first one raised."""
        failure: RegistryError | None = None
        for name in names:
            try:
                return _resolved(name, self.pull_manifest(Reference.parse(name), platform))
            except RegistryError as error:
                failure = failure or error
        assert failure is not None
        raise failure

    def know(self, image: ResolvedImage) -> None:
        """Take note that the layers of `image` can be fetched by its name."""
        for layer in image.layers:
            self._sources.setdefault(layer.digest, {})[image.name] = image

    def sources(self, layer: Descriptor) -> tuple[Reference, ...]:
        """The names of images whose repositories may have the blob of `layer`."""
        names = (image.name for image in self._holders(layer))
        return tuple(Reference.parse(name) for name in names if not name.startswith(LAYOUT))

    def mountable(self, layer: Descriptor) -> tuple[Reference, ...]:
        """The names of images whose repositories may have the blob of `layer`: besides `sources`,
        those of shared caches, and those of the store that have it and may have been pushed."""
        cached = () if self.cached is None else self.cached.references(layer)
        return (*self.sources(layer), *cached, *self._whole().get(layer.digest, ()))

    def _whole(self) -> dict[Digest, tuple[Reference, ...]]:
        """The names of images whose blobs are in the store, by their blobs. Of those that were pulled
        `sources` knows the layers."""
        with self._learning:
            if self._kept is None:
                self._kept = {}
                for name, entry in self._store.refs.items():
                    # A name that is none of ours, or an image that is damaged, is no place to look.
                    with contextlib.suppress(ValueError, AssemblerError):
                        for image in self._store.images(entry):
                            layers = () if REMOTE in entry.annotations else image.manifest.layers
                            for one in (image.manifest.config, *layers):
                                names = self._kept.get(one.digest, ())
                                self._kept[one.digest] = (*names, Reference.parse(name))
            return self._kept

    def open(self, layer: Descriptor, take: Take = unseen) -> BinaryIO:
        """The blob of `layer`, brought into the store first where it is not there and a known image
        or shared cache has it; `take` is handed its bytes on the way. Raises BlobMissing, RegistryError,
        and BlobCorrupt, `removed`, for what a shared cache should have had."""
        if not self._store.blobs.has(layer.digest):
            self._bring(layer, take, nothing)
        return self._store.blobs.open(layer.digest)

    def _bring(self, layer: Descriptor, take: Take, check: Callable[[], None]) -> None:
        """Fetch the blob of `layer` from the first image, or else the shared cache, that has it.
        Raises as `open` does."""
        refusal: RegistryError | None = None
        for image in self._holders(layer):
            try:
                return self.fetch(image, layer, take, check)
            except NotFound as error:  # another name may still have it
                refusal = refusal or error
        cached = self.cached
        if cached is not None and (cached.holds(layer) or (not refusal and cached.lost(layer))):
            return cached.fetch(layer, take)  # or it says that its step is to run
        if refusal is not None:
            raise refusal
        self._store.blobs.open(layer.digest).close()  # which says that it is missing

    def _holders(self, layer: Descriptor) -> tuple[ResolvedImage, ...]:
        """The images that have `layer`: those of this command, then those of the store that have
        their layers in a registry."""
        with self._learning:
            if not self._learnt:
                for name, entry in self._store.refs.items():
                    if REMOTE in entry.annotations:
                        # a name that is none of ours, or not all is here
                        with contextlib.suppress(ValueError, AssemblerError):
                            for image in self._store.images(entry):
                                self.know(_resolved(str(Reference.parse(name)), image))
            self._learnt = True
        return tuple(self._sources.get(layer.digest, {}).values())

    def _from_layout(self, name: str, platform: Platform) -> Image:
        from assembler.store.importing import import_image

        layout = LayoutName.parse(name)
        if not os.path.isdir(layout.path):
            raise UsageError(f"{name}: no such directory")
        choice = layout.digest or layout.tag
        if choice:
            return import_image(self._store, layout.path, choice, platform)
        with contextlib.suppress(NotFound):  # as for any name without one, the tag is latest
            return import_image(self._store, layout.path, "latest", platform)
        return import_image(self._store, layout.path, "", platform)

    def stored(self, reference: Reference, platform: Platform | None) -> Image | None:
        """The image the store holds under `reference`, if it is for `platform`; of an index without
        one, the first that is here."""
        descriptor = self._store.refs.get(str(reference))
        if descriptor is None or not self._store.blobs.has(descriptor.digest):
            return None
        try:
            image = self._store.image(descriptor, platform)
        except AssemblerError:
            return None  # an incomplete image is as good as none: it is pulled anew
        claimed = descriptor.platform or image.config.platform
        if descriptor.media_type not in INDEXES and platform and not _same(platform, claimed):
            return None
        self.know(_resolved(str(reference), image))
        return image

    def pull_manifest(
        self, reference: Reference, platform: Platform, *, alone: bool = False
    ) -> Image:
        """Ask the registry; manifest and configuration are stored under `reference`, beside those of
        the same index for other platforms, unless it is to be there `alone`. A name is asked for once,
        and where it means what it meant before, by HEAD only (rule R15)."""
        key = str(reference), platform
        if key not in self._pulled:
            title = f"[internal] load metadata for {reference}"
            with vertex(f"resolve {reference}", title, self._sink, self._clock) as work:
                image = self._unchanged(reference, platform)
                image = image or self._asked_once(work, reference, platform, alone)
                work.detail = str(image.digest)
                self.know(_resolved(str(reference), image))
                self._pulled[key] = image
        return self._pulled[key]

    def _unchanged(self, reference: Reference, platform: Platform) -> Image | None:
        """The image of the store, if the registry says that the name still means it."""
        descriptor = self._store.refs.get(str(reference))
        image = self.stored(reference, platform)
        if descriptor is None or image is None or str(reference) in self._meant:
            return None
        exact = (descriptor.platform or image.config.platform) == platform
        if descriptor.media_type not in INDEXES and not exact:
            return None  # an index may have a better one
        had = descriptor.annotations.get(RESOLVED) or str(descriptor.digest)
        now = reference.digest or self._current(reference)
        return image if str(now) == had else None

    def _current(self, reference: Reference) -> Digest | None:
        """The digest that the name has in its registry, as far as HEAD tells; asked once."""
        from assembler.registry.documents import current

        if str(reference) not in self._now:
            self._now[str(reference)] = current(self.client, reference)
        return self._now[str(reference)]

    def _asked_once(
        self, work: Vertex, reference: Reference, platform: Platform, alone: bool
    ) -> Image:
        """What the registry says, or has just said to another build on the store."""
        before = self._store.refs.get(str(reference))
        with self._store.working.claim(f"image {reference} {platform}", work.output):
            image = None
            if self._store.refs.get(str(reference)) != before:
                image = self.stored(reference, platform)
            return image or self._asked(reference, platform, alone)

    def _asked(self, reference: Reference, platform: Platform, alone: bool) -> Image:
        from assembler.registry.pull import resolve

        means = self._means(reference)
        resolved = resolve(self.client, reference, platform, means)
        descriptor = replace(self._store.put_image(resolved.image), platform=resolved.platform)
        together = isinstance(means, Index) and self._has_others(reference, resolved, means)
        if together and not alone:
            self._store.blobs.put(means.content)
            descriptor = means.descriptor
        descriptor = replace(descriptor, annotations={RESOLVED: str(resolved.top)})
        self._store.refs.set(str(reference), descriptor, remote=True)
        return resolved.image

    def _has_others(self, reference: Reference, resolved: Resolved, means: Index) -> bool:
        """Whether the store has, under the name, images of the same index for other platforms: it is
        the index that is kept then, so that one does not take the place of the other."""
        had = self._store.refs.get(str(reference))
        entries = {entry.digest for entry in means.manifests}
        if had is None or resolved.image.digest not in entries:
            return False
        if had.digest == means.descriptor.digest:
            return True
        same = had.annotations.get(RESOLVED) == str(resolved.top)
        return same and had.digest in entries - {resolved.image.digest}

    def _means(self, reference: Reference) -> Document:
        """What the name means in its registry, asked once."""
        from assembler.registry.documents import named

        if str(reference) not in self._meant:
            self._meant[str(reference)] = named(self.client, reference)
        return self._meant[str(reference)]

    def pull_index(self, reference: Reference, platforms: Sequence[Platform] = ()) -> Document:
        """What `reference` means in its registry, an index as one, with all that it leads to, or the
        images for `platforms`; it is in the store under its name then. Raises RegistryError."""
        from assembler.registry.documents import described
        from assembler.registry.pull import closure, selection

        title = f"[internal] load metadata for {reference}"
        with vertex(f"resolve {reference}", title, self._sink, self._clock) as work:
            top = self._means(reference)
            wanted = selection(reference, top, platforms) if isinstance(top, Index) else None
            found = closure(
                reference, top, lambda entry: described(self.client, reference, entry), wanted
            )
            work.detail = str(found.digest)
        self.bring(reference, found.blobs)
        for digest, document in found.documents.items():
            self._store.blobs.put(document.content, digest.algorithm)
        self._store.blobs.put(top.content)
        self._store.refs.set(str(reference), top.descriptor, remote=bool(platforms))
        return top

    def fetch(
        self,
        image: ResolvedImage,
        layer: Descriptor,
        take: Take = unseen,
        check: Callable[[], None] = nothing,
    ) -> None:
        """Bring the blob of a base layer into the store; `take` is handed its bytes on the way.
        `check` is called meanwhile, and may raise."""
        if image.name.startswith(LAYOUT):
            self._from_layout_again(image, layer, take)
        else:
            if image.name not in self._names:
                self._names[image.name] = Reference.parse(image.name)
            self._fetcher.fetch(self._names[image.name], layer, take, check)

    def bring(self, reference: Reference, blobs: Sequence[Descriptor]) -> None:
        """Fetch those of `blobs` that the store lacks from where `reference` is, several at once.
        Raises RegistryError, StoreError."""
        fetcher = self._fetcher
        with fetcher.missing(blobs) as missing:
            fetcher.at_once(
                missing, lambda blob, check: fetcher.fetch(reference, blob, unseen, check)
            )

    def stream(self, image: ResolvedImage, layer: Descriptor, take: Take) -> None:
        """Hand the bytes of a base layer's blob to `take`, verified at the end; nothing is stored
        that must come from a registry."""
        if image.name.startswith(LAYOUT):
            self._from_layout_again(image, layer, take)
        else:
            self._fetcher.read(Reference.parse(image.name), layer, take)

    def _from_layout_again(self, image: ResolvedImage, layer: Descriptor, take: Take) -> None:
        """Take what the store lost of an image of a layout from the layout. Raises BlobMissing."""
        place = replace(LayoutName.parse(image.name), digest=str(image.manifest.digest))
        self._from_layout(str(place), image.config.platform)
        hand(self._store.blobs, layer.digest, take)

    def part(self, image: ResolvedImage, layer: Descriptor, offset: int, size: int) -> bytes | None:
        """Bytes of a base layer's blob, not verified; None where its registry gives no parts."""
        return self._fetcher.part(Reference.parse(image.name), layer, offset, size)

    def complete(self, image: Image) -> None:
        """Bring every layer of `image` that the store lacks into it, several at once. Raises as
        `open` does."""
        with self._fetcher.missing(image.manifest.layers) as missing:
            if missing:
                self._holders(missing[0])  # what is learnt once is learnt before there are threads
                self._fetcher.at_once(
                    missing, lambda layer, check: self._bring(layer, unseen, check)
                )


def host_platform() -> Platform:
    """The platform of this machine."""
    machine = os.uname()
    return Platform.parse(f"{machine.sysname.lower()}/{machine.machine}")


def _same(wanted: Platform, claimed: Platform) -> bool:
    """Whether an image that is alone will do: a 32-bit one is for a 64-bit platform only where an
    index has nothing else."""
    return wanted.matches(claimed) and wanted.architecture == claimed.architecture


def _resolved(name: str, image: Image) -> ResolvedImage:
    return ResolvedImage(name, image.manifest.descriptor, image.config, image.manifest.layers)
