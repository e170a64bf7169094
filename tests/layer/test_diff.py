"""What a process changed, read from the upper directory of an overlay."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from assembler.layer.changeset import Entry, Kind
from assembler.layer.diff import changes
from assembler.layer.realise import realise
from assembler.layer.tree import DirectoryTree, MergedTree
from assembler.linux.ownership import record, write_table

UID, GID = os.geteuid(), os.getegid()


@pytest.fixture
def layers(tmp_path: Path) -> tuple[Path, Path, Path]:
    """An upper directory over two lower ones, equal roots."""
    made = tuple(tmp_path / name for name in ("upper", "middle", "bottom"))
    for path in made:
        path.mkdir(mode=0o755)
    return made  # type: ignore[return-value]


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, 0)


def found(layers: tuple[Path, Path, Path]) -> list[tuple[str, str]]:
    upper, *lowers = layers
    return [(e.path, e.kind.value) for e in changes(str(upper), [str(one) for one in lowers])]


def same_times(*directories: Path) -> None:
    for path in directories:
        os.utime(path, (5, 5))


def test_nothing_changed(layers: tuple[Path, Path, Path]) -> None:
    assert found(layers) == []


def test_a_directory_comes_with_a_change_below_it(layers: tuple[Path, Path, Path]) -> None:
    upper, _middle, bottom = layers
    for layer in (upper, bottom):
        (layer / "a" / "b").mkdir(parents=True)
        (layer / "a" / "quiet").mkdir()
    (upper / "a" / "b" / "new").write_text("x")
    same_times(upper / "a/b", upper / "a/quiet", upper / "a")
    same_times(bottom / "a/b", bottom / "a/quiet", bottom / "a")
    assert found(layers) == [("a", "directory"), ("a/b", "directory"), ("a/b/new", "file")]
    (upper / "a" / "b" / "new").unlink()
    same_times(upper / "a/b")
    assert found(layers) == []
    (upper / "a" / "b").chmod(0o700)
    assert found(layers) == [("a", "directory"), ("a/b", "directory")]


def test_only_what_is_below_is_deleted(layers: tuple[Path, Path, Path]) -> None:
    upper, middle, bottom = layers
    for name in ("bottom", "twice", "gone"):
        (bottom / name).write_text("x")
    (middle / "twice").write_text("y")
    whiteout(middle / "gone")
    for name in ("bottom", "twice", "gone", "never"):
        whiteout(upper / name)
    assert found(layers) == [("bottom", "whiteout"), ("twice", "whiteout")]


def test_whiteouts_that_share_an_inode_are_no_hard_links(
    layers: tuple[Path, Path, Path],
) -> None:
    upper, _middle, bottom = layers
    for name in ("a", "b"):
        (bottom / name).write_text("x")
    whiteout(upper / "a")
    os.link(upper / "a", upper / "b")
    assert found(layers) == [("a", "whiteout"), ("b", "whiteout")]


def test_an_opaque_directory_hides_what_was_there(layers: tuple[Path, Path, Path]) -> None:
    upper, _middle, bottom = layers
    (bottom / "d").mkdir()
    (bottom / "d" / "old").write_text("x")
    (bottom / "f").write_text("x")
    for name in ("d", "f", "fresh"):
        (upper / name).mkdir()
        os.setxattr(upper / name, "user.overlay.opaque", b"y")
    whiteout(upper / "d" / "old")
    assert found(layers) == [
        ("d", "directory"),
        ("d", "opaque"),
        ("f", "directory"),
        ("fresh", "directory"),
    ]


def test_lower_opaque_directories_and_files_cut_what_is_further_down(
    layers: tuple[Path, Path, Path],
) -> None:
    upper, middle, bottom = layers
    for name in ("d", "e"):
        (bottom / name).mkdir()
        (bottom / name / "old").write_text("x")
        (upper / name).mkdir()
        whiteout(upper / name / "old")
    (middle / "d").mkdir()
    os.setxattr(middle / "d", "user.overlay.opaque", b"y")
    (middle / "e").write_text("a file now")
    same_times(upper / "d", middle / "d")
    assert found(layers) == [("e", "directory")]


def test_hard_links(layers: tuple[Path, Path, Path]) -> None:
    upper = layers[0]
    (upper / "b").write_text("x")
    os.link(upper / "b", upper / "a")
    os.link(upper / "b", upper / "c")
    entries = list(changes(str(upper), []))
    named = [(e.path, e.kind, e.link) for e in entries if e.path]
    assert named == [
        ("a", Kind.FILE, ""),
        ("b", Kind.HARDLINK, "a"),
        ("c", Kind.HARDLINK, "a"),
    ]


def test_sockets_are_passed_over(layers: tuple[Path, Path, Path]) -> None:
    upper = layers[0]
    here = os.getcwd()
    os.chdir(upper)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("s")
    finally:
        os.chdir(here)
    os.mkfifo(upper / "p")
    assert found(layers) == [("p", "fifo")]


def socket_at(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def test_Z5_what_a_socket_took_the_place_of_is_deleted(layers: tuple[Path, Path, Path]) -> None:
    upper, middle, bottom = layers
    for name in ("file", "hidden", "late"):
        (bottom / name).write_text("x")
    (bottom / "directory").mkdir()
    for path in (upper / "file", upper / "directory", upper / "new", middle / "hidden"):
        socket_at(path)
    socket_at(middle / "gone")
    for name in ("hidden", "gone"):
        whiteout(upper / name)
    assert found(layers) == [("directory", "whiteout"), ("file", "whiteout")]
    tree = MergedTree([DirectoryTree(str(path)) for path in layers])
    assert [entry.path for entry in tree.children("")] == ["late"]
    assert tree.lookup("file") is None


def test_attributes(layers: tuple[Path, Path, Path]) -> None:
    upper = layers[0]
    (upper / "f").write_text("x")
    for name, value in (
        ("user.mine", b"1"),
        ("user.overlay.origin", b""),
        ("user.overlay.overlay.opaque", b"nested"),
    ):
        os.setxattr(upper / "f", name, value)
    (entry,) = changes(str(upper), [str(layers[1])])
    assert entry.xattrs == (("user.mine", b"1"), ("user.overlay.opaque", b"nested"))


def test_the_root_only_when_it_changed(layers: tuple[Path, Path, Path]) -> None:
    upper = layers[0]
    os.utime(upper, (1, 1))
    assert found(layers) == []
    upper.chmod(0o711)
    assert found(layers) == [("", "directory")]


def test_a_record_is_the_owner(layers: tuple[Path, Path, Path]) -> None:
    upper, middle, _bottom = layers
    for layer in (upper, middle):
        (layer / "same").mkdir()
        (layer / "given").mkdir()
        record(str(layer / "same"), (7, 8))
    record(str(upper / "given"), (7, 8))
    (upper / "f").write_text("x")
    record(str(upper / "f"), (5, 6))
    same_times(*(layer / name for layer in (upper, middle) for name in ("same", "given")))
    entries = list(changes(str(upper), [str(middle)]))
    assert [(e.path, e.uid, e.gid, e.xattrs) for e in entries] == [
        ("f", 5, 6, ()),
        ("given", 7, 8, ()),
    ]


def test_the_roots_owner_may_be_a_record(layers: tuple[Path, Path, Path]) -> None:
    upper, middle, _bottom = layers
    record(str(middle), (7, 8))
    assert [(e.path, e.uid) for e in changes(str(upper), [str(middle)])] == [("", UID)]
    record(str(upper), (7, 8))
    assert found(layers) == []


def test_a_device_is_what_its_record_says(layers: tuple[Path, Path, Path]) -> None:
    upper = layers[0]
    (upper / "null").touch()
    os.setxattr(upper / "null", "user.assemble.mknod", b"c 1:3")
    (entry,) = changes(str(upper), [str(layers[1])])
    assert (entry.kind, entry.device, entry.source) == (Kind.CHARACTER, (1, 3), None)


def test_the_owners_of_links_are_in_the_table(tmp_path: Path) -> None:
    upper, lower = tmp_path / "upper" / "tree", tmp_path / "lower" / "tree"
    for tree in (upper, lower):
        (tree / "d").mkdir(parents=True)
        (tree / "d" / "copied").symlink_to("x")
    (upper / "d" / "new").symlink_to("x")
    write_table(str(lower), {"d/copied": (7, 8)})
    write_table(str(upper), {"d/copied": (7, 9)})
    entries = changes(str(upper), [str(lower)])
    assert {e.path: (e.uid, e.gid) for e in entries if e.kind is Kind.SYMLINK} == {
        "d/copied": (7, 9),
        "d/new": (UID, GID),
    }


IN_NAMESPACE = """
import os, subprocess, sys
upper, lower, work, merged = sys.argv[1:]
subprocess.run(["mount", "-t", "overlay", "overlay", "-o",
    f"lowerdir={lower},upperdir={upper},workdir={work},userxattr", merged], check=True)
