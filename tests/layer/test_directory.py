"""Layers and changesets to directories: overlay form, and nothing ever outside."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest

from assembler.errors import BadArchive, Cancelled, ContextChanged, OwnershipLost
from assembler.layer.apply import unpack
from assembler.layer.changeset import Entry, InlineBytes, Kind, PathBytes
from assembler.layer.compression import Gzip, Plain
from assembler.layer.realise import realise
from assembler.layer.tar_writer import TarWriter
from assembler.layer.tree import DirectoryTree
from assembler.layer.walk import entries
from assembler.layer.write import pack
from assembler.linux.ownership import read_table, write_table
from assembler.linux.paths import remove_tree
from assembler.oci.digest import Digest
from tests.layer.archives import pax, raw, record
from tests.leftovers import nothing_left

UID, GID = os.geteuid(), os.getegid()
SECOND = 1_000_000_000


def file(path: str, content: bytes = b"", mode: int = 0o644, mtime: int = 0) -> Entry:
    return Entry(
        path, Kind.FILE, mode, UID, GID, mtime * SECOND, len(content), source=InlineBytes(content)
    )


def directory(path: str, mode: int = 0o755, mtime: int = 0) -> Entry:
    return Entry(path, Kind.DIRECTORY, mode, UID, GID, mtime * SECOND)


def symlink(path: str, target: str) -> Entry:
    return Entry(path, Kind.SYMLINK, 0o777, UID, GID, link=target)


def hardlink(path: str, target: str) -> Entry:
    return Entry(path, Kind.HARDLINK, 0o644, UID, GID, link=target)


def whiteout(path: str) -> Entry:
    return Entry(path, Kind.WHITEOUT)


def opaque(path: str) -> Entry:
    return Entry(path, Kind.OPAQUE)


def layer(*members: Entry) -> io.BytesIO:
    """The members as a tar, in this order (`pack` would sort them)."""
    out = io.BytesIO()
    writer = TarWriter(out.write)
    for member in members:
        writer.add(member)
    writer.close()
    out.seek(0)
    return out


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty directory in a tree that must not change."""
    outside = tmp_path / "outside"
    (outside / "etc").mkdir(parents=True)
    (outside / "etc" / "passwd").write_text("root")
    (tmp_path / "passwd").write_text("root")
    into = tmp_path / "root"
    into.mkdir()
    return into


def canary(tmp_path: Path) -> str:
    found = hashlib.sha256()
    outside = [tmp_path / "outside", *(tmp_path / "outside").rglob("*")]
    for path in sorted([*tmp_path.iterdir(), *outside]):
        if path.name == "root":
            continue
        status = path.lstat()
        found.update(f"{path} {status.st_mode} {status.st_nlink} {status.st_ino}\n".encode())
        if path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()


def shape(into: Path) -> dict[str, str]:
    """What is in a directory: contents, link targets, `-` for whiteouts, `/` and `!` for opaque."""
    found = {}
    below = (Path(top) / name for top, dirs, files in os.walk(into) for name in dirs + files)
    for path in below:
        status = path.lstat()
        name = str(path.relative_to(into))
        if stat.S_ISLNK(status.st_mode):
            found[name] = f"-> {os.readlink(path)}"
        elif stat.S_ISDIR(status.st_mode):
            found[name] = "!" if "user.overlay.opaque" in os.listxattr(path) else "/"
        elif stat.S_ISREG(status.st_mode):
            found[name] = path.read_text()
        elif stat.S_ISCHR(status.st_mode):
            assert status.st_rdev == 0
            found[name] = "-"
        else:
            found[name] = stat.filemode(status.st_mode)[0]
    return found


