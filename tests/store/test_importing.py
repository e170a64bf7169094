"""Layouts and archives that come into the store: no more of them is read than they say they are."""

from __future__ import annotations

import io
import json
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from assembler.errors import BadArchive, BlobCorrupt
from assembler.oci.descriptor import MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.store.importing import import_image
from assembler.store.ingest import Ingest
from assembler.store.store import Store

AMD64 = Platform.parse("linux/amd64")
DIGEST = Digest.of(b"a manifest")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def test_M1_of_a_blob_of_a_layout_that_is_longer_than_it_says_little_is_read(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write = Ingest.write

    def counted(ingest: Ingest, chunk: bytes) -> int:
        written.append(len(chunk))
        return write(ingest, chunk)

    monkeypatch.setattr(Ingest, "write", counted)
    blobs = tmp_path / "layout" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    entry = Descriptor(MANIFEST, DIGEST, 10).to_document()
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]})
    (tmp_path / "layout" / "index.json").write_text(index)
    with open(blobs / DIGEST.hex, "wb") as stream:
        stream.truncate(100 << 20)
    with pytest.raises(BlobCorrupt):
        import_image(store, str(tmp_path / "layout"), "", AMD64)
    assert sum(written) <= 1 << 20 and not store.blobs.has(DIGEST)


def test_M11_documents_that_nobody_asks_for_are_not_in_memory(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "archive.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(20):
            member = tarfile.TarInfo(f"{number}.json")
            member.size = 4 << 20
            archive.addfile(member, io.BytesIO(b"%-*d" % (member.size, number)))
    tracemalloc.start()
    try:
        with pytest.raises(BadArchive, match="neither an OCI layout nor a docker archive"):
            import_image(store, str(path), "", AMD64)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
