"""Archives that ADD unpacks."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from assembler.errors import BadArchive
from assembler.layer.archive import expand, is_archive
from assembler.layer.changeset import Entry, InlineBytes, Kind

Member = tuple[str, bytes, str | bytes]

DIRECTORY, SYMLINK, LINK, FILE = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.REGTYPE


def archive(*members: Member) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content
                tar.addfile(info)
    return out.getvalue()


def expanded(tmp_path: Path, *members: Member) -> dict[str, object]:
    found: dict[str, object] = {}
    for entry in expand(InlineBytes(archive(*members)), str(tmp_path)):
        found[entry.path] = entry.kind if entry.kind is not Kind.FILE else content(entry)
        if entry.link:
            found[entry.path] = (entry.kind, entry.link)
    return found


def content(entry: Entry) -> bytes:
    assert entry.source is not None
    with entry.source.open() as stream:
        data = stream.read()
    assert len(data) == entry.size
    return data


SMALL = archive(("d/", DIRECTORY, ""), ("d/a", FILE, b"one"), ("d/b", FILE, b"two" * 1000))


@pytest.mark.parametrize(
    "compress",
    [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress],
)
def test_recognised_and_expanded(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    source = InlineBytes(compress(SMALL))
    assert is_archive(source)
    changeset = expand(source, str(tmp_path))
    assert [entry.path for entry in changeset] == ["d", "d/a", "d/b"]
    assert content(changeset[1]) == b"one"
    assert content(changeset[2]) == b"two" * 1000
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "data", [b"", b"text", gzip.compress(b"text" * 500), b"\x1f\x8b", bytes(2048), SMALL[:300]]
)
def test_not_an_archive(data: bytes) -> None:
    assert not is_archive(InlineBytes(data))


def test_names_stay_inside(tmp_path: Path) -> None:
    found = expanded(
        tmp_path,
        ("../up", FILE, b"1"),
        ("/abs", FILE, b"2"),
        ("etc", SYMLINK, "/real"),
        ("etc/passwd", FILE, b"3"),
        ("out", SYMLINK, "../../.."),
        ("out/file", FILE, b"4"),
        (".wh.name", FILE, b"5"),
    )
    assert found == {
        "up": b"1",
        "abs": b"2",
        "etc": (Kind.SYMLINK, "/real"),
        "real/passwd": b"3",
        "out": (Kind.SYMLINK, "../../.."),
        "file": b"4",
        ".wh.name": b"5",
    }


def test_the_last_member_of_a_name_counts(tmp_path: Path) -> None:
    assert expanded(tmp_path, ("a", FILE, b"1"), ("b", LINK, "a"), ("a", FILE, b"2")) == {
        "a": b"2",
        "b": b"1",
    }
    assert expanded(tmp_path, ("d/f", FILE, b"1"), ("d", FILE, b"2")) == {"d": b"2"}


def test_hard_links_follow_their_file(tmp_path: Path) -> None:
    assert expanded(tmp_path, ("z", FILE, b"1"), ("a", LINK, "z")) == {
        "a": b"1",
        "z": (Kind.HARDLINK, "a"),
    }


@pytest.mark.parametrize(
    "members",
    [
        [("a", LINK, "missing")],
        [("a", LINK, "../../etc/passwd")],
        [("a", SYMLINK, "b"), ("b", SYMLINK, "a"), ("a/x", FILE, b"")],
        [("a", FILE, b""), ("a/x", FILE, b"")],
        [("out", SYMLINK, "/"), ("out/..", FILE, b"")],
    ],
)
def test_refused_and_nothing_left(tmp_path: Path, members: list[Member]) -> None:
    with pytest.raises(BadArchive):
        expand(InlineBytes(archive(*members)), str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_truncation_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadArchive):
        expand(InlineBytes(SMALL[:1200]), str(tmp_path))
