"""A build of which everything is cached: 30 steps in 5 stages, a context of 10,000 files, and buildah.

    .venv/bin/python benchmarks/cached.py [ROUNDS]

As an unprivileged user with subordinate ids, for buildah. Both build once; then `assemble build` and
`buildah bud --layers` of the same are timed in turn, ROUNDS times. Prints medians of wall and CPU
milliseconds (children included) and the ratio, and where the milliseconds of ours go, by the medians
of runs that measure themselves; what they do more is shown as their sum. Python's files are compiled
before. CPU time says more than wall time where others are at work: the load is shown.
"""

from __future__ import annotations

import compileall
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.places import place  # noqa: E402

IMAGE = "docker.io/library/busybox:latest"
AGE = 2.5  # seconds: what is younger than two may still change, and is not remembered
DOCKERFILE = ROOT / "fixtures/cached/Dockerfile"


def context(root: Path, files: int) -> None:
    """A context of that many small files, and the directories that the Dockerfile names."""
    made = 0
    for name in ("tools", "assets", "etc"):
        (root / name).mkdir(parents=True)
        for number in range(20):
            (root / name / f"file_{number}").write_text(f"{name} {number}\n")
            made += 1
    number = 0
    while made < files:
        package = root / f"package_{number % 25}" / f"module_{number}" / "src"
        package.mkdir(parents=True)
        for one in range(min(12, files - made)):
            (package / f"view_{one}.py").write_text(f"{number} {one}\n" * (1 + one * 7))
            made += 1
        number += 1


def run(argv: list[str]) -> tuple[float, float]:
    """Wall and CPU milliseconds of one run, its children's included."""
    before, used = time.monotonic(), _used()
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}\n{done.stderr.decode()}")
    return (time.monotonic() - before) * 1000, (_used() - used) * 1000


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def buildah(directory: Path, *words: str) -> list[str]:
    """The command line of buildah, with its storage below `directory`."""
    return ["buildah", f"--root={directory}/r", f"--runroot={directory}/rr", *words]


def contenders(directory: Path, built: Path) -> dict[str, list[str]]:
    """The builds that are compared; what they begin with is there."""
    store = str(directory / "store")
    run([sys.executable, str(ROOT / "fixtures/base/image.py"), "busybox", store, IMAGE,
         str(directory / "base")])  # fmt: skip
    assemble = [shutil.which("assemble") or "", "build", "--store", store, "-t", "cached"]
    found = {"assemble build": [*assemble, str(built)]}
    if shutil.which("buildah"):
        empty, archive = directory / "empty", directory / "base.tar"
        empty.mkdir()
        (empty / "Dockerfile").write_text("FROM busybox\n")
        output = ("-q", "-t", IMAGE, "-o", f"type=docker,dest={archive}")
        run([assemble[0], "build", "--store", store, *output, str(empty)])
        run(buildah(directory, "pull", "-q", f"docker-archive:{archive}"))
        words = ("bud", "--layers", "--pull=never", "--isolation=chroot", "-t", "cached")
        found["buildah bud --layers"] = buildah(directory, *words, str(built))
    return found


def phases(directory: Path, argv: list[str]) -> dict[str, float]:
    """CPU milliseconds of one run of ours, by what they were spent on."""
    result = directory / "phases"
    run([sys.executable, str(ROOT / "benchmarks/phases.py"), str(result), *argv[1:]])
    lines = (line.split("\t") for line in result.read_text().splitlines())
    return {part: float(each) for part, each in lines}


def measured(directory: Path, rounds: int) -> None:
    """Print the tables."""
    built = directory / "context"
    context(built, 10_000)
    shutil.copy(DOCKERFILE, built)
    time.sleep(AGE)
    commands = contenders(directory, built)
    for each, argv in commands.items():
        wall, used = run(argv)
        print(f"{each:<22} {wall:7.0f} ms, CPU {used:7.0f}   the first time", flush=True)
        run(argv)
    times: dict[str, list[tuple[float, float]]] = {each: [] for each in commands}
    parts: list[dict[str, float]] = []
    for _ in range(rounds):
        for each, argv in commands.items():
            times[each].append(run(argv))
        parts.append(phases(directory, commands["assemble build"]))
    middle = {
        each: [statistics.median(one) for one in zip(*found, strict=True)]
        for each, found in times.items()
    }
    base = middle["assemble build"]
    for each, (wall, used) in middle.items():
        ratios = f"{wall / base[0]:5.1f} ×, CPU {used / base[1]:5.1f} ×"
        print(f"{each:<22} {wall:7.1f} ms, CPU {used:7.1f}   {ratios}")
    print("CPU milliseconds of ours, watched:")
    spent = {part: statistics.median(one.get(part, 0) for one in parts) for part in parts[0]}
    for part, each in spent.items():
        print(f"  {part:<20} {each:7.1f}")
    print(f"  {'sum':<20} {sum(spent.values()):7.1f}")
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


def main() -> None:
    """Measure in a directory of /var/tmp, which is removed."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    compileall.compile_dir(ROOT / "assembler", quiet=1)
    with place("cached") as directory:
        measured(directory, rounds)


if __name__ == "__main__":
    main()
