"""Owners and devices in records: what is written, and that nonsense is nobody's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from assembler.linux import ownership


@pytest.mark.parametrize("owner", [(0, 0), (1, 2), (65534, 65534), (4294967295, 0)])
def test_an_owner_comes_back(owner: tuple[int, int]) -> None:
    assert ownership.decode(ownership.encode(owner)) == owner


@pytest.mark.parametrize(
    "value", [b"", b"1", b":", b"1:", b"a:b", b"-1:0", b"1:2:3", b"4294967296:0", b"1:" + b"9" * 99]
)
def test_what_a_step_wrote_there_itself_may_be_anything(value: bytes) -> None:
    assert ownership.decode(value) is None


def test_a_device_comes_back() -> None:
    assert ownership.encode_node(False, (1, 3)) == b"c 1:3"
    assert ownership.decode_node(b"c 1:3") == (False, (1, 3))
    assert ownership.decode_node(ownership.encode_node(True, (259, 1048575))) == (
        True, (259, 1048575),
    )  # fmt: skip


@pytest.mark.parametrize("value", [b"", b"c", b"c 0:0", b"x 1:3", b"c 1", b"c1:3"])
def test_a_whiteout_or_nonsense_is_no_device(value: bytes) -> None:
    assert ownership.decode_node(value) is None


def test_the_table_holds_any_name(tmp_path: Path) -> None:
    tree = tmp_path / "layer" / "tree"
    tree.mkdir(parents=True)
    owners = {"a b": (1, 2), "line\nend": (3, 4), "\udcff": (5, 6), "d/e": (0, 0)}
    assert not ownership.has_table(str(tree))
    ownership.write_table(str(tree), owners)
    assert ownership.has_table(str(tree))
    assert ownership.read_table(str(tree)) == owners


def test_copied_up_links_keep_their_owners(tmp_path: Path) -> None:
    trees = [tmp_path / name / "tree" for name in ("upper", "middle", "bottom")]
    for tree in trees:
        (tree / "d").mkdir(parents=True)
        ownership.write_table(str(tree), {})
    upper, middle, bottom = trees
    for name in ("copied", "given", "other", "twice"):
        (bottom / "d" / name).symlink_to("x")
        (upper / "d" / name).symlink_to("y" if name == "other" else "x")
    (middle / "d" / "twice").symlink_to("x")
    os.mkfifo(bottom / "p")
    os.mkfifo(upper / "p")
    names = ("d/copied", "d/given", "d/other", "d/twice", "p", "gone")
    ownership.write_table(str(bottom), dict.fromkeys(names, (7, 8)))
    ownership.write_table(str(middle), {"d/twice": (5, 6)})
    ownership.write_table(str(upper), {"d/given": (0, 0)})
    ownership.carry(str(upper), [str(middle), str(bottom)])
    assert ownership.read_table(str(upper)) == {
        "d/copied": (7, 8),
        "d/given": (0, 0),
        "d/twice": (5, 6),
        "p": (7, 8),
    }


def test_the_topmost_table_has_the_say(tmp_path: Path) -> None:
    top, bottom = tmp_path / "top" / "tree", tmp_path / "bottom" / "tree"
    top.mkdir(parents=True)
    bottom.mkdir(parents=True)
    ownership.write_table(str(bottom), {"a": (7, 8), "b": (7, 8), "c": (0, 0)})
    ownership.write_table(str(top), {"a": (0, 0), "d": (5, 6)})
    assert ownership.read_tables([str(top), str(bottom)]) == {"b": (7, 8), "d": (5, 6)}


def test_a_directory_without_a_table_has_no_owners_in_it(tmp_path: Path) -> None:
    (tmp_path / "owners").write_bytes(b"1:2 file\0")
    (tmp_path / "other").mkdir()
    assert ownership.read_table(str(tmp_path / "other")) == {}


def test_what_the_kernel_cannot_give_is_recorded(tmp_path: Path) -> None:
    if os.getuid() == 0:
        return  # the kernel can
    path = str(tmp_path)
    ownership.give(path, (os.getuid(), os.getgid()))
    assert ownership.recorded(path) is None
    ownership.give(path, (1234, 5))
    assert ownership.recorded(path) == (1234, 5)
    ownership.forget(path)
    ownership.forget(path)
    assert ownership.recorded(path) is None
