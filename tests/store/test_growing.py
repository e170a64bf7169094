"""A blob that is followed while it is written."""

from __future__ import annotations

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from assembler.errors import Cancelled
from assembler.oci.digest import Digest
from assembler.store.growing import WORTHWHILE, Growing
from assembler.store.store import Store
from tests.leftovers import descriptors

PIECE = random.Random(1).randbytes(1 << 20)
PIECES = (WORTHWHILE >> 20) + 3


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def read_all(blob: Growing, from_offset: int = 0, most: int = 300_000) -> bytes:
    found = bytearray()
    while piece := blob.read(from_offset + len(found), most):
        found += piece
    return bytes(found)


def opened(store: Store) -> list[str]:
    """What this process has open of the store; what else it has may come and go."""
    return sorted(path for _, path in descriptors() if path.startswith(store.path))


def test_a_small_blob_is_not_worth_following(store: Store) -> None:
    with store.blobs.ingest(follow=lambda blob: pytest.fail("followed")) as ingest:
        for _ in range((WORTHWHILE >> 20) - 1):
            ingest.write(PIECE)
        ingest.commit()


def test_readers_see_each_byte_before_the_writer_goes_on_and_any_again_afterwards(
    store: Store,
) -> None:
    followed: list[Growing] = []
    with store.blobs.ingest(follow=followed.append) as ingest, ThreadPoolExecutor(2) as pool:
        for number in range(PIECES):
            ingest.write(PIECE)
            for blob in followed:
                assert blob.blob is None
                assert blob.available((number + 1) << 20) == (number + 1) << 20
                assert blob.read((number << 20) + 5, 1 << 20) == PIECE[5:]
        (blob,) = followed
        readers = [pool.submit(read_all, blob), pool.submit(read_all, blob, 7)]
        digest, size = ingest.commit()
        content = PIECE * PIECES
        assert [reader.result(60) for reader in readers] == [content, content[7:]]
    assert blob.blob is not None
    assert (
        (blob.blob.digest, blob.blob.size) == (digest, size) == (Digest.of(content), len(content))
    )
    assert blob.read(size - 4, 100) == PIECE[-4:], "a retry may need it when all is written"
    assert blob.available(1 << 60) == size


def test_whoever_waits_is_told_when_the_writer_gives_up(store: Store) -> None:
    followed: list[Growing] = []
    waiting = threading.Event()

    def wait() -> bytes:
        waiting.set()
        return followed[0].read(PIECES << 20, 1)

    before = opened(store)
    with ThreadPoolExecutor(1) as pool:
        with store.blobs.ingest(follow=followed.append) as ingest:
            for _ in range(PIECES):
                ingest.write(PIECE)
            reader = pool.submit(wait)
            assert waiting.wait(60)
        with pytest.raises(Cancelled):
            reader.result(60)
    with pytest.raises(Cancelled):
        followed[0].read(0, 1)
    with pytest.raises(Cancelled):
        followed[0].available(1)
    assert os.listdir(os.path.join(store.path, "ingest")) == []
    assert opened(store) == before
