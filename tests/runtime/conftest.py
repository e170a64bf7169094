"""Processes in sandboxes, each test a script of a child: entering the namespace changes a process.

Of the kind `spare` they are the embedded runtime's, each in a sandbox that was made before it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PRELUDE = """
import os, shutil, signal, sys, threading, time
from assembler.cancellation import Cancellation
from assembler.errors import *
from assembler.linux import syscalls, userns
from assembler.linux.paths import remove_tree
from assembler.runtime import native
from assembler.runtime.base import *
from assembler.snapshot.copied import CopySnapshotter
from assembler.snapshot.overlay import OverlaySnapshotter

# A parent that ignores signals, also those that Python does not know, passes that on.
ignored = (1).to_bytes(8, sys.byteorder) + bytes(24)
signal.signal(signal.SIGQUIT, signal.SIG_IGN)
for number in (32, 33):
    syscalls._libc.syscall(syscalls._RT_SIGACTION[syscalls.machine()], number, ignored, None, 8)

busybox, directory, kind = sys.argv[1:4]
id_map = userns.enter()
if kind == "podman":
    from assembler.runtime.podman import Podman
    runtime = Podman.start(id_map)
elif kind in ("crun", "runc"):
    from assembler.runtime.oci_runtime import OciRuntime
    runtime = OciRuntime.start(id_map, kind)
else:
    from assembler.runtime.native import Native
    runtime = Native.start(id_map)
cancellation = Cancellation()
kinds = {"overlay": OverlaySnapshotter, "copy": CopySnapshotter}
snapshots = kinds[(sys.argv[4:] or ["overlay"])[0]](os.path.join(directory, "layers"))

with snapshots.create("ba5e") as base:
    os.makedirs(base + "/bin"); os.makedirs(base + "/etc"); os.makedirs(base + "/tmp")
    os.chmod(base + "/tmp", 0o1777)
    shutil.copy(busybox, base + "/bin/busybox")
    for name in (
        "sh ls cat true id mkdir rm sleep chown grep mount umount ip kill stat env su mv yes head"
        " tail readlink unshare ping wc hostname df touch").split():
        os.symlink("busybox", base + "/bin/" + name)
    with open(base + "/etc/passwd", "w") as stream:
        stream.write("root:x:0:0:root:/root:/bin/sh\\nbob:x:1000:1001::/home/bob:/bin/sh\\n")
    with open(base + "/etc/group", "w") as stream:
        stream.write("root:x:0:\\nbobs:x:1001:\\nextra:x:50:bob\\n")
BASE = snapshots.find("ba5e")
count = 0

def run(command, *mounts, lowers=(BASE,), **process):
    '''(status, output, what the upper directory holds)'''
    global count
    count += 1
    said = []
    argv = ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)
    with snapshots.prepare(f"{count:04x}", lowers) as root:
        process.setdefault("more", kind == "spare")
        asked = Process(argv=argv, env=(("PATH", "/bin"),), **process)
        status = runtime.run(asked, root, mounts, said.append, cancellation)
    upper = snapshots.find(f"{count:04x}")
    held = sorted(
        os.path.relpath(os.path.join(d, n), upper)
        for d, names, files in os.walk(upper) for n in names + files
    )
    return status, b"".join(said).decode(), held

def show(command, *mounts, **process):
    return run(command, *mounts, **process)[1].strip()

def layer(id, make):
    '''A layer directory that the function `make` fills, over BASE'''
    with snapshots.create(id) as path:
        make(path)
    return (snapshots.find(id), BASE)

try:
    if kind == "spare":
        run("true")
        snapshots.remove("0001")
        count = 0
    exec(sys.stdin.read())
finally:
    runtime.close()
    snapshots.close()
    remove_tree(os.path.join(directory, "layers"))
"""


@pytest.fixture
def sandboxed(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script that has `run` and `show`; fails the test unless it ends well."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("not installed: busybox-static")

    def execute(
        script: str, kind: str = "native", code: int = 0, snapshots: str = "overlay"
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE, str(busybox), str(tmp_path), kind, snapshots],
            input=script,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return execute


@pytest.fixture
def prelude() -> str:
    """What makes `run` and `show`; arguments: busybox, a directory, a runtime, a snapshotter."""
    return PRELUDE
