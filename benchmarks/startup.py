"""Start-up: `assemble --version` against `python -c pass`, interleaved in one run.

    .venv/bin/python benchmarks/startup.py [ROUNDS]

Prints medians of CPU milliseconds (user + system of the child) and their ratio; the budget is 1.2.
"""

from __future__ import annotations

import os
import statistics
import sys
import sysconfig


def cpu_milliseconds(argv: list[str]) -> float:
    """CPU time of one run of `argv`, its output thrown away."""
    pid = os.posix_spawn(
        argv[0],
        argv,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"{' '.join(argv)} ended with status {status}")
    return (usage.ru_utime + usage.ru_stime) * 1000


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    assemble = os.path.join(sysconfig.get_path("scripts"), "assemble")
    contenders = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "assemble --version": [assemble, "--version"],
    }
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, argv in contenders.items():
            samples[name].append(cpu_milliseconds(argv))
    medians = {name: statistics.median(values) for name, values in samples.items()}
    for name, value in medians.items():
        print(f"{name:<20} {value:7.2f} ms CPU")
    print(f"{'ratio':<20} {medians['assemble --version'] / medians['python -c pass']:7.2f}")


if __name__ == "__main__":
    main()
