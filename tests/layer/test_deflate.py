"""The deflate library for a level, and what takes its place where it is missing."""

from __future__ import annotations

import gzip
import sys
import zlib

import pytest

from assembler.layer.compression import Gzip
from assembler.layer.deflate import Engine

TEXT = b"".join(b"line %d of a text that compresses\n" % number for number in range(90_000))


def compressed(level: int, threads: int, step: int) -> bytes:
    out: list[bytes] = []
    writer = Gzip(level, threads).writer(out.append)
    for at in range(0, len(TEXT), step):
        writer.write(TEXT[at : at + step])
    writer.close()
    return b"".join(out)


@pytest.mark.parametrize(
    ("missing", "level", "name"),
    [
        ((), 5, "zlib-ng-"),
        ((), 1, "isal-"),
        (("isal",), 1, "zlib-ng-"),
        (("zlib_ng",), 5, "zlib-1"),
        (("zlib_ng", "isal"), 1, "zlib-1"),
    ],
)
def test_every_engine_gives_the_same_bytes_for_any_threads_and_pieces(
    missing: tuple[str, ...], level: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in missing:
        monkeypatch.setitem(sys.modules, module, None)
    assert Engine.of(level).identity.startswith(name)
    assert name in Gzip(level).identity
    made = {compressed(level, *way) for way in ((1, 1 << 20), (3, 1 << 20), (2, 77_777))}
    (blob,) = made
    stream = zlib.decompressobj(31)
    assert stream.decompress(blob) == TEXT
    assert stream.eof
    assert not stream.unused_data


def test_a_block_is_a_member_of_its_own() -> None:
    for level in range(10):
        assert gzip.decompress(Engine.of(level).member(TEXT)) == TEXT
    assert gzip.decompress(Engine.of(5).member(b"")) == b""