CONFINED: dict[str, tuple[list[Entry], dict[str, str]]] = {
    "T1 absolute": ([file("/abs/x", b"1")], {"abs": "/", "abs/x": "1"}),
    "T1 dots": ([file("../../passwd", b"1")], {"passwd": "1"}),
    "T1 dots inside": ([file("a/../../x", b"1")], {"x": "1"}),
    "T2 absolute link": (
        [symlink("d", "/outside"), file("d/passwd", b"1")],
        {"d": "-> /outside", "outside": "/", "outside/passwd": "1"},
    ),
    "T2 climbing link": (
        [symlink("a/d", "../../../outside"), file("a/d/passwd", b"1")],
        {"a": "/", "a/d": "-> ../../../outside", "outside": "/", "outside/passwd": "1"},
    ),
    "T2 link to itself in the tree": (
        [directory("usr"), symlink("lib", "usr"), file("lib/x", b"1")],
        {"usr": "/", "lib": "-> usr", "usr/x": "1"},
    ),
    "T4 link to a symlink": (
        [symlink("s", "/outside/etc/passwd"), hardlink("h", "s")],
        {"s": "-> /outside/etc/passwd", "h": "-> /outside/etc/passwd"},
    ),
    "T6 any link text": (
        [symlink("s", "../" * 300 + "x"), symlink("t", "x" * 4000)],
        {"s": "-> " + "../" * 300 + "x", "t": "-> " + "x" * 4000},
    ),
    "T7 whiteout of this layer's file": ([file("f", b"1"), whiteout("f")], {"f": "1"}),
    "T7 whiteout before the file": ([whiteout("f"), file("f", b"1")], {"f": "1"}),
    "T7 whiteout before its directory": (
        [whiteout("d"), directory("d"), file("d/f", b"1")],
        {"d": "!", "d/f": "1"},
    ),
    "T7 whiteout after its directory": (
        [directory("d"), file("d/f", b"1"), whiteout("d")],
        {"d": "!", "d/f": "1"},
    ),
    "T7 whiteout of an implied parent": (
        [whiteout("d"), file("d/f", b"1")],
        {"d": "!", "d/f": "1"},
    ),
    "T7 opaque before and after": (
        [directory("d"), file("d/f", b"1"), opaque("d"), file("d/g", b"2"), opaque("e")],
        {"d": "!", "d/f": "1", "d/g": "2", "e": "!"},
    ),
    "T7 whiteout through a link": (
        [symlink("d", "/outside"), whiteout("d/etc")],
        {"d": "-> /outside", "outside": "/", "outside/etc": "-"},
    ),
    "T9 file twice": ([file("f", b"1"), file("f", b"2")], {"f": "2"}),
    "T9 directory then file": (
        [directory("d"), file("d/f", b"1"), file("d", b"2")],
        {"d": "2"},
    ),
    "T9 file then directory": (
        [file("d", b"2"), directory("d"), file("d/f", b"1")],
        {"d": "/", "d/f": "1"},
    ),
    "T9 directory over link": (
        [directory("real"), symlink("d", "real"), directory("d"), file("d/f", b"1")],
        {"real": "/", "d": "/", "d/f": "1"},
    ),
    "T9 link over directory, then below it": (
        [directory("d"), file("d/f", b"1"), symlink("d", "/e"), file("d/g", b"2")],
        {"d": "-> /e", "e": "/", "e/g": "2"},
    ),
    "T9 link over file does not write through": (
        [symlink("s", "/outside/etc/passwd"), file("s", b"2")],
        {"s": "2"},
    ),
    "hard link over a file": (
        [file("a", b"1"), file("b", b"2"), hardlink("b", "a")],
        {"a": "1", "b": "1"},
    ),
    "fifo": ([Entry("p", Kind.FIFO, 0o600, UID, GID)], {"p": "p"}),
}


