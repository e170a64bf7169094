"""Entries that are in a file because they are many: they are what they were (T15)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assembler.errors import NoSpace
from assembler.layer import entry_map, index, rows, spill
from assembler.layer.changeset import Entry, InlineBytes, Kind, RangeBytes, walk_order
from assembler.layer.digest_map import DigestMap
from assembler.layer.entry_map import EntryMap, SpilledChangeset, changeset_tree
from assembler.layer.index import LayerIndex, of_members
from assembler.layer.members import MemberBytes, Members, Numbers
from assembler.layer.tree import ChangesetTree, LayerTree, MergedTree, everything
from assembler.oci.digest import Digest
from tests.layer.archives import tar
from tests.layer.test_stacks import STACKS, indexed, modelled

MEMBERS = cast(Members, object())


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three entries are many, and so are two rows."""
    monkeypatch.setattr(entry_map, "_MOST", 3)
    monkeypatch.setattr(entry_map, "_CHUNK", 2)
    monkeypatch.setattr(rows, "_MOST", 2)
    monkeypatch.setattr(index, "_LOGGED", 2)
    yield


def entry(path: str, number: int) -> Entry:
    sources: tuple[Any, ...] = (
        MemberBytes(number, number, MEMBERS), RangeBytes("p", number, 1), InlineBytes(b"x"), None,
    )  # fmt: skip
    inode = (-7, number) if number % 5 == 0 else None
    return Entry(path, Kind.FILE, 0o4755, 1, 2, -3, number, xattrs=(("user.\udcff", b"\0"),),
                 source=sources[number % 4], inode=inode)  # fmt: skip


def all_of(one: Entry) -> tuple[object, ...]:
    return tuple(one)


NAMES = st.sampled_from(["a", "b", "a\1", "a b", "\u00e9", "\udcff", "\U0001f600", "A"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
CHANGES = st.lists(st.tuples(st.sampled_from("pppprb"), PATHS, st.integers(0, 20)), max_size=40)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=CHANGES, listing=st.booleans())
def test_a_map_in_a_file_is_what_one_in_memory_is(
    little: None, tmp_path: Path, changes: list[tuple[str, str, int]], listing: bool
) -> None:
    kept, plain = EntryMap(str(tmp_path), listing=listing), dict[str, Entry]()
    for what, path, number in changes:
        gone = [one for one in plain if one.startswith(f"{path}/")]
        if what == "p":
            plain[path] = entry(path, number)
            kept.put(plain[path])
        elif what == "r":
            plain.pop(path, None)
            kept.remove(path)
        else:
            assert kept.remove_below(path) is bool(gone)
            for one in gone:
                del plain[one]
        found, was = kept.get(path), plain.get(path)
        assert (found is None) is (was is None) and (path in kept) is (path in plain)
        assert found is None or was is None or all_of(found) == all_of(was)
    order: Callable[[str], object] = walk_order
    if listing:
        order = lambda path: (walk_order(path.rpartition("/")[0]), path)  # noqa: E731
    assert list(kept.paths()) == sorted(plain, key=order)
    assert list(map(all_of, kept.entries())) == [all_of(plain[one]) for one in kept.paths()]
    below = [one for one in plain if one.startswith("a/")]
    assert sorted(one.path for one in kept.below("a")) == sorted(below)
    children = kept.children()
    for top in ("", "a", "a/b", "none"):
        names = sorted(one for one in plain if one.rpartition("/")[0] == top)
        assert [one.path for one in children(top)] == names
    assert not list(tmp_path.iterdir())  # the file has no name


def test_a_changeset_in_a_file_is_what_one_in_memory_is(little: None, tmp_path: Path) -> None:
    choose = random.Random(1)
    spilled, plain = EntryMap(str(tmp_path)), EntryMap("", most=1_000)
    for number in range(300):
        path = "/".join(choose.choices("abcdé", k=choose.randint(1, 3)))
        parts = path.split("/")
        for depth in range(1, len(parts)):
            above = Entry("/".join(parts[:depth]), Kind.DIRECTORY)
            spilled.put(above)
            plain.put(above)
        made = entry(path, number % 20)._replace(inode=(0, number % 20))
        if choose.random() < 0.3 or spilled.get(path) is None:
            spilled.put(made)
            plain.put(made)
    changeset, expected = spilled.changeset(), plain.changeset()
    assert isinstance(changeset, SpilledChangeset) and isinstance(expected, tuple)
    assert list(map(all_of, changeset)) == list(map(all_of, expected))
    assert len(changeset) == len(expected) and expected[5] in changeset
    assert sum(one.kind is Kind.HARDLINK for one in changeset) > 20
    tree = ChangesetTree(expected)
    for top in ("", *(one.path for one in expected)):
        found, was = changeset.lookup(top), tree.lookup(top)
        assert found == was and (found and found.source) == (was and was.source)
        assert list(changeset.children(top)) == list(tree.children(top))
    assert changeset.lookup("none") is None and not changeset.opaque("a")


def test_files_of_different_changesets_in_files_are_never_one_file(tmp_path: Path) -> None:
    layers: list[LayerTree] = []
    for name in "ab":
        kept = EntryMap(str(tmp_path), most=1)
        for number in (1, 2):
            kept.put(entry(f"{name}{number}", 1)._replace(inode=(0, 1)))
        layers.append(changeset_tree(kept.changeset()))
        assert isinstance(layers[-1], SpilledChangeset)
    found = {one.path: one.link for one in everything(MergedTree(layers))}
    assert found == {"": "", "a1": "", "a2": "a1", "b1": "", "b2": "b1"}
    first, second = layers[0].lookup("a1"), layers[0].lookup("a2")
    assert first is not None and second is not None
    assert first.inode == second.inode and second == first.at("a2")


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "_SETTINGS", spill._SETTINGS + "PRAGMA max_page_count = 20;")
    kept = EntryMap(str(tmp_path), most=50)
    with pytest.raises(NoSpace, match="no space left"):
        for number in range(5_000):
            kept.put(entry(f"a/{number}", number))
    assert not list(tmp_path.iterdir())


