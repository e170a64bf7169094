"""The store: durable, verified, swept; several writers lose nothing."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from assembler.errors import BlobCorrupt, BlobMissing, StoreError, StoreUnusable
from assembler.oci.descriptor import INDEX, MANIFEST, REF_NAME, Descriptor
from assembler.oci.digest import Digest
from assembler.store.refs import write_index
from assembler.store.store import Store

CONTENT = b"some content"
DIGEST = Digest.of(CONTENT)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def test_what_is_put_is_read_back_verified(store: Store) -> None:
    assert store.blobs.put(CONTENT) == DIGEST
    assert store.blobs.read(Descriptor(MANIFEST, DIGEST, len(CONTENT))) == CONTENT
    assert store.blobs.size(DIGEST) == len(CONTENT)
    assert os.stat(store.blobs.path(DIGEST)).st_mode & 0o777 == 0o444
    assert os.stat(store.path).st_mode & 0o777 == 0o700


def test_M1_wrong_bytes_get_no_name(store: Store) -> None:
    with store.blobs.ingest() as ingest, pytest.raises(BlobCorrupt):
        ingest.write(CONTENT)
        ingest.commit(Descriptor(MANIFEST, Digest.of(b"other"), len(CONTENT)))
    assert not store.blobs.has(DIGEST) and not store.blobs.has(Digest.of(b"other"))
    assert os.listdir(os.path.join(store.path, "ingest")) == []


@pytest.mark.parametrize("size", [0, 12, 1 << 16, (1 << 16) + 1, 1 << 20])
def test_a_blob_of_any_size_in_any_pieces_is_written_whole(store: Store, size: int) -> None:
    content = random.Random(size).randbytes(size)
    with store.blobs.ingest() as ingest:
        for start in range(0, size, 40_000):
            ingest.write(content[start : start + 40_000])
        digest, written = ingest.commit()
    assert (digest, written) == (Digest.of(content), size)
    assert Path(store.blobs.path(digest)).read_bytes() == content
    assert os.listdir(os.path.join(store.path, "ingest")) == []


def test_a_small_blob_that_is_here_is_not_written_again_unless_it_is_damaged(store: Store) -> None:
    def write_again() -> os.stat_result:
        with store.blobs.ingest() as ingest:
            ingest.write(CONTENT)
            ingest.commit()
        return os.stat(store.blobs.path(DIGEST))

    before = write_again()
    assert write_again().st_ino == before.st_ino
    os.chmod(store.blobs.path(DIGEST), 0o644)
    Path(store.blobs.path(DIGEST)).write_bytes(CONTENT[:-1] + b"X")
    assert write_again().st_ino != before.st_ino
    assert Path(store.blobs.path(DIGEST)).read_bytes() == CONTENT


def test_a_flipped_byte_is_noticed_when_it_is_read(store: Store) -> None:
    store.blobs.put(CONTENT)
    path = store.blobs.path(DIGEST)
    os.chmod(path, 0o644)
    Path(path).write_bytes(CONTENT[:-1] + b"X")
    with pytest.raises(BlobCorrupt):
        store.blobs.read(Descriptor(MANIFEST, DIGEST, len(CONTENT)))


def test_M10_a_blob_that_is_a_link_is_not_followed(store: Store) -> None:
    os.symlink("/etc/hostname", store.blobs.path(DIGEST))
    with pytest.raises(BlobMissing):
        store.blobs.open(DIGEST)
    assert not store.blobs.has(DIGEST)


def test_names_are_kept_and_forgotten(store: Store) -> None:
    descriptor = Descriptor(MANIFEST, DIGEST, 1)
    store.refs.set("a:1", descriptor)
    store.refs.set("b:1", descriptor)
    store.refs.set("a:1", Descriptor(MANIFEST, DIGEST, 2))
    found = store.refs.get("a:1")
    assert found is not None and found.size == 2
    store.refs.remove("a:1")
    assert [name for name, _ in store.refs.items()] == ["b:1"]


def test_CR09_eight_writers_of_names_lose_none(store: Store) -> None:
    code = (
        "import sys; from assembler.store.store import Store; from assembler.oci.digest import Digest\n"
        "from assembler.oci.descriptor import Descriptor\n"
        "s = Store.open(sys.argv[1])\n"
        "for n in range(10): s.refs.set(f'{sys.argv[2]}:{n}', Descriptor('m', Digest.of(b'x'), n))\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, store.path, f"w{n}"]) for n in range(8)
    ]
    assert [writer.wait(300) for writer in writers] == [0] * 8
    assert len(store.refs.items()) == 80


def test_names_that_are_too_many_are_refused_and_can_be_removed(store: Store) -> None:
    """An index that is larger than one that is read would take all names with it."""
    long = {"long": "x" * 1000}
    entries = [
        Descriptor(MANIFEST, DIGEST, 1, annotations={REF_NAME: f"a:{number}", **long})
        for number in range(12_500)
    ]
    path = os.path.join(store.path, "index.json")
    write_index(path, entries)
    with pytest.raises(StoreError, match="has 15500 names") as caught:
        write_index(path, [*entries, *entries[:3000]])
    assert "assemble rmi" in caught.value.hint
    store.refs.remove("a:1")
    assert len(store.refs.items()) == 12_499


@pytest.mark.parametrize("content", [b"garbled", b"{}", b'{"schemaVersion": 2, "layers": []}'])
def test_an_index_that_is_none_is_named_as_damaged(store: Store, content: bytes) -> None:
    digest = store.blobs.put(content)
    descriptor = Descriptor(INDEX, digest, len(content))
    for asked in (store.image, lambda one: list(store.images(one))):
        with pytest.raises(BlobCorrupt, match=f"image {digest} in the store"):
            asked(descriptor)


def test_CR12_a_newer_store_is_refused_untouched(store: Store) -> None:
    Path(store.path, "version").write_text("99\n")
    with pytest.raises(StoreUnusable, match="version"):
        Store.open(store.path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnusable) as caught:
        Store.open(str(tmp_path / "file" / "store"))
    assert "ASSEMBLE_STORE" in caught.value.hint


def test_a_scratch_directory_is_gone_after_its_block(store: Store) -> None:
    with store.scratch() as path:
        Path(path, "x").write_text("x")
    assert not os.path.exists(path)


def test_killed_writers_leave_no_wrong_blob_and_are_swept(store: Store) -> None:
    code = (
        "import os, sys; from assembler.store.store import Store\n"
        "s = Store.open(sys.argv[1])\n"
        "with s.scratch():\n"
        "    s.blobs.put(os.urandom(300_000)); print(flush=True)\n"
        "    while True: s.blobs.put(os.urandom(300_000))\n"
    )
    random.seed(1)
    for _ in range(12):
        command = [sys.executable, "-c", code, store.path]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == b"\n"
            time.sleep(random.random() / 5)
            writer.send_signal(signal.SIGKILL)
    with Store.open(store.path) as again, again.scratch():
        pass
    assert os.listdir(os.path.join(store.path, "ingest")) == []
    assert os.listdir(os.path.join(store.path, "scratch")) == []
    blobs = list(Path(store.path, "blobs/sha256").iterdir())
    assert blobs
    for blob in blobs:
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


@pytest.mark.parametrize("kind", ["layers/full", "mounts/recorded"])
def test_what_a_dead_process_was_making_is_swept(store: Store, kind: str) -> None:
    """A layer directory, or the one of a cache mount."""
    parent = Path(store.path, kind)
    (parent / "kept").mkdir(parents=True)
    code = "import os, sys; from assembler.linux.claims import claim; claim(sys.argv[1], '.')"
    subprocess.run([sys.executable, "-c", code, parent], check=True)
    (made,) = parent.glob(".*")
    (made / "half").write_text("of it")
    Store.open(store.path).close()
    assert os.listdir(parent) == ["kept"]
