"""Layer directories on disk: published whole, found by id."""

from __future__ import annotations

import os
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
