"""Changesets as directories on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from assembler.errors import ContextChanged
from assembler.layer.changeset import Entry, Kind, PathBytes
from assembler.layer.realise import realise

MIB = 1 << 20


def sparse(path: Path, parts: dict[int, bytes], size: int) -> Entry:
    """The file at `path`, made of `parts` by offset and otherwise holes."""
    with path.open("wb") as stream:
        for offset, content in parts.items():
            stream.seek(offset)
            stream.write(content)
        stream.truncate(size)
    owner = (os.geteuid(), os.getegid())
    return Entry("f", Kind.FILE, 0o644, *owner, size=size, source=PathBytes(str(path)))


@pytest.mark.parametrize(
    "parts",
    [{}, {0: b"start"}, {MIB: b"x", 40 * MIB: b"y"}, {64 * MIB - 1: b"end"}, {0: b"a" * MIB}],
)
def test_holes_of_a_copied_file_stay_holes(tmp_path: Path, parts: dict[int, bytes]) -> None:
    entry = sparse(tmp_path / "source", parts, 64 * MIB)
    into = tmp_path / "into"
    into.mkdir()
    realise([entry], str(into))
    source, copy = (tmp_path / "source").stat(), (into / "f").stat()
    assert (into / "f").read_bytes() == (tmp_path / "source").read_bytes()
    assert copy.st_blocks <= source.st_blocks + 64


def test_a_sparse_file_that_became_shorter_is_told(tmp_path: Path) -> None:
    entry = sparse(tmp_path / "source", {MIB: b"x"}, 8 * MIB)
    os.truncate(tmp_path / "source", 2 * MIB)
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(ContextChanged, match="shorter"):
        realise([entry], str(into))


def test_a_file_of_the_store_is_copied_by_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """copy_file_range(2) shares blocks on xfs and btrfs; nothing is read here then."""
    entry = sparse(tmp_path / "source", {0: b"content"}, 7)
    into = tmp_path / "into"
    into.mkdir()

    def refused(*_: object) -> int:
        raise AssertionError("not by the kernel")

    monkeypatch.setattr(os, "write", refused)
    realise([entry], str(into))
    assert (into / "f").read_bytes() == b"content"
