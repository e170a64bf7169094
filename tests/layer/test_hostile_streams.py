"""T13, T14: compressed streams that are refused, and those that are odd but right."""

from __future__ import annotations

import gzip
import io
import struct
import sys
import zlib
from pathlib import Path

import pytest
import zstandard

from assembler.errors import BadArchive
from assembler.layer import decompression
from assembler.layer.apply import unpack
from assembler.layer.decompression import DEFAULT_LIMIT, reader
from tests.bounds import cpu_seconds
from tests.layer.archives import file, tar

TEXT = b"".join(b"line %d of a text\n" % number for number in range(300))


def plain(blob: bytes) -> bytes:
    return reader(io.BytesIO(blob)).read()


def member(data: bytes, flags: int = 0, extra: bytes = b"", method: int = 8) -> bytes:
    """A gzip member with the parts of its header that `flags` tell (RFC 1952)."""
    header = b"\x1f\x8b" + bytes([method, flags]) + bytes(4) + b"\0\xff" + extra
    if flags & 2:
        header += struct.pack("<H", zlib.crc32(header) & 0xFFFF)
    stream = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = stream.compress(data) + stream.flush()
    return header + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


GZIP = gzip.compress(TEXT)
ODD_GZIP = {
    "name, comment and extra field": member(TEXT, 0x1C, b"\x04\0ab\0\0name\0comment\0"),
    "header checksum": member(TEXT, 2),
    "text flag": member(TEXT, 1),
    "members": gzip.compress(TEXT[:50]) + gzip.compress(TEXT[50:60]) + gzip.compress(TEXT[60:]),
    "empty members": gzip.compress(b"") * 3 + GZIP + gzip.compress(b"") * 3,
    "zero padding": GZIP + bytes(10_000),
    "one zero": GZIP + b"\0",
    "stored blocks": gzip.compress(TEXT, 0),
    "sync flushes": member(TEXT[:10]) + member(TEXT[10:]),
}
BAD_GZIP = {
    "garbage after it": GZIP + b"garbage",
    "garbage after zeros": GZIP + bytes(100) + b"x",
    "a member after zeros": GZIP + bytes(100) + GZIP,
    "half a magic": GZIP + b"\x1f",
    "checksum": GZIP[:-8] + bytes([GZIP[-8] ^ 1]) + GZIP[-7:],
    "length": GZIP[:-1] + bytes([GZIP[-1] ^ 1]),
    "method": member(TEXT, method=7),
    "reserved flags": member(TEXT, 0xE0),
    "block type": GZIP[:10] + b"\x07" + GZIP[11:],
    "second member's checksum": GZIP + GZIP[:-8] + bytes([GZIP[-8] ^ 1]) + GZIP[-7:],
}


