"""Blobs of a shared cache in a layout: whole and right, or it is told what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from assembler.cache.places import LayoutPlace
from assembler.cancellation import Cancellation
from assembler.errors import AssemblerError, BlobCorrupt, NotFound, StoreError
from assembler.oci.descriptor import LAYER_TAR, Descriptor
from assembler.oci.digest import Digest

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
