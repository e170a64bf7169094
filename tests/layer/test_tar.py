"""Tar written and read: by us, by GNU tar, by the standard library."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assembler.errors import BadArchive, ContextChanged, StepError
from assembler.layer.changeset import Entry, InlineBytes, Kind, PathBytes, RangeBytes
from assembler.layer.fields import normalise
from assembler.layer.limits import Limits
from assembler.layer.tar_reader import read
from assembler.layer.tar_writer import TarWriter

RELAXED = settings(deadline=None, suppress_health_check=list(HealthCheck))
SECOND = 1_000_000_000


def tar(*entries: Entry, epoch: int | None = None) -> bytes:
    out: list[bytes] = []
    writer = TarWriter(lambda piece: out.append(bytes(piece)), epoch=epoch)
    for entry in entries:
        writer.add(entry)
    writer.close()
    return b"".join(out)


def members(content: bytes, *, layers: bool = True) -> list[tuple[Entry, bytes]]:
    stream = io.BufferedReader(io.BytesIO(content))  # type: ignore[arg-type]
    return [(entry, body.read()) for entry, body in read(stream, layers=layers)]


def file(path: str, content: bytes = b"", **fields: object) -> Entry:
    return Entry(
        path,
        Kind.FILE,
        size=len(content),
        source=InlineBytes(content),
        **fields,  # type: ignore[arg-type]
    )


NAMES = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=120
).filter(lambda name: name not in (".", "..") and not name.startswith(".wh."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join).filter(lambda p: len(p) < 900)
IDS = st.integers(0, 0xFFFFFFFE)
XATTRS = st.dictionaries(
    st.sampled_from(["user.a", "user.b=c", "security.capability"]), st.binary(max_size=40)
).map(lambda found: tuple(sorted(found.items())))


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind = draw(st.sampled_from(Kind))
    path = draw(PATHS)
    if kind in (Kind.WHITEOUT, Kind.OPAQUE):
        return Entry(path, kind)
    content = draw(st.binary(max_size=1500)) if kind is Kind.FILE else b""
    link = ""
    if kind is Kind.SYMLINK:
        link = draw(st.text(st.characters(blacklist_characters="\0", codec="utf-8"), min_size=1))
    elif kind is Kind.HARDLINK:
        link = draw(PATHS)
    device = (0, 0)
    if kind in (Kind.CHARACTER, Kind.BLOCK):
        device = (draw(st.integers(1, 4095)), draw(st.integers(0, (1 << 20) - 1)))
    return Entry(
        path,
        kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(IDS),
        gid=draw(IDS),
        mtime=draw(st.integers(-(10**9), 1 << 38)) * SECOND,
        size=len(content),
        link=link,
        device=device,
        xattrs=() if kind is Kind.HARDLINK else draw(XATTRS),
        source=InlineBytes(content),
    )


@RELAXED
@given(st.lists(entries(), max_size=6))
def test_what_is_written_is_read(changeset: list[Entry]) -> None:
    found = members(tar(*changeset))
    expected = [
        entry if entry.kind not in (Kind.WHITEOUT, Kind.OPAQUE) else Entry(entry.path, entry.kind)
        for entry in changeset
    ]
    assert [entry for entry, _ in found] == expected
    assert [body for entry, body in found if entry.kind is Kind.FILE] == [
        entry.source.content
        for entry in changeset
        if entry.kind is Kind.FILE and isinstance(entry.source, InlineBytes)
    ]


@RELAXED
@given(entries(), st.none() | st.integers(-(1 << 40), 1 << 40))
def test_an_entry_has_the_same_bytes_first_and_later(entry: Entry, epoch: int | None) -> None:
    """The writer keeps what it knows of an owner."""
    content = tar(entry, entry, epoch=epoch)
    half = len(content) // 2 - 512
    assert content[:half] == content[half : 2 * half]


@RELAXED
@given(st.lists(entries(), max_size=4))
def test_the_standard_library_agrees(changeset: list[Entry]) -> None:
    with tarfile.open(fileobj=io.BytesIO(tar(*changeset))) as archive:
        found = archive.getmembers()
    assert len(found) == len(changeset)
    for member, entry in zip(found, changeset, strict=True):
        if entry.kind in (Kind.WHITEOUT, Kind.OPAQUE):
            assert os.path.basename(member.name).startswith(".wh.")
            continue
        assert os.fsencode(member.name) == os.fsencode(entry.path)
        assert (member.uid, member.gid, member.mode) == (entry.uid, entry.gid, entry.mode)
        assert member.mtime == entry.mtime // SECOND
        assert (member.uname, member.gname) == ("", "")


def test_names_that_are_no_utf8_survive() -> None:
    for raw in (b"caf\xe9", b"d/" * 60 + b"caf\xe9" * 30):
        path = os.fsdecode(raw)
        assert members(tar(file(path)))[0][0].path == path
        with tarfile.open(fileobj=io.BytesIO(tar(file(path)))) as archive:
            assert os.fsencode(archive.getnames()[0]) == raw


def test_plain_entries_are_plain_ustar() -> None:
    content = tar(file("d/" * 70 + "name", b"x"), Entry("d", Kind.DIRECTORY, 0o755))
    assert b"PaxHeaders" not in content
    assert content[512 + 512 : 512 + 512 + 3] == b"d/\0"


def test_markers_as_the_image_specification_spells_them() -> None:
    content = tar(
        Entry("a/gone", Kind.WHITEOUT), Entry("a/new", Kind.OPAQUE), Entry("top", Kind.WHITEOUT)
    )
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        found = archive.getmembers()
    assert [member.name for member in found] == ["a/.wh.gone", "a/new/.wh..wh..opq", ".wh.top"]
    assert all(member.isreg() and member.size == member.mtime == 0 for member in found)


def test_times_are_capped_by_the_epoch() -> None:
    content = tar(file("old", mtime=5 * SECOND), file("new", mtime=50 * SECOND), epoch=10)
    assert [entry.mtime // SECOND for entry, _ in members(content)] == [5, 10]


def test_a_file_that_changes_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"12345")
    for size in (4, 6):
        for source in (PathBytes(str(path)), InlineBytes(b"12345"), RangeBytes(str(path), 0, 5)):
            with pytest.raises(ContextChanged, match="'a/log' changed"):
                tar(Entry("a/log", Kind.FILE, size=size, source=source))
    with pytest.raises(ContextChanged, match="removed"):
        tar(Entry("a/log", Kind.FILE, size=1, source=PathBytes(str(tmp_path / "none"))))


def test_a_name_that_would_delete_is_an_error() -> None:
    with pytest.raises(StepError, match="cannot be in an image"):
        tar(file("a/.wh.b"))


@pytest.mark.parametrize("longest", ["n" * 255, "\u00e9" * 127 + "n", os.fsdecode(b"\xff" * 255)])
def test_T15_names_that_no_file_system_has_room_for_are_in_no_layer(longest: str) -> None:
    for path in (longest, f"{longest}/{longest}"):
        assert [member.path for member, _ in read(io.BytesIO(tar(file(path))))] == [path]
    for path in (f"{longest}n", f"d/{longest}n"):
        with pytest.raises(StepError, match="its name is longer than 255 bytes"):
            tar(file(path))
        with pytest.raises(StepError, match="its name is longer than 255 bytes"):
            tar(Entry(path, Kind.DIRECTORY))
    assert tar(Entry(longest, Kind.WHITEOUT))  # its mark is longer, and no file


def test_large_files_cross_the_arena(tmp_path: Path) -> None:
    content = os.urandom(3_500_000)
    (tmp_path / "f").write_bytes(b"before" + content + b"after")
    source = RangeBytes(str(tmp_path / "f"), 6, len(content))
    found = members(
        tar(file("a"), Entry("b", Kind.FILE, size=len(content), source=source), file("c", b"z"))
    )
    assert found[1][1] == content
    assert found[2][1] == b"z"


@pytest.mark.parametrize(
    "raw, path",
    [
        ("./a/", "a"), ("/abs", "abs"), ("../x", "x"), ("a/../../x", "x"), ("a//b", "a/b"),
        ("a/./b", "a/b"), (".", ""), ("./", ""), ("/", ""), (".hidden", ".hidden"), ("..", ""),
        ("...", "..."), ("a/.b", "a/.b"), ("//a", "a"), ("./../a", "a"), ("a/..", ""),
    ],
)  # fmt: skip
def test_normalise(raw: str, path: str) -> None:
    assert normalise(raw) == path


@pytest.mark.integration
@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_reads_what_gnu_tar_writes(tmp_path: Path, form: str) -> None:
    deep = tmp_path / "tree" / ("n" * 60)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"content")
    (deep / "link").symlink_to("file")
    os.link(deep / "file", deep / "same")
    if form not in ("v7", "ustar"):
        (deep / ("long" * 40)).write_bytes(b"x")
    content = subprocess.run(
        ["tar", f"--format={form}", "--sort=name", "-C", str(tmp_path / "tree"), "-c", "."],
        check=True,
        capture_output=True,
    ).stdout
    found = {entry.path: (entry, body) for entry, body in members(content)}
    top = "n" * 60
    assert found[""][0].kind is Kind.DIRECTORY
    assert found[f"{top}/file"][1] == b"content"
    assert found[f"{top}/link"][0].link == "file"
    assert found[f"{top}/same"][0].link == f"{top}/file"
    assert found[f"{top}/file"][0].mtime // SECOND == int((deep / "file").stat().st_mtime)
    if form not in ("v7", "ustar"):
        assert found[f"{top}/{'long' * 40}"][1] == b"x"


@pytest.mark.integration
@pytest.mark.parametrize(
    "form",
    [
        ["--format=gnu"],
        ["--format=posix", "--sparse-version=0.0"],
        ["--format=posix", "--sparse-version=0.1"],
        ["--format=posix", "--sparse-version=1.0"],
    ],
)
def test_reads_sparse_files(tmp_path: Path, form: list[str]) -> None:
    path = tmp_path / "holes"
    with path.open("wb") as stream:
        for number in range(40):
            stream.seek(number * 100_000)
            stream.write(b"%d" % number)
        stream.truncate(5_000_000)
    content = subprocess.run(
        ["tar", "-S", *form, "-C", str(tmp_path), "-c", "holes"], check=True, capture_output=True
    ).stdout
    assert len(content) < 1_000_000
    ((entry, body),) = members(content)
    assert (entry.path, entry.size) == ("holes", 5_000_000)
    assert body == path.read_bytes()


@pytest.mark.integration
def test_gnu_tar_reads_what_we_write(tmp_path: Path) -> None:
    long = "/".join(["directory" * 8] * 4)
    content = tar(
        file("plain", b"content", mtime=SECOND, mode=0o640),
        file(long + "/file", b"far"),
        file("na\u00efve", b"utf-8"),
        Entry("link", Kind.SYMLINK, link="t" * 300),
    )
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=content, check=True)
    assert (tmp_path / "plain").read_bytes() == b"content"
    assert (tmp_path / "plain").stat().st_mtime == 1
    assert (tmp_path / long / "file").read_bytes() == b"far"
    assert (tmp_path / "na\u00efve").read_bytes() == b"utf-8"
    assert os.readlink(tmp_path / "link") == "t" * 300


def checked(header: bytes) -> bytes:
    blank = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


def patched(content: bytes, at: int, data: bytes) -> bytes:
    return checked(content[:at] + data + content[at + len(data) : 512]) + content[512:]


ONE = tar(file("one", b"1"))
TWO = tar(file("one", b"1"), file("two", b"2"))


def pax(*records: bytes) -> bytes:
    content = b"".join(records)
    header = patched(ONE[:512], 156, b"x")
    header = patched(header, 124, b"%011o\0" % len(content))
    return header + content.ljust(-(-len(content) // 512) * 512, b"\0") + ONE


def record(key: bytes, value: bytes) -> bytes:
    size = next(n for n in range(5, 10_000_000) if len(b"%d %s=%s\n" % (n, key, value)) == n)
    return b"%d %s=%s\n" % (size, key, value)


BAD = {
    "checksum in the middle": TWO[: 1024 + 4] + b"X" + TWO[1024 + 5 :],
    "cut in a header": TWO[: 1024 + 100],
    "cut in a body": TWO[: 1024 + 512],
    "negative size": patched(ONE, 124, b"\xff" * 12),
    "huge size": patched(ONE, 124, b"\x80" + b"\xff" * 11),
    "size of letters": patched(ONE, 124, b"12345678xyz\0"),
    "unknown type": patched(ONE, 156, b"Z"),
    "file for the root": patched(ONE, 0, b"./." + bytes(97)),
    "pax size negative": pax(record(b"size", b"-1")),
    "pax size huge": pax(record(b"size", b"9" * 30)),
    "pax length": pax(b"99 path=x\n"),
    "pax without equals": pax(b"9 pathxx\n"),
    "pax path with NUL": pax(record(b"path", b"a\0b")),
    "pax mtime": pax(record(b"mtime", b"nan")),
    "pax long path": pax(record(b"path", b"a/" * 3000)),
    "pax uid": pax(record(b"uid", b"4294967295")),
    "pax xattr": pax(record(b"SCHILY.xattr.user.a", b"x" * 70_000)),
    "pax 200 MB": patched(patched(ONE, 156, b"x"), 124, b"%011o\0" % 200_000_000),
    "pax for nothing": pax(record(b"path", b"x"))[: -len(ONE)],
    "sparse map backwards": pax(
        record(b"GNU.sparse.map", b"5,1,0,1"), record(b"GNU.sparse.size", b"10")
    ),
    "sparse map outside": pax(
        record(b"GNU.sparse.map", b"99,1"), record(b"GNU.sparse.size", b"10")
    ),
    "sparse bomb": pax(
        record(b"GNU.sparse.map", b"0,1"), record(b"GNU.sparse.size", b"9000000000000")
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_refuses(name: str) -> None:
    with pytest.raises(BadArchive):
        members(BAD[name])


def test_the_end_may_be_missing_or_followed_by_anything() -> None:
    assert len(members(TWO[:-1024])) == 2
    stream = io.BytesIO(TWO + b"garbage" * 1000)
    assert len(list(read(stream))) == 2
    assert not stream.read()


def test_pax_wins_over_the_header() -> None:
    content = pax(
        record(b"path", b"./long/name"),
        record(b"uid", b"3000000"),
        record(b"mtime", b"-1.5"),
        record(b"SCHILY.xattr.user.a", b"\0\n="),
    )
    ((entry, body),) = members(content)
    assert (entry.path, entry.uid, entry.mtime) == ("long/name", 3000000, -1_500_000_000)
    assert entry.xattrs == (("user.a", b"\0\n="),)
    assert body == b"1"


def test_limits_count() -> None:
    with pytest.raises(BadArchive, match="more than 1 members"):
        list(read(io.BytesIO(TWO), Limits(entries=1)))


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "a/.wh.", ".wh.d/below"])
def test_invalid_whiteouts(name: str) -> None:
    content = patched(ONE, 0, name.encode().ljust(100, b"\0"))
    with pytest.raises(BadArchive):
        members(content)
    assert members(content, layers=False)[0][0].kind is Kind.FILE


@pytest.mark.parametrize(
    "name, expected",
    [
        ("a/.wh.b", [("a/b", Kind.WHITEOUT)]),
        (".wh..wh..opq", [("", Kind.OPAQUE)]),
        ("./a/.wh..wh..opq", [("a", Kind.OPAQUE)]),
        (".wh..wh.plnk", []),
        (".wh..wh.plnk/1.2", []),
        ("a/.wh.b/../../x", [("x", Kind.FILE)]),
        ("a/.why", [("a/.why", Kind.FILE)]),
        (".wh..b", [(".b", Kind.WHITEOUT)]),
    ],
)
def test_whiteouts(name: str, expected: list[tuple[str, Kind]]) -> None:
    found = members(patched(ONE, 0, name.encode().ljust(100, b"\0")))
    assert [(entry.path, entry.kind) for entry, _ in found] == expected


@RELAXED
@given(st.integers(0, len(TWO) - 1), st.integers(1, 255))
def test_damage_is_an_error_or_harmless(at: int, change: int) -> None:
    content = bytearray(TWO)
    content[at] ^= change
    with contextlib.suppress(BadArchive):
        members(bytes(content))


@RELAXED
@given(st.binary(min_size=300, max_size=345), st.integers(0, 200))
def test_headers_with_a_right_checksum_and_wrong_fields(noise: bytes, at: int) -> None:
    header = (ONE[:at] + noise + ONE[at + len(noise) : 512])[:512]
    with contextlib.suppress(BadArchive):
        members(checked(header) + ONE[512:])
