"""Files in a directory of the caller's (rules O1, T2): what they become, what is there already, and that
nothing outside is touched."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import pytest

from assembler.cancellation import nothing
from assembler.errors import BadArchive, Cancelled, ContextChanged, HostError, NoSpace, StoreError
from assembler.layer.changeset import Entry, InlineBytes, Kind, PathBytes
from assembler.layer.tree import ChangesetTree, DirectoryTree, MergedTree
from assembler.output.directory import Directory

SECOND = 1_000_000_000


def file(path: str, text: bytes = b"", mode: int = 0o644, **more: object) -> Entry:
    content = InlineBytes(text)
    return Entry(path, Kind.FILE, mode, size=len(text), source=content, **more)  # type: ignore[arg-type]


def directory(path: str, mode: int = 0o755, mtime: int = 0) -> Entry:
    return Entry(path, Kind.DIRECTORY, mode, mtime=mtime)


def link(path: str, to: str, mtime: int = 0) -> Entry:
    return Entry(path, Kind.SYMLINK, 0o777, link=to, mtime=mtime)


def same(path: str, first: str) -> Entry:
    return Entry(path, Kind.HARDLINK, link=first)


def write(
    into: Path,
    *entries: Entry,
    epoch: int | None = None,
    check: Callable[[], None] = nothing,
    only: bool = False,
) -> None:
    Directory(str(into), epoch, only=only).write(MergedTree((ChangesetTree(entries),)), check)


def listed(path: Path) -> list[str]:
    """All names below `path`."""
    return sorted(str(below.relative_to(path)) for below in path.rglob("*"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_O1_modes_times_and_owner(tmp_path: Path) -> None:
    out = tmp_path / "parent/out"
    write(
        out,
        directory("d", 0o2751, mtime=3 * SECOND),
        file("d/f", b"content", 0o4750, mtime=5 * SECOND + 7, uid=7, gid=8),
        directory("d/e", 0o1777, mtime=4 * SECOND),
        link("d/l", "../../outside", mtime=6 * SECOND),
        Entry("d/p", Kind.FIFO, 0o622, uid=9, mtime=2 * SECOND),
        file("plain"),
    )
    assert listed(out) == ["d", "d/e", "d/f", "d/l", "d/p", "plain"]
    modes = {name: mode(out / name) for name in ("d", "d/f", "d/e", "d/p", "plain")}
    assert modes == {"d": 0o2751, "d/f": 0o4750, "d/e": 0o1777, "d/p": 0o622, "plain": 0o644}
    times = {name: (out / name).lstat().st_mtime_ns for name in listed(out)}
    assert times == {
        "d": 3 * SECOND, "d/e": 4 * SECOND, "d/f": 5 * SECOND + 7, "d/l": 6 * SECOND,
        "d/p": 2 * SECOND, "plain": 0,
    }  # fmt: skip
    owners = {((out / name).lstat().st_uid, (out / name).lstat().st_gid) for name in listed(out)}
    assert owners == {(os.geteuid(), os.getegid())}
    assert os.readlink(out / "d/l") == "../../outside"
    assert (out / "d/f").read_bytes() == b"content" and (out / "d/p").is_fifo()
    assert mode(out) == 0o700, "as buildx makes it"


def test_the_caller_owns_what_is_in_a_directory_that_hands_down_its_group(tmp_path: Path) -> None:
    groups = [group for group in os.getgroups() if group != os.getegid()]
    out = tmp_path / "out"
    out.mkdir()
    if groups or os.geteuid() == 0:
        os.chown(out, -1, groups[0] if groups else 12)
    out.chmod(0o2775)
    write(out, directory("d"), file("d/f"), link("l", "d"), file("f"))
    assert {(out / name).lstat().st_gid for name in listed(out)} == {os.getegid()}
    assert mode(out / "d") == 0o755 and mode(out) == 0o2775, "it stays as it is"


def test_Z3_hard_links_are_kept(tmp_path: Path) -> None:
    entries = [
        directory("a"), file("a/f", b"x"), same("a/g", "a/f"), directory("b"), same("b/f", "a/f"),
        file("other", b"x"),
    ]  # fmt: skip
    for _ in range(2):  # over their own names too
        write(tmp_path / "out", *entries)
        inodes = {(tmp_path / "out" / name).stat().st_ino for name in ("a/f", "a/g", "b/f")}
        assert len(inodes) == 1 and (tmp_path / "out/a/f").stat().st_nlink == 3
        assert (tmp_path / "out/other").stat().st_nlink == 1
    assert listed(tmp_path / "out") == ["a", "a/f", "a/g", "b", "b/f", "other"]


def test_T2_an_epoch_is_the_time_of_everything(tmp_path: Path) -> None:
    entries = [directory("d", mtime=1), file("d/f", mtime=9 * SECOND), link("l", "d", mtime=3)]
    write(tmp_path / "out", *entries, epoch=5)
    times = {path.lstat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert times == {5 * SECOND}


def test_attributes_go_along_where_the_caller_may_give_them(tmp_path: Path) -> None:
    capability = b"\1\0\0\2\0 \0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    xattrs = (("security.capability", capability), ("user.note", b"n"))
    write(tmp_path / "out", file("f", xattrs=xattrs))
    kept = set(os.listxattr(tmp_path / "out/f")) - {"security.selinux"}
    assert kept == {"user.note"} | ({"security.capability"} if os.geteuid() == 0 else set())


@pytest.mark.parametrize("wide", [0, 300])
def test_directories_of_any_depth(tmp_path: Path, wide: int) -> None:
    """More than there may be open files, and longer than a path may be."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    paths = ["/".join(["deep" * 10] * depth) for depth in range(1, 200 + wide)]
    entries = [directory(path, 0o555, mtime=SECOND) for path in paths]
    entries.append(file(f"{paths[-1]}/f", b"x"))
    entries += [file(f"{paths[n]}/z", b"z") for n in (0, 5)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    try:
        for _ in range(2):  # into what nobody may write to
            write(tmp_path / "out", *entries)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    top = tmp_path / "out" / paths[0]
    assert mode(top) == 0o555 and top.stat().st_mtime_ns == SECOND
    assert (top / "z").read_bytes() == b"z"
    here = os.open(tmp_path / "out", os.O_RDONLY)
    for _ in paths:
        here, above = os.open("deep" * 10, os.O_RDONLY, dir_fd=here), here
        os.close(above)
    assert os.listdir(here) == ["f"] and os.fstat(here).st_mtime_ns == SECOND
    os.close(here)


OLD = ["file", "directory", "link to a directory", "dangling link", "fifo", "nothing"]
NEW = {
    "file": lambda name: [file(name, b"new")],
    "directory": lambda name: [directory(name), file(f"{name}/f", b"new")],
    "link": lambda name: [link(name, "new")],
    "fifo": lambda name: [Entry(name, Kind.FIFO, 0o600)],
    "hard link": lambda name: [file("a", b"new"), same(name, "a")],
}


def old(path: Path, kind: str, outside: Path) -> None:
    """Something of an earlier build at `path`."""
    if kind == "file":
        path.write_text("old")
    elif kind == "directory":
        (path / "below/deep").mkdir(parents=True)
        (path / "below/file").write_text("old")
    elif kind == "link to a directory":
        path.symlink_to(outside)
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(path)


@pytest.mark.parametrize("before", OLD)
@pytest.mark.parametrize("after", NEW)
def test_O1_what_is_there_is_replaced_and_nothing_outside(
    tmp_path: Path, before: str, after: str
) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (out / "beside").write_text("kept")
    old(out / "x", before, outside)
    write(out, *NEW[after]("x"))
    kinds = {"file": "read_bytes", "hard link": "read_bytes"}
    if after in kinds:
        assert not (out / "x").is_symlink() and (out / "x").read_bytes() == b"new"
    elif after == "directory":
        assert not (out / "x").is_symlink() and (out / "x/f").read_bytes() == b"new"
        kept = ["below", "f"] if before == "directory" else ["f"]
        assert sorted(os.listdir(out / "x")) == kept, "directories are merged"
    elif after == "link":
        assert os.readlink(out / "x") == "new"
    else:
        assert (out / "x").is_fifo()
    assert (out / "beside").read_text() == "kept" and listed(outside) == ["kept"]
    left = {"a", "x", "beside"} if after == "hard link" else {"x", "beside"}
    assert set(os.listdir(out)) == left, "nothing is left beside"


@pytest.mark.parametrize("before", OLD)
def test_O1_what_the_target_does_not_have_is_removed_on_demand(tmp_path: Path, before: str) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    (out / "d/below").mkdir(parents=True)
    outside.mkdir()
    (outside / "kept").write_text("kept")
    for place in (out, out / "d", out / "d/below"):
        old(place / "old", before, outside)
        (place / "f").write_text("old")
    entries = [directory("d", 0o555, mtime=SECOND), file("d/f", b"new"), directory("d/new")]
    for _ in range(2):
        write(out, *entries, only=True)
        assert listed(out) == ["d", "d/f", "d/new"] and (out / "d/f").read_bytes() == b"new"
        assert (mode(out / "d"), (out / "d").stat().st_mtime_ns) == (0o555, SECOND)
    assert listed(outside) == ["kept"]
    (out / "d").chmod(0o755)


def test_what_cannot_be_written_removes_nothing_beside(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("kept")
    with pytest.raises(StoreError):
        write(out, file("n" * 300), only=True)
    assert listed(out) == ["mine"]


def test_a_file_of_an_earlier_build_that_somebody_reads_stays_whole(tmp_path: Path) -> None:
    write(tmp_path / "out", file("f", b"old", mode=0o400))
    with (tmp_path / "out/f").open("rb") as stream:
        write(tmp_path / "out", file("f", b"new"))
        assert stream.read() == b"old"
    assert (tmp_path / "out/f").read_bytes() == b"new"


def test_a_file_of_the_same_content_stays_and_gets_its_attributes(tmp_path: Path) -> None:
    """What is written over the last output costs no write for what did not change."""
    out = tmp_path / "out"
    changed = {"f": (b"same", b"same"), "g": (b"one", b"two"), "h": (b"short", b"longer")}
    write(out, directory("d"), *(file(f"d/{name}", old) for name, (old, _) in changed.items()))
    before = {name: (out / "d" / name).stat().st_ino for name in changed}
    new = [file(f"d/{name}", new, 0o600, mtime=SECOND) for name, (_, new) in changed.items()]
    write(out, directory("d"), *new)
    for name, (_, content) in changed.items():
        found = (out / "d" / name).stat()
        assert (out / "d" / name).read_bytes() == content
        assert (mode(out / "d" / name), found.st_mtime_ns) == (0o600, SECOND)
        assert (found.st_ino == before[name]) is (name == "f")


def test_a_name_of_a_file_that_is_elsewhere_too_is_given_up(tmp_path: Path) -> None:
    """Nothing is changed by way of a hard link out of the directory."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"same")
    outside.chmod(0o600)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/f").hardlink_to(outside)
    write(tmp_path / "out", file("f", b"same", 0o4755))
    assert mode(outside) == 0o600 and outside.stat().st_nlink == 1
    assert mode(tmp_path / "out/f") == 0o4755


def test_attributes_of_an_earlier_build_are_given_up(tmp_path: Path) -> None:
    write(tmp_path / "out", file("f", b"same", xattrs=(("user.old", b"1"),)))
    write(tmp_path / "out", file("f", b"same"))
    assert "user.old" not in os.listxattr(tmp_path / "out/f")


def test_a_hostile_tree_stays_inside(tmp_path: Path) -> None:
    """A link and what would be below it, which no merged tree has."""
    outside = tmp_path / "outside"
    outside.mkdir()

    class Hostile:
        def lookup(self, path: str) -> Entry | None:
            return None

        def children(self, path: str) -> Iterable[Entry]:
            if path == "":
                return [link("a", str(outside)), file("a/f", b"x")]
            return []

    with pytest.raises(BadArchive, match="'a/f' is in no directory"):
        Directory(str(tmp_path / "out")).write(Hostile())
    assert listed(outside) == [] and listed(tmp_path / "out") == ["a"]


@pytest.mark.parametrize("name", [".", "..", "", "../x"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    class Hostile:
        def lookup(self, path: str) -> Entry | None:
            return None

        def children(self, path: str) -> Iterable[Entry]:
            return [directory("d")] if not path else [file(f"d/{name}")]

    with pytest.raises(BadArchive, match="is in no directory"):
        Directory(str(tmp_path / "out")).write(Hostile())
    assert listed(tmp_path) == ["out", "out/d"]


@pytest.mark.parametrize("content", [b"", b"x" * 100_000])
def test_a_failure_on_the_way_leaves_the_old_file(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"y" * 100)
    changing = file("f")._replace(size=len(content) or 50, source=PathBytes(str(source)))
    write(tmp_path / "out", file("f", b"old"), file("g", b"old"))
    with pytest.raises(ContextChanged):
        write(tmp_path / "out", changing, file("g", b"new"))
    assert listed(tmp_path / "out") == ["f", "g"]
    assert (tmp_path / "out/f").read_bytes() == b"old"


@pytest.mark.parametrize("unnamed", [True, False], ids=["unnamed", "named"])
def test_a_wish_to_stop_is_seen_within_a_file(
    tmp_path: Path, unnamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not unnamed:
        without_unnamed_files(monkeypatch)
    looks: list[int] = []

    def check() -> None:
        looks.append(1)
        if len(looks) > 3:
            raise Cancelled

    big = file("f")._replace(size=8 << 30, source=Endless())
    write(tmp_path / "out", file("f", b"old"))
    with pytest.raises(Cancelled):
        write(tmp_path / "out", big, check=check)
    assert listed(tmp_path / "out") == ["f"] and (tmp_path / "out/f").read_bytes() == b"old"


class Endless:
    """Bytes that come piece by piece."""

    def open(self) -> BinaryIO:
        return Path("/dev/zero").open("rb", buffering=0)


def without_unnamed_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that has no O_TMPFILE."""
    whole = os.open

    def refusing(path: str, flags: int, *more: object, **named: object) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no such files")
        return whole(path, flags, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refusing)


def test_a_file_system_without_files_that_have_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_unnamed_files(monkeypatch)
    for text in (b"one", b"two"):
        write(tmp_path / "out", directory("d"), file("d/f", text, 0o444), same("d/g", "d/f"))
        assert (tmp_path / "out/d/g").read_bytes() == text
    assert listed(tmp_path / "out") == ["d", "d/f", "d/g"]


def test_Z5_a_device_node_is_made_or_named(tmp_path: Path) -> None:
    node = Entry("dev/null", Kind.CHARACTER, 0o666, device=(1, 3))
    entries: Sequence[Entry] = [directory("dev"), node]
    if os.geteuid() == 0:
        write(tmp_path / "out", *entries)
        made = (tmp_path / "out/dev/null").lstat()
        assert stat.S_ISCHR(made.st_mode) and made.st_rdev == os.makedev(1, 3)
        return
    with pytest.raises(HostError, match="'dev/null' is a device node") as caught:
        write(tmp_path / "out", *entries)
    assert "type=tar" in caught.value.hint
    assert listed(tmp_path / "out") == ["dev"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StoreError, match="out"):
        write(tmp_path / "out", file("f"))


def test_a_name_that_no_file_system_has_room_for_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot be written to .*File name too long"):
        write(tmp_path / "out", file("n" * 300))


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    source = tmp_path / "source"
    source.write_bytes(b"x" * 10_000)
    big = file("f")._replace(size=10_000, source=PathBytes(str(source)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with pytest.raises(NoSpace, match=r"limit of 1000 bytes on the file system of .*out"):
            write(tmp_path / "out", big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert listed(tmp_path / "out") == []


def test_a_layer_directory_is_copied_with_its_holes(tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    with (layer / "sparse").open("wb") as stream:
        stream.seek(64 << 20)
        stream.write(b"end")
    Directory(str(tmp_path / "out")).write(MergedTree((DirectoryTree(str(layer)),)))
    found = (tmp_path / "out/sparse").stat()
    assert found.st_size == (64 << 20) + 3 and found.st_blocks < 1000
