"""What fuse-overlayfs wrote is published as what the kernel's overlay would have written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from assembler.layer import overlay
from assembler.layer.changeset import Entry, Kind
from assembler.layer.realise import realise
from assembler.layer.tree import ChangesetTree, DirectoryTree, MergedTree
from assembler.snapshot.fused import converted

NEW = (1 << 40) * 1_000_000  # nanoseconds, long after anything here


def layer(directory: Path, *entries: Entry) -> str:
    directory.mkdir()
    realise(entries, str(directory))
    return str(directory)


def test_files_that_hide_become_devices_and_marks_are_removed(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    (upper / "again").mkdir(parents=True)
    for name in (".wh.gone", "again/.wh..wh..opq", "again/kept", ".wh.back", "back"):
        (upper / name).write_text("")
    os.utime(upper / "again", (5, 5))
    converted(str(upper), ChangesetTree(()), NEW)
    assert overlay.is_whiteout(os.lstat(upper / "gone"))
    assert sorted(os.listdir(upper)) == ["again", "back", "gone"]
    assert os.listdir(upper / "again") == ["kept"]
    assert DirectoryTree(str(upper)).opaque("again")
    assert (upper / "again").stat().st_mtime == 5
    assert not overlay.as_files(str(upper))


def test_a_directory_that_files_were_copied_up_to_keeps_its_time(tmp_path: Path) -> None:
    below = MergedTree([ChangesetTree([Entry("d", Kind.DIRECTORY, 0o755, mtime=7), _file("d/f")])])
    for name, origin, expected in (("same", b"d/f\0", 7), ("moved", b"d/other\0", None)):
        upper = tmp_path / name
        (upper / "d").mkdir(parents=True)
        (upper / "d/f").write_text("x")
        os.setxattr(upper / "d/f", "user.fuseoverlayfs.origin", origin)
        now = (upper / "d").stat().st_mtime_ns
        converted(str(upper), below, now - 1)
        assert (upper / "d").stat().st_mtime_ns == (expected or now)
        assert os.listxattr(upper / "d/f") == []


def test_a_time_that_the_step_set_is_kept(tmp_path: Path) -> None:
    below = MergedTree([ChangesetTree([Entry("d", Kind.DIRECTORY, 0o755, mtime=7), _file("d/f")])])
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_text("x")
    os.setxattr(tmp_path / "d/f", "user.fuseoverlayfs.origin", b"d/f\0")
    started = (tmp_path / "d").stat().st_mtime_ns
    os.utime(tmp_path / "d", (9, 9))
    converted(str(tmp_path), below, started)
    assert (tmp_path / "d").stat().st_mtime == 9


def test_an_attribute_of_the_steps_own_is_escaped_once_for_all_names(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    os.link(tmp_path / "f", tmp_path / "g")
    os.setxattr(tmp_path / "f", "user.overlay.opaque", b"y")
    converted(str(tmp_path), ChangesetTree(()), NEW)
    found = DirectoryTree(str(tmp_path)).lookup("g")
    assert found is not None and found.xattrs == (("user.overlay.opaque", b"y"),)


def _file(path: str) -> Entry:
    return Entry(path, Kind.FILE, 0o644)


CHANGES = {
    "nothing": "true",
    "a file is added": "echo new > d/new",
    "a file is changed": "echo more >> d/f",
    "a file is removed": "rm d/f",
    "a file is replaced": "rm d/f; echo other > d/f",
    "a file is moved over another": "echo x > t; mv t d/f",
    "a directory is removed": "rm -r d",
    "a directory is made anew": "rm -r d; mkdir d; echo x > d/only",
    "a directory is moved": "mv d moved",
    "a directory becomes a file": "rm -r d; echo x > d",
    "a file becomes a directory": "rm d/f; mkdir d/f; echo x > d/f/g",
    "a link is turned": "ln -sfn elsewhere d/link",
    "only a mode deep down changes": "chmod 4711 d/e/deep",
    "a mode changes, then a file comes and goes": "chmod 600 d/f; sleep 0.05; echo x > d/t; rm d/t",
    "a directory's mode changes": "chmod 700 d/e",
    "a directory's time is set": "chmod 600 d/f; touch -d @12345 d",
    "an owner changes": "chown 1:2 d/f; chown -h 3:4 d/link",
    "owners change everywhere": "chown -R 5:6 .",
    "hard links are made": "ln d/f d/g; ln d/f d/h",
    "a link to a file from below": "ln d/f a; ln d/e/deep d/z",
    "one of three names changes": "echo x >> w/three",
    "all of three names change": "chmod 600 three w/three w/x/three",
    "one of two names is removed": "rm one",
    "the root's mode changes": "chmod 711 .",
    "deep things come and go": "mkdir -p n/o/p; echo x > n/o/p/q; rm d/e/deep",
    "fifos and odd names": "mkfifo pipe; echo x > 'a b'; echo y > \"$(printf 'n\\377\\n')\"",
    "a large file": "head -c 3000000 /dev/zero > z; truncate -s 1G hole",
    "what was hidden comes back": "echo x > hid; mkdir was; echo y > was/new",
    "capabilities": "cp /bin/true t; setcap cap_net_raw+ep t; mv d/f d/g",
    "an attribute": "python3 -c \"import os; os.setxattr('d/f', 'user.x', b'1')\"",
    "an attribute of a directory": "python3 -c \"import os; os.setxattr('d', 'user.x', b'1')\"",
    "an attribute that an overlay hides": (
        "python3 -c \"import os; os.setxattr('d/f', 'user.overlay.x', b'1')\""
    ),
    "written through a mapping": (
        "python3 -c \"import mmap, os; os.truncate('d/f', 9); f = open('d/f', 'r+b');"
        " m = mmap.mmap(f.fileno(), 9); m[:] = b'123456789'; os._exit(0)\""
    ),
}

SCRIPT = """
import os, subprocess, sys, time
from assembler.layer.diff import changes
from assembler.linux import syscalls, userns
from assembler.linux.fuse import FuseOverlay
from assembler.linux.mounts import Overlay
from assembler.linux.paths import remove_tree
from assembler.snapshot.fused import FuseSnapshotter
from assembler.snapshot.overlay import OverlaySnapshotter

