"""Blobs of a shared cache in a layout: whole and right, or it is told what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from assembler.cache.base import Record
from assembler.cache.document import CacheDocument
from assembler.cache.places import LayoutPlace
from assembler.cancellation import Cancellation
from assembler.errors import AssemblerError, BlobCorrupt, NotFound, StoreError
from assembler.oci.config import INLINE_CACHE, Execution, ImageConfig
from assembler.oci.descriptor import LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Annotations, Image, ImageIndex
from assembler.oci.platform import Platform
from assembler.output.layout import LayoutDirectory
from assembler.values import replace

CONTENT = b"a layer" * 1000
BLOB = Descriptor(LAYER_TAR, Digest.of(CONTENT), len(CONTENT))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[LayoutPlace]:
    with Cancellation() as cancellation:
        yield LayoutPlace(str(tmp_path), "latest", cancellation)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the blob is to be."""
    (tmp_path / "blobs/sha256").mkdir(parents=True)
    return tmp_path / "blobs/sha256" / BLOB.digest.hex


def fetched(place: LayoutPlace) -> bytes:
    content = bytearray()
    place.fetch(BLOB, content.extend, lambda current, total: None)
    return bytes(content)


def test_a_blob_is_handed_over(place: LayoutPlace, file: Path) -> None:
    file.write_bytes(CONTENT)
    assert fetched(place) == CONTENT


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"x", CONTENT[:-1] + b"x"])
def test_M1_other_bytes_are_refused(place: LayoutPlace, file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(BlobCorrupt, match="other bytes than its digest"):
        fetched(place)


def test_what_is_gone_is_told_from_what_cannot_be_read(place: LayoutPlace, file: Path) -> None:
    with pytest.raises(NotFound, match="No such file"):
        fetched(place)
    file.symlink_to("/dev/null")  # rule M10
    with pytest.raises(AssemblerError) as failed:
        fetched(place)
    assert isinstance(failed.value, StoreError)


AMD64, ARM64, S390X = (Platform("linux", name) for name in ("amd64", "arm64", "s390x"))


def known(name: str) -> dict[Digest, Record]:
    return {Digest.of(name.encode()): Record(Digest.of(b"x"), "", "{}", 0.0)}


def with_cache(platform: Platform, records: dict[Digest, Record] | None) -> Image:
    """An image with an inline cache that knows `records`, or without one."""
    config = ImageConfig(platform, Execution())
    if records is not None:
        content = CacheDocument(records).serialise(inputs=False)
        config = replace(config, unknown={INLINE_CACHE: json.loads(content)})
    return Image.create(config, ())


def test_of_an_index_of_images_all_are_asked_that_are_for_the_platforms(
    place: LayoutPlace, tmp_path: Path
) -> None:
    images = {
        AMD64: with_cache(AMD64, known("amd")),
        ARM64: with_cache(ARM64, known("arm")),
        S390X: with_cache(S390X, None),
    }
    made = ImageIndex.create(images, Annotations())
    LayoutDirectory(str(tmp_path), "docker.io/x/y:latest").write(made, pytest.fail)

    def keys(*platforms: Platform) -> set[Digest]:
        return set(place.document(platforms).records)

    assert keys(AMD64) == set(known("amd"))
    assert keys(AMD64, ARM64) == keys(ARM64, AMD64) == {*known("amd"), *known("arm")}
    assert keys(S390X, ARM64) == set(known("arm")), "that the other has none is no reason"
    with pytest.raises(ValueError, match="an image without a cache"):
        keys(S390X)
    with pytest.raises(ValueError, match="no image for linux/ppc64le or linux/riscv64"):
        keys(Platform("linux", "ppc64le"), Platform("linux", "riscv64"))
