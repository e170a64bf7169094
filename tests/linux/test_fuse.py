"""fuse-overlayfs as a mount: whole paths, whole errors, and no process that outlives it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.root]

START = """
import os, shutil, sys, time
from assembler.linux import reaping, syscalls, userns
from assembler.linux.fuse import FuseOverlay
directory = sys.argv[1]
userns.enter()
reaping.adopt()
program = shutil.which("fuse-overlayfs")
paths = [os.path.join(directory, name) for name in ("a:b", "c,d", "e\\\\f", "p:,/u", "p:,/w", "m:,")]
for path in paths: os.makedirs(path)
for path in paths[:3]: open(path + "/" + os.path.basename(path), "w").close()
"""
ENDS = (
    START
    + """
FuseOverlay(tuple(paths[:3]), paths[5], paths[3], paths[4], program).execute()
assert sorted(os.listdir(paths[5])) == ["a:b", "c,d", "e\\\\f"]
open(paths[5] + "/new", "w").close()
assert os.listdir(paths[3]) == ["new"]
served = reaping.children()
assert len(served) == 1
assert os.readlink(f"/proc/{served[0]}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
syscalls.umount(paths[5])
deadline = time.monotonic() + 60
while os.waitpid(-1, os.WNOHANG)[0] == 0:
    assert time.monotonic() < deadline
    time.sleep(0.01)
"""
)
READ_ONLY = (
    START
    + """
FuseOverlay(tuple(paths[:3] * 100), paths[5], program=program).execute()
try:
    open(paths[5] + "/new", "w")
except OSError as error:
    print(error.strerror)
"""
)
FAILS = (
    START
    + """
with open(directory + "/program", "w") as stream:
    stream.write("#!/bin/sh\\necho first >&2; echo bad news >&2; exit 3\\n")
os.chmod(stream.name, 0o755)
try:
    FuseOverlay((paths[0],), paths[5], program=stream.name).execute()
except OSError as error:
    print(error.strerror)
"""
)


def run(script: str, directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, str(directory)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_ends_with_its_mount_and_takes_any_path(tmp_path: Path) -> None:
    run(ENDS, tmp_path)


def test_without_an_upper_directory_nothing_can_be_written(tmp_path: Path) -> None:
    assert run(READ_ONLY, tmp_path) == "Read-only file system\n"


def test_what_the_program_says_is_the_error(tmp_path: Path) -> None:
    assert run(FAILS, tmp_path) == "fuse-overlayfs: bad news\n"