directory, command = sys.argv[1:3]
userns.enter()

def run(snapshots, id, lowers, command):
    with snapshots.prepare(id, lowers) as root:
        where = os.path.join(root.scratch, "merged")
        os.mkdir(where)
        if root.program:
            FuseOverlay(root.lowers, where, root.upper, root.work, root.program).execute()
        else:
            Overlay(root.lowers, where, root.upper, root.work).execute()
        subprocess.run(["sh", "-ec", command], cwd=where, check=True)
        syscalls.umount(where)
    lowers.insert(0, snapshots.find(id))

def told(lowers):
    now = time.time_ns() - 3600 * 10**9
    return sorted(
        (e.path, e.kind.name, e.mode, e.uid, e.gid, e.size, e.link, e.xattrs,
         "new" if e.mtime > now else e.mtime,
         e.source.open().read() if e.source and e.size < 10**7 else b"")
        for e in changes(lowers[0], lowers[1:])
    )

found = {}
for kinds in ("oo", "ff", "of", "fo"):
    place = os.path.join(directory, kinds + ":,")
    made = {"o": OverlaySnapshotter(place), "f": FuseSnapshotter(place)}
    with made["o"].create("aa") as base:
        os.makedirs(base + "/d/e"); os.makedirs(base + "/was/old"); os.makedirs(base + "/w/x")
        for name in ("d/f", "d/e/deep", "hid", "one"):
            with open(f"{base}/{name}", "w") as stream: stream.write(name)
        os.link(base + "/one", base + "/two")
        with open(base + "/three", "w") as stream: stream.write("three")
        for name in ("w/three", "w/x/three"): os.link(base + "/three", f"{base}/{name}")
        os.symlink("f", base + "/d/link")
        os.chown(base + "/d/link", 7, 8, follow_symlinks=False)
        for name in ("d/f", "d/e/deep", "d/e", "d/link", "d", "was", "."):
            os.utime(f"{base}/{name}", (1, 1), follow_symlinks=False)
    lowers = [made["o"].find("aa")]
    run(made[kinds[0]], "bb", lowers, "rm hid; rm -r was; echo 1 > first; chmod 640 two")
    told_first = told(lowers)
    run(made[kinds[1]], "cc", lowers, command)
    found[kinds] = told_first, told(lowers)
    for snapshots in made.values(): snapshots.close()
    remove_tree(place)
for kinds in found:
    assert found[kinds] == found["oo"], (kinds, found[kinds], found["oo"])
"""


@pytest.mark.integration
@pytest.mark.root
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_published_is_what_the_kernels_overlay_leaves(tmp_path: Path, change: str) -> None:
    """Two steps, each under either overlay: layers of both are above and below one another."""
    arguments = (str(tmp_path), CHANGES[change])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
