"""The document of a shared cache: what is written is read again, and nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from assembler.cache.base import Record
from assembler.cache.document import (
    MANY_LISTINGS,
    MAX_LISTINGS,
    CachedLayer,
    CachedListings,
    CachedMount,
    CacheDocument,
    NewerVersion,
)
from assembler.oci.config import MAX_CONFIG
from assembler.oci.descriptor import (
    CACHE_LISTINGS,
    ESTARGZ_TOC,
    LAYER_GZIP,
    LAYER_ZSTD,
    Descriptor,
)
from assembler.oci.digest import Digest
from assembler.oci.image import Layer

KEY, OTHER, IDENTITY = Digest.of(b"key"), Digest.of(b"other"), Digest.of(b"identity")
RECORD = Record(IDENTITY, "2026-01-02T03:04:05Z", '{"step": "RUN x"}', 1767323045.5)
LAYER = Layer(
    Descriptor(LAYER_GZIP, Digest.of(b"blob"), 4, {ESTARGZ_TOC: f"sha256:{'3' * 64}"}),
    Digest.of(b"tar"),
)
MOUNT = CachedMount("ab" * 32, "/root/.cache", Layer(
    Descriptor(LAYER_ZSTD, Digest.of(b"mount"), 5), Digest.of(b"mount tar")))  # fmt: skip
LISTINGS = CachedListings(Descriptor(CACHE_LISTINGS, Digest.of(b"listings"), 8), {KEY: 3, OTHER: 5})
CACHE = CacheDocument(
    {KEY: RECORD, OTHER: RECORD},
    {IDENTITY: CachedLayer(LAYER, "gzip epoch=None")},
    (MOUNT,),
    LISTINGS,
)


def test_what_is_written_is_read_again() -> None:
    assert CacheDocument.parse(CACHE.serialise()) == CACHE


def test_the_same_content_gives_the_same_bytes() -> None:
    records = dict(reversed(CACHE.records.items()))
    turned = CacheDocument(records, CACHE.results, CACHE.mounts, LISTINGS)
    assert turned.serialise() == CACHE.serialise()


def test_what_is_read_is_from_where_it_was_read() -> None:
    read = CacheDocument.parse(CACHE.serialise(), "example.com/app:cache")
    assert read.records[KEY].source == "example.com/app:cache"
    assert "example.com" not in read.serialise().decode()


def test_a_blob_of_several_results_is_named_once() -> None:
    results = {key: CachedLayer(LAYER, "gzip epoch=None") for key in (IDENTITY, OTHER)}
    records = {KEY: RECORD, OTHER: Record(OTHER, "")}
    cache = CacheDocument(records, results)
    assert cache.blobs == (LAYER.descriptor,)
    assert len(json.loads(cache.serialise())["layers"]) == 1
    assert CacheDocument.parse(cache.serialise()).results == results


def test_a_step_may_be_known_whose_layer_is_nowhere() -> None:
    cache = CacheDocument({KEY: RECORD})
    assert CacheDocument.parse(cache.serialise()) == cache


def test_what_went_into_keys_can_be_left_out() -> None:
    content = CACHE.serialise(inputs=False)
    assert b"RUN x" not in content
    assert CacheDocument.parse(content).records[KEY].inputs == "{}"


def test_a_version_to_come_is_told_from_garbage() -> None:
    with pytest.raises(NewerVersion, match="version 2, this assemble knows 1"):
        CacheDocument.parse(b'{"version": 2, "anything": []}')


def test_of_a_layer_no_more_is_taken_than_images_say() -> None:
    document = json.loads(CACHE.serialise())
    document["layers"][0]["blob"] |= {"urls": ["http://elsewhere/"], "data": "YmxvYg=="}
    document["layers"][0]["blob"]["annotations"]["x"] = "y"
    assert CacheDocument.of(document) == CACHE


def test_every_blob_is_named_and_none_without_which_it_is_to_be() -> None:
    layers = [LAYER.descriptor, MOUNT.layer.descriptor]
    assert CACHE.blobs == (*layers, LISTINGS.blob)
    without = CACHE.without({LISTINGS.blob.digest})
    assert (without.blobs, without.listings) == (tuple(layers), None)
    assert CACHE.without({LAYER.descriptor.digest}).listings == LISTINGS


def test_of_the_blob_of_listings_no_more_is_taken_than_what_it_is() -> None:
    document = changed()
    document["listings"]["blob"] |= {"urls": ["http://elsewhere/"], "annotations": {"x": "y"}}
    assert CacheDocument.of(document) == CACHE


def changed(**fields: Any) -> dict[str, Any]:
    return json.loads(CACHE.serialise()) | fields


def in_step(**fields: Any) -> dict[str, Any]:
    document = changed()
    document["steps"][0] |= fields
    return document


def in_layer(**fields: Any) -> dict[str, Any]:
    document = changed()
    document["layers"][0]["blob"] |= fields
    return document


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"version": True, "steps": [], "layers": []},
        {"version": 0, "steps": [], "layers": []},
        {"version": 1},
        changed(steps=None),
        changed(steps=[1]),
        changed(layers={}),
        changed(layers=[{}]),
        changed(mounts=[{"name": "../x", "id": "", **changed()["layers"][0]}]),
        in_step(keys="sha256:"),
        in_step(keys=["sha256:../../etc"]),
        in_step(keys=[None]),
        in_step(identity=7),
        in_step(created=None),
        in_step(created="x" * 5000),
        in_step(created="yesterday"),
        in_step(created="2026-02-30T03:04:05Z"),
        in_step(created="2026-01-02T03:04:05+25:00"),
        in_step(ran=-1),
        in_step(ran=True),
        in_step(ran=1e300),
        in_step(inputs={}),
        in_step(inputs="["),
        in_step(inputs='{"step": "\ud800"}'),
        in_step(layer=1),
        in_step(layer=-1),
        in_step(layer=False),
        in_layer(size=-1),
        in_layer(size=1 << 80),
        in_layer(digest="md5:00"),
        in_layer(mediaType="text/html"),
    ],
)
def test_M4_M7_what_has_another_shape_is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        CacheDocument.of(document)


def in_listings(sizes: Any = None, **blob: Any) -> Any:
    listings = changed()["listings"]
    listings["blob"] |= blob
    return listings | ({} if sizes is None else {"sizes": sizes})


@pytest.mark.parametrize(
    "listings",
    [
        None,
        [],
        {},
        {"blob": {}},
        in_listings({}),
        in_listings([[str(KEY), 3], [str(KEY), 5]]),
        in_listings([[str(KEY), 8, 1]]),
        in_listings([[str(KEY), 7]]),
        in_listings([[str(KEY), 9], [str(OTHER), -1]]),
        in_listings([[str(KEY), 8.0]]),
        in_listings([[str(KEY), True], [str(OTHER), 7]]),
        in_listings([["sha256:../../etc", 8]]),
        in_listings([[None, 8]]),
        in_listings([[f"sha256:{n:064x}", 1] for n in range(2000)], size=2000),
        in_listings([[str(KEY), MAX_LISTINGS + 1]], size=MAX_LISTINGS + 1),
        in_listings(size=-1),
        in_listings(digest="md5:00"),
        in_listings(mediaType="application/vnd.assemble.cache.listings.v2"),
        in_listings(mediaType=LAYER_GZIP),
    ],
)
def test_M7_listings_of_another_shape_are_done_without(listings: Any) -> None:
    read = CacheDocument.of(changed(listings=listings))
    assert read == CacheDocument(CACHE.records, CACHE.results, CACHE.mounts)
    assert MANY_LISTINGS < 2000


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"version":1,"steps":[' + b"[]," * 300_000 + b"1]}",
        b" " * (MAX_CONFIG + 1),
        b'{"version": 1, "steps": NaN}',
    ],
)
def test_M7_what_is_too_much_or_no_json_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        CacheDocument.parse(content)


def test_M7_long_inputs_are_done_without() -> None:
    read = CacheDocument.of(in_step(inputs=json.dumps({"step": "x" * (64 << 10)})))
    assert {record.inputs for record in read.records.values()} == {"{}"}


def test_what_nobody_would_read_for_its_size_is_not_written() -> None:
    large = Record(IDENTITY, "", json.dumps({"x": "y" * MAX_CONFIG}))
    with pytest.raises(ValueError, match="bytes, more than"):
        CacheDocument({KEY: large}).serialise()
