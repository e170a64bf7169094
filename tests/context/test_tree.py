"""Trees of files as contexts: archives, repositories, fetched files (rules C16, G1, G5, P2)."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

import pytest

from assembler.context.base import MAX_TEXT
from assembler.context.deferred import DeferredContext
from assembler.context.tree import TreeContext, ignore_rules, text_of, whole
from assembler.dockerfile.ignore import IgnoreRules
from assembler.errors import UsageError
from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.tree import ChangesetTree, Tree
from assembler.source import Source


def file(path: str, text: str = "", **more: object) -> Entry:
    source = InlineBytes(text.encode())
    return Entry(path, Kind.FILE, size=len(text), source=source, **more)  # type: ignore[arg-type]


def context(*entries: Entry, rules: str = "") -> TreeContext:
    parsed = IgnoreRules.parse(Source(".dockerignore", rules)) if rules else None
    return TreeContext("", whole(entries), parsed)


def paths(tree: Tree, below: str = "") -> list[str]:
    found = []
    for entry in tree.children(below):
        found.append(entry.path)
        if entry.kind is Kind.DIRECTORY:
            found += paths(tree, entry.path)
    return found


def test_C16_files_belong_to_root_whoever_owns_them_in_the_archive() -> None:
    tree = context(
        file("f", uid=1000, gid=50, xattrs=(("user.kept", b"1"), ("security.x", b"2"))),
        Entry("d", Kind.DIRECTORY, uid=7),
    ).tree()
    found = tree.lookup("f")
    assert found is not None and (found.uid, found.gid) == (0, 0)
    assert found.xattrs == (("user.kept", b"1"),)
    assert [entry.uid for entry in tree.children("")] == [0, 0]


def test_P2_directories_an_archive_does_not_name_are_there() -> None:
    tree = context(file("a/b/f")).tree()
    directory = tree.lookup("a/b")
    assert directory is not None and directory.mode == 0o755
    assert paths(tree) == ["a", "a/b", "a/b/f"]


def test_devices_are_no_files_of_a_context() -> None:
    tree = context(Entry("null", Kind.CHARACTER), Entry("pipe", Kind.FIFO), file("f")).tree()
    assert paths(tree) == ["f", "pipe"] and tree.lookup("null") is None


def test_G5_what_is_included_again_brings_its_directories() -> None:
    found = context(file("a/b/keep"), file("a/b/x"), file("c/x"), rules="*\n!a/b/keep\n")
    assert paths(found.tree()) == ["a", "a/b", "a/b/keep"]
    assert found.tree().lookup("c") is None and found.tree().lookup("a/b/x") is None
    assert found.ignored("c/x") == ".dockerignore:1 *"
    assert found.ignored("a/b/keep") is None


@pytest.mark.parametrize(
    ("names", "dockerfile", "chosen"),
    [
        (("Dockerfile.dockerignore", ".dockerignore"), "Dockerfile", "Dockerfile.dockerignore"),
        (("sub/x.dockerignore", ".dockerignore"), "sub/x", "sub/x.dockerignore"),
        (("Dockerfile.dockerignore", ".dockerignore"), "other", ".dockerignore"),
        (("Dockerfile.dockerignore", ".containerignore"), "", ".containerignore"),
        ((".containerignore", ".dockerignore"), "Dockerfile", ".dockerignore"),
    ],
)
def test_G1_which_ignore_file(names: tuple[str, ...], dockerfile: str, chosen: str) -> None:
    rules = ignore_rules(whole(file(name, "x") for name in names), dockerfile)
    assert rules is not None and str(rules.match("x")) == f"{chosen}:1 x"


def test_G1_there_may_be_none() -> None:
    assert ignore_rules(whole([file("f")]), "Dockerfile") is None


def test_P3_a_linked_file_is_read_inside_the_tree() -> None:
    tree = whole(
        [
            Entry("Dockerfile", Kind.SYMLINK, link="/d/real"),
            Entry("out", Kind.SYMLINK, link="../../../d/real"),
            Entry("gone", Kind.SYMLINK, link="/etc/passwd"),
            file("d/real", "FROM scratch\n"),
        ]
    )
    for name in ("Dockerfile", "out"):
        assert text_of(tree, name) == Source(name, "FROM scratch\n")
    assert text_of(tree, "gone") is None and text_of(tree, "d") is None


@dataclass(frozen=True)
class Endless:
    """More bytes than a text has."""

    def open(self) -> BinaryIO:
        return BytesIO(b"#" * (MAX_TEXT + 1))


def test_a_text_is_never_cut_off() -> None:
    tree = ChangesetTree((Entry("Dockerfile", Kind.FILE, source=Endless()),))
    with pytest.raises(UsageError, match="Dockerfile: larger than"):
        text_of(tree, "Dockerfile")


def test_X2_a_deferred_context_is_fetched_once_and_when_it_is_wanted() -> None:
    fetched: list[str] = []

    def fetch() -> TreeContext:
        fetched.append("x")
        return TreeContext("name", whole([file("f")]), None, epoch=5)

    deferred = DeferredContext("name", fetch)
    assert deferred.name == "name" and fetched == []
    assert paths(deferred.tree()) == ["f"]
    assert (deferred.epoch, deferred.rules, deferred.ignored("f")) == (5, None, None)
    assert fetched == ["x"]
