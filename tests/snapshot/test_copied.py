"""Trees without overlays: what a step changed in a copy is what an overlay would hold."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from assembler.layer.changeset import Entry, Kind
from assembler.layer.tree import (
    ChangesetTree,
    DirectoryTree,
    EmptyTree,
    MergedTree,
    everything,
)
from assembler.snapshot.copied import changed, marks

SOCKET = 'rm -rf {0}; perl -e \'socket(S, 1, 1, 0); bind(S, pack("Sa*", 1, "{0}")) or die\''
CHANGES = {
    "nothing": "true",
    "a file is added": "echo new > d/new",
    "a file is changed": "echo more >> d/f",
    "a file is removed": "rm d/f",
    "a file is replaced": "rm d/f; echo other > d/f",
    "a directory is removed": "rm -r d",
    "a directory is made anew": "rm -r d; mkdir d; echo x > d/only",
    "a directory is moved away and back": "mv d away; echo x > away/e/new; mv away d",
    "a directory is moved in one that is": "mv d away; mv away/e e; mv e away/e; mv away d",
    "a directory becomes a file": "rm -r d; echo x > d",
    "a file becomes a directory": "rm d/f; mkdir d/f; echo x > d/f/g",
    "a link is turned": "ln -sfn elsewhere d/link",
    "a mode changes": "chmod 4711 d/f",
    "a directory's mode changes": "chmod 700 d/e",
    "an owner changes": "chown 1:2 d/f",
    "an owner and a mode are given again": "chown 0:0 d/f; chmod 644 d/e/deep",
    "a file is opened for writing and left": ": >> d/f; : >> d/e/deep; chmod 700 d/e",
    "a file is read": "cat d/f; exec 5<d/e/deep",
    "one of two names changes": "echo x >> one",
    "one of two names gets a mode": "chmod 600 two",
    "everything gets an owner": "chown -R 3:4 .",
    "links are made, and then one changes": "ln d/f g",
    "hard links are made": "ln d/f d/g; ln d/f d/h",
    "the root's mode changes": "chmod 711 .",
    "deep things come and go": "mkdir -p n/o/p; echo x > n/o/p/q; rm d/e/deep",
    "a socket takes a file's place": SOCKET.format("d/f"),
    "a socket takes a directory's place": "mkdir d/new; " + SOCKET.format("d/e"),
    "a socket of no layer's": SOCKET.format("new"),
    "fifos and odd names": "mkfifo pipe; echo x > 'a b'; echo y > .wh.fake",
}


def test_everything_of_a_tree_is_told_once_and_further_names_are_links() -> None:
    file = Entry("d/a", Kind.FILE, 0o644, inode=(1, 2))
    tree = MergedTree(
        [
            ChangesetTree(
                [Entry("d", Kind.DIRECTORY, 0o755), file, Entry("d/b", Kind.HARDLINK, link="d/a")]
            )
        ]
    )
    found = [(entry.path, entry.kind) for entry in everything(tree)]
    assert found == [
        ("", Kind.DIRECTORY),
        ("d", Kind.DIRECTORY),
        ("d/a", Kind.FILE),
        ("d/b", Kind.HARDLINK),
    ]


def test_a_time_set_back_does_not_hide_a_change(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("before")
    status = path.stat()
    before = marks(str(tmp_path))
    path.write_text("after!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "f" in {entry.path for entry in changed(str(tmp_path), before, EmptyTree())}


def test_only_the_top_of_what_is_gone_is_a_whiteout(tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/e/f").write_text("x")
    before = marks(str(tmp_path))
    shutil.rmtree(tmp_path / "d")
    gone = [
        entry.path
        for entry in changed(str(tmp_path), before, EmptyTree())
        if entry.kind is Kind.WHITEOUT
    ]
    assert gone == ["d"]


SCRIPT = """
import os, subprocess, sys
from assembler.layer.diff import changes
from assembler.linux import userns
from assembler.linux.mounts import Overlay
from assembler.linux.paths import remove_tree
from assembler.snapshot.copied import CopySnapshotter
from assembler.snapshot.overlay import OverlaySnapshotter
from assembler.linux import syscalls

directory, command = sys.argv[1:3]
userns.enter()
found = {}
for kind in (OverlaySnapshotter, CopySnapshotter):
    snapshots = kind(os.path.join(directory, kind.name))
    with snapshots.create("aa") as base:
        os.makedirs(base + "/d/e")
        for name in ("d/f", "d/e/deep"):
            with open(f"{base}/{name}", "w") as stream: stream.write(name)
        os.symlink("f", base + "/d/link")
        with open(base + "/one", "w") as stream: stream.write("one")
        os.link(base + "/one", base + "/two")
        for name in ("d/f", "d/e/deep", "d/e", "d", "."):
            os.utime(f"{base}/{name}", (1, 1))
    lowers = [snapshots.find("aa")]
    for number in range(2):   # the second step gets the tree of the first handed on
        id = f"bb{number}"
        with snapshots.prepare(id, lowers) as root:
            where = root.upper
            if root.lowers:
                where = os.path.join(root.scratch, "merged")
                os.mkdir(where)
                Overlay(root.lowers, where, root.upper, root.work).execute()
            subprocess.run(["sh", "-c", command if number == 0 else "echo 2 > second; test ! -e g || echo x >> g"], cwd=where, check=True)
            if root.lowers:
                syscalls.umount(where)
        upper = snapshots.find(id)
        told = [
            (e.path, e.kind.name, e.mode, e.uid, e.gid, e.size, e.link)
            for e in changes(upper, lowers)
        ]
        found.setdefault(kind.name, []).append(sorted(told))
        lowers.insert(0, upper)
    snapshots.close()
    remove_tree(os.path.join(directory, kind.name))
assert found["copy"] == found["overlay"], found
"""


@pytest.mark.integration
@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_tells_the_same_changes_as_an_overlay(tmp_path: Path, change: str) -> None:
    command = CHANGES[change]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), command], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_what_a_runtime_moved_away_and_back_is_as_it_was(tmp_path: Path) -> None:
    """A file, a link and a pipe get new change times by that; what a step moved so is a change."""
    tree, below, elsewhere = tmp_path / "tree", tmp_path / "below", tmp_path / "elsewhere"
    for place in (tree, below):
        place.mkdir()
        (place / "file").write_text("x")
        (place / "link").symlink_to("file")
        os.mkfifo(place / "pipe")
        for name in ("file", "link", "pipe", "."):
            os.utime(place / name, (1, 1), follow_symlinks=False)
    before = marks(str(tree))
    names = {"file", "link", "pipe"}
    for name in names:
        (tree / name).rename(elsewhere)
        elsewhere.rename(tree / name)
    os.utime(tree, (1, 1))
    lower = MergedTree([DirectoryTree(str(below))])
    told = {entry.path for entry in changed(str(tree), before, lower, names)}
    assert told - {""} == set()
    assert {entry.path for entry in changed(str(tree), before, lower)} - {""} == names
