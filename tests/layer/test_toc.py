"""eStargz and zstd:chunked: any reader reads the tar, lazy readers each file by itself."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import subprocess
import tarfile
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assembler.errors import BadArchive
from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.compression import by_name
from assembler.layer.crc64 import crc64
from assembler.layer.decompression import reader
from assembler.layer.estargz import EStargz
from assembler.layer.tar_reader import read
from assembler.layer.write import Packed, pack, repack
from assembler.layer.zstd_chunked import ZstdChunked
from assembler.oci.digest import Digest
from tests.layer.archives import pax, raw, record
from tests.leftovers import nothing_left

FORMATS = ["estargz", "zstd:chunked"]
MIB = 1 << 20


def file(path: str, content: bytes, **more: Any) -> Entry:
    return Entry(path, Kind.FILE, size=len(content), source=InlineBytes(content), **more)


CONTENTS = {
    "big": random.Random(4).randbytes(100_000) + bytes(9 * MIB) + b"end",
    "chunk": b"0123456789abcdef" * (MIB // 4),
    "chunks": bytes(8 * MIB),
    "dir/one": b"one\n",
    "dir/" + "long" * 60: b"a long name",
    "dir/ünïcode": b"text",
    "suid": b"#!",
}
ENTRIES = [
    Entry("", Kind.DIRECTORY, 0o755),
    Entry("dir", Kind.DIRECTORY, 0o1777, uid=1000, gid=100, mtime=1_700_000_000_123_456_789),
    *(
        file(path, content, mode=0o4755 if path == "suid" else 0o640, mtime=10**18)
        for path, content in CONTENTS.items()
    ),
    file("capable", b"x", xattrs=(("security.capability", b"\x01\0\0\x02\xff"),)),
    Entry("empty", Kind.FILE),
    Entry("hard", Kind.HARDLINK, link="dir/one"),
    Entry("link", Kind.SYMLINK, 0o777, link="../dir/ünïcode"),
    Entry("null", Kind.CHARACTER, 0o666, device=(1, 3)),
    Entry("pipe", Kind.FIFO, 0o600),
    Entry("gone", Kind.WHITEOUT),
    Entry("dir", Kind.OPAQUE),
]


def packed(entries: Iterable[Entry], compression: Any) -> tuple[bytes, Packed]:
    out = io.BytesIO()
    result = pack(entries, out, compression)
    return out.getvalue(), result


def plain_tar(entries: Iterable[Entry]) -> bytes:
    return packed(entries, by_name("uncompressed"))[0]


@pytest.mark.parametrize("name", FORMATS)
def test_who_reads_from_the_start_finds_the_tar(name: str) -> None:
    blob, result = packed(ENTRIES, by_name(name))
    tar = reader(io.BytesIO(blob)).read()
    assert result.diff_id.matches(tar)
    assert (result.size, result.uncompressed_size) == (len(blob), len(tar))
    plain = plain_tar(ENTRIES)
    assert tar.startswith(plain)
    assert name == "estargz" or tar == plain
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        names = {member.name.strip("/") for member in archive}
    assert {"big", "suid", "hard"} < names
    assert not [one for one in names if "stargz" in one or "landmark" in one]


@pytest.mark.parametrize("name", FORMATS)
def test_each_file_is_found_by_the_table_and_read_by_itself(name: str, lazily: Any) -> None:
    blob, result = packed(ENTRIES, by_name(name))
    assert not result.note
    files = lazily(blob, result.annotations).files()
    assert {path: content for path, (_, content) in files.items() if path in CONTENTS} == CONTENTS
    rows = {path: row for path, (row, _) in files.items()}
    assert {path: row["type"] for path, row in rows.items() if row["type"] != "reg"} == {
        "./": "dir", "dir/": "dir", "hard": "hardlink", "link": "symlink", "null": "char",
        "pipe": "fifo",
    }  # fmt: skip
    assert {".wh.gone", "dir/.wh..wh..opq", "empty"} < rows.keys()
    assert rows["hard"]["linkName"] == "dir/one"
    assert rows["link"]["linkName"] == "../dir/ünïcode"
    assert (rows["null"]["devMajor"], rows["null"]["devMinor"]) == (1, 3)
    assert (rows["dir/"]["mode"], rows["dir/"]["uid"], rows["dir/"]["gid"]) == (0o1777, 1000, 100)
    assert rows["dir/"]["modtime"] == "2023-11-14T22:13:20Z"
    assert rows["suid"]["mode"] == 0o4755
    assert rows["capable"]["xattrs"] == {"security.capability": "AQAAAv8="}


def test_the_table_and_the_headers_of_a_chunked_layer_make_its_tar_again(lazily: Any) -> None:
    entries = [entry for entry in ENTRIES if entry.size < MIB]
    blob, result = packed(entries, by_name("zstd:chunked"))
    again: bytes = lazily(blob, result.annotations).tar_again()
    assert result.diff_id.matches(again)


@settings(max_examples=60)
@given(st.binary(max_size=3000), st.integers(0, 3000), st.binary(max_size=70_000))
def test_crc64_of_parts_is_that_of_the_whole(head: bytes, at: int, tail: bytes) -> None:
    assert crc64(b"123456789") == 0xB90956C775A41001  # the catalogue's check value
    data = head + tail
    assert crc64(data) == crc64(data[at:], crc64(data[:at]))


@pytest.mark.parametrize("kind", [EStargz, ZstdChunked])
def test_threads_and_pieces_do_not_show(kind: Any) -> None:
    tar = plain_tar([*ENTRIES, *(file(f"many/{n}", b"%d" % n * n) for n in range(600))])
    results = set()
    for threads in (1, 3):
        for step in (1 << 20, 333_333):
            out: list[bytes] = []
            writer = kind(threads=threads).writer(out.append)
            for at in range(0, len(tar), step):
                writer.write(tar[at : at + step])
            ending = writer.close()
            results.add((hashlib.sha256(b"".join(out)).digest(), str(ending.annotations)))
    assert len(results) == 1


@pytest.mark.parametrize("name", FORMATS)
def test_no_thread_is_left(name: str) -> None:
    with nothing_left():
        writer = by_name(name).writer(lambda data: None)
        for _ in range(12):
            writer.write(plain_tar(ENTRIES))
        writer.abort()


def repacked(tar: bytes, name: str, *, ended: bool = False) -> tuple[bytes, Packed]:
    out = io.BytesIO()
    result = repack(io.BytesIO(tar), out, by_name(name), diff_id=Digest.of(tar), ended=ended)
    return out.getvalue(), result


@pytest.mark.parametrize("form", ["gnu", "posix", "ustar", "v7"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_tar_of_another_program_is_packed_as_it_is(
    name: str, form: str, tmp_path: Any, lazily: Any
) -> None:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/passwd").write_text("root\n")
    if form != "v7":
        (tree / ("n" * 90) / ("m" * 60)).mkdir(parents=True)
    if form in ("gnu", "posix"):
        (tree / ("x" * 200)).write_bytes(bytes(5 * MIB))
        (tree / "far").symlink_to("y" * 150)
    command = ["tar", "-C", str(tree), f"--format={form}", "-cf", "-", "."]
    tar = subprocess.run(command, check=True, capture_output=True).stdout
    blob, result = repacked(tar, name)
    assert not result.note
    assert reader(io.BytesIO(blob)).read().startswith(tar)
    layer = lazily(blob, result.annotations)
    files = layer.files()
    assert files["./etc/passwd"][1] == b"root\n"
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert len(archive.getmembers()) == len(files) - (name == "estargz")
    if name == "zstd:chunked" and form in ("ustar", "v7"):
        assert layer.tar_again() == tar


@pytest.mark.parametrize("name", FORMATS)
def test_a_table_tells_the_name_that_the_tar_is_unpacked_by(name: str, lazily: Any) -> None:
    member = plain_tar([Entry("l", Kind.SYMLINK, link="ustar")])
    names = raw(b"n", b"name", kind=b"L") + raw(b"n", b"link", kind=b"K")
    tar = names + pax(record(b"path", b"pax"), record(b"linkpath", b"pax")) + member
    blob, result = repacked(tar, name)
    ((path, (row, _)),) = (
        one for one in lazily(blob, result.annotations).files().items() if "landmark" not in one[0]
    )
    ((entry, _),) = read(io.BytesIO(tar))
    assert (path, row["linkName"]) == (entry.path, entry.link) == ("name", "link")


def sparse(tmp_path: Any) -> bytes:
    with (tmp_path / "holes").open("wb") as stream:
        stream.truncate(10 * MIB)
        stream.write(b"x")
    command = ["tar", "-C", str(tmp_path), "-S", "-cf", "-", "holes"]
    return subprocess.run(command, check=True, capture_output=True).stdout


def of_bytes(name: bytes) -> bytes:
    with io.BytesIO() as stream:
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            archive.addfile(tarfile.TarInfo(name.decode(errors="surrogateescape")))
        return stream.getvalue()


UNTOLD = {
    "sparse": sparse,
    "not UTF-8": lambda _: of_bytes(b"caf\xe9"),
    "no end": lambda _: plain_tar(ENTRIES)[:-1024],
    "reserved": lambda _: plain_tar([file("stargz.index.json", b"{}")]),
    "many headers": lambda _: pax(record(b"comment", b"c" * 10**6)) * 9 + plain_tar([]),
    "twice": lambda _: plain_tar([file("a", b"1")])[:-1024] + plain_tar([file("a", b"2")]),
}


@pytest.mark.parametrize("kind", UNTOLD)
@pytest.mark.parametrize("name", FORMATS)
def test_what_a_table_cannot_tell_is_packed_without_one(
    name: str, kind: str, tmp_path: Any
) -> None:
    tar = UNTOLD[kind](tmp_path)
    blob, result = repacked(tar, name)
    told = {("estargz", "twice"), ("zstd:chunked", "reserved")}
    if (name, kind) in told:
        assert not result.note
        return
    assert result.note
    assert not result.annotations
    assert result.diff_id == Digest.of(tar)
    assert reader(io.BytesIO(blob)).read() == tar


SMALL = plain_tar([entry for entry in ENTRIES if entry.size < MIB])


@settings(max_examples=150)
@given(
    st.sampled_from(FORMATS),
    st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), max_size=4),
    st.integers(0, len(SMALL)),
    st.integers(1, 5000),
)
def test_T13_whatever_the_tar_is_none_of_its_bytes_is_lost(
    name: str, changes: list[tuple[int, int]], end: int, step: int
) -> None:
    damaged = bytearray(SMALL)
    for at, value in changes:
        damaged[at] = value
    tar = bytes(damaged[:end] if end % 2 else damaged)
    out: list[bytes] = []
    writer = by_name(name).writer(lambda data: out.append(bytes(data)))
    for at in range(0, len(tar), step):
        writer.write(tar[at : at + step])
    ending = writer.close()
    assert ending is not None
    added: list[bytes] = []
    ending.added(lambda data: added.append(bytes(data)))
    assert reader(io.BytesIO(b"".join(out))).read() == tar + b"".join(added)


def test_a_layer_without_files_has_a_table(lazily: Any) -> None:
    for name in FORMATS:
        blob, result = packed([], by_name(name))
        assert lazily(blob, result.annotations).files().keys() <= {".no.prefetch.landmark"}


def test_estargz_of_a_chunked_layer_and_back_is_the_same_tar() -> None:
    tar = plain_tar(ENTRIES)
    chunked, first = repacked(tar, "zstd:chunked")
    lazy, second = repacked(reader(io.BytesIO(chunked)).read(), "estargz")
    longer = reader(io.BytesIO(lazy)).read()
    again, third = repacked(longer, "zstd:chunked")
    assert first.diff_id == Digest.of(tar)
    assert longer.startswith(tar)
    assert second.diff_id == third.diff_id == Digest.of(longer)
    assert reader(io.BytesIO(again)).read() == longer


def test_a_tar_ends_where_it_did_before_estargz() -> None:
    tar = plain_tar(ENTRIES)
    longer = reader(io.BytesIO(repacked(tar, "estargz")[0])).read() + tar
    again, result = repacked(longer, "zstd:chunked", ended=True)
    assert result.diff_id == Digest.of(tar)
    assert reader(io.BytesIO(again)).read() == tar


ZERO_FILE = plain_tar([file("zeros", bytes(3 * MIB) + b"end"), file("last", b"x" * 2000)])


@pytest.mark.parametrize(
    "odd",
    [pax(record(b"comment", b"c"), kind=b"g"), of_bytes(b"caf\xe9")[:512], pax(b"9 path=x!\n")],
    ids=["a global header", "not UTF-8", "a damaged pax header"],
)
def test_of_a_tar_whose_end_cannot_be_told_nothing_is_taken_away(odd: bytes) -> None:
    """Zeros in a file are no end mark."""
    tar = plain_tar([file("first", b"1")])[:-1024] + odd + ZERO_FILE
    blob, result = repacked(tar, "zstd", ended=True)
    assert reader(io.BytesIO(blob)).read() == tar
    assert result.diff_id == Digest.of(tar)


def test_M4_the_digest_that_a_tar_is_compared_with_may_be_another_than_sha256() -> None:
    tar = plain_tar(ENTRIES)
    for ended in (False, True):
        right = Digest("sha512", hashlib.sha512(tar).hexdigest())
        result = repack(io.BytesIO(tar), io.BytesIO(), by_name("gzip"), diff_id=right, ended=ended)
        assert result.diff_id == Digest.of(tar)
        wrong = Digest("sha512", hashlib.sha512(b"another").hexdigest())
        with pytest.raises(BadArchive, match=f"sha512:{right.hex}, not sha512:{wrong.hex}"):
            repack(io.BytesIO(tar), io.BytesIO(), by_name("gzip"), diff_id=wrong, ended=ended)


def test_the_members_of_estargz_are_gzip_for_everyone() -> None:
    blob, result = packed(ENTRIES, by_name("estargz"))
    assert result.diff_id.matches(gzip.decompress(blob))
