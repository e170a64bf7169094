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
from tests.bounds import cpu_seconds

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


def test_C26_a_file_in_place_of_a_directory_takes_all_below_with_it(tmp_path: Path) -> None:
    assert expanded(
        tmp_path,
        ("d/e/f", FILE, b"1"),
        ("d/e/g", FILE, b"2"),
        ("d/h", FILE, b"3"),
        ("d/e", FILE, b"4"),
        ("other/x", FILE, b"5"),
        ("other", SYMLINK, "d"),
        ("d/i", FILE, b"6"),
    ) == {"d/e": b"4", "d/h": b"3", "d/i": b"6", "other": (Kind.SYMLINK, "d")}


def test_C26_a_name_that_is_a_directory_again_starts_empty(tmp_path: Path) -> None:
    assert expanded(
        tmp_path,
        ("d/a", FILE, b"1"),
        ("d", FILE, b"2"),
        ("d", DIRECTORY, ""),
        ("d/b", FILE, b"3"),
    ) == {"d": Kind.DIRECTORY, "d/b": b"3"}


def test_replacing_many_directories_takes_no_more_than_reading_them(tmp_path: Path) -> None:
    count = 10_000
    members: list[Member] = [(f"d{n}/f", FILE, b"") for n in range(count)]
    members += [(f"d{n}", FILE, b"") for n in range(count)]
    source = InlineBytes(archive(*members))
    with cpu_seconds(10):
        assert len(expand(source, str(tmp_path))) == count


def test_C26_very_deep_archives(tmp_path: Path) -> None:
    path = "/".join("d" * 2_000)
    members: list[Member] = [(f"{path}/{n}", FILE, b"") for n in range(3_000)]
    source = InlineBytes(archive(*members))
    with cpu_seconds(10):
        assert len(expand(source, str(tmp_path))) == 3_000


def test_C26_names_follow_links_as_they_are_when_the_member_comes(tmp_path: Path) -> None:
    assert expanded(
        tmp_path,
        ("l", SYMLINK, "a"),
        ("l/1", FILE, b"1"),
        ("l", SYMLINK, "b"),
        ("l/2", FILE, b"2"),
        ("d/3", FILE, b"3"),
        ("d", SYMLINK, "c"),
        ("d/4", FILE, b"4"),
    ) == {
        "a/1": b"1",
        "b/2": b"2",
        "c/4": b"4",
        "d": (Kind.SYMLINK, "c"),
        "l": (Kind.SYMLINK, "b"),
    }


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
