"""What each compression costs: one tar through every one, against zstd, pigz and gzip of Debian.

    .venv/bin/python benchmarks/compressions.py [ROUNDS] [TAR]

Makes a tar of this machine's /usr/lib/python3 and /usr/share/doc, unless it is given one, and puts
it through each compression and tool in turn, all in memory's cache, results thrown away. Prints
medians of wall and CPU seconds (children included), the ratio of CPU to `zstd -3 -T2`, the size,
and the largest resident set of ours. CPU time says more than wall time where others are at work:
the load is shown.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = ("uncompressed", "gzip", "estargz", "zstd", "zstd:chunked")
TOOLS = {
    "zstd -3 -T2": ("zstd", "-3", "-T2", "-q", "-c"),
    "pigz -6": ("pigz", "-6", "-c"),
    "gzip -6": ("gzip", "-6", "-c"),
}


def compress(name: str, path: str) -> None:
    """Put the tar through ours, and print how long the result is."""
    from assembler.layer.compression import by_name

    size = 0

    def sink(data: bytes | memoryview) -> None:
        nonlocal size
        size += len(data)

    writer = by_name(name).writer(sink)
    with open(path, "rb") as tar:
        while piece := tar.read(1 << 20):
            writer.write(piece)
    writer.close()
    sys.stdout.write(f"{size}\n")


def measured(argv: list[str], path: Path) -> tuple[float, float, int, int]:
    """Wall and CPU seconds, the size of the result, and the largest resident set in MiB."""
    started = time.monotonic()
    with path.open("rb") as tar, subprocess.Popen(argv, stdin=tar, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        if argv[0] == sys.executable:
            size = int(child.stdout.read())
        else:
            size = sum(map(len, iter(lambda: child.stdout.read(1 << 20), b"")))  # type: ignore[union-attr]
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{argv} failed")
    wall = time.monotonic() - started
    return wall, usage.ru_utime + usage.ru_stime, size, usage.ru_maxrss >> 10


def main() -> None:
    """Run everything in turn and print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as directory:
        path = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(directory, "some.tar")
        if not path.exists():
            words = ["tar", "-C", "/usr", "-cf", str(path), "lib/python3", "share/doc"]
            subprocess.run(words, check=True)
        contenders = {name: list(argv) for name, argv in TOOLS.items() if shutil.which(argv[0])}
        for name in OURS:
            contenders[name] = [sys.executable, __file__, "--compress", name, str(path)]
        found: dict[str, list[tuple[float, float, int, int]]] = {name: [] for name in contenders}
        os.environ["PYTHONPATH"] = str(ROOT)
        for _ in range(rounds):
            for name, argv in contenders.items():
                found[name].append(measured(argv, path))
        sys.stdout.write(f"{path.stat().st_size >> 20} MiB, {rounds} rounds, load ")
        sys.stdout.write(f"{os.getloadavg()[0]:.1f}\n")
        reference = statistics.median(one[1] for one in found["zstd -3 -T2"])
        for name, ones in found.items():
            wall, used = (statistics.median(one[n] for one in ones) for n in (0, 1))
            peak = max(one[3] for one in ones) if name in OURS else 0
            sys.stdout.write(
                f"{name:<14} wall {wall:6.2f} s  CPU {used:6.2f} s  {used / reference:5.2f} x  "
                f"{ones[0][2] >> 20:5} MiB  {f'peak {peak} MiB' if peak else ''}\n"
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--compress"]:
        compress(*sys.argv[2:4])
    else:
        main()
