"""Layer directories on disk: published whole, found by id."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from assembler.linux import ownership
from assembler.snapshot.overlay import OverlaySnapshotter
from assembler.snapshot.published import RECORDED, PublishedLayers


@pytest.mark.parametrize("recorded", [False, True])
def test_a_layer_is_published_when_it_is_complete(tmp_path: Path, recorded: bool) -> None:
    with OverlaySnapshotter(str(tmp_path), recorded=recorded) as snapshots:
        with pytest.raises(RuntimeError), snapshots.create("a1") as path:
            raise RuntimeError
        assert snapshots.find("a1") is None
        with snapshots.create("a1") as path:
            (Path(path) / "file").write_text("x")
            assert snapshots.find("a1") is None
        found = snapshots.find("a1")
        assert found is not None and os.listdir(found) == ["file"]
        assert ownership.has_table(found) is recorded
        with snapshots.create("a1") as path:
            (Path(path) / "other").write_text("x")
        assert os.listdir(found) == ["file"], "whoever was first"
        snapshots.remove("a1")
        assert snapshots.find("a1") is None
    assert os.listdir(tmp_path) == []


def test_the_root_of_a_step_belongs_to_whom_it_did_below(tmp_path: Path) -> None:
    with OverlaySnapshotter(str(tmp_path), recorded=True) as snapshots:
        with snapshots.create("b0") as below:
            ownership.record(below, (7, 8))
            os.chmod(below, 0o711)
        lower = snapshots.find("b0")
        assert lower is not None
        with snapshots.prepare("b1", [lower]) as root:
            assert ownership.recorded(root.upper) == (7, 8)
            assert os.stat(root.upper).st_mode & 0o777 == 0o711


def test_layers_of_every_kind_are_found_from_outside(tmp_path: Path) -> None:
    (tmp_path / "full" / "a1").mkdir(parents=True)
    (tmp_path / RECORDED / "b2" / "tree").mkdir(parents=True)
    layers = PublishedLayers(str(tmp_path))
    assert layers.find("a1") == str(tmp_path / "full" / "a1")
    assert layers.find("b2") == str(tmp_path / RECORDED / "b2" / "tree")
    assert layers.find("c3") is None


def test_more_layers_than_the_kernel_stacks_are_put_together(tmp_path: Path) -> None:
    """Steps that follow each other share what was put together, and whiteouts keep their meaning."""
    with OverlaySnapshotter(str(tmp_path)) as snapshots:
        lowers: list[str] = []
        for number in range(600):
            with snapshots.create(f"{number:04x}") as path:
                (Path(path) / f"f{number}").write_text(str(number))
                (Path(path) / "last").write_text(str(number))
                if number in (300, 599):
                    os.mknod(f"{path}/f{number - 200}", stat.S_IFCHR, 0)
            found = snapshots.find(f"{number:04x}")
            assert found is not None
            lowers.insert(0, found)
        roots = []
        for count in (490, 491, 599, 600):
            with snapshots.prepare(f"a{count}", lowers[-count:]) as root:
                roots.append(root.lowers)
        assert roots[0] == tuple(lowers[-490:])
        assert [len(one) for one in roots] == [490, 491 - 255, 599 - 255, 600 - 255]
        assert roots[1][-1] == roots[2][-1] == roots[3][-1]
        together = roots[3][-1]
        assert (Path(together) / "last").read_text() == "255"
        assert len(os.listdir(together)) == 257
        with snapshots.prepare("b0", lowers[-1:] * 1000) as root:
            assert len(root.lowers) == 1000 - 511


def test_who_made_a_layer_is_told_that_it_has_its_name(tmp_path: Path) -> None:
    told: list[str] = []

    def tell(id: str) -> None:
        assert (tmp_path / id).is_dir()
        told.append(id)

    with OverlaySnapshotter(str(tmp_path)) as first, OverlaySnapshotter(str(tmp_path)) as second:
        first.published = second.published = tell
        with first.create("a1") as late, second.create("a1") as soon:
            for path in (late, soon):
                (Path(path) / "file").touch()
            assert told == []
        assert told == ["a1"], "not the one that came too late"
