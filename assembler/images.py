"""Names to images: the store first, else a registry; and base layers' blobs when they are needed."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

from assembler.cancellation import Cancellation
from assembler.engine.recorder import vertex
from assembler.engine.services import Take, unseen
from assembler.environment import Environment
from assembler.errors import (
    AssemblerError,
    BlobMissing,
    DockerfileError,
    NotFound,
    RegistryError,
    UsageError,
)
from assembler.events import Sink, VertexProgress
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image
from assembler.oci.platform import Platform
from assembler.oci.reference import Reference
from assembler.plan.plan import ResolvedImage
from assembler.source import Span
from assembler.store.refs import REMOTE
from assembler.store.store import Store
from assembler.values import value

if TYPE_CHECKING:
    from assembler.registry.client import RegistryClient


LAYOUT = "oci-layout://"
_DIGEST = re.compile(r"[a-z0-9]+:[0-9a-f]{32,}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@value
class LayoutName:
    """`oci-layout://PATH[:TAG][@DIGEST]`: an image of a layout on disk (rule X3)."""

    path: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> LayoutName:
        """Raises ValueError for a digest that is none."""
        path, digest = text.removeprefix(LAYOUT), ""
        head, at, rest = path.rpartition("@")
        if at and _DIGEST.fullmatch(rest):
            path, digest = head, str(Digest.parse(rest))
        head, colon, tag = path.rpartition(":")
        if colon and _TAG.fullmatch(tag):
            return cls(head, tag, digest)
        return cls(path, "", digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{LAYOUT}{self.path}{tag}{f'@{self.digest}' if self.digest else ''}"


class Images:
    """Resolves image names for one build or command. The registry client is made on first use."""

    def __init__(
        self,
        store: Store,
        environment: Environment,
        *,
        insecure: frozenset[str],
        sink: Sink,
        cancellation: Cancellation,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._environment = environment
        self._insecure = insecure
        self._sink = sink
        self._cancellation = cancellation
        self._clock = clock
        self._stack = ExitStack()
        self._client: RegistryClient | None = None
        self._sources: dict[Digest, dict[str, ResolvedImage]] = {}
        self._learnt = False

    def __enter__(self) -> Images:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def client(self) -> RegistryClient:
        """The registry client, its configuration read from the environment's files."""
        if self._client is None:
            from assembler.registry.client import RegistryClient
            from assembler.registry.configuration import RegistryConfiguration

            configuration = RegistryConfiguration.read(self._environment, self._insecure)
            self._client = self._stack.enter_context(
                RegistryClient(self._environment, configuration, cancellation=self._cancellation)
            )
        return self._client

    def resolve(
        self,
        name: str,
        platform: Platform,
        *,
        pull: bool = False,
        span: Span | None = None,
        exact: bool = True,
    ) -> ResolvedImage:
        """The image `name` for `platform`: what the store has, unless `pull`, else the registry's.

        A name `oci-layout://PATH[:TAG|@DIGEST]` is an image of a layout on disk. Without `exact`,
        an image the store has for another platform will do (rule S14). Its manifest and configuration are in the store afterwards. Raises RegistryError, as a
        DockerfileError at `span` when there is one.
        """
        known = None if pull else self.known(name, platform, exact=exact)
        if known is not None:
            return known
        reference = Reference.parse(name)
        try:
            return _resolved(name, self.pull_manifest(reference, platform))
        except RegistryError as error:
            if span is None:
                raise
            raise DockerfileError(error.message, span, hint=error.hint) from error

    def known(self, name: str, platform: Platform, *, exact: bool) -> ResolvedImage | None:
        """The image `name` if no registry need be asked for it."""
        if name.startswith(LAYOUT):
            return _resolved(name, self._from_layout(name, platform))
        reference = Reference.parse(name)
        image = self.stored(reference, platform)
        if image is None and not exact:
            image = self.stored(reference, None)
        return None if image is None else _resolved(name, image)

    def know(self, image: ResolvedImage) -> None:
        """Take note that the layers of `image` can be fetched by its name."""
        for layer in image.layers:
            self._sources.setdefault(layer.digest, {})[image.name] = image

    def sources(self, layer: Descriptor) -> tuple[Reference, ...]:
        """The names of images whose repositories may have the blob of `layer`."""
        names = (image.name for image in self._holders(layer))
        return tuple(Reference.parse(name) for name in names if not name.startswith(LAYOUT))

    def open(self, layer: Descriptor) -> BinaryIO:
        """The blob of `layer`, brought into the store first where it is not there and a known image
        has it. Raises BlobMissing, RegistryError."""
        if not self._store.blobs.has(layer.digest):
            refusal: RegistryError | None = None
            for image in self._holders(layer):
                try:
                    self.fetch(image, layer)
                    break
                except NotFound as error:  # another name may still have it
                    refusal = refusal or error
            else:
                if refusal is not None:
                    raise refusal
        return self._store.blobs.open(layer.digest)

    def _holders(self, layer: Descriptor) -> tuple[ResolvedImage, ...]:
        """The images that have `layer`: those of this command, then those of the store that have
        their layers in a registry."""
        if not self._learnt:
            self._learnt = True
            for name, entry in self._store.refs.items():
                if REMOTE in entry.annotations:
                    with contextlib.suppress(ValueError):  # a name that is none of ours
                        self.stored(Reference.parse(name), None)
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
        """The image the store holds under `reference`, if it is for `platform`."""
        descriptor = self._store.refs.get(str(reference))
        if descriptor is None or not self._store.blobs.has(descriptor.digest):
            return None
        try:
            image = self._store.image(descriptor)
        except AssemblerError:
            return None  # an incomplete image is as good as none: it is pulled anew
        if platform is not None and not platform.matches(image.config.platform):
            return None
        self.know(_resolved(str(reference), image))
        return image

    def pull_manifest(self, reference: Reference, platform: Platform) -> Image:
        """Ask the registry; manifest and configuration are stored under `reference`."""
        from assembler.registry.pull import resolve

        title = f"[internal] load metadata for {reference}"
        with vertex(f"resolve {reference}", title, self._sink, self._clock) as work:
            resolved = resolve(self.client, reference, platform)
            image = Image.read(resolved.manifest, resolved.config_content)
            descriptor = self._store.put_image(image)
            self._store.refs.set(str(reference), descriptor, remote=True)
            self.know(_resolved(str(reference), image))
            work.detail = str(descriptor.digest)
            return image

    def fetch(self, image: ResolvedImage, layer: Descriptor, take: Take = unseen) -> None:
        """Bring the blob of a base layer into the store; `take` is handed its bytes on the way."""
        if image.name.startswith(LAYOUT):
            self._from_layout_again(image, layer, take)
            return
        with self._store.blobs.ingest(layer.size) as ingest:

            def write(piece: bytes) -> None:
                ingest.write(piece)
                take(piece)

            self._transfer("pull", image, layer, write)
            ingest.commit(layer)

    def stream(self, image: ResolvedImage, layer: Descriptor, take: Take) -> None:
        """Hand the bytes of a base layer's blob to `take`, verified at the end; nothing is stored
        that must come from a registry."""
        if image.name.startswith(LAYOUT):
            self._from_layout_again(image, layer, take)
        else:
            self._transfer("read", image, layer, take)

    def _from_layout_again(self, image: ResolvedImage, layer: Descriptor, take: Take) -> None:
        """Take what the store lost of an image of a layout from the layout. Raises BlobMissing."""
        place = replace(LayoutName.parse(image.name), digest=str(image.manifest.digest))
        self._from_layout(str(place), image.config.platform)
        with self._store.blobs.open(layer.digest) as stream:
            while piece := stream.read(1 << 20):
                take(piece)

    def part(self, image: ResolvedImage, layer: Descriptor, offset: int, size: int) -> bytes | None:
        """Bytes of a base layer's blob, not verified; None where its registry gives no parts."""
        from assembler.registry.pull import fetch_part

        reference = Reference.parse(image.name)
        title = f"[internal] read table of {reference.familiar} {layer.digest.hex[:12]}"
        with vertex(f"part {layer.digest}", title, self._sink, self._clock):
            return fetch_part(self.client, reference, layer, offset, size)

    def _transfer(self, verb: str, image: ResolvedImage, layer: Descriptor, take: Take) -> None:
        from assembler.registry.pull import fetch_blob

        reference = Reference.parse(image.name)
        vertex_id = f"{verb} {layer.digest}"
        title = f"[internal] {verb} {reference.familiar} {layer.digest.hex[:12]}"
        with vertex(vertex_id, title, self._sink, self._clock):
            item = str(layer.digest)

            def progress(current: int, total: int) -> None:
                self._sink(VertexProgress(vertex_id, item, current, total, self._clock()))

            try:
                fetch_blob(
                    self.client,
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
                    f"blob {layer.digest} of {image.name} is not in the store, and cannot be"
                    f" fetched: {error.message}",
                    self._store.blobs.path(layer.digest),
                    hint=f"{image.name} came from no registry: build or import it again",
                ) from error

    def _is_remote(self, name: str) -> bool:
        """Whether the layers of the image `name` are in a registry, as far as the store knows."""
        entry = self._store.refs.get(name)
        return entry is None or REMOTE in entry.annotations

    def complete(self, image: Image) -> None:
        """Bring every layer of `image` that the store lacks into it. Raises as `open` does."""
        for layer in image.manifest.layers:
            self.open(layer).close()


def parse_reference(text: str) -> Reference:
    """The reference `text` spells. Raises UsageError."""
    try:
        return Reference.parse(text)
    except ValueError as error:
        raise UsageError(str(error), hint="a name is [registry/]repository[:tag]") from error


def _resolved(name: str, image: Image) -> ResolvedImage:
    return ResolvedImage(name, image.manifest.descriptor, image.config, image.manifest.layers)
