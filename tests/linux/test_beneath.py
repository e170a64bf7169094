"""Files opened one after another: never by way of a link, and with few directories open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from assembler.linux.beneath import Openings
from tests.leftovers import nothing_left


@pytest.fixture
def near() -> Iterator[Openings]:
    with Openings() as opened:
        yield opened


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/d/e/f").mkdir(parents=True)
    for name in ("a", "d/a", "d/e/a", "d/e/f/a"):
        (tmp_path / "root" / name).write_text(name)
    (tmp_path / "root/de").mkdir()
    (tmp_path / "root/de/a").write_text("de/a")
    (tmp_path / "secret").write_text("secret")
    return tmp_path / "root"


def read(near: Openings, root: Path, path: str) -> str:
    descriptor = near.open(str(root), path, os.O_RDONLY)
    with os.fdopen(descriptor) as stream:
        return stream.read()


@pytest.mark.parametrize("order", [1, -1, 3])
def test_every_file_is_found_whatever_was_opened_before(
    near: Openings, root: Path, order: int
) -> None:
    names = ["a", "d/a", "d/e/a", "d/e/f/a", "de/a"]
    turn = names[::-1] if order < 0 else [names[n * order % 5] for n in range(11)]
    assert [read(near, root, name) for name in turn] == turn
    other = root / "d"
    assert [read(near, other, name) for name in ("e/a", "a")] == ["d/e/a", "d/a"]
    assert read(near, root, "d/e/f/a") == "d/e/f/a"


@pytest.mark.parametrize("warm", ["", "a", "d/a", "d/e/a"])
@pytest.mark.parametrize(
    "path", ["link", "dir/secret", "d/dir/secret", "../secret", "d/../../secret"]
)
def test_B2_no_link_is_followed_and_the_root_not_left(
    near: Openings, root: Path, warm: str, path: str
) -> None:
    (root / "link").symlink_to("../secret")
    (root / "dir").symlink_to("..")
    (root / "d/dir").symlink_to("../..")
    if warm:
        read(near, root, warm)
    with pytest.raises(OSError):
        read(near, root, path)
    assert read(near, root, "d/a") == "d/a"


def test_a_file_where_a_directory_was_meant(near: Openings, root: Path) -> None:
    for _ in range(2):
        with pytest.raises(NotADirectoryError):
            read(near, root, "a/b")
    assert read(near, root, "a") == "a"


def test_few_directories_are_open_however_deep_the_tree_is(near: Openings, root: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    paths = ["/".join(["x"] * depth + ["f"]) for depth in range(1, 301)]
    for path in paths:
        (root / path).parent.mkdir()
        (root / path).touch()
    with nothing_left():
        for path in (*paths, *reversed(paths)):
            assert not read(near, root, path)
            assert len(set(os.listdir("/proc/self/fd")) - before) <= 65
        near.close()
