"""T11: sparse members: maps that are refused, what holes may cost, and that they stay holes."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from assembler.errors import BadArchive
from assembler.layer.apply import unpack
from assembler.layer.archive import expand
from assembler.layer.changeset import InlineBytes
from assembler.layer.tar_reader import read
from tests.layer.archives import ZEROS, listed, pax, raw, record

MIB = 1 << 20


def numbers(*found: int) -> bytes:
    """Fields of 12 bytes: octal, or base-256 where that cannot say it."""
    return b"".join(
        b"%011o\0" % one if one >= 0 else one.to_bytes(12, "big", signed=True) for one in found
    )


def old(whole: int, *pairs: int, content: bytes = b"12", more: bytes = b"\0") -> bytes:
    """An old GNU sparse member with up to four pairs in its header."""
    area = numbers(*pairs).ljust(96, b"\0") + more + numbers(whole)
    return raw(b"f", content, kind=b"S", magic=b"ustar  \0", at=(386, area))


def newer(size: int, text: bytes, content: bytes = b"12", name: bytes = b"f") -> bytes:
    """Format 0.1: the map in one record."""
    records = (record(b"GNU.sparse.size", b"%d" % size), record(b"GNU.sparse.map", text))
    return pax(*records) + raw(name, content)


def oldest(size: int, *records: tuple[bytes, bytes], content: bytes = b"12") -> bytes:
    """Format 0.0: a record for each number."""
    keys = {b"o": b"GNU.sparse.offset", b"n": b"GNU.sparse.numbytes"}
    found = [record(keys[key], value) for key, value in records]
    return pax(record(b"GNU.sparse.size", b"%d" % size), *found) + raw(b"f", content)


def newest(size: int, text: bytes, content: bytes = b"12", block: int = 512) -> bytes:
    """Format 1.0: the map before the bytes."""
    records = (
        record(b"GNU.sparse.major", b"1"),
        record(b"GNU.sparse.minor", b"0"),
        record(b"GNU.sparse.name", b"real"),
        record(b"GNU.sparse.realsize", b"%d" % size),
    )
    padded = text.ljust(-(-len(text) // block) * block, b"\0")
    return pax(*records) + raw(b"GNUSparseFile.0/f", padded + content)


SOUND = {
    "old": old(10, 1, 1, 8, 1),
    "old, ends in a hole": old(10, 1, 1, 8, 1, 10, 0),
    "old, empty pairs": old(10, 1, 1, 5, 0, 8, 1),
    "0.0": oldest(10, (b"o", b"1"), (b"n", b"1"), (b"o", b"8"), (b"n", b"1")),
    "0.1": newer(10, b"1,1,8,1"),
    "1.0": newest(10, b"2\n1\n1\n8\n1\n"),
}


@pytest.mark.parametrize("name", SOUND)
def test_T11_sparse_members(name: str) -> None:
    ((entry, body),) = listed(SOUND[name] + ZEROS)
    assert (entry.path, entry.size) == ("real" if name == "1.0" else "f", 10)
    assert body == b"\0001\0\0\0\0\0\0002\0"


HOSTILE = {
    "old: backwards": old(10, 8, 1, 1, 1),
    "old: overlapping": old(10, 1, 2, 2, 1, content=b"123"),
    "old: outside": old(10, 1, 1, 10, 1),
    "old: more than there is": old(10, 1, 1, 3, 5),
    "old: less than there is": old(10, 1, 1),
    "old: a negative offset": old(10, -1, 2),
    "old: a negative number of bytes": old(10, 2, -1, 1, 3),
    "old: a negative size": old(-5, content=b""),
    "old: letters": raw(b"f", b"1", kind=b"S", at=(386, b"offset......size........")),
    "old: a block that is not there": old(10, 1, 1, 8, 1, more=b"\1", content=b""),
    "0.0: odd": oldest(10, (b"o", b"1"), (b"n", b"1"), (b"o", b"8")),
    "0.0: out of order": oldest(10, (b"n", b"1"), (b"o", b"1"), (b"o", b"8"), (b"n", b"1")),
    "0.0: letters": oldest(10, (b"o", b"x"), (b"n", b"2")),
    "0.1: odd": newer(10, b"1,1,8"),
    "0.1: backwards": newer(10, b"5,1,0,1"),
    "0.1: outside": newer(10, b"9,2"),
    "0.1: negative": newer(10, b"-1,2"),
    "0.1: letters": newer(10, b"1,1,a,b"),
    "0.1: many digits": newer(10, b"9" * 30 + b",2"),
    "0.1: too long": newer(10, b"0,0," * 132_000 + b"1,2"),
    "0.1: size of letters": newer(10, b"1,2").replace(b"size=10", b"size=1x"),
    "1.0: count of letters": newest(10, b"two\n1\n1\n8\n1\n"),
    "1.0: negative count": newest(10, b"-1\n"),
    "1.0: a count of many": newest(10, b"99999999999\n1\n1\n"),
    "1.0: no end": newest(10, b"1" * 2048),
    "1.0: longer than the member": newest(10, b"9\n" + b"1\n" * 200, content=b""),
    "1.0: count and no map": newest(10, b"3\n1\n1\n", content=b""),
    "a bomb": newer(9_000_000_000_000, b"0,2"),
    "half a gibibyte three times": newer(MIB << 9, b"0,2") * 3,
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_T11_sparse_maps_that_are_refused(name: str) -> None:
    stream = io.BufferedReader(io.BytesIO(HOSTILE[name] + ZEROS))  # type: ignore[arg-type]
    with pytest.raises(BadArchive):
        for _, body in read(stream):
            body.read(1 << 16)


def test_T11_endless_blocks_of_an_old_map_are_refused() -> None:
    header = raw(b"f", b"", kind=b"S", magic=b"ustar  \0", at=(386, bytes(96) + b"\1" + numbers(1)))
    block = bytes(504) + b"\1" + bytes(7)
    with pytest.raises(BadArchive, match="too long"):
        listed(header + block * 7_000)


def test_T11_holes_stay_holes(tmp_path: Path) -> None:
    size = 256 * MIB
    content = newer(size, b"%d,2,%d,0" % (100 * MIB, size)) + ZEROS
    unpack(io.BytesIO(content), str(tmp_path))
    status = (tmp_path / "f").stat()
    assert (status.st_size, status.st_blocks * 512 < MIB) == (size, True)
    with (tmp_path / "f").open("rb") as stream:
        assert os.pread(stream.fileno(), 4, 100 * MIB - 1) == b"\00012\0"
    spool = tmp_path / "spool"
    spool.mkdir()
    (entry,) = expand(InlineBytes(content), str(spool))
    (spooled,) = spool.iterdir()
    assert entry.size == spooled.stat().st_size == size
    assert spooled.stat().st_blocks * 512 < MIB
    assert entry.source is not None
    with entry.source.open() as stream:
        stream.seek(100 * MIB - 1, os.SEEK_SET)
        assert stream.read(4) == b"\00012\0"


def test_T11_files_after_a_sparse_one_in_an_archive(tmp_path: Path) -> None:
    content = (
        newer(10, b"1,1,8,1") + raw(b"g", b"after") + newer(9, b"0,2") + raw(b"h", b"x") + ZEROS
    )
    found = {entry.path: entry for entry in expand(InlineBytes(content), str(tmp_path))}
    read = {}
    for path, entry in found.items():
        assert entry.source is not None
        with entry.source.open() as stream:
            read[path] = stream.read()
    assert read == {"f": b"12" + bytes(7), "g": b"after", "h": b"x"}