os.chdir(merged)
subprocess.run('''
rm gone; rm -r tree; mkdir tree; echo new > tree/new; echo more >> kept/file
ln kept/file kept/link; touch -d @77 kept/file; rm never 2>/dev/null; mkdir made; touch made/x
''', shell=True, check=False)
from assembler.layer.diff import changes
os.chdir("/")
subprocess.run(["umount", merged], check=True)
for entry in changes(upper, [lower]):
    print(entry.kind.value, entry.path, entry.link, entry.uid)
"""


@pytest.mark.integration
def test_a_real_overlay_in_a_user_namespace(tmp_path: Path) -> None:
    names = ("upper", "lower", "work", "merged")
    for name in names:
        (tmp_path / name).mkdir(mode=0o755)
    realise(
        (
            Entry("gone", Kind.FILE, 0o644, UID, GID),
            Entry("kept", Kind.DIRECTORY, 0o755, UID, GID),
            Entry("kept/file", Kind.FILE, 0o644, UID, GID),
            Entry("kept/still", Kind.FILE, 0o644, UID, GID),
            Entry("tree", Kind.DIRECTORY, 0o755, UID, GID),
            Entry("tree/old", Kind.FILE, 0o644, UID, GID),
        ),
        str(tmp_path / "lower"),
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", IN_NAMESPACE]
        + [str(tmp_path / name) for name in names],
        capture_output=True,
        text=True,
        check=False,
    )
    if "overlay" in done.stderr and done.returncode:
        pytest.skip(f"no overlay in a user namespace here: {done.stderr.strip().splitlines()[-1]}")
    assert done.stdout.splitlines() == [
        "whiteout gone  0",
        "directory kept  0",
        "file kept/file  0",
        "hardlink kept/link kept/file 0",
        "directory made  0",
        "file made/x  0",
        "directory tree  0",
        "opaque tree  0",
        "file tree/new  0",
    ], done.stderr