@pytest.fixture(params=["isal", ""], ids=["zlib", "igzip"])
def missing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without what inflates faster."""
    if request.param:
        monkeypatch.setitem(sys.modules, request.param, None)


@pytest.mark.usefixtures("missing")
@pytest.mark.parametrize("name", ODD_GZIP)
def test_T13_gzip_that_is_read(name: str) -> None:
    assert plain(ODD_GZIP[name]) == TEXT


@pytest.mark.usefixtures("missing")
@pytest.mark.parametrize("name", BAD_GZIP)
def test_T13_gzip_that_is_refused(name: str) -> None:
    with pytest.raises(BadArchive):
        plain(BAD_GZIP[name])


@pytest.mark.usefixtures("missing")
@pytest.mark.parametrize("blob", [GZIP, ODD_GZIP["members"]], ids=["one", "several"])
def test_T13_gzip_cut_anywhere(blob: bytes) -> None:
    whole = {cut for cut in range(2, len(blob)) if not refused(blob[:cut])}
    first = len(gzip.compress(TEXT[:50]))
    ends = {first, first + len(gzip.compress(TEXT[50:60]))} if blob is not GZIP else set()
    assert whole == ends  # a file that ends with a member looks complete: the digest tells


def refused(blob: bytes) -> bool:
    try:
        plain(blob)
    except BadArchive:
        return True
    return False


def test_T13_a_hundred_thousand_empty_members_take_their_number_not_its_square() -> None:
    with cpu_seconds(10):
        assert plain(gzip.compress(b"") * 100_000 + GZIP) == TEXT


def test_T13_what_yields_nothing_can_be_cancelled() -> None:
    calls = iter(range(10))

    def check() -> None:
        if next(calls, None) is None:
            raise TimeoutError

    skippable = b"\x50\x2a\x4d\x18" + bytes(4)
    for blob in (gzip.compress(b"") * 1000, skippable * 1000):
        calls = iter(range(10))
        with pytest.raises(TimeoutError):
            reader(io.BytesIO(blob), check=check).read()


def frame(data: bytes, **parameters: bool) -> bytes:
    return zstandard.ZstdCompressor(**parameters).compress(data)


SKIPPABLE = b"\x5f\x2a\x4d\x18\x05\0\0\0notes"
ZSTD = frame(TEXT, write_checksum=True)
ODD_ZSTD = {
    "no checksum": frame(TEXT, write_checksum=False),
    "no size": frame(TEXT, write_content_size=False),
    "frames": frame(TEXT[:50]) + frame(TEXT[50:]),
    "empty frames": frame(b"") * 3 + ZSTD + frame(b"") * 3,
    "skippable before, between and after": SKIPPABLE + frame(TEXT[:9]) + SKIPPABLE
    + frame(TEXT[9:]) + SKIPPABLE,
    "skippable and empty": b"\x50\x2a\x4d\x18" + bytes(4) + ZSTD,
    "zero padding": ZSTD + bytes(100),
}  # fmt: skip
WINDOW = b"\x28\xb5\x2f\xfd" + b"\0" + bytes([(31 - 10) << 3]) + b"\x01\0\0"  # 2 GiB, no block
BAD_ZSTD = {
    "window of 2 GiB": WINDOW,
    "garbage after it": ZSTD + b"garbage",
    "checksum": ZSTD[:-1] + bytes([ZSTD[-1] ^ 1]),
    "skippable cut": ZSTD + SKIPPABLE[:-1],
    "skippable of 4 GiB": ZSTD + b"\x50\x2a\x4d\x18\xff\xff\xff\xff",
    "dictionary": zstandard.ZstdCompressor(
        dict_data=zstandard.ZstdCompressionDict(TEXT[:2000], zstandard.DICT_TYPE_RAWCONTENT)
    ).compress(TEXT),
    "reserved block": b"\x28\xb5\x2f\xfd\x20\x01" + b"\x07\0\0",
    "a block larger than any": b"\x28\xb5\x2f\xfd\x00\x58" + (((2 << 20) - 1) << 3 | 1).to_bytes(3, "little"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_ZSTD)
def test_T14_zstd_that_is_read(name: str) -> None:
    assert plain(ODD_ZSTD[name]) == TEXT


@pytest.mark.parametrize("name", BAD_ZSTD)
def test_T14_zstd_that_is_refused(name: str) -> None:
    with pytest.raises(BadArchive):
        plain(BAD_ZSTD[name])


@pytest.mark.parametrize("checksum", [True, False])
def test_T14_zstd_cut_anywhere(checksum: bool) -> None:
    blob = frame(TEXT, write_checksum=checksum)
    assert [cut for cut in range(4, len(blob)) if not refused(blob[:cut])] == []


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_T14_a_bomb_stops_at_its_ceiling(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an allowance of 4 MiB instead of 1 GiB, so that the disk of a test is enough."""
    monkeypatch.setattr(decompression, "ALLOWANCE", 4 << 20)
    bomb = tar(file("zeros", bytes(64 << 20)))
    blob = gzip.compress(bomb, 9) if name == "gzip" else frame(bomb)
    with pytest.raises(BadArchive, match="expands more than 100 times") as caught:
        unpack(io.BytesIO(blob), str(tmp_path))
    assert "bomb" in caught.value.hint
    on_disk = (tmp_path / "zeros").stat().st_size
    assert on_disk <= 100 * len(blob) + (4 << 20)


def test_T14_the_ceilings() -> None:
    assert (DEFAULT_LIMIT, decompression.ALLOWANCE, decompression.RATIO) == (64 << 30, 1 << 30, 100)
    with pytest.raises(BadArchive, match="holds more than 100 bytes"):
        reader(io.BytesIO(GZIP), limit=100).read()
