"""What COPYs selected: kept by digest, within bounds, and never believed when it is garbled."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from assembler.oci.digest import Digest
from assembler.store import listings as module
from assembler.store.listings import Listings, packed

ONE, OTHER, THIRD = (str(Digest.of(text)) for text in (b"1", b"2", b"3"))
FILES = {"src/a": "- 644 0:0  11", os.fsdecode(b"\xff\n"): "l 777 0:0  x y"}


@pytest.fixture
def listings(tmp_path: Path) -> Listings:
    return Listings(str(tmp_path / "listings"))


def test_what_is_saved_is_loaded(listings: Listings) -> None:
    assert listings.load(ONE) is None
    listings.save(ONE, FILES)
    listings.save(OTHER, {})

    assert (listings.load(ONE), listings.load(OTHER)) == (FILES, {})


def test_what_is_there_is_not_written_again(listings: Listings, tmp_path: Path) -> None:
    listings.save(ONE, FILES)
    (path,) = (tmp_path / "listings").iterdir()
    os.utime(path, (1, 1))
    before = path.stat()
    listings.save(ONE, FILES)
    assert path.stat().st_ino == before.st_ino and path.stat().st_mtime > 1


@pytest.mark.parametrize(
    "garble", [lambda whole: b"garbled", lambda whole: whole[:-3], lambda whole: b""]
)
def test_what_is_garbled_or_cut_short_is_not_known_and_is_kept_anew(
    listings: Listings, tmp_path: Path, garble: Callable[[bytes], bytes]
) -> None:
    listings.save(ONE, FILES)
    (path,) = (tmp_path / "listings").iterdir()
    path.write_bytes(garble(path.read_bytes()))

    assert listings.load(ONE) is None
    listings.save(ONE, FILES)
    assert listings.load(ONE) == FILES


def test_the_same_files_give_the_same_bytes(listings: Listings) -> None:
    listings.save(ONE, FILES)
    listings.save(OTHER, dict(reversed(FILES.items())))
    assert listings.content(ONE, 1000) == listings.content(OTHER, 1000) == packed(FILES)
    assert listings.content(ONE, len(packed(FILES)) - 1) is None, "it has more bytes"
    assert listings.content(THIRD, 1000) is None


def test_what_another_machine_tells_holds_until_it_is_seen_here(listings: Listings) -> None:
    told = {"src/a": "- 644 0:0  22"}
    listings.take(ONE, packed(told))
    assert listings.load(ONE) == told
    listings.save(ONE, FILES)
    assert listings.load(ONE) == FILES
    listings.take(ONE, packed(told))
    assert listings.load(ONE) == FILES
    assert listings.content(ONE, 1000) == packed(FILES)


@pytest.mark.parametrize("digest", ["", "sha256:../../x", "sha256:1", "/" * 64, "x"])
def test_what_is_no_digest_is_no_path(listings: Listings, tmp_path: Path, digest: str) -> None:
    assert listings.load(digest) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bound", ["MANY", "MOST"])
def test_what_was_not_used_for_longest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    directory = tmp_path / "listings"
    listings = Listings(str(directory))
    listings.save(ONE, FILES)
    listings.save(OTHER, FILES)
    sizes = [path.stat().st_size for path in directory.iterdir()]
    for path in directory.iterdir():
        os.utime(path, (1, 1))
    (directory / ".left").touch()
    os.utime(directory / ".left", (1, 1))
    (directory / ".being-written").touch()
    listings.load(ONE)
    monkeypatch.setattr(module, bound, {"MANY": 2, "MOST": sum(sizes)}[bound])
    Listings(str(directory)).save(THIRD, FILES)

    assert listings.load(OTHER) is None
    assert listings.load(ONE) == listings.load(THIRD) == FILES
    assert [path.name for path in directory.iterdir() if path.name[0] == "."] == [".being-written"]
