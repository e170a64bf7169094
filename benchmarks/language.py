"""How long the language takes: a file of a thousand stages, a megabyte, a long here-document.

Prints seconds of CPU for parsing and for planning (with lint), each the median of five. Asked for:
under one second for the first, under two for the others.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

from assembler.dockerfile.parser import parse
from assembler.oci.platform import Platform
from assembler.plan.make import PlanRequest, make
from assembler.source import Source

AMD64 = Platform("linux", "amd64")


def chain(count: int) -> str:
    """Stages, each on the one before and with a file of the one before that."""
    lines = ["FROM scratch AS s0"]
    for number in range(1, count):
        lines += [
            f"FROM s{number - 1} AS s{number}",
            f"ENV A{number % 7}=$A{(number + 1) % 7}x",
            f"COPY --from=s{max(0, number - 2)} /f{number} /f{number}",
            f"RUN --mount=type=cache,target=/c echo {number} > /f{number}",
        ]
    return "\n".join(lines) + "\n"


def megabyte() -> str:
    """Many instructions of every kind."""
    line = 'RUN echo some words of a command && \\\n    echo more of them $HOME\nENV A=b C="d e"\n'
    return "FROM scratch\n" + line * (1_000_000 // len(line))


def heredoc(lines: int) -> str:
    """One COPY with a body of that many lines."""
    return "FROM scratch\nCOPY <<EOF /f\n" + "a line with $PATH in it\n" * lines + "EOF\n"


def seconds(work: Callable[[], object]) -> float:
    """The median CPU time of five runs."""
    found = []
    for _ in range(5):
        before = time.process_time()
        work()
        found.append(time.process_time() - before)
    return statistics.median(found)


def main() -> int:
    """Print the table; the exit status is 1 when something asked for is missed."""
    missed = False
    for name, text, limit in (
        ("1,000 stages", chain(1000), 1.0),
        ("1 MB", megabyte(), 2.0),
        ("here-document of 100,000 lines", heredoc(100_000), 2.0),
    ):
        source = Source("Dockerfile", text)
        request = PlanRequest(dockerfile=parse(source), build_platform=AMD64)
        parsing = seconds(lambda source=source: parse(source))
        planning = seconds(lambda request=request: make(request, {}))
        missed |= parsing + planning > limit
        print(f"{name:<32} parse {parsing:6.3f} s   plan {planning:6.3f} s   asked {limit:.0f} s")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
