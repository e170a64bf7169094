"""What it costs that a large context did not change: a build that is cached, against `find`.

    .venv/bin/python benchmarks/context.py [ROUNDS]

Contexts of 10,000 and of 100,000 small files, all of them selected by `COPY . /`, and the larger one
with 100 ignore rules. A build fills store and cache; then the same build and `find -printf` with the
fields a walk compares are timed in turn, and beside them the walk by itself and the same command
with one file for a context, which is start-up. Prints medians of wall and CPU seconds, the ratio of
the build to `find`, and peak memory. CPU time says more than wall time where others are at work.
"""

from __future__ import annotations

import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIELDS = r"%i %s %T@ %C@ %m %P\n"
AGE = 2.5  # seconds: what is younger than two may still change, and is not remembered
WALK = """\
import sys, time
from assembler.cancellation import nothing
from assembler.cli.inputs import directory_context
tree = directory_context(sys.argv[1], "", "", sys.argv[2]).tree()
started, used = time.perf_counter(), time.process_time()
tree.summary("", nothing)
print(time.perf_counter() - started, time.process_time() - used)
"""


def tree(root: Path, files: int) -> None:
    """A tree of that many files of at most 3 KB, in directories of a few each, ten levels deep."""
    chosen = random.Random(7)
    directories = [root]
    root.mkdir(parents=True)
    made = 0
    while made < files:
        recent = directories[-400:] if chosen.random() < 0.7 else directories
        place = chosen.choice(recent)
        if len(place.parts) - len(root.parts) < 10:
            word = chosen.choice(("package", "module", "src", "lib", "test", "assets"))
            place = place / f"{word}_{len(directories)}"
            place.mkdir()
            directories.append(place)
        for _ in range(min(chosen.randint(1, 25), files - made)):
            ending = chosen.choice(("py", "js", "ts", "json", "md", "html", "map"))
            content = chosen.randbytes(chosen.choice((20, 100, 500, 1000, 2000, 3000)))
            (place / f"{chosen.choice(('index', 'view', 'model'))}_{made}.{ending}").write_bytes(
                content
            )
            made += 1


def rules() -> str:
    """A hundred ignore rules, every fourth of which shows something again."""
    lines = []
    for number in range(25):
        lines += [f"**/*.tmp{number}", f"**/build_{number}", f"module_{number}/*.map"]
        lines.append(f"!module_{number}/view_{number}.map")
    return "\n".join(lines)


def run(argv: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one run, its children's included."""
    before, used = time.monotonic(), _used()
    with open(os.devnull, "wb") as nowhere:
        done = subprocess.run(argv, cwd=ROOT, stdout=nowhere, stderr=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}\n{done.stderr.decode()}")
    return time.monotonic() - before, _used() - used


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def peak(argv: list[str]) -> float:
    """The most memory that a command had at once, in MiB."""
    child = os.posix_spawn(argv[0], argv, {**os.environ}, file_actions=_SILENT)
    _, _, usage = os.wait4(child, 0)
    return usage.ru_maxrss / 1024


_SILENT = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]


def walked(context: Path, store: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a walk whose files are all known."""
    argv = [sys.executable, "-c", WALK, str(context), str(store / "contexts")]
    wall, used = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True).stdout.split()
    return float(wall), float(used)


def compare(name: str, context: Path, store: Path, rounds: int) -> None:
    """Print the table of one context."""
    dockerfile = store / "Dockerfile"
    dockerfile.parent.mkdir(exist_ok=True)
    dockerfile.write_text("FROM scratch\nCOPY . /\n")
    small = store / "small"
    small.mkdir(exist_ok=True)
    (small / "f").write_text("1")
    options = ("--store", str(store), "--progress", "quiet", "-f", str(dockerfile))
    build = [sys.executable, "-m", "assembler", "build", *options]
    first = run([*build, str(context)])
    run([*build, str(small)])
    contenders: dict[str, Callable[[], tuple[float, float]]] = {
        "find -printf": lambda: run(["find", str(context), "-printf", FIELDS]),
        "build, cached": lambda: run([*build, str(context)]),
        "  its walk": lambda: walked(context, store),
        "  its start-up": lambda: run([*build, str(small)]),
    }
    times: dict[str, list[tuple[float, float]]] = {one: [] for one in contenders}
    for _ in range(rounds):
        for one, measure in contenders.items():
            times[one].append(measure())
    print(f"{name}: first build {first[0]:.2f} s, CPU {first[1]:.2f}")
    middle = {
        one: [statistics.median(each) for each in zip(*found, strict=True)]
        for one, found in times.items()
    }
    base = middle["find -printf"]
    for one, (wall, used) in middle.items():
        print(
            f"  {one:<16} {wall:6.3f} s, CPU {used:6.3f}"
            f"   {wall / base[0]:5.2f} ×, CPU {used / base[1]:5.2f} ×"
        )
    print(f"  {'peak memory':<16} {peak([*build, str(context)]):6.0f} MiB")


def main() -> None:
    """Print the tables."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with tempfile.TemporaryDirectory(prefix="ctx", dir="/var/tmp") as name:
        directory = Path(name)
        for files in (10_000, 100_000):
            tree(directory / f"context-{files}", files)
        time.sleep(AGE)
        for files in (10_000, 100_000):
            place = directory / f"context-{files}"
            compare(f"{files} files", place, directory / f"store-{files}", rounds)
        (place / ".dockerignore").write_text(rules())
        time.sleep(AGE)
        compare(f"{files} files, 100 ignore rules", place, directory / "store-rules", rounds)
        print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
