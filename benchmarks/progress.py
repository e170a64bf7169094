"""What showing progress costs: a build with much output on a terminal, and frames beside rich's.

    .venv/bin/python benchmarks/progress.py [ROUNDS]

As an unprivileged user. A step writes 100,000 lines a second, then 20 stages write at once; each is
built with `--progress tty`, `plain` and `quiet` in turn, on a terminal of 120 × 50 that takes everything,
ROUNDS times. Prints medians of CPU milliseconds (children included), bytes that the terminal got, and
the ratio to `quiet`. Then the CPU milliseconds of one frame, of ours and of rich, where that is there.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import resource
import statistics
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from assembler.cli.display.colors import USUAL  # noqa: E402
from assembler.cli.display.tty import Tty  # noqa: E402
from assembler.events import VertexOutput, VertexStarted  # noqa: E402
from benchmarks.places import place  # noqa: E402

COLUMNS, ROWS, FRAMES = 120, 50, 100
ONE = """FROM busybox
RUN for i in 1 2 3 4 5; do seq 100000 | sed 's/$/ compiling one file of many/'; sleep 0.9; done
"""
WRITER = "RUN for i in 1 2 3 4 5 6 7 8 9 10; do seq 1000; sleep 0.3; done; touch /{0}\n"
LINE = b"%d compiling one file of many \x1b[31mwith a warning\x1b[0m\n"


def many(stages: int) -> str:
    """A Dockerfile of that many stages that write at once."""
    found = [f"FROM busybox AS s{n}\n{WRITER.format(n)}" for n in range(stages)]
    return "".join(
        [*found, "FROM scratch\n", *(f"COPY --from=s{n} /{n} /\n" for n in range(stages))]
    )


def built(argv: list[str]) -> tuple[float, int]:
    """CPU milliseconds of a build on a terminal, and the bytes that this got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    used, got = _used(), 0
    process = subprocess.Popen(
        argv, cwd=ROOT, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    try:
        while piece := os.read(ours, 1 << 16):
            got += len(piece)
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    if process.wait():
        raise SystemExit(f"{' '.join(argv)}: status {process.returncode}")
    return (_used() - used) * 1000, got


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def a_frame(draw: Callable[[int], None]) -> float:
    """CPU milliseconds of one."""
    before = time.process_time()
    for number in range(FRAMES):
        draw(number)
    return (time.process_time() - before) / FRAMES * 1000


def our_frame(stages: int) -> float:
    """One of ours, every line of which changes."""
    stream, now = io.StringIO(), 100.0
    display = Tty(stream, lambda: (COLUMNS, ROWS), colors=USUAL, clock=lambda: now)
    for stage in range(stages):
        display(VertexStarted(f"{stage}/0", f"[stage-{stage} 1/3] RUN make", now))

    def draw(number: int) -> None:
        nonlocal now
        now += 0.1
        output = LINE % number * 20
        for stage in range(stages):
            display.watch(VertexOutput(f"{stage}/0", output, now))
        display.draw()

    return a_frame(draw)


def rich_frame(stages: int) -> float | None:
    """The same by rich; None where it is not installed."""
    try:
        from rich.console import Console
        from rich.live import Live
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return None
    console = Console(file=io.StringIO(), force_terminal=True, width=COLUMNS, height=ROWS)
    below = min(6, (ROWS - 1) // stages - 1)
    quiet = {"redirect_stdout": False, "redirect_stderr": False}
    with Live(console=console, auto_refresh=False, **quiet) as live:

        def draw(number: int) -> None:
            table = Table.grid(expand=True)
            table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
            table.add_column(justify="right")
            for stage in range(stages):
                table.add_row(
                    Text(f" => [stage-{stage} 1/3] RUN make"), Text(f"{number / 10:.1f}s")
                )
                for _ in range(below):
                    table.add_row(
                        Text(f" => => # {number} compiling one file of many", style="dim")
                    )
            live.update(table, refresh=True)

        return a_frame(draw)


def measured(directory: Path, rounds: int) -> None:
    """Print the tables."""
    store = str(directory / "store")
    name = "docker.io/library/busybox:latest"
    base = [str(ROOT / "fixtures/base/image.py"), "busybox", store, name, str(directory / "base")]
    subprocess.run([sys.executable, *base], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    for title, text in (("100,000 lines a second", ONE), ("20 stages at once", many(20))):
        context = directory / title
        context.mkdir()
        (context / "Dockerfile").write_text(text)
        found: dict[str, list[tuple[float, int]]] = {"tty": [], "plain": [], "quiet": []}
        for _ in range(rounds):
            for shown, results in found.items():
                words = ["--store", store, "--no-cache", "--jobs", "20", "--progress", shown]
                argv = [sys.executable, "-m", "assembler", "build", *words, str(context)]
                results.append(built(argv))
        least = statistics.median(used for used, _ in found["quiet"])
        for shown, results in found.items():
            used, got = map(statistics.median, zip(*results, strict=True))
            print(
                f"{title:<24} {shown:<6} CPU {used:6.0f} ms, {used / least:5.2f} ×  {got:9.0f} bytes"
            )
    for stages in (1, 20):
        ours, others = our_frame(stages), rich_frame(stages)
        beside = f", rich {others:.2f} ms, {ours / others:.2f} ×" if others else ""
        print(f"a frame of {stages:2} stages: {ours:.2f} ms{beside}")
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


def main() -> None:
    """Measure in a directory of /var/tmp, which is removed."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with place("progress") as directory:
        measured(directory, rounds)


if __name__ == "__main__":
    main()