@pytest.mark.parametrize("name", CONFINED)
def test_Z6_confined(
    tmp_path: Path, root: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    members, expected = CONFINED[name]
    monkeypatch.chdir(tmp_path / "outside")
    before = canary(tmp_path)
    unpack(layer(*members), str(root))
    assert shape(root) == expected
    assert canary(tmp_path) == before


REFUSED: dict[str, list[Entry]] = {
    "T3 root replaced": [symlink("", "/outside")],
    "T3 root replaced by a file": [file("", b"x")],
    "T4 absolute": [hardlink("h", "/outside/etc/passwd")],
    "T4 climbing": [hardlink("h", "../outside/etc/passwd")],
    "T4 in the working directory": [hardlink("h", "etc/passwd")],
    "T4 through a link": [symlink("d", "/outside/etc"), hardlink("h", "d/passwd")],
    "T4 to a directory": [directory("d"), hardlink("h", "d")],
    "T4 to the root": [hardlink("h", "")],
    "T4 to itself": [file("h", b"1"), hardlink("h", "h")],
    "T4 to a whiteout": [whiteout("w"), hardlink("h", "w")],
    "T5 circle of links": [symlink("a", "b"), symlink("b", "a"), file("a/x", b"1")],
    "T5 link chain": [symlink(f"l{n}", f"l{n + 1}") for n in range(60)] + [file("l0/x", b"1")],
    "file as a parent": [file("f", b"1"), file("f/x", b"1")],
    "T8 device 0:0 below a file": [file("f", b"1"), whiteout("f/x")],
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path / "outside")
    before = canary(tmp_path)
    with nothing_left(), pytest.raises(BadArchive):
        unpack(layer(*REFUSED[name]), str(root))
    assert canary(tmp_path) == before


def test_T5_a_name_that_is_too_long_is_refused(root: Path) -> None:
    archive = pax(record(b"path", b"n" * 256)) + raw(b"n", b"1") + bytes(1024)
    with nothing_left(), pytest.raises(BadArchive):
        unpack(io.BytesIO(archive), str(root))
    assert not list(root.iterdir())


def test_deep_paths_do_not_recurse(root: Path) -> None:
    unpack(layer(file("a/" * 1500 + "f", b"1")), str(root))
    assert (root / ("a/" * 1500 + "f")).read_bytes() == b"1"
    remove_tree(str(root / "a"))  # pytest itself would recurse


def test_modes_times_and_attributes(root: Path) -> None:
    members = (
        directory("", 0o711, 5),
        directory("d", 0o3775, 10),
        file("d/setuid", b"x", 0o4755, 20),
        Entry(
            "d/attributes", Kind.FILE, 0o600, UID, GID, 7, xattrs=(("user.a", b"\0b"),),
            source=InlineBytes(b""),
        ),
        hardlink("d/same", "d/setuid"),
    )  # fmt: skip
    unpack(layer(*members), str(root))
    assert stat.S_IMODE(root.stat().st_mode) == 0o711
    assert root.stat().st_mtime == 5
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o3775
    assert (root / "d").stat().st_mtime == 10
    assert stat.S_IMODE((root / "d" / "setuid").stat().st_mode) == 0o4755
    assert (root / "d" / "setuid").stat().st_mtime == 20
    assert os.getxattr(root / "d" / "attributes", "user.a") == b"\0b"
    assert (root / "d" / "same").samefile(root / "d" / "setuid")


def test_overlay_attributes_of_an_image_cannot_command_the_kernel(root: Path) -> None:
    entry = Entry(
        "d", Kind.DIRECTORY, 0o755, UID, GID, xattrs=(("user.overlay.redirect", b"/etc"),)
    )
    unpack(layer(entry), str(root))
    assert os.listxattr(root / "d") == ["user.overlay.overlay.redirect"]
    assert {one.path: one.xattrs for one in entries(str(root))}["d"] == entry.xattrs


def lower_of(*members: Entry) -> Callable[[str], Entry | None]:
    return {member.path: member for member in members}.get


def test_parents_that_no_entry_names_look_as_below(root: Path) -> None:
    lower = lower_of(directory("", 0o555, 3), directory("d", 0o750, 4))
    unpack(layer(file("d/e/f", b"1")), str(root), lower=lower)
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o750
    assert (root / "d").stat().st_mtime == 4
    assert stat.S_IMODE((root / "d" / "e").stat().st_mode) == 0o755
    assert stat.S_IMODE(root.stat().st_mode) == 0o555
    assert [entry.path for entry in entries(str(root))] == ["d/e/f"]
    root.chmod(0o755)  # for pytest's own cleaning


def test_links_of_lower_layers_are_followed(root: Path) -> None:
    lower = lower_of(symlink("bin", "usr/bin"), directory("usr"), directory("usr/bin", 0o700))
    unpack(layer(file("bin/tool", b"1")), str(root), lower=lower)
    assert shape(root) == {"usr": "/", "usr/bin": "/", "usr/bin/tool": "1"}


def test_a_hard_link_to_a_lower_file_becomes_a_file(root: Path) -> None:
    unpack(layer(hardlink("h", "d/f")), str(root), lower=lower_of(file("d/f", b"below", 0o640)))
    assert (root / "h").read_bytes() == b"below"
    assert stat.S_IMODE((root / "h").stat().st_mode) == 0o640


def test_owners_that_the_map_cannot_express(root: Path) -> None:
    if not UID:
        pytest.skip("root may give files to anyone here")
    with pytest.raises(OwnershipLost) as caught:
        unpack(layer(Entry("f", Kind.FILE, 0o644, 0, 0)), str(root))
    assert "subuid" in caught.value.hint


def test_the_wrong_diff_id_is_refused(root: Path) -> None:
    blob = io.BytesIO()
    packed = pack((file("f", b"1"),), blob, Gzip())
    blob.seek(0)
    unpack(blob, str(root), diff_id=packed.diff_id)
    other = root.parent / "other"
    other.mkdir()
    blob.seek(0)
    with pytest.raises(BadArchive, match="image configuration"):
        unpack(blob, str(other), diff_id=Digest.of(b""))


def test_unpacking_can_be_cancelled(root: Path) -> None:
    blob = io.BytesIO()
    pack([file(f"f{n}", b"x" * 100_000) for n in range(100)], blob, Plain())
    blob.seek(0)
    calls = iter(range(5))

    def check() -> None:
        if next(calls, None) is None:
            raise Cancelled()

    with nothing_left(), pytest.raises(Cancelled):
        unpack(blob, str(root), check=check)


CHANGESET = (
    directory("", 0o755, 9),
    directory("d", 0o750, 1),
    opaque("d"),
    file("d/a", b"content", 0o4711, 2),
    whiteout("d/gone"),
    hardlink("d/z", "d/a"),
    symlink("link", "/d/a"),
    Entry("pipe", Kind.FIFO, 0o622, UID, GID, SECOND),
)


def test_realise_and_walk_are_inverse(root: Path) -> None:
    realise(CHANGESET, str(root))
    found = tuple(entries(str(root)))
    assert [(e.path, e.kind, e.link) for e in found] == [
        (e.path, e.kind, e.link) for e in CHANGESET
    ]
    first, second = io.BytesIO(), io.BytesIO()
    assert pack(CHANGESET, first, Plain()) == pack(found, second, Plain())


def test_realise_copies_files(tmp_path: Path, root: Path) -> None:
    content = os.urandom(3_000_000)
    source = tmp_path / "source"
    source.write_bytes(content)
    entry = Entry("f", Kind.FILE, 0o644, UID, GID, size=len(content), source=PathBytes(str(source)))
    realise((entry,), str(root))
    assert (root / "f").read_bytes() == content


@pytest.mark.parametrize("kernel", [True, False])
def test_realise_ends_in_the_middle_of_a_file(tmp_path: Path, root: Path, kernel: bool) -> None:
    source = tmp_path / "large"
    with source.open("wb") as stream:
        for _ in range(64):
            stream.write(b"x" * (1 << 20))
    whole = PathBytes(str(source))
    entry = Entry("f", Kind.FILE, size=64 << 20, source=whole if kernel else _Streamed(whole))
    calls = iter([None, None, None, Cancelled()])

    def check() -> None:
        if (error := next(calls)) is not None:
            raise error

    with pytest.raises(Cancelled):
        realise((entry,), str(root), check=check)
    assert (root / "f").stat().st_size < 64 << 20


@dataclass(frozen=True)
class _Streamed:
    """A source that is no file."""

    inner: PathBytes

    def open(self) -> BinaryIO:
        return self.inner.open()


def test_realise_notices_changes(tmp_path: Path, root: Path) -> None:
    (tmp_path / "source").write_bytes(b"12345")
    for number, size in enumerate((4, 6)):
        into = root / str(number)
        into.mkdir()
        for source in (PathBytes(str(tmp_path / "source")), InlineBytes(b"12345")):
            with pytest.raises(ContextChanged):
                realise(
                    (Entry("f", Kind.FILE, 0o644, UID, GID, size=size, source=source),), str(into)
                )
            (into / "f").unlink()


def test_the_standard_librarys_archives_unpack(root: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for number in range(300):
            info = tarfile.TarInfo(f"./d{number % 7}/f{number}")
            info.size, info.uid, info.gid, info.mtime = 5, UID, GID, 1.5
            archive.addfile(info, io.BytesIO(b"12345"))
    out.seek(0)
    assert unpack(out, str(root)).entries == 300
    assert (root / "d3" / "f290").stat().st_mtime_ns == 1_500_000_000


# Where owners are recorded (linux.ownership): LAYER/tree beside LAYER/owners

FOREIGN = (
    Entry("", Kind.DIRECTORY, 0o755, 8, 9, SECOND),
    Entry("d", Kind.DIRECTORY, 0o2775, 1000, 50, SECOND),
    Entry("d/f", Kind.FILE, 0o4711, 1000, 1001, SECOND, 1, source=InlineBytes(b"x")),
    Entry("d/link", Kind.SYMLINK, 0o777, 7, 8, SECOND, link="f"),
    Entry("d/null", Kind.CHARACTER, 0o666, 0, 5, SECOND, device=(1, 3)),
    Entry("d/pipe", Kind.FIFO, 0o622, 3, 4, SECOND),
    Entry("disk", Kind.BLOCK, 0o660, 0, 6, SECOND, device=(259, 65537)),
    Entry("plain", Kind.FILE, 0o644, UID, GID, SECOND),
)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """An empty layer directory with a table of owners."""
    tree = tmp_path / "layer" / "tree"
    tree.mkdir(parents=True)
    write_table(str(tree), {})
    return tree


def test_recorded_owners_and_devices_come_back(recorded: Path) -> None:
    unpack(layer(*FOREIGN), str(recorded))
    assert tuple(entries(str(recorded))) == FOREIGN
    tree = DirectoryTree(str(recorded))
    assert (tree.lookup(""), *tree.children(""), *tree.children("d")) == tuple(
        FOREIGN[number] for number in (0, 1, 6, 7, 2, 3, 4, 5)
    )
    assert {"user.assemble.owner"} == set(os.listxattr(recorded / "d" / "f"))
    assert os.listxattr(recorded / "plain") == []


def test_packed_again_the_layer_is_the_same(recorded: Path) -> None:
    first, second = io.BytesIO(), io.BytesIO()
    realise(FOREIGN, str(recorded))
    assert pack(FOREIGN, first, Plain()) == pack(entries(str(recorded)), second, Plain())


def test_the_last_entry_for_a_path_has_the_say_about_its_owner(recorded: Path) -> None:
    unpack(
        layer(
            Entry("a", Kind.SYMLINK, 0o777, 7, 8, link="x"),
            Entry("a", Kind.FILE, 0o644, UID, GID),
            Entry("d", Kind.DIRECTORY, 0o755, 7, 8),
            Entry("d/l", Kind.SYMLINK, 0o777, 7, 8, link="x"),
            Entry("d", Kind.SYMLINK, 0o777, UID, GID, link="x"),
            Entry("l", Kind.SYMLINK, 0o777, 7, 8, link="x"),
            Entry("m", Kind.HARDLINK, link="l"),
        ),
        str(recorded),
    )
    assert read_table(str(recorded)) == {"d": (UID, GID), "l": (7, 8), "m": (7, 8)}
    assert [(e.path, e.uid) for e in entries(str(recorded))][-4:] == [
        ("a", UID), ("d", UID), ("l", 7), ("m", 7),
    ]  # fmt: skip


def test_directories_that_no_entry_names_belong_to_whom_they_do_below(recorded: Path) -> None:
    lower = lower_of(Entry("d", Kind.DIRECTORY, 0o750, 7, 8, 4))
    unpack(layer(file("d/f", b"1")), str(recorded), lower=lower)
    found = DirectoryTree(str(recorded)).lookup("d")
    assert found is not None and (found.uid, found.gid) == (7, 8)
    assert [entry.path for entry in entries(str(recorded))] == ["d/f"]


def test_attributes_of_an_image_are_no_records(root: Path) -> None:
    attributes = (("user.assemble.mknod", b"c 1:3"), ("user.assemble.owner", b"7:8"))
    entry = Entry("f", Kind.FILE, 0o644, UID, GID, xattrs=attributes)
    unpack(layer(entry), str(root))
    (found,) = [one for one in entries(str(root)) if one.path == "f"]
    assert (found.kind, found.uid, found.xattrs) == (Kind.FILE, UID, attributes)


def test_a_device_that_cannot_be_made_is_kept_without_a_table_too(root: Path) -> None:
    device = Entry("console", Kind.CHARACTER, 0o600, UID, GID, SECOND, device=(5, 1))
    unpack(layer(device), str(root))
    assert [one for one in entries(str(root)) if one.path] == [device]


def test_a_walk_reads_no_attribute_that_is_not_there(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack(layer(file("a", b"1"), file("d/b", b"2"), symlink("l", "a")), str(root))
    asked: list[str] = []
    read = os.getxattr

    def counted(path: str, name: str, **more: bool) -> bytes:
        asked.append(name)
        return read(path, name, **more)

    monkeypatch.setattr(os, "getxattr", counted)
    assert len(list(entries(str(root)))) == 3
    assert asked == []
