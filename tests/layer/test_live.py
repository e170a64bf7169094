"""Directories that others write to, as layers: what is there comes back, what changes is left out."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembler.errors import BadArchive, ContextChanged
from assembler.layer.apply import unpack
from assembler.layer.changeset import Entry, Kind
from assembler.layer.compression import Plain, Zstd
from assembler.layer.live import KINDS, LiveTree
from assembler.layer.write import Packed, pack_ordered
from tests.layer.archives import directory, file, tar, whiteout
from tests.ticks import tick

NAMES = st.sampled_from(["a", "a.b", "B", "z", "caf\u00e9", os.fsdecode(b"\xe9"), "n" * 120])
TIMES = st.integers(-(10**9), 10**9).map(lambda second: second * 10**9) | st.integers(0, 2 * 10**18)
MODES = st.sampled_from([0o644, 0o755, 0o600, 0o4711, 0o1777])
LEAVES = (
    st.tuples(st.just("file"), st.binary(max_size=600), MODES, TIMES, st.booleans())
    | st.tuples(st.just("link"), st.sampled_from(["a", "../..", "/etc/passwd", "x" * 200]), TIMES)
    | st.tuples(st.just("same"), st.sampled_from(["a", "B"]))
)
TREES = st.recursive(
    st.dictionaries(NAMES, LEAVES, max_size=5),
    lambda below: st.dictionaries(
        NAMES, LEAVES | st.tuples(st.just("directory"), below, TIMES), max_size=5
    ),
    max_leaves=20,
)


def make(at: Path, tree: dict[str, tuple]) -> None:  # type: ignore[type-arg]
    """Files as a cache has them."""
    for name, (kind, *rest) in tree.items():
        path = at / name
        if kind == "directory":
            path.mkdir()
            make(path, rest[0])
            os.utime(path, ns=(0, rest[1]))
        elif kind == "link":
            path.symlink_to(rest[0])
            os.utime(path, ns=(0, rest[1]), follow_symlinks=False)
        elif kind == "file":
            content, mode, mtime, attribute = rest
            path.write_bytes(content)
            path.chmod(mode)
            if attribute:
                os.setxattr(path, "user.etag", content[:9])
            os.utime(path, ns=(0, mtime))
    for name, (kind, *rest) in tree.items():
        if kind == "same" and (at / rest[0]).is_file() and not (at / rest[0]).is_symlink():
            os.link(at / rest[0], at / name) if not (at / name).exists() else None


def seen(at: Path) -> dict[str, tuple[object, ...]]:
    """Everything that tools see of a tree, and which names are one file."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[int, str] = {}
    paths = [
        at,
        *sorted(Path(above) / one for above, *names in os.walk(at) for n in names for one in n),
    ]
    for path in paths:
        status = path.lstat()
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
        }
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = (
                path.read_bytes(),
                inodes.setdefault(status.st_ino, str(path.relative_to(at))),
            )
        found[str(path.relative_to(at))] = (
            status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, attributes, content,
        )  # fmt: skip
    return found


def packed(at: Path, check: Callable[[], None] = lambda: None) -> tuple[bytes, Packed, LiveTree]:
    tree, out = LiveTree(str(at), check), io.BytesIO()
    result = pack_ordered(tree.entries(), out, Zstd(1), fractions=True)
    return out.getvalue(), result, tree


@given(TREES)
def test_M7_what_is_packed_comes_back_with_times_and_is_packed_the_same(
    tree: dict[str, tuple],  # type: ignore[type-arg]
) -> None:
    with TemporaryDirectory() as name:
        here, there = Path(name, "here"), Path(name, "there")
        here.mkdir()
        make(here, tree)
        blob, result, live = packed(here)
        there.mkdir()
        unpack(io.BytesIO(blob), str(there), diff_id=result.diff_id, kinds=KINDS)
        assert seen(there) == seen(here)
        assert not live.left_out
        assert packed(there)[0] == blob


