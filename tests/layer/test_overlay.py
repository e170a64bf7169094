"""Whiteouts that are files, where no device 0:0 can be made, mean what devices mean."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from assembler.errors import BadArchive
from assembler.layer import overlay
from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.diff import changes
from assembler.layer.realise import realise
from assembler.layer.tree import DirectoryTree, MergedTree, everything
from assembler.layer.walk import entries

OWNER = (os.geteuid(), os.getegid())


def directory(path: str) -> Entry:
    return Entry(path, Kind.DIRECTORY, 0o755, *OWNER)


def file(path: str, content: bytes = b"x") -> Entry:
    return Entry(path, Kind.FILE, 0o644, *OWNER, size=len(content), source=InlineBytes(content))


def gone(path: str) -> Entry:
    return Entry(path, Kind.WHITEOUT)


LOWER = (directory("d"), file("d/a"), file("d/b"), file("d/z"), file("top"), directory("was"))
CHANGES: dict[str, Sequence[Entry]] = {
    "gone": (directory("d"), gone("d/b"), gone("top")),
    "a sibling sorts between": (directory("d"), file("d/a.wh"), gone("d/b"), file("d/bb")),
    "a directory comes back": (gone("was"), directory("was"), file("was/new")),
    "a file comes back": (gone("top"), file("top", b"new")),
    "something is below what is gone": (gone("was"), file("was/new")),
    "what held it is replaced": (directory("d"), gone("d/b"), file("d"), gone("top")),
    "gone twice": (gone("top"), gone("top")),
}


@pytest.fixture
def no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "mknod", refused)


def seen(directory: Path, changeset: Sequence[Entry]) -> list[object]:
    """Everything that reads layer directories, on `changeset` over LOWER."""
    lower, upper = directory / "lower", directory / "upper"
    for path, content in ((lower, LOWER), (upper, changeset)):
        path.mkdir(parents=True)
        realise(content, str(path))
    layers = [DirectoryTree(str(upper)), DirectoryTree(str(lower))]
    merged = MergedTree(layers)
    return [
        [(entry.path, entry.kind) for entry in entries(str(upper))],
        [(entry.path, entry.kind) for entry in changes(str(upper), [str(lower)])],
        [(entry.path, entry.kind) for entry in everything(merged)],
        {entry.path: merged.lookup(entry.path) is None for entry in LOWER},
    ]


@pytest.mark.parametrize("change", CHANGES)
def test_files_say_what_devices_say(
    tmp_path: Path, change: str, request: pytest.FixtureRequest
) -> None:
    devices = seen(tmp_path / "devices", CHANGES[change])
    request.getfixturevalue("no_devices")
    assert seen(tmp_path / "files", CHANGES[change]) == devices


def test_a_layer_says_that_its_whiteouts_are_files(tmp_path: Path, no_devices: None) -> None:
    realise([gone("x")], str(tmp_path))
    assert os.listdir(tmp_path) == [".wh.x"]
    assert overlay.as_files(str(tmp_path))


def test_without_that_mark_such_a_file_is_a_file(tmp_path: Path) -> None:
    (tmp_path / ".wh.x").write_text("")
    assert [entry.path for entry in entries(str(tmp_path))][-1] == ".wh.x"
    assert DirectoryTree(str(tmp_path)).lookup("x") is None


def test_a_link_is_not_made_to_what_is_gone(tmp_path: Path, no_devices: None) -> None:
    lower = {"top": file("top")}
    link = Entry("other", Kind.HARDLINK, link="top")
    with pytest.raises(BadArchive, match="which is not there"):
        realise([gone("top"), link], str(tmp_path), lower=lower.get)
