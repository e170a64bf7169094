"""Every runtime under every kind of id map: does RUN work, is the image the same, are owners right.

    .venv/bin/python benchmarks/matrix.py USER

As root; USER has subordinate ids and may read this tree. The steps give files to other ids in every
way: chown, su, tar -p, mknod, links, directories and programs with set-id bits, USER. Prints a row
for each pair: works or why not, the image's digest, and which entries belong to others than they should.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RUNTIMES = ("native", "crun", "runc", "podman")
NOBODY = "65533"  # a user without subordinate ids
DOCKERFILE = """\
FROM busybox AS base
RUN echo app:x:1000:1000::/home/app:/bin/sh >> /etc/passwd && echo app:x:1000: >> /etc/group \\
 && mkdir /home/app && chown app:app /home/app && mkdir -m 2775 /shared && chown :50 /shared
RUN su app -c 'cd; mkdir d; touch d/f; ln -s f link; mkfifo pipe' && touch /shared/inherited \\
 && cp /bin/busybox /tool && chown 70:71 /tool && chmod 6755 /tool && chown -h 9:9 /home/app/link
RUN cd /home && tar -cf /a.tar app && mkdir /u && tar -xpf /a.tar -C /u && rm /a.tar \\
 && mknod /null c 1 3 && mknod /disk b 259 7 && { ! test -e /disk || chown app /disk; }
USER app
RUN touch /home/app/mine
FROM busybox
COPY --from=base / /all
"""
OWNERS = {
    "home/app": (1000, 1000), "home/app/d/f": (1000, 1000), "home/app/link": (9, 9),
    "home/app/pipe": (1000, 1000), "home/app/mine": (1000, 1000), "shared": (0, 50),
    "shared/inherited": (0, 50), "tool": (70, 71), "u/app/d": (1000, 1000),
    "u/app/d/f": (1000, 1000), "null": (0, 0), "disk": (1000, 0),
}  # fmt: skip
SUPERVISION_REFUSED = """\
import os, struct, sys
from assembler.linux import syscalls
syscalls.prctl(38, 1)
listener = syscalls.seccomp_listener(struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000))
os.set_inheritable(listener, True)
os.execv(sys.argv[1], sys.argv[1:])
"""


def modes(user: str, directory: Path) -> Iterator[tuple[str, list[str], tuple[str, ...]]]:
    """Name, command prefix and runtimes of every kind of id map."""
    programs = directory / "programs"
    programs.mkdir()
    for name in RUNTIMES[1:]:
        if found := shutil.which(name):
            (programs / name).symlink_to(found)
    known = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    hidden = ["env", f"PATH={programs}"]
    refused = [sys.executable, "-c", SUPERVISION_REFUSED]
    yield "full", known, RUNTIMES
    yield "identity, as root", [], RUNTIMES
    yield "single, no subordinate ids", nobody, RUNTIMES
    yield "single, newuidmap hidden", [*known, *hidden], RUNTIMES
    yield "single, no supervision", [*known, *hidden, *refused], RUNTIMES
    yield "chroot, as root", [], ("chroot",)


def build(prefix: list[str], runtime: str, directory: Path, context: Path) -> list[str]:
    """Build in a store of its own; the cells of the row."""
    directory.mkdir()
    if prefix:
        name = prefix[1].partition("=")[2]
        known = pwd.getpwnam(name) if not name.isdigit() else None
        ids = (known.pw_uid, known.pw_gid) if known else (int(name), int(name))
        os.chown(directory, *ids)
    env = {"PATH": PATH, "HOME": str(directory), "PYTHONPATH": str(ROOT), "SOURCE_DATE_EPOCH": "0"}
    store, image = str(directory / "store"), "docker.io/library/busybox:latest"
    base = [str(ROOT / "fixtures/base/image.py"), "busybox", store, image, str(directory / "base")]
    who = [word for word in prefix if word == "setpriv" or word.startswith("--")]
    subprocess.run([*who, sys.executable, *base], env=env, check=True, capture_output=True)
    words = ["build", "--store", store, "--no-cache", "-q", "--runtime", runtime, str(context)]
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "assembler", *words],
        env=env, capture_output=True, text=True, cwd="/", stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        return [done.stderr.strip().splitlines()[-1], "", ""]
    digest = done.stdout.strip()
    found = owners(Path(store) / "blobs/sha256", digest)
    wrong = [name for name, owner in OWNERS.items() if found.get(f"all/{name}") != owner]
    return ["works", digest[:19], f"wrong owners: {' '.join(wrong)}" if wrong else "owners right"]


def owners(blobs: Path, digest: str) -> dict[str, tuple[int, int]]:
    """Whom every entry of the image belongs to."""
    manifest = json.loads((blobs / digest.removeprefix("sha256:")).read_text())
    found: dict[str, tuple[int, int]] = {}
    for layer in manifest["layers"]:
        with tarfile.open(blobs / layer["digest"].removeprefix("sha256:")) as archive:
            found |= {member.name: (member.uid, member.gid) for member in archive}
    return found


def main() -> None:
    """Fill and print the matrix."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        directory = Path(made)
        os.chmod(directory, 0o755)
        context = directory / "context"
        context.mkdir()
        (context / "Dockerfile").write_text(DOCKERFILE)
        number = 0
        for mode, prefix, runtimes in modes(sys.argv[1], directory):
            for runtime in runtimes:
                number += 1
                cells = build(prefix, runtime, directory / f"{number}", context)
                print(f"{runtime:8} {mode:28}", *cells, flush=True)


if __name__ == "__main__":
    main()
