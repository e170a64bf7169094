"""T9, T15, T17, T18: what layers cost that are made to cost much, and what they cannot bring about."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from assembler.errors import BadArchive
from assembler.layer import archive as archives
from assembler.layer import directory as directories
from assembler.layer.apply import unpack
from assembler.layer.archive import expand
from assembler.layer.changeset import InlineBytes
from assembler.layer.limits import Limits
from assembler.layer.tree import DirectoryTree, everything
from assembler.layer.walk import entries
from assembler.oci.digest import Digest
from tests.bounds import cpu_seconds
from tests.layer.archives import ZEROS, directory, file, symlink, tar

MANY = (
    *(file(f"implied-{n}/below/f", b"1", mtime=5) for n in range(30)),
    *(directory(f"d/{n}", 0o750, 10 + n) for n in range(30)),
    directory("d", 0o711, 3),
    *(file(f"d/{n}/f", b"2") for n in range(0, 30, 7)),
    directory("implied-3", 0o700, 7),
    file("d/5", b"in place of a directory"),
    symlink("d/6", "7"),
    file("d/6/g", b"3"),
    directory("", 0o755, 2),
)


def test_T15_directories_that_are_finished_early_look_like_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer may have millions of them, which are not all remembered to its end."""
    found = []
    for limit in (32 << 20, 2_000, 0):
        monkeypatch.setattr(directories, "_REMEMBERED", limit)
        into = tmp_path / str(limit)
        into.mkdir()
        unpack(io.BytesIO(tar(*MANY)), str(into))
        named = sorted(entry.path for entry in entries(str(into)))
        found.append((tuple(everything(DirectoryTree(str(into)))), named))
    assert found[0] == found[1] == found[2]
    by_path = {entry.path: entry for entry in found[0][0]}
    assert by_path["d/7"].mtime == 17 * 10**9
    assert by_path["implied-3"].mode == 0o700
    assert "implied-3" in found[0][1]
    assert "implied-4" not in found[0][1]


GROUPS = """
import io, os, sys
from assembler.layer import directory as directories
from assembler.layer.apply import unpack
from assembler.layer.changeset import Entry, Kind
from assembler.linux import userns
from assembler.linux.paths import remove_tree
from tests.layer.archives import tar
userns.enter()
def made(path, kind, mode, gid):
    return Entry(path, kind, mode, 0, gid, link="x" if kind is Kind.SYMLINK else "")
DIRECTORY, REST = Kind.DIRECTORY, (Kind.FILE, Kind.SYMLINK, Kind.FIFO, Kind.DIRECTORY)
layer = tar(
    made("d", DIRECTORY, 0o2755, 7), made("after", DIRECTORY, 0o755, 0),
    *(made(f"d/{kind.value} {gid}", kind, 0o755, gid) for kind in REST for gid in (0, 7, 8)),
)
directories._REMEMBERED = 0
unpack(io.BytesIO(layer), sys.argv[1])
for name in sorted(os.listdir(f"{sys.argv[1]}/d")):
    assert os.lstat(f"{sys.argv[1]}/d/{name}").st_gid == int(name[-1]), name
remove_tree(sys.argv[1])
"""


@pytest.mark.integration
def test_T16_a_directory_that_is_finished_early_hands_its_group_to_nobody(tmp_path: Path) -> None:
    into = tmp_path / "into"
    into.mkdir()
    subprocess.run([sys.executable, "-c", GROUPS, str(into)], check=True)
    assert not into.exists()


def test_T15_directories_that_no_member_names_count(tmp_path: Path) -> None:
    layer = tar(file("a/b/c/d/e/f", b"1"), file("g/h/i/j/k/l", b"2"))
    with pytest.raises(BadArchive, match="more than 10 files and directories"):
        unpack(io.BytesIO(layer), str(tmp_path), limits=Limits(entries=10))


def test_T15_directories_that_no_member_names_count_in_archives_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_MAX_IMPLIED", 1_000)
    with pytest.raises(BadArchive, match="no member"):
        expand(InlineBytes(tar(*(file(f"{n}/b/c/d/e/f") for n in range(200)))), str(tmp_path))


def test_T9_replacing_many_directories_takes_their_number_not_its_square(tmp_path: Path) -> None:
    count = 1_500
    layer = tar(
        *(directory(f"d{n}") for n in range(count)), *(file(f"d{n}", b"f") for n in range(count))
    )
    with cpu_seconds(10):
        unpack(io.BytesIO(layer), str(tmp_path))
    assert all(stat.S_ISREG(path.lstat().st_mode) for path in tmp_path.iterdir())


def test_T17_content_that_is_not_what_the_configuration_says(tmp_path: Path) -> None:
    layer = tar(file("f", b"1"))
    right = Digest.of(layer)
    for number, blob in enumerate((layer, gzip.compress(layer), layer + b"after the end")):
        into = tmp_path / str(number)
        into.mkdir()
        if number < 2:
            unpack(io.BytesIO(blob), str(into), diff_id=right)
            continue
        with pytest.raises(BadArchive, match="not what the image configuration says"):
            unpack(io.BytesIO(blob), str(into), diff_id=right)


NO_PROCESS = """
import sys
from assembler.layer.apply import unpack
def watch(event, arguments):
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "os.system"):
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(watch)
for number, name in enumerate(sys.argv[2:]):
    import os
    os.mkdir(f"{sys.argv[1]}/{number}")
    with open(name, "rb") as stream:
        unpack(stream, f"{sys.argv[1]}/{number}")
"""


def test_T18_no_program_is_executed_to_decompress(tmp_path: Path) -> None:
    layer = (
        tar(file("bin/xz", b"#!/bin/sh", 0o755), file("bin/unpigz", b"#!/bin/sh", 0o755)) + ZEROS
    )
    compress = zstandard.ZstdCompressor().compress
    names = []
    for number, way in enumerate((gzip.compress, bz2.compress, lzma.compress, compress)):
        path = tmp_path / f"layer-{number}"
        path.write_bytes(way(layer))
        names.append(str(path))
    subprocess.run([sys.executable, "-c", NO_PROCESS, str(tmp_path), *names], check=True)
    assert (tmp_path / "3/bin/xz").exists()
