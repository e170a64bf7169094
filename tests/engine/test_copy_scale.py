"""COPY of very many files, of very deep trees, and of hostile ones: no work grows out of hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from assembler.context.filtered import FilteredTree
from assembler.dockerfile.ignore import IgnoreRules
from assembler.engine import content, copy
from assembler.engine.selection import select
from assembler.errors import CopySourceMissing
from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.tree import ChangesetTree, MergedTree, Tree
from assembler.source import Source
from tests.bounds import cpu_seconds

DEPTH = 5_000
DEEP = "/".join("d" * DEPTH)


class Counted:
    """A tree that counts what it is asked."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.asked = 0

    def lookup(self, path: str) -> Entry | None:
        self.asked += 1
        return self.tree.lookup(path)

    def children(self, path: str) -> Iterable[Entry]:
        self.asked += 1
        return self.tree.children(path)


def chain(depth: int = DEPTH) -> list[Entry]:
    """Directories in each other, with a file in the last."""
    path = "d"
    entries = [Entry(path, Kind.DIRECTORY)]
    for _ in range(depth - 1):
        path += "/d"
        entries.append(Entry(path, Kind.DIRECTORY))
    return [*entries, Entry(f"{path}/f", Kind.FILE, size=1, source=InlineBytes(b"x"))]


@pytest.fixture(scope="module")
def deep() -> ChangesetTree:
    return ChangesetTree(chain())


@pytest.mark.parametrize(
    ("instruction", "count"),
    [
        ("COPY . /x", DEPTH + 2),
        ("COPY d* /x", DEPTH + 1),
        ("COPY --parents d /x", DEPTH + 2),
        ("COPY --parents **/f /x", DEPTH + 2),
        ("COPY --exclude=**/f . /x", DEPTH + 1),
        ("COPY --exclude=** --exclude=!**/f . /x", DEPTH + 2),
        ("COPY --exclude=** --exclude=!**/none . /x", 1),
    ],
)
def test_a_very_deep_tree(bench: Any, deep: ChangesetTree, instruction: str, count: int) -> None:
    step = bench.step(instruction)
    selection = select(step, deep)
    content.digest(selection)
    below = MergedTree((ChangesetTree([Entry("x", Kind.DIRECTORY)]), deep))
    assert len(copy.changeset(step, selection, below, now=0, spool="")) == count


def test_a_very_long_path_to_a_file(bench: Any, deep: ChangesetTree) -> None:
    for flags in ("", "--parents "):
        step = bench.step(f"COPY {flags}{DEEP}/f /{DEEP}/g/")
        below = MergedTree((deep,))
        made = copy.changeset(step, select(step, deep), below, now=0, spool="")
        assert made[-1].path.startswith(f"{DEEP}/g/") and made[-1].name == "f"


def test_a_very_long_pattern(bench: Any, deep: ChangesetTree) -> None:
    step = bench.step(f"COPY {'*/' * DEPTH}f /x/")
    assert len(select(step, deep).items) == 1


@pytest.mark.parametrize("rules", ["**\n!**/f\n", "**\n!**/none\n", f"{DEEP}/f\n"])
def test_a_very_deep_context_with_rules(bench: Any, deep: ChangesetTree, rules: str) -> None:
    parsed = IgnoreRules.parse(Source(".dockerignore", rules))
    step = bench.step("COPY . /x")
    selection = select(step, FilteredTree(deep, parsed))
    (item,) = selection.items
    shown = {"f": DEPTH + 1, "none": 0}.get(rules.rstrip().rpartition("/")[2], DEPTH)
    assert len(list(selection.below(item))) == (DEPTH if rules.startswith("d") else shown)


def test_a_missing_source_in_a_very_deep_tree(bench: Any, deep: ChangesetTree) -> None:
    with pytest.raises(CopySourceMissing):
        select(bench.step(f"COPY {DEEP}/g /x"), deep)


@pytest.mark.parametrize("instruction", ["COPY m* /x/", "COPY d/* /x/", "COPY d /x"])
def test_work_grows_with_the_number_of_files(bench: Any, instruction: str) -> None:
    def asked(count: int) -> int:
        names = [f"m{n:05}" for n in range(count)]
        files = [Entry(name, Kind.SYMLINK, link=f"d/{name}") for name in names]
        tree = Counted(bench.tree_of([*files, *(bench.file(f"d/{name}", b"x") for name in names)]))
        below = Counted(bench.tree_of([bench.directory("x")]))
        step = bench.step(instruction)
        selection = select(step, tree)
        content.digest(selection)
        made = copy.changeset(step, selection, below, now=0, spool="")
        assert len(made) == count + 1
        return tree.asked + below.asked

    small, large = asked(1_000), asked(10_000)
    assert large <= 10.5 * small
    assert large <= 60_000, "ten thousand matches are resolved by a few look-ups each"


def test_100_000_files_take_seconds(bench: Any) -> None:
    tree = bench.tree_of(bench.file(f"s/{n % 100}/{n}", b"x") for n in range(100_000))
    rules = IgnoreRules.parse(Source(".dockerignore", "**/*.log\n**/node_modules\ns/7\n!s/7/7\n"))
    with cpu_seconds(15):
        step = bench.step("COPY --exclude=*/*5 --chmod=go-w . /x/")
        selection = select(step, FilteredTree(tree, rules))
        content.digest(selection)
        made = copy.changeset(step, selection, bench.tree_of([]), now=0, spool="")
        assert 80_000 < len(made) < 100_000


def test_many_sources_of_one_instruction(bench: Any) -> None:
    count = 3_000
    tree = Counted(bench.tree_of(bench.file(f"f{n}") for n in range(count)))
    sources = " ".join(f"f{n}" for n in range(count))
    step = bench.step(f"COPY {sources} /x/")
    assert len(copy.changeset(step, select(step, tree), tree, now=0, spool="")) == count + 1
    assert tree.asked < 10 * count


def test_links_that_lead_through_each_other(bench: Any) -> None:
    links = [bench.link(f"l{n}", f"l{n - 1}/.") for n in range(1, 41)]
    tree = bench.tree_of([*links, bench.file("l0/f")])
    step = bench.step("COPY l39/f /x")
    assert [item.entry.path for item in select(step, tree).items] == ["l0/f"]
    doubling = [bench.link(f"k{n}", f"k{n - 1}/../k{n - 1}") for n in range(1, 41)]
    tree = bench.tree_of([*doubling, bench.file("k0/f")])
    with pytest.raises(Exception, match="too many levels of symbolic links"):
        select(bench.step("COPY k40/f /x"), tree)
