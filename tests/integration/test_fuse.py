"""Steps whose root fuse-overlayfs serves: the same image, and nothing left behind.

They need /dev/fuse, which not every machine gives to everybody: so they run as root.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.root]

RUNTIMES = ("native", "podman", "crun", "runc")
DOCKERFILE = """\
FROM busybox AS build
RUN mkdir -p /out/deep && echo made > /out/deep/file && chown -R 1000:50 /out && ln -s deep /out/l
RUN --mount=type=tmpfs,target=/scratch --mount=type=bind,target=/src,rw \\
    echo gone > /scratch/x && echo more >> /src/file && cp /src/file /seen && chown -hR 1:2 /out \\
    && echo someone:x:1234:1234::/:/bin/sh >> /etc/passwd
WORKDIR /work
USER someone
RUN id -u > /work/../tmp/who && umask > /tmp/umask
FROM busybox
COPY --from=build /out /out
COPY --from=build /tmp/who /tmp/umask /seen /
RUN ln -s /out/deep /short && rm -r /var/log && mkdir /var/log && ln /who /who2 && rm /etc/group
RUN chmod 600 /etc/passwd && ln /out/deep/file /linked && test ! -e /etc/group && echo x >> /who
"""
EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}


@pytest.fixture
def context(tmp_path: Path, require: Callable[..., None]) -> Path:
    require("fuse-overlayfs", "podman", "crun", "runc")
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text(DOCKERFILE)
    (directory / "file").write_text("of the context\n")
    return directory


def test_the_image_is_that_of_the_kernels_overlays_under_every_runtime(
    assemble: Any, context: Path
) -> None:
    arguments = ("build", "-q", "--no-cache", context)
    digests = {
        runtime: assemble(
            *arguments, "--runtime", runtime, "--snapshotter", "fuse-overlayfs", **EPOCH
        ).stdout
        for runtime in RUNTIMES
    }
    digests["kernel"] = assemble(*arguments, "--snapshotter", "overlay", **EPOCH).stdout
    assert len(set(digests.values())) == 1, digests


CASES = Path(__file__).parents[2] / "fixtures/differential"
CORPUS = (
    "C12-owners-and-modes-given", "C14-what-is-replaced", "C22-owners-from-elsewhere",
    "I5-json-and-shell-forms", "K1-workdir", "K2-user", "K3-shell", "M6-mounts",
    "M7-cache-of-two-runs", "R1-forms-and-the-path", "R3-files-of-the-run",
    "Z2-copied-over-what-was-removed", "Z2-removed-and-replaced", "Z3-hard-links",
    "Z5-kinds-and-modes",
)  # fmt: skip


@pytest.mark.parametrize("case", CORPUS)
def test_a_corpus_has_the_same_digests(assemble: Any, case: str) -> None:
    digests = {
        kind: assemble("build", "-q", "--no-cache", "--snapshotter", kind, CASES / case, **EPOCH)
        for kind in ("overlay", "fuse-overlayfs")
    }
    assert digests["overlay"].stdout == digests["fuse-overlayfs"].stdout


@pytest.mark.parametrize(
    "order", [("fuse-overlayfs", "overlay", "copy"), ("copy", "overlay", "fuse-overlayfs")]
)
def test_layers_of_every_snapshotter_stand_on_one_another(
    assemble: Any, tmp_path: Path, order: tuple[str, ...]
) -> None:
    """Every line is built by another one, over what the cache has of the lines before."""
    lines = [
        "FROM busybox",
        "RUN mkdir -p /a/b && echo 1 > /a/b/1 && rm /etc/passwd",
        "RUN rm -r /a/b && mkdir /a/b && echo 2 > /a/b/2 && test ! -e /etc/passwd",
        "RUN test ! -e /a/b/1 && rm -r /a && echo 3 > /etc/passwd",
        'RUN test ! -e /a && mkdir -p /a/b && test -z "$(ls /a/b)" && rm /etc/passwd',
        "RUN test ! -e /etc/passwd && test -d /a/b && rm -r /a",
    ]
    for count in range(2, len(lines) + 1):
        (tmp_path / "Dockerfile").write_text("\n".join(lines[:count]))
        done = assemble("build", "--snapshotter", order[count % 3], tmp_path)
        assert done.stderr.count("CACHED") >= count - 2


ON_AN_OVERLAY = """\
set -e
mkdir -p "$0/lower" "$0/upper" "$0/work" "$0/merged"
mount -t overlay overlay -o "lowerdir=$0/lower,upperdir=$0/upper,workdir=$0/work" "$0/merged"
exec "$@"
"""


@pytest.mark.parametrize("kind", ["auto", "copy"])
def test_a_store_on_an_overlay_gives_the_same_image(
    assemble: Any, context: Path, tmp_path: Path, kind: str
) -> None:
    """As in a container without a volume: no device 0:0 can be made there."""
    prefix = ["unshare", "--mount", "sh", "-c", ON_AN_OVERLAY, str(tmp_path)]
    store = tmp_path / "merged/store"
    shutil.copytree(tmp_path / "store", tmp_path / "lower/store")
    plain = assemble("build", "-q", "--no-cache", context, **EPOCH)
    done = assemble(
        "build", "--no-cache", "--store", store, "--snapshotter", kind, context,
        prefix=prefix, **EPOCH,
    )  # fmt: skip
    assert done.stdout == plain.stdout
    if kind == "auto":
        assert "steps run by fuse-overlayfs" in done.stderr


AS_SOMEBODY = """\
set -e
mknod "$0" c 10 229
chmod 666 "$0"
mount --bind "$0" /dev/fuse
exec setpriv --reuid 54321 --regid 54321 --clear-groups "$@"
"""


def test_a_user_with_one_id_gets_the_same_image(assemble: Any, context: Path) -> None:
    plain = assemble("build", "-q", "--no-cache", context, **EPOCH)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        home = Path(directory)
        shutil.copytree(Path(assemble.env["ASSEMBLE_STORE"]), home / "store", ignore=_layers)
        shutil.copytree(context, home / "context")
        for path in (home, *home.rglob("*")):
            os.chown(path, 54321, 54321)
        prefix = ["unshare", "--mount", "sh", "-c", AS_SOMEBODY, str(home / "fuse")]
        done = assemble(
            "build", "-q", "--no-cache", "--snapshotter", "fuse-overlayfs",
            "--store", home / "store", home / "context", prefix=prefix, HOME=directory, **EPOCH,
        )  # fmt: skip
    assert done.stdout == plain.stdout


def _layers(directory: str, names: list[str]) -> list[str]:
    return [one for one in names if one in ("layers", "ingest", "scratch")]


def descendants(pid: int) -> list[int]:
    """The processes that `pid` and its children started."""
    parents: dict[int, list[int]] = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                fields = (directory / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended meanwhile
            parents.setdefault(int(fields[1]), []).append(int(directory.name))
    found, pending = [], [pid]
    while pending:
        below = parents.get(pending.pop(), [])
        found += below
        pending += below
    return found


def name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def soon(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_program_ends_with_its_step(
    assemble: Any,
    require: Callable[..., None],
    tmp_path: Path,
    runtime: str,
    ending: signal.Signals,
) -> None:
    require("fuse-overlayfs", "podman", "crun", "runc")
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN (setsid sleep 1000 &); sleep 1000\n")
    arguments = ("--runtime", runtime, "--snapshotter", "fuse-overlayfs", "--no-cache", tmp_path)
    process = subprocess.Popen(
        assemble.command("build", *arguments), env=assemble.env, stderr=subprocess.DEVNULL
    )
    try:

        def running() -> list[str]:
            return [name(pid) for pid in descendants(process.pid)]

        assert soon(lambda: running().count("sleep") == 2, 60), running()
        assert "fuse-overlayfs" in running()
        started = opened(descendants(process.pid))
        process.send_signal(ending)
        process.wait(60)
        assert all(ended(one, 60) for one in started)
    finally:
        process.kill()
        process.wait()
    assert "fuse-overlayfs" not in Path("/proc/self/mounts").read_text()


def opened(pids: list[int]) -> list[int]:
    """What tells of the ends of those of `pids` that have not ended yet."""
    found = []
    for pid in pids:
        with suppress(ProcessLookupError):
            found.append(os.pidfd_open(pid))
    return found


def ended(pidfd: int, seconds: float) -> bool:
    """Whether a process has ended, reaped or not, within a time."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(seconds * 1000))
