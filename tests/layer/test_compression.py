"""Compression: the same bytes for any number of threads, and no damage goes unnoticed."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import io
import itertools
import lzma
import os
import random
import tarfile
import threading
import zlib

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assembler.errors import BadArchive, Cancelled, UsageError
from assembler.layer.compression import (
    LEVELS,
    Compression,
    Gzip,
    Plain,
    Zstd,
    by_name,
    frame_threads,
)
from assembler.layer.decompression import reader
from assembler.layer.zstd_chunked import ZstdChunked
from tests.leftovers import nothing_left

RELAXED = settings(deadline=None, suppress_health_check=list(HealthCheck))
TEXT = b"".join(b"line %d of a text that compresses\n" % number for number in range(120_000))
NOISE = random.Random(1).randbytes(300_000)


def compressed(compression: Compression, data: bytes, step: int = 1 << 20) -> bytes:
    out: list[bytes] = []
    writer = compression.writer(out.append)
    for at in range(0, len(data), step):
        writer.write(data[at : at + step])
    writer.close()
    return b"".join(out)


@pytest.mark.parametrize("kind", [Gzip, Zstd])
def test_threads_and_pieces_do_not_show(kind: type[Gzip] | type[Zstd]) -> None:
    data = TEXT + NOISE
    results = {
        compressed(kind(threads=threads), data, step)
        for threads in (1, 2, 4)
        for step in (1 << 20, 70_001)
    }
    assert len(results) == 1
    assert reader(io.BytesIO(results.pop())).read() == data


def test_gzip_is_one_member_that_anyone_reads() -> None:
    blob = compressed(Gzip(), TEXT)
    stream = zlib.decompressobj(31)
    assert stream.decompress(blob) == TEXT
    assert stream.eof
    assert not stream.unused_data


def test_zstd_is_frames_that_tell_their_size() -> None:
    """Readers give each frame the memory it needs, and may read several at once (speed.md 3)."""
    blob = compressed(Zstd(), 3 * TEXT)
    decompressor = zstandard.ZstdDecompressor()
    sizes = []
    while blob:
        parameters = zstandard.get_frame_parameters(blob)
        assert parameters.has_checksum
        assert parameters.window_size <= 4 << 20
        stream = decompressor.decompressobj()
        assert len(stream.decompress(blob)) == parameters.content_size
        sizes.append(parameters.content_size)
        blob = stream.unused_data
    assert sizes[:-1] == [4 << 20] * (len(sizes) - 1)
    assert sum(sizes) == len(3 * TEXT)


@pytest.mark.parametrize("kind", [Zstd, ZstdChunked])
def test_Z7_at_slow_levels_a_frame_is_given_up_in_its_middle(
    kind: type[Zstd] | type[ZstdChunked],
) -> None:
    """A frame takes up to 11 s at level 22, a piece of it a fraction of one."""
    asked = threading.Semaphore(0)
    ended = threading.Event()
    calls = itertools.count(1)

    def check() -> None:
        asked.release()
        if next(calls) == 3:  # however slow this thread is, the frame is not done before it is
            ended.wait(60)
        if ended.is_set():
            raise Cancelled

    out: list[bytes] = []
    writer = kind(level=19, threads=1).writer(lambda piece: out.append(bytes(piece)), check)
    writer.write(header_of_file(4 << 20))
    writer.write(TEXT[: 4 << 20])
    if kind is ZstdChunked:  # which batches what it compresses
        writer.write(header_of_file(4 << 20))
    for _ in range(3):
        assert asked.acquire(timeout=60)
    ended.set()
    with pytest.raises(Cancelled):
        writer.close()
    writer.abort()
    assert sum(map(len, out)) < 100_000


def header_of_file(size: int) -> bytes:
    info = tarfile.TarInfo("f")
    info.size = size
    return info.tobuf()


@pytest.mark.parametrize("level", [12, 13, 19])
def test_at_slow_levels_threads_do_not_show_either(level: int) -> None:
    data = TEXT[:300_000] + NOISE[:200_001]
    results = {compressed(Zstd(level, threads), data, 70_001) for threads in (1, 3)}
    assert len(results) == 1
    assert reader(io.BytesIO(results.pop())).read() == data


def test_only_slow_levels_have_frames_made_of_pieces() -> None:
    """What was packed at other levels before has the bytes that it would have now."""
    data = TEXT[: 1 << 20]
    for level in (1, 3, 12):
        one = zstandard.ZstdCompressor(level=level, write_checksum=True).compress(data)
        assert compressed(Zstd(level), data) == one
        assert "piece" not in Zstd(level).identity
    assert "piece" in Zstd(13).identity and "piece" in ZstdChunked(22).identity


def test_zstd_has_fewer_threads_where_a_level_needs_much_memory() -> None:
    assert frame_threads(3, 8) == 8
    assert frame_threads(22, 8) == 1


@RELAXED
@given(st.binary(max_size=5000), st.sampled_from(["gzip", "zstd", "uncompressed"]))
def test_round_trip(data: bytes, name: str) -> None:
    blob = compressed(by_name(name), data, 997)
    assert name == "uncompressed" or reader(io.BytesIO(blob)).read() == data


@pytest.mark.parametrize("level", [0, 1, 9])
def test_Z7_every_gzip_level(level: int) -> None:
    assert gzip.decompress(compressed(Gzip(level), TEXT)) == TEXT


def test_no_thread_is_left() -> None:
    with nothing_left():
        writer = Gzip(threads=2).writer(lambda data: None)
        for at in range(0, len(TEXT), 1 << 20):
            writer.write(TEXT[at : at + (1 << 20)])
        writer.abort()
        compressed(Gzip(threads=2), TEXT)


def test_identity_tells_engines_and_levels_apart() -> None:
    ways = [(name, level) for name in LEVELS for level in (None, 1, 6)]
    assert len({by_name(*way).identity for way in ways}) == len(ways)
    assert Gzip(threads=1).identity == Gzip(threads=7).identity
    assert by_name("gzip") == Gzip()
    assert by_name("zstd", 0) == Zstd()
    assert by_name("uncompressed") == Plain()


@pytest.mark.parametrize(
    ("name", "level", "message"),
    [
        ("bzip2", None, "unknown compression 'bzip2'"),
        ("gzip", 10, r"10 for gzip is not in 0\.\.9"),
        ("gzip", -1, r"not in 0\.\.9"),
        ("estargz", 10, r"not in 0\.\.9"),
        ("zstd", 23, r"23 for zstd is not in 0\.\.22"),
        ("zstd:chunked", 23, r"not in 0\.\.22"),
        ("uncompressed", 1, "without compression"),
    ],
)
def test_Z7_unknown_names_and_levels(name: str, level: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        by_name(name, level)


def zstd_frame(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


SKIPPABLE = b"\x5a\x2a\x4d\x18\x05\x00\x00\x00notes"
GOOD = {
    "gzip": gzip.compress(TEXT),
    "gzip, two members": gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:]),
    "gzip, zero padding": gzip.compress(TEXT) + bytes(700),
    "zstd": zstd_frame(TEXT),
    "zstd, two frames": zstd_frame(TEXT[:100]) + zstd_frame(TEXT[100:]),
    "zstd, skippable frames": SKIPPABLE + zstd_frame(TEXT) + SKIPPABLE,
    "zstd, no checksum": zstandard.ZstdCompressor().compress(TEXT),
    "bzip2": bz2.compress(TEXT[:100]) + bz2.compress(TEXT[100:]),
    "xz": lzma.compress(TEXT[:100]) + bytes(4) + lzma.compress(TEXT[100:]),
    "none": TEXT,
}


@pytest.mark.parametrize("name", GOOD)
def test_reads(name: str) -> None:
    assert reader(io.BytesIO(GOOD[name])).read() == TEXT


def flipped(blob: bytes, at: int) -> bytes:
    return blob[:at] + bytes([blob[at] ^ 0xFF]) + blob[at + 1 :]


BAD = {
    "gzip cut": GOOD["gzip"][:-1],
    "gzip header only": GOOD["gzip"][:7],
    "gzip checksum": flipped(GOOD["gzip"], len(GOOD["gzip"]) - 6),
    "gzip garbage": GOOD["gzip"] + b"garbage",
    "gzip second member cut": GOOD["gzip, two members"][:-9],
    "zstd cut": GOOD["zstd"][:-1],
    "zstd cut in a block": GOOD["zstd"][: len(GOOD["zstd"]) // 2],
    "zstd checksum": flipped(GOOD["zstd"], len(GOOD["zstd"]) - 1),
    "zstd no checksum, cut": GOOD["zstd, no checksum"][:-1],
    "zstd garbage": GOOD["zstd"] + b"garbage",
    "zstd skippable cut": GOOD["zstd"] + SKIPPABLE[:-1],
    "bzip2 cut": GOOD["bzip2"][:-1],
    "xz cut": GOOD["xz"][:-1],
    "xz damaged": flipped(GOOD["xz"], len(GOOD["xz"]) // 2),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_stream_that_cannot_be_read_is_not_taken_for_a_damaged_one(name: str) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell():
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(100)

    with pytest.raises(OSError, match="Input/output error"):
        reader(Broken(GOOD[name])).read()


@pytest.mark.parametrize("name", BAD)
def test_refuses(name: str) -> None:
    with pytest.raises(BadArchive):
        reader(io.BytesIO(BAD[name])).read()


@RELAXED
@given(st.sampled_from(sorted(GOOD)), st.integers(0, 1 << 20), st.integers(1, 255))
def test_damage_is_an_error_or_harmless_but_never_a_traceback(
    name: str, at: int, change: int
) -> None:
    blob = bytearray(GOOD[name])
    blob[at % len(blob)] ^= change
    with contextlib.suppress(BadArchive):
        reader(io.BytesIO(bytes(blob)), limit=8 << 20).read()


def test_bombs_stop_at_the_limit() -> None:
    for blob in (gzip.compress(bytes(4 << 20)), zstd_frame(bytes(4 << 20))):
        stream = reader(io.BytesIO(blob), limit=1 << 20)
        with pytest.raises(BadArchive, match="more than 1048576 bytes"):
            while stream.read(1 << 16):
                pass


def test_a_zstd_bomb_is_read_in_small_pieces() -> None:
    """Blocks of 3 bytes that mean 128 KiB each: libzstd's binding would return it all at once."""
    blob = zstd_frame(bytes(64 << 20))
    assert len(blob) < 8_000
    stream = reader(io.BytesIO(blob))
    assert sum(len(piece) for piece in iter(lambda: stream.read1(8 << 20), b"")) == 64 << 20  # type: ignore[attr-defined]
