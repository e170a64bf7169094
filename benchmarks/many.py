"""What memory it takes where there are very many names: archives, layers, contexts.

    .venv/bin/python benchmarks/many.py [NAMES] [SHAPE] [WORK ...]

As an unprivileged user with subordinate ids. NAMES files of a few bytes, 1,000,000 unless told, are in
directories of 1,000 (SHAPE spread), all in one (flat), or each in one of its own (deep). WORK is some
of add, copy, from, unpack; all but context unless told. Prints for each the largest resident set of
a process, also for each 100,000 names, wall and CPU seconds.

    add       ADD of a .tar.gz of them into an image
    copy      COPY of one file onto a base of them, whose index is made
    again     the same with another file, its index known
    from      COPY --from of all of them out of an image
    unpack    the layer into a directory, in memory where /dev/shm is large enough
    context   COPY of a directory of them, which is made in /dev/shm
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = "docker.io/library/many:latest"
SHAPES: dict[str, Callable[[int], str]] = {
    "spread": lambda number: f"usr/share/d{number // 1_000:05}/file-{number:07}.txt",
    "flat": lambda number: f"all/file-{number:07}.txt",
    "deep": lambda number: f"usr/share/d{number:07}/file.txt",
}
WORKS = ("add", "copy", "again", "from", "unpack")
UNPACK = """
import sys
from assembler.layer.apply import unpack
with open(sys.argv[1], "rb") as blob:
    unpack(blob, sys.argv[2])
"""


def content(number: int) -> bytes:
    """The bytes of a file."""
    return b"%d\n" % number


def archive(path: Path, names: int, shape: str) -> None:
    """A tar of all of them, which no more than one is held of."""
    with tarfile.open(path, "w:gz", compresslevel=1, format=tarfile.GNU_FORMAT) as tar:
        above = ""
        for number in range(names):
            member = tarfile.TarInfo(SHAPES[shape](number))
            directory = member.name.rpartition("/")[0]
            if directory != above:
                for depth in range(directory.count("/") + 1):
                    part = "/".join(directory.split("/")[: depth + 1])
                    if not above.startswith(part):
                        made = tarfile.TarInfo(part)
                        made.type, made.mode = tarfile.DIRTYPE, 0o755
                        made.uid, made.gid = os.getuid(), os.getgid()
                        tar.addfile(made)
                above = directory
            member.uid, member.gid = os.getuid(), os.getgid()
            member.size, member.mtime = len(content(number)), 1_700_000_000 + number
            tar.addfile(member, io.BytesIO(content(number)))
            tar.members.clear()


def base(store: Path, path: Path) -> str:
    """An image of the tar at `path` in `store`; where its layer is."""
    fixture = ROOT / "fixtures/base/image.py"
    subprocess.run(
        [sys.executable, fixture, "tar", store, NAME, path], cwd=ROOT, check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    blobs = sorted((store / "blobs/sha256").iterdir(), key=lambda one: one.stat().st_size)
    return str(blobs[-1])


def measured(argv: list[str]) -> tuple[int, float, float]:
    """The largest resident set in bytes, and wall and CPU seconds."""
    started = time.monotonic()
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(f"{' '.join(argv)}\n{errors}")
    used = usage.ru_utime + usage.ru_stime
    return usage.ru_maxrss << 10, time.monotonic() - started, used


def context(directory: Path, names: int, shape: str) -> None:
    """A directory of all of them."""
    for number in range(names):
        path = directory / SHAPES[shape](number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(number))


def main() -> None:
    """Measure."""
    names = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    shape = sys.argv[2] if len(sys.argv) > 2 else "spread"
    works = sys.argv[3:] or WORKS
    with tempfile.TemporaryDirectory(prefix="many-") as work:
        directory, store = Path(work), Path(work, "store")
        (directory / "context").mkdir()
        tar = directory / "context/many.tar.gz"
        # In processes of their own: a child's memory is at least ours.
        for maker in ("archive", "base"):
            subprocess.run([sys.executable, __file__, "--make", maker, tar, str(names), shape, store],
                           cwd=ROOT, check=True)  # fmt: skip
        layer = max((store / "blobs/sha256").iterdir(), key=lambda one: one.stat().st_size)
        for number, what in enumerate(works):
            print(row(what, run(what, directory, layer, names, shape, number), names), flush=True)


def run(
    what: str, directory: Path, layer: Path, names: int, shape: str, number: int
) -> tuple[int, float, float]:
    """One of WORKS."""
    if what == "unpack":
        into = tempfile.mkdtemp(prefix="many-", dir="/dev/shm")
        try:
            return measured([sys.executable, "-c", UNPACK, str(layer), into])
        finally:
            shutil.rmtree(into)
    files = directory / "files"
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir()
    (files / "f").write_text(f"{number}\n")
    text = {
        "add": "FROM scratch\nADD many.tar.gz /x/\n",
        "copy": f"FROM {NAME}\nCOPY f /usr/share/d00001/\n",
        "again": f"FROM {NAME}\nCOPY f /usr/share/d00001/\n",
        "from": f"FROM scratch\nCOPY --from={NAME} / /\n",
        "context": "FROM scratch\nCOPY . /\n",
    }[what]
    where = directory / "context" if what == "add" else files
    if what == "context":
        where = Path(tempfile.mkdtemp(prefix="many-", dir="/dev/shm"))
        subprocess.run([sys.executable, __file__, "--make", "context", where, str(names), shape, "-"],
                       cwd=ROOT, check=True)  # fmt: skip
    try:
        (where / "Dockerfile").write_text(text)
        store = directory / "store"
        command = [sys.executable, "-m", "assembler", "build", "-q", "--store", str(store)]
        return measured([*command, "-t", what, str(where)])
    finally:
        if what == "context":
            shutil.rmtree(where)


def row(what: str, found: tuple[int, float, float], names: int) -> str:
    """A line of the table."""
    memory, wall, used = found
    each = (memory >> 10) * 100_000 // names
    return (
        f"{what:8} {memory >> 20:6} MiB {each >> 10:6} MiB/100,000 {wall:8.1f} s {used:8.1f} s CPU"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        maker, path, names, shape, store = sys.argv[2:7]
        if maker == "archive":
            archive(Path(path), int(names), shape)
        elif maker == "context":
            context(Path(path), int(names), shape)
        else:
            base(Path(store), Path(path))
    else:
        main()
