"""Ignore rules over the files of a context (rules G4, G5, G7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as some

from assembler.context.filtered import FilteredTree, hidden_by
from assembler.context.tree import TreeContext
from assembler.dockerfile.ignore import IgnoreRules
from assembler.layer.changeset import Entry, Kind
from assembler.layer.tree import ChangesetTree, Tree
from assembler.source import Source


def rules(text: str) -> IgnoreRules:
    return IgnoreRules.parse(Source(".dockerignore", text))


def files(*paths: str) -> ChangesetTree:
    entries: dict[str, Entry] = {}
    for path in paths:
        parts = path.rstrip("/").split("/")
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            entries.setdefault(above, Entry(above, Kind.DIRECTORY))
        kind = Kind.DIRECTORY if path.endswith("/") else Kind.FILE
        entries["/".join(parts)] = Entry("/".join(parts), kind)
    return ChangesetTree(entries[path] for path in sorted(entries))


def walked(tree: Tree, directory: str = "") -> list[str]:
    found = []
    for entry in tree.children(directory):
        assert tree.lookup(entry.path) == entry
        found.append(entry.path)
        if entry.kind is Kind.DIRECTORY:
            found += walked(tree, entry.path)
    return found


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "a a/b a/b/c a/d e e/f"),
        ("a", "e e/f"),
        ("a/b", "a a/d e e/f"),
        ("a\n!a/b/c", "a a/b a/b/c e e/f"),
        ("a\n!a/d\na/b", "a a/d e e/f"),
        ("*\n!a/*/c", "a a/b a/b/c"),
        ("**\n!**/f", "e e/f"),
        ("*\n!a/none", ""),
        ("e/*\n!e/f\n", "a a/b a/b/c a/d e e/f"),
        ("a/b/c", "a a/b a/d e e/f"),
    ],
)
def test_G4_G5_what_is_shown(text: str, shown: str) -> None:
    assert walked(FilteredTree(files("a/b/c", "a/d", "e/f"), rules(text))) == shown.split()


def test_G5_an_empty_excluded_directory_is_not_shown() -> None:
    tree = FilteredTree(files("a/empty/", "b/"), rules("*\n!a/x\n"))
    assert walked(tree) == []


def test_G5_which_rule_hides_a_path() -> None:
    tree = files("d/x", "d/keep")
    applied = rules("# what is kept\nd/*\n!d/keep\n")
    assert hidden_by(tree, applied, "d/x") == ".dockerignore:2 d/*"
    for path in ("d/keep", "d", "d/none"):
        assert hidden_by(tree, applied, path) is None
    assert hidden_by(tree, None, "d/x") is None


def test_G7_archives_and_repositories_are_filtered_too() -> None:
    context = TreeContext("", files("a/b", "c"), rules("a"))
    assert walked(context.tree()) == ["c"]
    assert context.ignored("a/b") == ".dockerignore:1 a"


class Counted:
    """A tree that counts how often each directory is listed."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.listed: Counter[str] = Counter()

    def lookup(self, path: str) -> Entry | None:
        return self.tree.lookup(path)

    def children(self, path: str) -> Iterable[Entry]:
        self.listed[path] += 1
        return self.tree.children(path)


def test_excluded_directories_are_not_searched_without_need() -> None:
    counted = Counted(files("node_modules/a/b/c", "src/f"))
    walked(FilteredTree(counted, rules("node_modules\n!src/f\n")))
    assert not [path for path in counted.listed if path.startswith("node_modules")]


@pytest.mark.parametrize("kept", ["!**/f", "!**/none"])
def test_a_deep_excluded_tree_is_searched_once(kept: str) -> None:
    deep = "/".join("d" * 1000)
    counted = Counted(files(f"{deep}/f"))
    tree = FilteredTree(counted, rules(f"**\n{kept}\n"))
    pending = [""]
    shown = 0
    while pending:
        below = list(tree.children(pending.pop()))
        shown += len(below)
        pending += [entry.path for entry in below if entry.kind is Kind.DIRECTORY]
    assert shown == (1001 if kept == "!**/f" else 0)
    assert max(counted.listed.values()) <= 2


NAMES = some.sampled_from(["a", "b", "c.x"])
PATHS = some.lists(NAMES, min_size=1, max_size=3).map("/".join)
PATTERNS = some.lists(
    some.tuples(
        some.sampled_from(["", "!"]),
        some.lists(some.sampled_from(["a", "b", "*", "**", "*.x"]), min_size=1, max_size=3),
    ).map(lambda one: one[0] + "/".join(one[1])),
    max_size=4,
)


@given(paths=some.sets(PATHS, max_size=8), lines=PATTERNS)
def test_G4_G5_trees_agree_with_a_slow_model(paths: set[str], lines: list[str]) -> None:
    """Shown is what no rule excludes, and every directory above it (reference G4, G5)."""
    whole = {path for path in paths if not any(other.startswith(f"{path}/") for other in paths)}
    applied = rules("\n".join(lines))
    tree = files(*whole)
    included = {path for path in walked(tree) if applied.match(path) is None}
    expected = set(included)
    for path in included:
        while path := path.rpartition("/")[0]:
            expected.add(path)
    assert set(walked(FilteredTree(tree, applied))) == expected
