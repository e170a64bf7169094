"""Archives of GNU tar, bsdtar, Python's tarfile and umoci: we read from them what they do."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from assembler.layer.apply import unpack
from assembler.linux.ownership import write_table

pytestmark = pytest.mark.integration

LONG = "n" * 120
DEEP = "/".join(["d" * 60] * 6)


def make(top: Path, *, old: bool = False, odd: bool = True, holes: bool = False) -> Path:
    """A tree with what archives may hold; `old` ones have short names and no pipes."""
    (top / "dir").mkdir(parents=True)
    (top / "sticky").mkdir()
    (top / "dir/file").write_bytes(b"content" * 100)
    (top / "dir/empty").touch()
    (top / "dir/setuid").write_bytes(b"#!")
    (top / "dir/exact").write_bytes(b"x" * 512)
    os.link(top / "dir/file", top / "dir/same")
    os.link(top / "dir/file", top / "before")
    (top / "link").symlink_to("dir/file")
    (top / "cacerts").symlink_to("../../../../../../etc/ssl/certs/java/cacerts")
    (top / "dangling").symlink_to("/nowhere/at all")
    if not old:
        (top / DEEP).mkdir(parents=True)
        (top / DEEP / "file").write_bytes(b"deep")
        (top / LONG).write_bytes(b"long")
        (top / "far").symlink_to("t/" * 150)
        os.link(top / LONG, top / f"{LONG}.same")
        os.mkfifo(top / "pipe")
    if odd:
        (top / "caf\u00e9").write_bytes(b"utf-8")
        (top / os.fsdecode(b"caf\xe9")).write_bytes(b"latin-1")
        (top / "new\nline \\ tab\t").write_bytes(b"odd")
    if holes:
        with (top / "holes").open("wb") as stream:
            for number in range(40):
                stream.seek(number * 100_000)
                stream.write(b"%d" % number)
            stream.truncate(5_000_000)
    for path, mode in (("dir/setuid", 0o4755), ("sticky", 0o1777), ("dir", 0o750)):
        (top / path).chmod(mode)
    for number, path in enumerate(sorted(top.rglob("*"), reverse=True)):
        os.utime(path, ns=(0, (1_500_000_000 + number) * 10**9 + 5), follow_symlinks=False)
    return top


Found = dict[str, tuple[str, int, str | bytes, str]]


def found(top: Path, precision: int = 1) -> Found:
    """Each path with its kind and mode, time, content or link, and the first name of its inode."""
    first: dict[int, str] = {}
    result: Found = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        content: str | bytes = b""
        if path.is_symlink():
            content = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        name = str(path.relative_to(top))
        linked = first.setdefault(status.st_ino, name)
        mtime = status.st_mtime_ns // precision
        if precision > 1 and path.is_symlink():
            mtime = 0  # which the standard library does not set
        result[name] = (stat.filemode(status.st_mode), mtime, content, linked)
    return result


def compare(
    archive: Path, tmp_path: Path, extract: Callable[[Path], object], precision: int
) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours/tree"
    theirs.mkdir()
    ours.mkdir(parents=True)
    write_table(str(ours), {})  # for what belongs to others: umoci writes 0:0
    extract(theirs)
    with archive.open("rb") as stream:
        unpack(stream, str(ours))
    assert found(ours, precision) == found(theirs, precision)
    assert len(found(ours)) > 10


def run(*words: str | Path) -> None:
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, "LC_ALL": "C.UTF-8"})


GNU = {
    "v7": ["--format=v7"],
    "oldgnu": ["--format=oldgnu"],
    "gnu": ["--format=gnu"],
    "ustar": ["--format=ustar"],
    "pax": ["--format=pax"],
    "gnu, gzip": ["--format=gnu", "-z"],
    "pax, zstd": ["--format=pax", "--zstd"],
    "sparse, oldgnu": ["--format=oldgnu", "-S"],
    "sparse, gnu": ["--format=gnu", "-S"],
    "sparse, pax 0.0": ["--format=pax", "-S", "--sparse-version=0.0"],
    "sparse, pax 0.1": ["--format=pax", "-S", "--sparse-version=0.1"],
    "sparse, pax 1.0": ["--format=pax", "-S", "--sparse-version=1.0"],
}


@pytest.mark.parametrize("form", GNU)
def test_round_trip_of_gnu_tar(tmp_path: Path, form: str) -> None:
    tree = make(tmp_path / "tree", old=form in ("v7", "ustar"), holes="sparse" in form)
    archive = tmp_path / "archive"
    run("tar", *GNU[form], "-C", tree, "-cf", archive, ".")
    compare(archive, tmp_path, lambda into: run("tar", "-C", into, "-xpf", archive), 1)


@pytest.mark.parametrize("form", ["v7", "ustar", "pax", "gnutar", "restricted"])
def test_round_trip_of_bsdtar(tmp_path: Path, require: Callable[..., None], form: str) -> None:
    require("bsdtar")
    tree = make(tmp_path / "tree", old=form in ("v7", "ustar"), odd=False, holes=form == "pax")
    archive = tmp_path / "archive"
    run(
        "bsdtar",
        "--format",
        {"restricted": "paxr"}.get(form, form),
        "-C",
        tree,
        "-cf",
        archive,
        ".",
    )
    compare(archive, tmp_path, lambda into: run("bsdtar", "-C", into, "-xpf", archive), 1)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_round_trip_of_the_standard_library(tmp_path: Path, form: int) -> None:
    tree = make(tmp_path / "tree", old=form == tarfile.USTAR_FORMAT)
    archive = tmp_path / "archive"
    with tarfile.open(archive, "w", format=form) as writer:
        writer.add(tree, ".")

    def extract(into: Path) -> None:
        with tarfile.open(archive) as reader:
            trusted = getattr(tarfile, "fully_trusted_filter", None)  # none before 3.11.4
            reader.extraction_filter = trusted
            reader.extractall(into)

    compare(archive, tmp_path, extract, 10**9)


def test_round_trip_of_umoci(tmp_path: Path, require: Callable[..., None]) -> None:
    require("umoci")
    layout = tmp_path / "layout"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:empty")
    run("umoci", "unpack", "--rootless", "--image", f"{layout}:empty", tmp_path / "bundle")
    make(tmp_path / "bundle/rootfs", odd=False)
    run("umoci", "repack", "--image", f"{layout}:full", tmp_path / "bundle")
    archive = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)

    def extract(into: Path) -> None:
        into.rmdir()
        run("umoci", "unpack", "--rootless", "--image", f"{layout}:full", tmp_path / "again")
        (tmp_path / "again/rootfs").rename(into)

    compare(archive, tmp_path, extract, 1)
