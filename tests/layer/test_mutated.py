"""TR-06, T11: damaged and mutated archives end in a result or in BadArchive, and soon.

The full count: python -m tests.layer.test_mutated 10000
"""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import pytest
import zstandard

from assembler.errors import AssemblerError, BadArchive
from assembler.layer.apply import unpack
from assembler.layer.archive import expand, is_archive
from assembler.layer.changeset import InlineBytes
from assembler.layer.decompression import reader
from assembler.linux.paths import remove_tree
from tests.layer.archives import (
    ZEROS,
    directory,
    file,
    hardlink,
    opaque,
    pax,
    raw,
    record,
    symlink,
    whiteout,
)
from tests.layer.archives import tar as written
from tests.layer.test_sparse import SOUND

SECONDS = 2.0  # of work

TARS = [
    written(
        directory("d"), file("d/f", b"content" * 90), hardlink("g", "d/f"), symlink("l", "d"),
        whiteout("w"), opaque("d"), file("n" * 150, b"x"), file("l/x", b"y"),
    ),
    b"".join(SOUND.values()) + ZEROS,
    raw(b"L", b"n" * 200 + b"\0", kind=b"L") + raw(b"f", b"1" * 600) + raw(b"p", kind=b"6") + ZEROS,
    pax(record(b"path", b"a/b/c"), record(b"size", b"3"), record(b"mtime", b"1.5"),
        record(b"SCHILY.xattr.user.a", b"v")) + raw(b"f", b"123") + raw(b"d/", kind=b"\0") + ZEROS,
]  # fmt: skip
COMPRESS = (
    bytes,
    gzip.compress,
    lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]),
    zstandard.ZstdCompressor(write_checksum=True).compress,
    lambda data: b"".join(
        zstandard.ZstdCompressor().compress(data[at : at + 900]) for at in range(0, len(data), 900)
    ),
)
INTERESTING = (
    b"\0",
    b"\xff",
    b"\x80",
    b" ",
    b"0",
    b"7",
    b"8",
    b"9",
    b"-",
    b"/",
    b"..",
    b"=",
    b"\n",
)


def damaged(data: bytes, dice: random.Random) -> bytes:
    """`data` with a few bytes changed, taken away, put in, doubled or moved."""
    out = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 3, 8))):
        at = dice.randrange(len(out) + 1)
        length = dice.choice((1, 1, 2, 8, 12, 100, 512))
        way = dice.randrange(6)
        if way == 0 and at < len(out):
            out[at] ^= 1 << dice.randrange(8)
        elif way == 1:
            out[at : at + length] = dice.choice(INTERESTING) * dice.choice((1, 2, 8))
        elif way == 2:
            del out[at : at + length]
        elif way == 3:
            out[at:at] = dice.randbytes(length)
        elif way == 4:
            block = 512 * dice.randrange(len(out) // 512 + 1)
            out[block:block] = out[at - at % 512 :][:512]
        else:
            del out[at:]
    return bytes(out)


def mended(data: bytes) -> bytes:
    """`data` with the checksums of its blocks right wherever they look like headers."""
    out = bytearray(data)
    for at in range(0, len(out) - 511, 512):
        if out[at + 257 : at + 262] == b"ustar":
            out[at + 148 : at + 156] = b" " * 8
            out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + 512])
    return bytes(out)


def mutation(seed: int) -> bytes:
    """Damage before compression, checksums mended, or after it, or both."""
    dice = random.Random(seed)
    data = dice.choice(TARS)
    compress = dice.choice(COMPRESS)
    where = dice.randrange(3)
    if where != 1:
        data = damaged(data, dice)
        if dice.random() < 0.8:
            data = mended(data)
    data = compress(data)
    return damaged(data, dice) if where else data


def outcome(blob: bytes, directory: str) -> str:
    """What becomes of `blob` as a layer and as an archive that is added."""
    started = time.process_time()
    found = "read"
    into, spool = f"{directory}/into", f"{directory}/spool"
    try:
        for path in (into, spool):
            Path(path).mkdir()
        try:
            unpack(io.BytesIO(blob), into)
        except BadArchive:
            found = "refused"
        except AssemblerError:  # an owner or attribute that cannot be here
            found = "impossible here"
        with contextlib.suppress(BadArchive):
            is_archive(InlineBytes(blob))
            expand(InlineBytes(blob), spool)
    finally:
        for path in (into, spool):
            remove_tree(path)
    return found if time.process_time() - started < SECONDS else "late"


def test_TR06_mutated_archives(tmp_path: Path) -> None:
    outcomes = {outcome(mutation(seed), str(tmp_path)) for seed in range(300)}
    assert {"read", "refused"} <= outcomes
    assert "late" not in outcomes


@pytest.mark.parametrize("compress", COMPRESS)
def test_TR06_what_is_not_damaged_is_read(tmp_path: Path, compress: type[bytes]) -> None:
    for data in TARS:
        assert reader(io.BytesIO(compress(data))).read() == data
        assert outcome(compress(data), str(tmp_path)) == "read"


def main() -> None:
    """Print how many mutations had which outcome."""
    count = int(sys.argv[1])
    outcomes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as directory:
        for seed in range(count):
            found = outcome(mutation(seed), directory)
            outcomes[found] = outcomes.get(found, 0) + 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    sys.stdout.write(f"{count} mutations: {outcomes}, peak {peak} MiB\n")


if __name__ == "__main__":
    main()
