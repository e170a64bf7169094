"""What a step costs besides its command: `RUN true` fifty times, every runtime and Debian's buildah.

    .venv/bin/python benchmarks/run_overhead.py [STEPS] [ROUNDS]

As an unprivileged user with subordinate ids. A build of one step and a build of many are timed in
turn; their difference over the steps between is what one more costs, start-up left out. Prints
medians of wall and CPU milliseconds a step, ratios to the embedded runtime, and what the shell
takes by itself. CPU time says more than wall time where others are at work: the load is shown.
"""

from __future__ import annotations

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


def assemble(*words: str) -> list[str]:
    """The command line of ours."""
    return [sys.executable, "-m", "assembler", *words]


def buildah(directory: Path, *words: str) -> list[str]:
    """The command line of buildah, with its storage below `directory`."""
    return ["buildah", f"--root={directory}/r", f"--runroot={directory}/rr", *words]


def context(directory: Path, steps: int) -> str:
    """A context whose Dockerfile has that many steps."""
    path = directory / f"steps-{steps}"
    path.mkdir(parents=True)
    (path / "Dockerfile").write_text("FROM busybox\n" + "RUN true\n" * steps)
    return str(path)


def seconds(argv: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one run."""
    before, used = time.monotonic(), _used()
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}\n{done.stderr}")
    return time.monotonic() - before, _used() - used


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def contenders(directory: Path) -> dict[str, list[str]]:
    """A command for each, to which the context is added; every store holds `busybox`."""
    store, image = str(directory / "store"), "docker.io/library/busybox:latest"
    make = [sys.executable, str(ROOT / "fixtures/base/image.py"), "busybox", store, image]
    seconds([*make, str(directory / "base")])
    options = ("build", "--store", store, "--no-cache", "--progress", "quiet", "--runtime")
    found = {
        runtime: assemble(*options, runtime)
        for runtime in ("native", "crun", "runc", "podman")
        if runtime == "native" or shutil.which(runtime)
    }
    if shutil.which("buildah"):
        empty, archive = context(directory, 0), directory / "base.tar"
        output = ("-q", "-t", image, "-o", f"type=docker,dest={archive}")
        seconds(assemble("build", "--store", store, *output, empty))
        seconds(buildah(directory, "pull", "-q", f"docker-archive:{archive}"))
        found["buildah bud"] = buildah(
            directory, "bud", "-q", "--no-cache", "--pull=never", "--isolation=chroot"
        )
    return found


def _middle(times: list[tuple[float, ...]]) -> tuple[float, float]:
    """The medians of wall and CPU seconds, in milliseconds."""
    wall, used = (statistics.median(column) * 1000 for column in zip(*times, strict=True))
    return wall, used


def main() -> None:
    """Print the table."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with place("ro") as directory:
        commands = contenders(directory)
        one, many = context(directory, 1), context(directory, steps)
        times: dict[str, list[tuple[float, ...]]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                both = zip(seconds([*command, one]), seconds([*command, many]), strict=True)
                times[name].append(tuple((long - short) / (steps - 1) for short, long in both))
        native, _ = _middle(times["native"])
        for name, found in times.items():
            wall, used = _middle(found)
            print(f"{name:<12} {wall:7.1f} ms a step, CPU {used:7.1f}  {wall / native:6.1f} ×")
        shell, used = _middle([seconds(["busybox", "sh", "-c", "true"]) for _ in range(9)])
        print(f"{'a shell':<12} {shell:7.1f} ms,        CPU {used:7.1f}")
        print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
