"""Layers that exist, in another compression (rules Z7, Y7, T17)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from assembler.cache.local import LocalCache
from assembler.engine.recompression import Recompression
from assembler.errors import BadArchive
from assembler.events import Event, Warned
from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.compression import by_name
from assembler.layer.decompression import reader
from assembler.layer.write import pack
from assembler.oci.config import ImageConfig
from assembler.oci.descriptor import (
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    ESTARGZ_TOC,
    LAYER_ZSTD,
    MANIFEST,
    Descriptor,
    compression_of,
)
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer
from assembler.store.store import Store


class Shelf:
    """A store with layers of one file each, and what recompressing them said and fetched."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.store = stack.enter_context(Store.open(str(directory / "store")))
        self.cache = stack.enter_context(LocalCache(str(directory / "cache.db")))
        self.events: list[Event] = []
        self.fetched = 0

    def layer(self, name: str, content: bytes, path: str = "file") -> Layer:
        entry = Entry(path, Kind.FILE, size=len(content), source=InlineBytes(content))
        compression = by_name(name)
        with self.store.blobs.ingest() as ingest:
            packed = pack([entry], ingest, compression)
            ingest.commit_as(packed.digest, packed.size)
        described = Descriptor(
            compression.media_type, packed.digest, packed.size, packed.annotations
        )
        return Layer(described, packed.diff_id)

    def to(self, name: str) -> Recompression:
        return Recompression(
            by_name(name), self.store, self.cache, lambda: None, self.events.append, lambda: 0.0
        )

    def recompressed(self, layer: Layer, name: str) -> Layer:
        return self.to(name).layer(layer, self._fetch)

    def image(self, image: Image, name: str) -> Image:
        return self.to(name).image(image, lambda layer: self._fetch())

    def _fetch(self) -> None:
        self.fetched += 1

    def tar(self, layer: Layer) -> bytes:
        with self.store.blobs.open(layer.descriptor.digest) as blob:
            return reader(blob).read()


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    with ExitStack() as stack:
        yield Shelf(tmp_path, stack)


NAMES = ["uncompressed", "gzip", "estargz", "zstd", "zstd:chunked"]


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("source", NAMES)
def test_Z7_every_compression_becomes_every_other(shelf: Shelf, source: str, target: str) -> None:
    layer = shelf.layer(source, b"content")
    made = shelf.recompressed(layer, target)
    assert compression_of(made.descriptor) == target
    assert made.diff_id.matches(shelf.tar(made))
    if target in (source, "estargz"):
        assert (made == layer) == (target == source)
        assert shelf.tar(made).startswith(shelf.tar(layer))
        return
    assert made.diff_id == layer.diff_id
    assert shelf.recompressed(layer, target) == made
    assert shelf.fetched == 1, "what the cache knows is not fetched"


@pytest.mark.parametrize("target", [name for name in NAMES if name != "estargz"])
def test_Z7_without_the_table_of_estargz_a_tar_is_what_it_was(shelf: Shelf, target: str) -> None:
    layer = shelf.layer("gzip", b"content" * 1000)
    lazy = shelf.recompressed(layer, "estargz")
    assert lazy.diff_id != layer.diff_id
    made = shelf.to(target).layer(lazy, lambda: None, ended=True)
    assert (made.diff_id, compression_of(made.descriptor)) == (layer.diff_id, target)
    assert shelf.tar(made) == shelf.tar(layer)
    assert shelf.to(target).layer(lazy, lambda: None).diff_id == lazy.diff_id, (
        "an image's stays whole"
    )
    assert shelf.to("estargz").layer(made, lambda: None) == lazy


def test_T17_the_whole_of_a_tar_is_compared_whose_end_is_not_taken(shelf: Shelf) -> None:
    lazy = shelf.recompressed(shelf.layer("gzip", b"content"), "estargz")
    with pytest.raises(BadArchive, match="not what the image configuration says"):
        shelf.to("zstd").layer(replace(lazy, diff_id=Digest.of(b"x")), lambda: None, ended=True)


def test_Z7_what_has_the_compression_is_not_touched(shelf: Shelf) -> None:
    layer = shelf.layer("gzip", b"content")
    docker = Layer(replace(layer.descriptor, media_type=DOCKER_LAYER_GZIP), layer.diff_id)
    foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    unknown = Layer(replace(layer.descriptor, media_type=foreign), layer.diff_id)
    assert shelf.recompressed(docker, "gzip") == docker
    assert shelf.recompressed(unknown, "zstd") == unknown
    assert not shelf.fetched


def test_T17_a_blob_that_is_not_what_the_image_says_is_refused(shelf: Shelf) -> None:
    layer = Layer(shelf.layer("gzip", b"content").descriptor, Digest.of(b"other"))
    for target in ("zstd", "estargz"):
        with pytest.raises(BadArchive, match="not what the image configuration says"):
            shelf.recompressed(layer, target)


def test_a_layer_that_no_table_can_tell_of_is_told(shelf: Shelf) -> None:
    layer = shelf.layer("gzip", b"{}", "stargz.index.json")
    made = shelf.recompressed(layer, "estargz")
    assert (compression_of(made.descriptor), made.diff_id) == ("gzip", layer.diff_id)
    (event,) = shelf.events
    assert isinstance(event, Warned)
    assert "without the table of contents of estargz: 'stargz.index.json'" in event.message


def image_of(layers: tuple[Layer, ...], docker: bool = False) -> Image:
    config = replace(
        ImageConfig.parse(b'{"os":"linux","architecture":"amd64"}'),
        diff_ids=tuple(layer.diff_id for layer in layers),
    )
    return Image.create(config, layers, {"a": "b"}, docker=docker)


def test_Z7_an_image_keeps_all_but_its_layers(shelf: Shelf) -> None:
    image = image_of((shelf.layer("gzip", b"one"), shelf.layer("zstd", b"two")))
    made = shelf.image(image, "zstd")
    assert shelf.fetched == 1
    assert [layer.descriptor.media_type for layer in made.layers] == [LAYER_ZSTD] * 2
    assert made.layers[1] == image.layers[1]
    assert made.config == image.config
    assert made.manifest.annotations == {"a": "b"}
    assert shelf.image(made, "zstd") is made
    lazy = shelf.image(image, "estargz")
    assert lazy.config.diff_ids != image.config.diff_ids
    assert all(ESTARGZ_TOC in layer.descriptor.annotations for layer in lazy.layers)
    assert Image.read(lazy.manifest, lazy.config_content) == lazy


def test_Y7_docker_types_stay_where_they_can(shelf: Shelf) -> None:
    image = image_of((shelf.layer("uncompressed", b"one"),), docker=True)
    assert image.manifest.media_type == DOCKER_MANIFEST
    assert shelf.image(image, "gzip").manifest.media_type == DOCKER_MANIFEST
    made = shelf.image(image, "zstd").manifest
    assert (made.media_type, made.layers[0].media_type) == (MANIFEST, LAYER_ZSTD)
