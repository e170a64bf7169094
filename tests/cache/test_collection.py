"""Collecting after builds: within the bounds, without looking through the store each time."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from assembler.cache import measured, usage
from assembler.cache.bounds import Bounds, Space
from assembler.cache.collection import collect, due, lacks_space
from assembler.cache.local import LocalCache
from assembler.cancellation import Cancellation
from assembler.oci.descriptor import MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.store.store import Store
from tests.ticks import tick

BLOCK = 100_000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def layer(store: Store, letter: str) -> Path:
    """A layer directory of 100 kB and a bit, which was used just now."""
    path = Path(store.path, "layers", "full", letter * 64)
    path.mkdir(parents=True)
    (path / "file").write_bytes(b"x" * BLOCK)
    with Store.open(store.path) as other:
        other.hold(f"layers/full/{path.name}")
    return path


def at(store: Store, bounds: Bounds, now: float = 0) -> None:
    """Collect in `store`, an hour from now: by then every directory is old."""
    with (
        Cancellation() as cancellation,
        LocalCache(os.path.join(store.path, "cache.db")) as cache,
    ):
        collect(store, cache, bounds, now or time.time() + 3600, cancellation)


def bound(most: int) -> Bounds:
    return Bounds(max_used=Space(most))


def test_spaces_are_bytes_or_a_share_of_the_file_system() -> None:
    assert Space(5).of(1000) == 5
    assert Space(percent=10).of(1000) == 100
    assert not Bounds() and not Bounds(max_used=Space(0)) and Bounds(min_free=Space(percent=1))


def test_a_store_within_its_bounds_is_looked_through_once(store: Store) -> None:
    layer(store, "a")
    assert due(store.path, bound(10 * BLOCK), time.time())
    at(store, bound(10 * BLOCK))
    assert not due(store.path, bound(10 * BLOCK), time.time())
    tick(Path(store.path))
    layer(store, "b")
    assert due(store.path, bound(10 * BLOCK), time.time())


def test_a_store_that_holds_too_much_is_due_until_it_does_not(store: Store) -> None:
    oldest, newest = layer(store, "a"), layer(store, "b")
    at(store, bound(10 * BLOCK))
    assert due(store.path, bound(BLOCK + BLOCK // 2), time.time())
    at(store, bound(BLOCK + BLOCK // 2))
    assert not oldest.exists() and newest.exists()
    at(store, bound(BLOCK + BLOCK // 2))
    assert not due(store.path, bound(BLOCK + BLOCK // 2), time.time())


def test_what_is_free_is_enough_or_the_store_is_due(store: Store) -> None:
    layer(store, "a")
    at(store, Bounds(min_free=Space(1)))
    enough, more = Bounds(min_free=Space(1)), Bounds(min_free=Space(1 << 60))
    assert not due(store.path, enough, time.time()) and not lacks_space(store.path, enough)
    assert due(store.path, more, time.time()) and lacks_space(store.path, more)


def test_what_was_used_within_the_time_to_keep_it_stays_whatever_the_bounds(store: Store) -> None:
    path = layer(store, "a")
    now = time.time()
    bounds = Bounds(max_used=Space(1), keep=3600)
    at(store, bounds, now + 60)
    assert path.exists() and not due(store.path, bounds, now + 3000)
    assert due(store.path, bounds, now + 4000)
    at(store, bounds, now + 4000)
    assert not path.exists()


def test_what_was_not_used_for_the_time_to_keep_it_goes_without_other_bounds(store: Store) -> None:
    path = layer(store, "a")
    now = time.time()
    at(store, Bounds(keep=3600), now + 60)
    assert path.exists() and not due(store.path, Bounds(keep=3600), now + 3000)
    at(store, Bounds(keep=3600), now + 4000)
    assert not path.exists()


def test_internal_records_go_when_all_others_are_not_enough(store: Store) -> None:
    path = layer(store, "a")
    index = Path(store.path, "indexes", "sha256", "d" * 64)
    index.parent.mkdir(parents=True)
    index.write_bytes(b"x" * BLOCK)
    at(store, bound(BLOCK + BLOCK // 2))
    assert not path.exists() and index.exists()
    at(store, bound(BLOCK // 2))
    assert not index.exists()


def test_what_somebody_holds_stays(store: Store) -> None:
    path = layer(store, "a")
    with Store.open(store.path) as other:
        other.hold(f"layers/full/{'a' * 64}")
        at(store, bound(1))
        assert path.exists() and due(store.path, bound(1), time.time())
    at(store, bound(1))
    assert not path.exists()


def test_files_of_a_layer_are_counted_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    layer(store, "a")
    at(store, bound(10 * BLOCK))
    scanned: list[str] = []
    real = usage._scanned

    def scan(path: str) -> Iterable[os.DirEntry[str]]:
        scanned.append(path)
        return real(path)

    monkeypatch.setattr(usage, "_scanned", scan)
    (found,) = usage.usages(store.path, {}, time.time(), lambda: None)
    assert found.size >= BLOCK and not scanned
    made_again = layer(store, "b")
    sizes = {one.id[0]: one.size for one in usage.usages(store.path, {}, time.time(), lambda: None)}
    assert scanned == [str(made_again)] and sizes["b"] == sizes["a"]


def test_a_layer_that_was_made_anew_is_counted_anew(store: Store) -> None:
    path = layer(store, "a")
    at(store, bound(10 * BLOCK))
    (path / "file").unlink()
    path.rmdir()
    tick(Path(store.path))
    path.mkdir()
    (found,) = usage.usages(store.path, {}, time.time(), lambda: None)
    assert found.size < BLOCK


def test_layers_whose_blocks_may_still_change_are_not_noted(store: Store) -> None:
    path = layer(store, "a")
    at(store, bound(10 * BLOCK), path.stat().st_ctime + 59)
    assert measured.sizes(store.path) == {}
    assert measured.read(store.path) is not None


@pytest.mark.parametrize(
    "content", [b"", b"1 x", b"2 a 5 inf\n", b"\xff\xfe", b"1 a 5 inf\nx y z\n1 2\n", b"1 a b c\n"]
)
def test_a_garbled_note_is_none(store: Store, content: bytes) -> None:
    layer(store, "a")
    Path(store.path, "measured").write_bytes(content)
    assert due(store.path, bound(10 * BLOCK), time.time())
    assert measured.sizes(store.path) == {}
    (found,) = usage.usages(store.path, {}, time.time(), lambda: None)
    assert found.size >= BLOCK


def test_an_empty_store_has_no_oldest(store: Store) -> None:
    at(store, bound(1))
    known = measured.read(store.path)
    assert known is not None and (known.counted, known.oldest) == (0, math.inf)


def test_a_note_that_cannot_be_written_is_done_without(store: Store) -> None:
    Path(store.path, "measured").mkdir()
    at(store, bound(10 * BLOCK))
    assert due(store.path, bound(10 * BLOCK), time.time())


def test_an_image_that_gets_its_name_again_changes_nothing(store: Store) -> None:
    one, two = (Descriptor(MANIFEST, Digest.of(text), 1) for text in (b"one", b"two"))
    store.refs.set("one:1", one)
    store.refs.set("two:1", two)
    before = measured.fingerprint(store.path)
    store.refs.set("one:1", one)
    assert measured.fingerprint(store.path) == before
    store.refs.remove("one:1")
    assert measured.fingerprint(store.path) != before
