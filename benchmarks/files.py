"""What it costs to get a stage's files out: `-o DIR` and `-o -`, against buildah, cp and tar.

    .venv/bin/python benchmarks/files.py [FILES] [ROUNDS]

A stage `FROM scratch` takes a context of FILES small files (20,000) and one of 256 MiB. Of each
contender the whole command is timed, in turn: a build of which nothing is known into a directory
that is not there, the same again over it, a tar to a pipe; `buildah build -o`, which has no
cache here; and `cp -a` and `tar -c` of the context. Prints medians of wall and CPU seconds, children
included, the ratio of CPU to buildah's, and the largest resident set of ours.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from places import ROOT, place

Figures = tuple[float, float, int]


def context(path: Path, files: int) -> None:
    """Fill the context."""
    for number in range(files):
        directory = path / f"{number % 200:03}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number}").write_bytes(b"%d\n" % number * (number % 300 + 1))
    with (path / "large").open("wb") as stream:
        for _ in range(256):
            stream.write(os.urandom(1 << 20))
    (path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")


def run(argv: list[str]) -> Figures:
    """Wall and CPU seconds of one run and what it started, and its largest resident set in MiB."""
    started = time.monotonic()
    child = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    while child.stdout.read(1 << 20):
        pass
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(argv)}\n{said.decode()}")
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss >> 10


def contenders(directory: Path) -> dict[str, Callable[[], Figures]]:
    """What is timed, by name. Where something is to be made anew, what is there is moved away first:
    nothing is removed while others are timed."""
    source, old = directory / "context", directory / "old"
    old.mkdir()
    number = iter(range(1 << 30))

    def away(*names: str) -> None:
        for name in names:
            if (directory / name).exists():
                os.rename(directory / name, old / f"{name}-{next(number)}")

    def ours(*words: str, fresh: tuple[str, ...] = ()) -> Figures:
        away(*fresh)
        options = ("--store", f"{directory}/store", "--progress", "quiet")
        return run([sys.executable, "-m", "assembler", "build", *options, *words, str(source)])

    def buildah(output: str, fresh: tuple[str, ...] = ()) -> Figures:
        away(*fresh)
        roots = (f"--root={directory}/buildah", f"--runroot={directory}/run")
        words = ("build", "-q", "--layers=false", "-o", output)
        return run(["buildah", *roots, "--storage-driver=vfs", *words, str(source)])

    def copied() -> Figures:
        away("copied")
        return run(["cp", "-a", str(source), f"{directory}/copied"])

    tar = f"type=tar,dest={directory}/theirs.tar"
    found: dict[str, Callable[[], Figures]] = {
        "-o DIR, nothing known": lambda: ours("-o", f"{directory}/out", fresh=("store", "out")),
        "-o DIR, over the last": lambda: ours("-o", f"{directory}/out"),
        "-o -": lambda: ours("-o", "-"),
        "cp -a": copied,
        "tar -c": lambda: run(["tar", "-c", "-C", str(source), "."]),
    }
    if shutil.which("buildah"):
        found["buildah -o DIR"] = lambda: buildah(f"{directory}/theirs", fresh=("theirs",))
        found["buildah -o type=tar"] = lambda: buildah(tar)
    return found


def main() -> None:
    """Run everything in turn and print the table."""
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with place("files-") as directory:
        context(directory / "context", files)
        all_of = contenders(directory)
        found: dict[str, list[Figures]] = {name: [] for name in all_of}
        for _ in range(rounds):
            for name, measure in all_of.items():
                found[name].append(measure())
        medians = {
            name: tuple(statistics.median(values) for values in zip(*figures, strict=True))
            for name, figures in found.items()
        }
        print(f"{files} small files and one of 256 MiB; load {os.getloadavg()[0]:.1f}")
        for name, (wall, used, memory) in medians.items():
            peer = medians.get(f"buildah -o {'type=tar' if name == '-o -' else 'DIR'}")
            ratio = f"{used / peer[1]:.2f} x buildah" if peer and name.startswith("-o") else ""
            print(f"{name:24} {wall:7.2f} s {used:7.2f} s CPU {memory:5.0f} MiB  {ratio}")


if __name__ == "__main__":
    main()
