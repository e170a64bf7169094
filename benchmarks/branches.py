"""What is paid once, and what is shared: entering the namespace; many stages at once.

    .venv/bin/python benchmarks/branches.py [BRANCHES] [STEPS] [ROUNDS]

As an unprivileged user with subordinate ids. Prints the milliseconds until steps can be run, and for
steps that do nothing and steps that compute how much longer BRANCHES independent stages take than
one does: BRANCHES over the number of cores, where they scale to the cores.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.places import place  # noqa: E402

COMPUTE = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
ENTER = """
import time
from assembler.linux import userns, zygote
before = time.perf_counter()
userns.enter()
entered = time.perf_counter()
started = zygote.start()
print((entered - before) * 1000, (time.perf_counter() - entered) * 1000)
started.close()
"""


def context(directory: Path, branches: int, steps: int, command: str) -> str:
    """A context of `branches` stages that have `steps` steps each, and one that needs them all."""
    path = directory / f"{branches}-{steps}-{len(command)}"
    path.mkdir()
    stages = "".join(
        f"FROM busybox AS s{number}\n" + f"RUN {command}\n" * steps for number in range(branches)
    )
    taken = "".join(f"COPY --from=s{n} /etc/passwd /{n}\n" for n in range(branches))
    (path / "Dockerfile").write_text(f"{stages}FROM scratch\n{taken}")
    return str(path)


def run(argv: list[str]) -> str:
    """What `argv` says."""
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}\n{done.stderr}")
    return done.stdout


def seconds(argv: list[str]) -> float:
    """Wall seconds of one run."""
    before = time.monotonic()
    run(argv)
    return time.monotonic() - before


def main() -> None:
    """Print both tables."""
    numbers = [int(word) for word in sys.argv[1:]]
    branches, steps, rounds = (*numbers, *(16, 6, 3)[len(numbers) :])
    entries = [run([sys.executable, "-c", ENTER]).split() for _ in range(9)]
    entered, started = (
        statistics.median(map(float, column)) for column in zip(*entries, strict=True)
    )
    print(
        f"namespace {entered:.1f} ms, process that makes sandboxes {started:.1f} ms, once a build"
    )
    with place("br") as directory:
        store = str(directory / "store")
        image = [str(ROOT / "fixtures/base/image.py"), "busybox", store]
        run([sys.executable, *image, "docker.io/library/busybox:latest", str(directory / "base")])
        build = [sys.executable, "-m", "assembler", "build", "--store", store, "--no-cache"]
        build += ["--progress", "quiet", "--runtime", "native", "--jobs", str(branches)]
        for command in ("true", COMPUTE):
            contexts = {
                (number, length): context(directory, number, length, command)
                for number in (1, branches)
                for length in (1, 1 + steps)
            }
            ratios, many = [], []
            for _ in range(rounds):
                took = {key: seconds([*build, path]) for key, path in contexts.items()}
                alone, together = (took[n, 1 + steps] - took[n, 1] for n in (1, branches))
                ratios.append(together / alone)
                many.append(together / steps / branches * 1000)
            what = "nothing" if command == "true" else "compute"
            ratio, step = statistics.median(ratios), statistics.median(many)
            print(
                f"steps that {what}: {branches} stages take {ratio:5.1f} × one,"
                f" {step:6.1f} ms a step"
            )
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
