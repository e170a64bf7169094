"""Trees: links that stay inside, layers as one (rule C10; reliability B1; overlayfs.rst)."""

from __future__ import annotations

from pathlib import Path

import pytest

from assembler.errors import AssemblerError
from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.tree import ChangesetTree, DirectoryTree, MergedTree, resolve


def file(path: str) -> Entry:
    return Entry(path, Kind.FILE, source=InlineBytes(b""))


def test_B1_links_cannot_leave_a_tree() -> None:
    tree = ChangesetTree(
        (
            Entry("up", Kind.SYMLINK, link="../../../etc"),
            Entry("abs", Kind.SYMLINK, link="/up/passwd"),
            Entry("loop", Kind.SYMLINK, link="loop"),
        )
    )
    assert resolve(tree, "/up/passwd") == "etc/passwd"
    assert resolve(tree, "abs") == "etc/passwd"
    assert resolve(tree, "abs", follow_last=False) == "abs"
    with pytest.raises(AssemblerError, match="too many levels"):
        resolve(tree, "loop/x")


def test_merged_layers_hide_what_upper_ones_removed() -> None:
    lower = ChangesetTree(
        (
            Entry("d", Kind.DIRECTORY),
            file("d/a"),
            file("d/b"),
            Entry("o", Kind.DIRECTORY),
            file("o/x"),
        )
    )
    upper = ChangesetTree(
        (
            Entry("d", Kind.DIRECTORY),
            Entry("d/a", Kind.WHITEOUT),
            file("d/c"),
            Entry("o", Kind.DIRECTORY),
            Entry("o", Kind.OPAQUE),
        )
    )
    merged = MergedTree((upper, lower))
    assert [entry.path for entry in merged.children("d")] == ["d/b", "d/c"]
    assert merged.lookup("d/a") is None and merged.lookup("o/x") is None
    assert list(merged.children("o")) == []


def test_merged_layers_of_any_depth() -> None:
    path = "/".join("d" * 5_000)
    entries = [Entry(path[: 2 * depth + 1], Kind.DIRECTORY) for depth in range(5_000)]
    merged = MergedTree((ChangesetTree([*entries, file(f"{path}/f")]), ChangesetTree(entries)))
    assert merged.lookup(f"{path}/f") is not None


def test_a_layer_directory_as_a_tree(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_text("text")
    (tmp_path / "d/f").chmod(0o640)
    (tmp_path / "l").symlink_to("d/f")
    tree = DirectoryTree(str(tmp_path))
    assert [entry.path for entry in tree.children("")] == ["d", "l"]
    entry, link = tree.lookup("d/f"), tree.lookup("l")
    assert entry is not None and (entry.kind, entry.mode, entry.size) == (Kind.FILE, 0o640, 4)
    assert link is not None and link.link == "d/f"
    assert tree.lookup("d/f/x") is None and tree.lookup("none") is None


@pytest.mark.parametrize("name", ["n" * 256, "\u00e9" * 128, "\U0001f600" * 64, "d/" + "n" * 300])
def test_nothing_is_at_a_path_whose_name_is_too_long(tmp_path: Path, name: str) -> None:
    (tmp_path / "d").mkdir()
    tree = MergedTree((DirectoryTree(str(tmp_path)),))
    assert tree.lookup(name) is None
    assert resolve(tree, f"/{name}/..") == "d" * name.startswith("d/")
