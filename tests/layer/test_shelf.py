"""Directories that are packed away when others are in use: they hold what they held."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings

from assembler.layer import index as indexes
from assembler.layer import placement, shelf
from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.index import LayerIndex, of_members
from assembler.layer.members import MemberBytes, Members
from assembler.layer.shelf import Shelf
from assembler.oci.digest import Digest
from tests.layer.archives import tar
from tests.layer.test_stacks import STACKS, indexed, modelled

MEMBERS = cast(Members, object())


@pytest.fixture
def always_packed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All but the directory that was asked for last are packed."""
    monkeypatch.setattr(shelf, "_LAST", 1)
    monkeypatch.setattr(placement, "Shelf", partial(Shelf, warm=0))
    monkeypatch.setattr(indexes, "_HELD", 3)
    yield


def entry(path: str, number: int) -> Entry:
    source: Any = MemberBytes(number, number, MEMBERS) if number % 3 else InlineBytes(b"x")
    inode = (-7, number) if number % 5 == 0 else None
    return Entry(path, Kind.FILE, 0o4755, 1, 2, 3, number, xattrs=(("user.x", b"\0"),),
                 source=source, inode=inode)  # fmt: skip


def test_what_was_packed_comes_back_whole(always_packed: None) -> None:
    kept, plain = Shelf(warm=10), dict[str, dict[str, Entry]]()
    choose = random.Random(1)
    for number in range(3_000):
        path = f"d{choose.randrange(40)}"
        if choose.random() < 0.05 and path in plain:
            assert kept.pop(path) == plain.pop(path)
            continue
        kept.add(path)
        plain.setdefault(path, {})
        made = entry(f"{path}/é{number}", number)
        kept[path][made.name] = plain[path][made.name] = made
    assert list(kept.items()) == sorted(plain.items())
    for path, names in plain.items():
        for name, was in names.items():
            found = kept[path][name]
            assert (found.source, found.inode) == (was.source, was.inode)
            if isinstance(found.source, MemberBytes):
                assert found.source.members is MEMBERS
    assert kept.get("none") is None and "none" not in kept
    with pytest.raises(KeyError):
        kept["none"]


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=50)
@given(layers=STACKS)
def test_TR02_an_index_that_packs_all_it_can_says_the_same(
    always_packed: None, layers: list[list[Entry]]
) -> None:
    assert indexed([tar(*entries) for entries in layers]) == modelled(layers)


@pytest.mark.parametrize("first", ["b", "a"])
def test_rows_are_what_they_would_be_in_one_go(monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    """Of a layer that stands on its own, and of one that does not."""
    entries = [Entry("a", Kind.DIRECTORY), Entry("b", Kind.DIRECTORY)][first == "b" :]
    entries += [entry(f"a/{number}", number)._replace(source=None) for number in range(50)]
    id = Digest.of(b"x")
    whole = of_members(entries, id)
    assert whole.settled is (first == "a")
    monkeypatch.setattr(indexes, "_HELD", 7)
    in_pieces = of_members(entries, id)
    assert in_pieces.rows == whole.rows
    assert LayerIndex.parse(in_pieces.serialise(), id).rows == whole.rows


def test_rows_are_parsed_in_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [Entry("a", Kind.DIRECTORY)]
    entries += [entry(f"a/{number}", number)._replace(source=None) for number in range(50)]
    made = of_members(entries, Digest.of(b"x"))
    whole = made.below("a", None)
    assert len(whole) == 50
    longest = max(map(len, made.rows.split(b"]],"))) + 40
    for size in range(longest, longest + 30):
        monkeypatch.setattr(indexes, "_STRETCH", size)
        assert made.below("a", None) == whole