def test_M7_sockets_and_pipes_stay_behind(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    (tmp_path / "file").touch()
    live = LiveTree(str(tmp_path))
    assert [entry.path for entry in live.entries()] == ["", "file"]
    assert not live.left_out


def test_M7_what_goes_or_changes_while_it_is_read_is_left_out(tmp_path: Path) -> None:
    for name in ("a", "b", "d"):
        (tmp_path / name).write_text(name)
    (tmp_path / "c").mkdir()
    outside = tmp_path.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_text("of the host")
    live = LiveTree(str(tmp_path))
    found = []
    for entry in live.entries():
        found.append(entry.path)
        if entry.path == "a":
            (tmp_path / "b").unlink()
            (tmp_path / "c").rmdir()
            (tmp_path / "c").symlink_to(outside)
    assert found == ["", "a", "d"]
    assert list(live.left_out) == ["b", "c"]


def test_M7_a_link_in_the_place_of_a_file_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").write_text("cached")
    secret = tmp_path.parent / "secret"
    secret.write_text("of the host")
    found: list[Entry] = []
    for entry in LiveTree(str(tmp_path)).entries():
        found.append(entry)
        if entry.path == "a":
            (tmp_path / "b").unlink()
            (tmp_path / "b").symlink_to(secret)
    assert [(one.path, one.kind) for one in found[2:]] == [("b", Kind.SYMLINK)]


def test_M7_a_large_file_that_changes_is_named_and_can_be_left_out(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(3 << 20))
    (tmp_path / "small").write_text("x")
    live = LiveTree(str(tmp_path))

    def append() -> None:
        with large.open("ab") as stream:
            stream.write(b"more")

    with pytest.raises(ContextChanged):
        for entry in live.entries():
            if entry.path == "large":
                append()
    assert live.reading == "large"
    again = LiveTree(str(tmp_path), without={"large"})
    assert [entry.path for entry in again.entries()] == ["", "small"]
    assert list(again.left_out) == ["large"]


def test_M7_a_survey_tells_changes_of_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12")
    os.link(path, tmp_path / "g")
    states = []

    def look() -> None:
        found = LiveTree(str(tmp_path)).survey()
        assert found.state not in states
        states.append(found.state)
        assert LiveTree(str(tmp_path)).survey() == found

    look()
    assert LiveTree(str(tmp_path)).survey().size == 2, "of two names of one file"
    for change in (
        lambda: path.write_bytes(b"345"),
        lambda: os.utime(path, ns=(5, 5)),
        lambda: path.chmod(0o600),
        lambda: os.setxattr(path, "user.a", b"1"),
        lambda: path.rename(tmp_path / "h"),
        lambda: (tmp_path / "d").mkdir(),
        lambda: (tmp_path / "d").chmod(0o700),
    ):
        tick(tmp_path)
        change()
        look()


def test_M7_nesting_without_end_is_cut(tmp_path: Path) -> None:
    os.makedirs(tmp_path / "/".join("d" * 400))
    live = LiveTree(str(tmp_path))
    found = list(live.entries())
    assert len(found) == 257
    assert list(live.left_out.values()) == ["it lies too deep"]


@pytest.mark.parametrize(
    "entry",
    [whiteout("a"), Entry("null", Kind.CHARACTER, device=(1, 3))],
    ids=["whiteout", "device"],
)
def test_M7_an_imported_cache_has_files_links_and_directories_only(
    tmp_path: Path, entry: Entry
) -> None:
    blob = tar(directory(""), file("x"), entry)
    with pytest.raises(BadArchive, match="is a"):
        unpack(io.BytesIO(blob), str(tmp_path), kinds=KINDS)


def test_fractions_of_seconds_are_in_a_layer_only_where_they_are_wanted(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    os.utime(tmp_path / "f", ns=(0, 1_500_000_000))
    os.utime(tmp_path, ns=(0, -1_500_000_000))
    for fractions, times in (
        (True, (-1_500_000_000, 1_500_000_000)),
        (False, (-(2 * 10**9), 10**9)),
    ):
        out, into = io.BytesIO(), tmp_path.parent / f"out-{fractions}"
        entries = LiveTree(str(tmp_path)).entries()
        pack_ordered(entries, out, Plain(), fractions=fractions)
        into.mkdir()
        unpack(io.BytesIO(out.getvalue()), str(into))
        assert (into.stat().st_mtime_ns, (into / "f").stat().st_mtime_ns) == times
        assert stat.S_IMODE(into.stat().st_mode) == stat.S_IMODE(tmp_path.stat().st_mode)


def test_M7_a_tree_that_is_never_still_gives_whole_files_only(tmp_path: Path) -> None:
    """As pip, go and ccache write: a new file is made whole, then it takes the name of the old."""
    here, over = tmp_path / "here", threading.Event()
    names = [f"d{number % 5}/f{number}" for number in range(40)]

    def write(name: str, letter: bytes) -> None:
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_bytes(letter * 5_000)
        partial.rename(path)

    def churn() -> None:
        for turn in itertools.count():
            for name in names:
                if over.is_set():
                    return
                if turn % 3:
                    write(name, b"abc"[turn % 3 :][:1])
                else:
                    shutil.rmtree(here / name.partition("/")[0], ignore_errors=True)

    for name in names:
        write(name, b"a")
    writer = threading.Thread(target=churn)
    writer.start()
    try:
        for turn in range(10):
            blob, result, _ = packed(here)
            into = tmp_path / f"out-{turn}"
            into.mkdir()
            unpack(io.BytesIO(blob), str(into), diff_id=result.diff_id, kinds=KINDS)
            contents = [path.read_bytes() for path in into.rglob("f*") if path.suffix == ""]
            assert all(len(set(one)) == 1 and len(one) == 5_000 for one in contents)
    finally:
        over.set()
        writer.join()
