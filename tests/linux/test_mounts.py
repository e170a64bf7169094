"""Overlays as the kernel takes them: names with every special character, more options than a page
holds, and what a mount leaves behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from assembler.linux.mounts import Overlay

pytestmark = pytest.mark.integration

PRELUDE = """
import os, sys
from assembler.linux import syscalls, userns
from assembler.linux.mounts import FileSystem, Overlay, try_overlay
from assembler.linux.paths import remove_tree
directory = sys.argv[1]
userns.enter()

def made(*names):
    for name in names:
        os.makedirs(f"{directory}/{name}")
        with open(f"{directory}/{name}/of", "w") as stream: stream.write(name)
    return [f"{directory}/{name}" for name in names]
"""


def inside(script: str, directory: Path) -> str:
    """What `script` prints: entering a namespace is for a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script, str(directory)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ODD = r"a:b,c\d e=f\:g"


@pytest.mark.parametrize("way", ["mount", "fsconfig"])
def test_colons_commas_and_backslashes_in_names(tmp_path: Path, way: str) -> None:
    script = f"""
odd = {ODD!r}
lowers = made(odd + "/one", odd + "/two", "plain")
(upper,) = made(odd + "/upper")
os.remove(upper + "/of")
for name in ("work", "merged"): os.makedirs(f"{{directory}}/{{odd}}/{{name}}")
merged = f"{{directory}}/{{odd}}/merged"
overlay = Overlay(tuple(lowers), merged, upper, f"{{directory}}/{{odd}}/work")
{{"mount": overlay.execute, "fsconfig": overlay._execute_by_fsconfig}}[{way!r}]()
print(open(merged + "/of").read() == odd + "/one")
open(merged + "/new", "w").close()
print(sorted(os.listdir(upper)))
syscalls.umount(merged)
remove_tree(f"{{directory}}/{{odd}}")
"""
    assert inside(script, tmp_path) == "True\n['new']\n"


def test_options_that_do_not_fit_a_page_are_given_one_by_one(tmp_path: Path) -> None:
    """mount(2) takes 4096 bytes and fsconfig(2) strings of 255: each layer is a call of its own."""
    script = """
lowers = made(*(f"{'long' * 20}{number:03}" for number in range(60)))
os.mkdir(directory + "/merged")
overlay = Overlay(tuple(lowers), directory + "/merged")
print(len(overlay._options()) > 4096)
overlay.execute()
print(open(directory + "/merged/of").read() == os.path.basename(lowers[0]))
"""
    assert inside(script, tmp_path) == "True\nTrue\n"


def test_names_longer_than_fsconfig_takes(tmp_path: Path) -> None:
    script = """
deep = "/".join(["d" * 200] * 2)
lowers = made(*(f"{deep}/{number}" for number in range(12)))
(upper,) = made(deep + "/upper")
for name in ("work", "merged"): os.mkdir(f"{directory}/{deep}/{name}")
merged = f"{directory}/{deep}/merged"
Overlay(tuple(lowers), merged, upper, f"{directory}/{deep}/work").execute()
os.mkdir(merged + "/new")
print(os.path.isdir(upper + "/new"), len(os.listdir("/proc/self/fd")) < 10)
"""
    assert inside(script, tmp_path) == "True True\n"


def test_the_options_are_those_that_work_in_a_user_namespace() -> None:
    """Without userxattr it mounts, and then making a directory again is EIO."""
    told = Overlay(("a", "b"), "m", "u", "w").describe()
    assert "lowerdir=a:b,userxattr,upperdir=u,workdir=w,volatile" in told


def test_an_upper_directory_serves_once_and_its_work_directory_can_be_removed(
    tmp_path: Path,
) -> None:
    """A volatile mount marks its work directory (incompat/volatile), whose mode is 000."""
    script = """
(lower, upper) = made("lower", "upper")
for name in ("work", "merged"): os.mkdir(f"{directory}/{name}")
overlay = Overlay((lower,), directory + "/merged", upper, directory + "/work")
overlay.execute()
open(directory + "/merged/new", "w").close()
syscalls.umount(directory + "/merged")
print(os.stat(directory + "/work/work").st_mode & 0o777, os.path.isdir(
    directory + "/work/work/incompat/volatile"))
try: overlay.execute()
except OSError as error: print("refused")
Overlay((upper, lower), directory + "/merged").execute()  # as a lower one it does
print(os.path.exists(directory + "/merged/new"))
syscalls.umount(directory + "/merged")
remove_tree(directory + "/work")
print(os.path.exists(directory + "/work"))
"""
    assert inside(script, tmp_path) == "0 True\nrefused\nTrue\nFalse\n"


def test_the_trial_finds_what_a_mount_alone_does_not(tmp_path: Path) -> None:
    script = """
try_overlay(directory + "/trial")
print(os.listdir(directory))
def without(self):
    return f"lowerdir={self.lowers[0]},upperdir={self.upper},workdir={self.work}"
Overlay._options = without
try: try_overlay(directory + "/trial")
except OSError as error: print(error.strerror)
print(os.listdir(directory))
"""
    assert inside(script, tmp_path) == "[]\nInput/output error\n[]\n"
