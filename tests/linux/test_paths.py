"""Paths that stay below a root, and removal that follows nothing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from assembler.linux import paths


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "canary").write_text("untouched")
    descriptor = paths.open_root(str(tmp_path / "root"))
    yield descriptor
    os.close(descriptor)


def test_an_absolute_link_resolves_inside_the_root(tmp_path: Path, root: int) -> None:
    (tmp_path / "root" / "outside").mkdir()
    (tmp_path / "root" / "link").symlink_to("/outside")
    os.close(paths.open_directory(root, "link"))
    with pytest.raises(FileNotFoundError):
        paths.open_in_root(root, "link/canary", os.O_RDONLY)


def test_dots_do_not_climb_out(tmp_path: Path, root: int) -> None:
    (tmp_path / "root" / "up").symlink_to("../../outside")
    for path in ("../outside/canary", "up/canary", "/../outside/canary"):
        with pytest.raises(FileNotFoundError):
            paths.open_in_root(root, path, os.O_RDONLY)


def test_magic_links_are_refused(tmp_path: Path, root: int) -> None:
    with open(tmp_path / "outside" / "canary") as stream:
        proc = paths.open_root("/proc/self/fd")
        try:
            with pytest.raises(OSError) as caught:
                paths.open_in_root(proc, str(stream.fileno()), os.O_RDONLY)
        finally:
            os.close(proc)
    assert caught.value.errno in (errno.ELOOP, errno.EXDEV)


def test_directories_are_made_through_links(tmp_path: Path, root: int) -> None:
    (tmp_path / "root" / "usr").mkdir()
    (tmp_path / "root" / "lib").symlink_to("usr")
    os.close(paths.make_directories(root, "lib/a/b"))
    assert (tmp_path / "root" / "usr" / "a" / "b").is_dir()


def test_remove_tree_leaves_what_links_point_to(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "canary").write_text("untouched")
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "link").symlink_to("../outside")
    (tree / "below" / "file").write_text("x")
    os.mkfifo(tree / "fifo")
    paths.remove_tree(str(tree))
    assert not tree.exists()
    assert (tmp_path / "outside" / "canary").read_text() == "untouched"


def test_remove_tree_of_a_link_removes_the_link(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to("kept")
    paths.remove_tree(str(tmp_path / "link"))
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "kept").is_dir()


def test_remove_tree_of_nothing(tmp_path: Path) -> None:
    paths.remove_tree(str(tmp_path / "missing"))
    paths.remove_tree(str(tmp_path / "missing" / "below"))


def test_remove_tree_opens_closed_directories(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "closed").mkdir(parents=True)
    (tree / "closed" / "file").write_text("x")
    (tree / "closed").chmod(0)
    (tree / "read-only").mkdir()
    (tree / "read-only" / "file").write_text("x")
    (tree / "read-only").chmod(0o555)
    paths.remove_tree(str(tree))
    assert not tree.exists()


def nest(tree: Path, levels: int) -> None:
    """Make directories in each other, also where no path is long enough for the innermost."""
    descriptor = os.open(tree, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)


def test_remove_tree_has_no_depth_limit(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "deep-0").mkdir()
    (tree / "deep-1").write_text("the name is taken")
    nest(tree, 1500)
    paths.remove_tree(str(tree))
    assert not tree.exists()


def test_T15_directories_as_deep_as_a_path_can_be(tmp_path: Path, root: int) -> None:
    path = "/".join("d" * 2000)
    os.close(paths.make_directories(root, f"{path}/d"))
    os.close(paths.make_directories(root, f"{path}/e"))
    with pytest.raises(NotADirectoryError):
        (tmp_path / "root" / "file").write_text("x")
        paths.make_directories(root, "file/a/b")
    with pytest.raises(FileNotFoundError):
        (tmp_path / "root" / "lost").symlink_to("nowhere")
        paths.make_directories(root, "lost/a")
    paths.remove_tree(str(tmp_path / "root" / "d"))  # pytest could not, three runs later


def test_remove_tree_needs_no_more_for_more_depth(tmp_path: Path) -> None:
    """64 directories are open at a time, and as many calls deep."""
    tree = tmp_path / "tree"
    tree.mkdir()
    nest(tree, 6_000)
    script = (
        "import resource, sys; from assembler.linux.paths import remove_tree\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (90, 90)); remove_tree(sys.argv[1])"
    )
    try:  # a process of its own: this one may have more files open
        subprocess.run([sys.executable, "-c", script, str(tree)], check=True)
        left = tree.exists()
    finally:
        subprocess.run(["rm", "-rf", tree], check=True)  # pytest could not
    assert not left


def test_remove_tree_of_many_directories_that_lie_deep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / "tree" / "/".join("d" * 64)
    for number in range(300):
        (deep / str(number) / "full").mkdir(parents=True)
        (deep / f"empty-{number}").mkdir()
    renamed: list[object] = []
    real = os.rename
    monkeypatch.setattr(os, "rename", lambda *a, **m: (renamed.append(a), real(*a, **m)))
    paths.remove_tree(str(tmp_path / "tree"))
    assert not (tmp_path / "tree").exists()
    assert len(renamed) < 1000, "no name is tried that is taken"
