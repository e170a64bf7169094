"""The step cache: derived data that may be lost, garbled or shared."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from assembler.cache.base import Record
from assembler.cache.local import LocalCache
from assembler.errors import StoreError
from assembler.oci.descriptor import LAYER_GZIP, MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Layer

KEY, IDENTITY = Digest.of(b"key"), Digest.of(b"identity")
RECORD = Record(IDENTITY, "2026-01-02T03:04:05Z", inputs='{"step": "RUN x"}')


def test_what_is_recorded_is_found_again(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.db")
    with LocalCache(path) as cache:
        assert cache.lookup(KEY) is None
        cache.record(KEY, RECORD)
    with LocalCache(path) as cache:
        assert cache.lookup(KEY) == RECORD


def test_packed_layers_are_kept_by_variant(tmp_path: Path) -> None:
    layer = Layer(Descriptor(LAYER_GZIP, Digest.of(b"blob"), 5), Digest.of(b"tar"))
    with LocalCache(str(tmp_path / "cache.db")) as cache:
        cache.record_packed(IDENTITY, "gzip 5", layer)
        assert cache.packed(IDENTITY, "gzip 5") == layer
        assert cache.packed(IDENTITY, "zstd 3") is None


def test_packed_layers_keep_what_their_table_is_found_by(tmp_path: Path) -> None:
    annotations = {"containerd.io/snapshot/stargz/toc.digest": f"sha256:{'3' * 64}"}
    descriptor = Descriptor("application/x", Digest("sha256", "1" * 64), 3, annotations)
    layer = Layer(descriptor, Digest("sha256", "2" * 64))
    with LocalCache(str(tmp_path / "cache.db")) as cache:
        cache.record_packed(IDENTITY, "estargz", layer)
        assert cache.packed(IDENTITY, "estargz") == layer


def test_an_assembled_manifest_is_remembered(tmp_path: Path) -> None:
    descriptor = Descriptor(MANIFEST, Digest.of(b"manifest"), 9)
    with LocalCache(str(tmp_path / "cache.db")) as cache:
        cache.remember(KEY, descriptor)
        assert cache.recall(KEY) == descriptor


def test_CR08_garbage_is_set_aside_and_said(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    path.write_bytes(b"this is no database" * 1000)
    with LocalCache(str(path)) as cache:
        assert "could not be read" in cache.notice
        cache.record(KEY, RECORD)
        assert cache.lookup(KEY) == RECORD
    assert (tmp_path / "cache.db.bak-1").exists()


def test_CR08_a_newer_schema_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.commit()
    database.close()
    with LocalCache(str(path)) as cache:
        assert "newer" in cache.notice and cache.lookup(KEY) is None


def test_threads_share_it(tmp_path: Path) -> None:
    with LocalCache(str(tmp_path / "cache.db")) as cache:

        def work(number: int) -> None:
            for step in range(20):
                cache.record(Digest.of(f"{number}/{step}".encode()), RECORD)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert cache.lookup(Digest.of(b"7/19")) == RECORD


def test_two_processes_may_have_it_open(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.db")
    with LocalCache(path) as one, LocalCache(path) as other:
        one.record(KEY, RECORD)
        assert other.lookup(KEY) == RECORD


@contextmanager
def written_elsewhere(path: str) -> Iterator[sqlite3.Connection]:
    """Another connection in the middle of a write."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    yield other
    other.close()


class Stop(Exception):
    """What ends a build."""


def stop() -> None:
    raise Stop


def test_waiting_for_another_process_ends_with_the_build(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.db")
    with LocalCache(path, stop) as cache, written_elsewhere(path):
        started = time.monotonic()
        with pytest.raises(Stop):
            cache.record(KEY, RECORD)
        assert time.monotonic() - started < 1


def test_another_process_that_writes_is_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.db")
    with LocalCache(path) as cache, written_elsewhere(path) as other:
        threading.Timer(0.5, other.execute, ["COMMIT"]).start()
        cache.record(KEY, RECORD)
        assert cache.lookup(KEY) == RECORD


def test_CR08_a_locked_database_is_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assembler.cache.local._PATIENCE", 0.3)
    path = str(tmp_path / "cache.db")
    with written_elsewhere(path), pytest.raises(StoreError, match="has had the cache"):
        LocalCache(path)
    assert not list(tmp_path.glob("*.bak*"))
