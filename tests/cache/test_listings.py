"""Listings of a shared cache: in one blob within bounds, asked for once, and only words come of them."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator

import pytest

from assembler.cache import listings as module
from assembler.cache.document import MAX_LISTINGS, CachedListings
from assembler.cache.listings import PATIENCE, Offer, Offers, bundled, parsed, part
from assembler.oci.descriptor import CACHE_LISTINGS
from assembler.oci.digest import Digest
from assembler.store.listings import packed

ONE, OTHER, THIRD = sorted(Digest.of(text) for text in (b"1", b"2", b"3"))
FILES = {
    "": "d 755 0:0  ",
    "src": "d 755 0:0  ",
    "src/a\n": f"- 4755 0:0 0123abcd {'4' * 32}",
    os.fsdecode(b"src/\xff"): "l 777 1000:4294967295  x y\n",
    "src/d": "c 600 0:0  1:3",
}


def test_listings_are_one_blob_whatever_order_they_were_in() -> None:
    contents = {OTHER: packed(FILES), ONE: packed({})}
    made = bundled(contents)
    assert made is not None and made == bundled(dict(reversed(contents.items())))
    listings, blob = made
    assert list(listings.sizes) == [ONE, OTHER]
    assert (listings.blob.media_type, listings.blob.size) == (CACHE_LISTINGS, len(blob))
    assert listings.blob.digest.matches(blob)
    assert {one: part(listings, blob, one) for one in contents} == contents
    assert parsed(part(listings, blob, OTHER)) == FILES
    assert parsed(part(listings, blob, ONE)) == {}


def test_none_are_no_blob() -> None:
    assert bundled({}) is None
    assert bundled({ONE: bytes(MAX_LISTINGS + 1)}) is None


def test_M7_the_largest_are_left_out_where_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contents = {ONE: bytes(MAX_LISTINGS), OTHER: b"22", THIRD: b"333"}
    made = bundled(contents)
    assert made is not None and made[0].sizes == {OTHER: 2, THIRD: 3}
    whole = bundled({ONE: bytes(MAX_LISTINGS - 5), OTHER: b"22", THIRD: b"333"})
    assert whole is not None and len(whole[1]) == MAX_LISTINGS
    monkeypatch.setattr(module, "MANY_LISTINGS", 1)
    made = bundled(contents)
    assert made is not None and made[0].sizes == {OTHER: 2}


def of(text: str) -> bytes:
    return zlib.compress(text.encode("utf-8", "surrogateescape"))


FILE = "- 644 0:0  "


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbled",
        packed(FILES)[:-4],
        packed(FILES) + b"more",
        zlib.compress(bytes(3 * 250_000)),
        of("a"),
        of("a\0b\0" + FILE),
        of(f"a\0a\0{FILE}\0{FILE}"),
        *(
            of(f"{path}\0{FILE}")
            for path in ("/etc", "..", "a/../b", "a//b", "./a", "a/", "x" * 5000)
        ),
        *(
            of(f"a\0{text}")
            for text in (
                "", "-", "x 644 0:0  ", "- 888 0:0  ", "- 644 root:0  ", "- 644 0:0", "- 644 ٣:0  ",
                "- 644 0:0 0123456789 ", "- 12345678 0:0  ", "l 777 0:0  " + "x" * 5000,
            )
        ),
    ],
)  # fmt: skip
def test_M7_what_no_build_lists_is_no_listing(content: bytes) -> None:
    assert parsed(content) is None


def test_M7_what_inflates_to_more_than_a_listing_has_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LARGEST", 40)
    assert parsed(packed(FILES)) is None
    assert parsed(of(f"a\0{FILE}")) == {"a": FILE}


class Place:
    """Has a blob, if any, and takes `seconds` to give it."""

    def __init__(self, content: bytes | None, listings: CachedListings, seconds: float = 0) -> None:
        self.content = content
        self.listings = listings
        self.seconds = seconds
        self.asked: list[float] = []
        self.now = 0.0

    def fetch(self, seconds: float) -> bytes | None:
        self.asked.append(seconds)
        self.now += self.seconds
        return self.content


def offers(*places: Place) -> Offers:
    def known() -> Iterator[Offer]:
        for number, place in enumerate(places):
            yield Offer(f"place {number}", place.listings, place.fetch)

    return Offers(known, lambda: sum(place.now for place in places))


def made(*selections: Digest, garbled: bool = False) -> tuple[CachedListings, bytes]:
    found = bundled({one: b"garbled" if garbled else packed(FILES) for one in selections})
    assert found is not None
    return found


def test_a_blob_is_asked_for_when_it_has_what_is_wanted_and_once() -> None:
    listings, blob = made(ONE, OTHER)
    place = Place(blob, listings)
    found = offers(place)
    assert found.find(THIRD) is None
    assert place.asked == []
    assert found.find(ONE) == found.find(OTHER) == (packed(FILES), FILES)
    assert place.asked == [PATIENCE]


def test_who_has_it_not_or_has_something_else_is_asked_once_and_then_the_next() -> None:
    listings, blob = made(ONE)
    gone = Place(None, listings)
    garbled = Place(made(ONE, garbled=True)[1], made(ONE, garbled=True)[0])
    right = Place(blob, listings)
    found = offers(gone, garbled, right)
    for _ in range(2):
        assert found.find(ONE) == (packed(FILES), FILES)
    assert [len(place.asked) for place in (gone, garbled, right)] == [1, 1, 1]


def test_nobody_is_waited_for_when_patience_is_at_its_end() -> None:
    listings, blob = made(ONE)
    slow, slower = Place(None, listings, PATIENCE - 1), Place(None, listings, 2)
    late = Place(blob, listings)
    found = offers(slow, slower, late)
    assert found.find(ONE) is None
    assert (slow.asked, slower.asked, late.asked) == ([PATIENCE], [1], [])
