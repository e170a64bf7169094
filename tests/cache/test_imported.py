"""Caches from elsewhere behind the store's: asked late and in order, remembered, never believed twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from assembler.cache.base import Record
from assembler.cache.document import CachedLayer, CacheDocument
from assembler.cache.imported import Import, ImportedCache, Seen, exported
from assembler.cache.local import LocalCache
from assembler.cache.origins import Origins
from assembler.oci.descriptor import LAYER_GZIP, LAYER_ZSTD, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Layer

KEY, ALSO, IDENTITY = Digest.of(b"key"), Digest.of(b"also"), Digest.of(b"identity")
RECORD = Record(IDENTITY, "2026-01-02T03:04:05Z", '{"step": "RUN x"}', 7.0, "there:main")
LAYER = Layer(Descriptor(LAYER_GZIP, Digest.of(b"blob"), 4), Digest.of(b"tar"))
ZSTD = Layer(Descriptor(LAYER_ZSTD, Digest.of(b"zstd"), 3), Digest.of(b"tar"))
GZIP_5, GZIP_9 = "gzip/zlib-ng level=5 epoch=None", "gzip/zlib level=9 epoch=None"
ZSTD_3, ESTARGZ = "zstd/libzstd level=3 epoch=None", "estargz/1 zlib-ng level=5 epoch=None"
DOCUMENT = CacheDocument({KEY: RECORD, ALSO: RECORD}, {IDENTITY: CachedLayer(LAYER, GZIP_5)})


class Source:
    """A cache, and how often it was read."""

    def __init__(self, document: CacheDocument, place: str = "there/app") -> None:
        self.document = document
        self.read = 0
        self.made = Import(place, self._give)

    def _give(self) -> CacheDocument:
        self.read += 1
        return self.document


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalCache]:
    with LocalCache(str(tmp_path / "cache.db")) as cache:
        yield cache


def behind(local: LocalCache, *sources: Source, since: float | None = None) -> ImportedCache:
    return ImportedCache(local, [one.made for one in sources], lambda blob: True, since)


def test_nobody_is_asked_for_what_the_store_knows(local: LocalCache) -> None:
    source = Source(DOCUMENT)
    local.record(KEY, replace(RECORD, source=""))
    local.record_packed(IDENTITY, GZIP_5, LAYER)
    cache = behind(local, source)
    assert cache.lookup(KEY) == replace(RECORD, source="")
    assert cache.packed(IDENTITY, GZIP_5) == LAYER
    assert source.read == 0


def test_what_is_taken_is_the_stores_by_every_key(local: LocalCache) -> None:
    source = Source(DOCUMENT)
    assert behind(local, source).lookup(KEY) == RECORD
    assert behind(local).lookup(ALSO) == RECORD
    assert behind(local).packed(IDENTITY, GZIP_5) == LAYER
    assert Origins(local).of(LAYER.descriptor.digest) == ("there/app",)
    assert Origins(local).diff_ids(LAYER.descriptor.digest) == {LAYER.diff_id}


def test_caches_are_asked_in_order_and_each_is_read_once(local: LocalCache) -> None:
    first, second, third = Source(CacheDocument()), Source(DOCUMENT), Source(DOCUMENT)
    cache = behind(local, first, second, third)
    assert cache.lookup(Digest.of(b"unknown")) is None
    assert cache.lookup(KEY) == RECORD
    assert (first.read, second.read, third.read) == (1, 1, 1)
    other = behind(local, Source(DOCUMENT, "elsewhere/app"))
    local.change([("DELETE FROM steps", ())])
    other.lookup(KEY)
    assert set(Origins(local).of(LAYER.descriptor.digest)) == {"there/app", "elsewhere/app"}


def test_what_the_store_knows_otherwise_stays(local: LocalCache) -> None:
    own = Record(Digest.of(b"own"), "2026-02-02T02:02:02Z")
    local.record(ALSO, own)
    cache = behind(local, Source(DOCUMENT))
    assert cache.lookup(KEY) == RECORD
    assert cache.lookup(ALSO) == own


def test_a_layer_is_had_from_a_cache_that_was_not_asked_for_its_key(local: LocalCache) -> None:
    """The store knows the step, and gave up its bytes."""
    local.record(KEY, replace(RECORD, source=""))
    source = Source(DOCUMENT)
    cache = behind(local, source)
    cache.lookup(KEY)
    assert cache.packed(IDENTITY, GZIP_5) == LAYER


def test_nobody_is_asked_for_what_is_new(local: LocalCache) -> None:
    source = Source(DOCUMENT)
    cache = behind(local, source)
    assert cache.packed(Digest.of(b"just made"), GZIP_5) is None
    assert cache.otherwise(Digest.of(b"just made"), GZIP_5) is None
    assert source.read == 0


@pytest.mark.parametrize(
    ("has", "asked", "exact", "other"),
    [
        (GZIP_5, GZIP_5, True, False),
        (GZIP_9, GZIP_5, True, False),  # the same tar by another engine
        (ZSTD_3, GZIP_5, False, True),
        (GZIP_5, ZSTD_3, False, True),
        (ESTARGZ, GZIP_5, False, True),  # without the table behind its tar
        (GZIP_5, ESTARGZ, False, True),
        ("gzip/zlib-ng level=5 epoch=7", GZIP_5, False, False),
        ("gzip/zlib-ng level=5 epoch=7", ZSTD_3, False, False),
    ],
)
def test_which_layers_serve(
    local: LocalCache, has: str, asked: str, exact: bool, other: bool
) -> None:
    source = Source(CacheDocument({KEY: RECORD}, {IDENTITY: CachedLayer(LAYER, has)}))
    cache = behind(local, source)
    cache.lookup(KEY)
    assert cache.packed(IDENTITY, asked) == (LAYER if exact else None)
    assert cache.otherwise(IDENTITY, asked) == ((LAYER, has) if other else None)


def test_the_stores_own_layers_serve_in_another_compression_too(local: LocalCache) -> None:
    local.record_packed(IDENTITY, ZSTD_3, ZSTD)
    assert local.otherwise(IDENTITY, GZIP_5) == (ZSTD, ZSTD_3)
    assert local.otherwise(IDENTITY, ZSTD_3) is None


def test_B14_what_is_refused_is_never_taken_again(local: LocalCache) -> None:
    source = Source(DOCUMENT)
    cache = behind(local, source)
    cache.lookup(KEY)
    Origins(local).refuse(LAYER.descriptor.digest)
    source.made.refuse({LAYER.descriptor.digest})
    assert cache.packed(IDENTITY, GZIP_5) is None
    assert Origins(local).of(LAYER.descriptor.digest) == ()


def test_a_layer_that_cannot_be_had_is_not_taken(local: LocalCache) -> None:
    cache = ImportedCache(local, [Source(DOCUMENT).made], lambda blob: False)
    assert cache.lookup(KEY) == RECORD
    assert behind(local).packed(IDENTITY, GZIP_5) == LAYER  # known, for who can have it


def test_what_is_exported_is_what_was_seen_by_every_key_of_the_same_run(local: LocalCache) -> None:
    local.record(KEY, RECORD)
    local.record(ALSO, replace(RECORD, inputs='{"step": "RUN other"}'))
    local.record(Digest.of(b"of another build"), replace(RECORD, ran=9.0))
    local.record(Digest.of(b"unseen"), Record(Digest.of(b"x"), ""))
    seen = Seen(local)
    seen.lookup(KEY)
    found = exported(seen, Origins(local))
    assert found == {
        KEY: replace(RECORD, source=""),
        ALSO: replace(RECORD, inputs="{}", source=""),
    }


def test_M7_a_result_has_twenty_keys_at_most_besides_its_own(local: LocalCache) -> None:
    many = {Digest.of(b"%d" % number): RECORD for number in range(60)}
    content = {ALSO: replace(RECORD, inputs="{}")}
    source = Source(CacheDocument({**many, **content, KEY: RECORD, IDENTITY: RECORD}))
    assert behind(local, source).lookup(KEY) == RECORD
    kept = Origins(local).keys([IDENTITY])[IDENTITY]
    assert {KEY, ALSO, IDENTITY} < set(kept)
    assert len(kept) in (20, 21)
    for key in many:
        local.record(key, RECORD)
    seen = Seen(local)
    seen.lookup(KEY)
    found = exported(seen, Origins(local))
    assert {KEY, ALSO, IDENTITY} < set(found)
    assert len(found) in (20, 21)
    assert {found[key].inputs for key in found.keys() - {KEY, IDENTITY}} == {"{}"}


def test_prune_forgets_where_layers_are_only_with_the_rest(local: LocalCache) -> None:
    behind(local, Source(DOCUMENT)).lookup(KEY)
    local.forget(lambda blob: True, lambda identity: False)
    assert local.packed(IDENTITY, GZIP_5) == LAYER
    local.forget(lambda blob: True, lambda identity: True, lazy=True)
    assert local.packed(IDENTITY, GZIP_5) is None
    assert local.lookup(KEY) is None
    assert Origins(local).of(LAYER.descriptor.digest) == ()


def test_what_is_too_old_here_may_be_younger_elsewhere(local: LocalCache) -> None:
    local.record(KEY, replace(RECORD, source=""))
    young = Source(CacheDocument({KEY: replace(RECORD, ran=200.0)}))
    middle = Source(CacheDocument({KEY: replace(RECORD, ran=120.0)}))
    found = replace(RECORD, ran=200.0)
    assert behind(local, middle, young, since=150.0).lookup(KEY) == found
    assert behind(local, since=150.0).lookup(KEY) == found  # it took the place of the older one
    local.record(KEY, replace(RECORD, source=""))
    assert behind(local, middle, young, since=5.0).lookup(KEY) == replace(RECORD, source="")
    told = behind(local, middle, since=150.0).lookup(KEY)
    assert told == replace(RECORD, source=""), "whose age is told"
    assert behind(local, since=150.0).lookup(KEY) == replace(RECORD, source="")


def test_B14_a_blob_that_was_packed_here_is_not_taken_for_another_tar(local: LocalCache) -> None:
    """Two layers of a cache are exchanged: the first is refused, and made here, whose blob is what the
    cache says of the second."""
    other = Digest.of(b"other")
    lie = replace(LAYER, diff_id=Digest.of(b"another tar"))
    record = replace(RECORD, identity=other)
    cache = behind(local, Source(CacheDocument({KEY: record}, {other: CachedLayer(lie, GZIP_5)})))
    cache.lookup(KEY)
    assert cache.packed(other, GZIP_5) == lie, "as long as nothing contradicts it"

    cache.record_packed(IDENTITY, GZIP_5, LAYER)

    assert cache.packed(other, GZIP_5) is None
    assert cache.otherwise(other, ZSTD_3) is None
    assert cache.packed(IDENTITY, GZIP_5) == LAYER
