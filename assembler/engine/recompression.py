"""Layers that exist, in another compression: only when that is asked for (rule Z7)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from assembler.engine.services import PackedLayers, Services
from assembler.engine.sharing import shared, unclaimed
from assembler.events import Sink, Warned
from assembler.layer.compression import Compression, oci_only
from assembler.layer.decompression import reader
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.layer.write import Packed, repack
from assembler.oci.descriptor import DOCKER_MANIFEST, Descriptor, compression_of
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer
from assembler.store.store import Store
from assembler.values import replace

if TYPE_CHECKING:
    from assembler.engine.sharing import Claims


class Recompression:
    """Makes the layers of images be in `compression`, their blobs in the store."""

    def __init__(
        self,
        compression: Compression,
        store: Store,
        packed: PackedLayers,
        check: Callable[[], None],
        sink: Sink,
        clock: Callable[[], float],
        limits: Limits = DEFAULT_LIMITS,
        claims: Claims = unclaimed,
    ) -> None:
        self._compression = compression
        self._store = store
        self._packed = packed
        self._check = check
        self._sink = sink
        self._clock = clock
        self._limits = limits
        self._claims = claims

    def layer(self, layer: Layer, fetch: Callable[[], None], *, ended: bool = False) -> Layer:
        """`layer` in the compression asked for; `fetch` brings its blob, where it is needed. One that
        has this compression, at whatever level, is returned as it is (as BuildKit does), and so is
        one of no known kind; these are not fetched.

        Its diff_id changes only where the format adds to the tar, or takes that away: with `ended` a
        tar ends where it did before eStargz. Raises BadArchive when the blob is not what `layer` says.
        """
        ended = ended and compression_of(layer.descriptor) == "estargz"
        if compression_of(layer.descriptor) in ("", self._compression.name):
            return layer
        source, variant = layer.descriptor.digest, f"recompressed {self._compression.identity}"
        variant += " to its end" * ended
        known = self._known(source, variant)
        if known is not None:
            return known
        name, title = f"pack {source} {variant}", f"[internal] recompress layer {source.hex[:12]}"
        with shared(self._claims, name, title, self._sink, self._clock):
            return self._known(source, variant) or self._made(layer, variant, fetch, ended)

    def _known(self, source: Digest, variant: str) -> Layer | None:
        known = self._packed.packed(source, variant)
        if known is None or not self._store.blobs.has(known.descriptor.digest):
            return None
        return known

    def _made(self, layer: Layer, variant: str, fetch: Callable[[], None], ended: bool) -> Layer:
        source = layer.descriptor.digest
        fetch()
        blobs = self._store.blobs
        with blobs.reading(source) as blob, blobs.ingest(hashed=False) as ingest:
            packed = repack(
                reader(blob, self._limits.size),
                ingest,
                self._compression,
                diff_id=layer.diff_id,
                check=self._check,
                ended=ended,
            )
            ingest.commit_as(packed.digest, packed.size)
        made = self.described(packed)
        self._packed.record_packed(source, variant, made)
        return made

    def described(self, packed: Packed) -> Layer:
        """The layer that `packed` is; what its format could not do is told to the user."""
        name = self._compression.name
        if packed.note:
            message = f"a layer is packed without the table of contents of {name}: {packed.note}"
            self._sink(Warned(message, self._clock()))
        media_type = self._compression.media_type
        descriptor = Descriptor(media_type, packed.digest, packed.size, packed.annotations)
        return Layer(descriptor, packed.diff_id)

    def image(self, image: Image, fetch: Callable[[Descriptor], None]) -> Image:
        """`image` with layers in the compression asked for, in the store; `fetch` brings a blob
        that is needed there. Its manifest stays of its kind where the compression can be told in it."""
        layers = tuple(
            self.layer(layer, partial(fetch, layer.descriptor)) for layer in image.layers
        )
        if layers == image.layers:
            return image
        config = replace(image.config, diff_ids=tuple(layer.diff_id for layer in layers))
        docker = image.manifest.media_type == DOCKER_MANIFEST and not oci_only(self._compression)
        made = Image.create(config, layers, image.manifest.annotations, docker=docker)
        self._store.put_image(made)
        return made


def recompression(services: Services) -> Recompression:
    """Of a build."""
    return Recompression(
        services.compression,
        services.store,
        services.packed,
        services.cancellation.check,
        services.sink,
        services.clock,
        services.archive_limits,
        services.claims,
    )
