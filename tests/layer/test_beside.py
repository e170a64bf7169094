"""Trees of several platforms as one."""

from __future__ import annotations

import pytest

from assembler.errors import BadArchive
from assembler.layer.beside import Beside, Together
from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.tree import ChangesetTree, Tree, everything


def tree(*entries: Entry) -> Tree:
    return ChangesetTree(entries)


def file(path: str, text: str = "x", mode: int = 0o644) -> Entry:
    return Entry(path, Kind.FILE, mode, size=len(text), source=InlineBytes(text.encode()))


def directory(path: str, mode: int = 0o755) -> Entry:
    return Entry(path, Kind.DIRECTORY, mode)


def link(path: str, first: str) -> Entry:
    return Entry(path, Kind.HARDLINK, link=first)


def text(found: Tree, path: str) -> str:
    entry = found.lookup(path)
    assert entry is not None and entry.source is not None
    with entry.source.open() as stream:
        return stream.read().decode()


ONE = tree(directory("d", 0o700), file("d/a", "one"), link("d/b", "d/a"))
TWO = tree(directory("d"), file("d/a", "two"), link("d/b", "d/a"), file("e"))


def test_each_is_in_a_directory_of_its_own() -> None:
    found = Beside({"two": TWO, "one": ONE})
    assert [(entry.path, entry.kind.name, entry.link) for entry in everything(found)] == [
        ("", "DIRECTORY", ""),
        ("one", "DIRECTORY", ""),
        ("one/d", "DIRECTORY", ""),
        ("one/d/a", "FILE", ""),
        ("one/d/b", "HARDLINK", "one/d/a"),
        ("two", "DIRECTORY", ""),
        ("two/d", "DIRECTORY", ""),
        ("two/d/a", "FILE", ""),
        ("two/d/b", "HARDLINK", "two/d/a"),
        ("two/e", "FILE", ""),
    ]
    assert (text(found, "one/d/a"), text(found, "two/d/a")) == ("one", "two")
    assert [found.lookup(path) for path in ("three", "three/d", "one/no")] == [None] * 3
    assert list(found.children("three/d")) == []
    inside = found.lookup("one/d")
    assert inside is not None and inside.mode == 0o700


def test_what_two_trees_share_is_no_hard_link_between_them() -> None:
    found = Beside({"one": ONE, "two": ONE})
    links = [entry.link for entry in everything(found) if entry.kind is Kind.HARDLINK]
    assert links == ["one/d/a", "two/d/a"]


def test_together_they_may_have_directories_in_common() -> None:
    other = tree(directory("d"), file("d/c", "three"), link("d/x", "d/c"), file("f"))
    found = Together({"linux/amd64": ONE, "linux/arm64": other})
    assert [entry.path for entry in everything(found)] == [
        "", "d", "d/a", "d/b", "d/c", "d/x", "f",
    ]  # fmt: skip
    links = {entry.path: entry.link for entry in everything(found) if entry.link}
    assert links == {"d/b": "d/a", "d/x": "d/c"}
    assert text(found, "d/c") == "three"
    assert list(found.children("f")) == []


@pytest.mark.parametrize("other", [file("d/a"), file("d"), Entry("d", Kind.SYMLINK, link="x")])
def test_together_nothing_takes_the_place_of_another_thing(other: Entry) -> None:
    above = (directory("d"),) if other.parent else ()
    found = Together({"linux/amd64": ONE, "linux/arm64": tree(*above, other)})
    with pytest.raises(BadArchive, match=f"'{other.path}' of linux/arm64 would take the place"):
        list(everything(found))