def test_digests_in_a_file_are_those_that_were_put(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("assembler.layer.digest_map._MOST", 7)
    digests = DigestMap(str(tmp_path))
    sources = [RangeBytes("".join(("a", "b")), number, 1) for number in range(50)]
    sources += [MemberBytes(number, 1, MEMBERS) for number in range(50)]  # type: ignore[misc]
    for number, source in enumerate(sources):
        digests.put(source, b"%d" % number)
    assert len(digests) == 100 and set(digests) == set(sources)
    for number in range(50):
        assert digests[RangeBytes("ab", number, 1)] == b"%d" % number
        assert digests[MemberBytes(number, 1, MEMBERS)] == b"%d" % (50 + number)
    for absent in (RangeBytes("ab", 1, 2), MemberBytes(1, 1), InlineBytes(b"x")):
        assert absent not in digests


def test_numbers_are_a_set() -> None:
    numbers = Numbers([5, 0, 70_000, 5, 8])
    assert list(numbers) == [0, 5, 8, 70_000] and numbers.last == 70_000
    assert 7 not in numbers and 70_001 not in numbers and 1 << 40 not in numbers
    assert Numbers().last == -1 and 0 not in Numbers()


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=50)
@given(layers=STACKS)
def test_TR02_an_index_of_many_says_the_same(
    little: None, tmp_path: Path, layers: list[list[Entry]]
) -> None:
    archives = [tar(*entries) for entries in layers]
    assert indexed(archives, str(tmp_path)) == modelled(layers)


@pytest.mark.parametrize("first", ["b", "a"])
def test_blocks_are_read_as_they_were_written(little: None, tmp_path: Path, first: str) -> None:
    """Of a layer that stands on its own, and of one that does not."""
    entries = [Entry("a", Kind.DIRECTORY), Entry("b", Kind.DIRECTORY)][first == "b" :]
    entries += [entry(f"a/{number:02}", number)._replace(source=None) for number in range(50)]
    id = Digest.of(b"x")
    made = of_members(entries, id, spool=str(tmp_path))
    assert made.settled is (first == "a") and len(made.blocks) > 20
    again = LayerIndex.parse(b"".join(made.serialise()), id)
    assert again == made and sorted(again.entries(None)) == sorted(entries)
    if made.settled:
        assert list(again.below("a", None)) == [f"{number:02}" for number in range(50)]
        assert list(again.below("", None)) == ["a", "b"] and not again.below("c", None)
