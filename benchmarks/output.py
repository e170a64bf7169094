"""What output costs: a step that prints a gigabyte, without secrets, with three, with a key of 52 lines.

    .venv/bin/python benchmarks/output.py [MEGABYTES] [ROUNDS] [CHECKOUT]

As an unprivileged user with subordinate ids. Prints CPU seconds, children included, of the whole build
less those of the same build whose step prints nothing, megabytes a second of that, and the ratio to the
first. With CHECKOUT, another one of this project runs in turn, without secrets.
"""

from __future__ import annotations

import base64
import os
import random
import shutil
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.places import place  # noqa: E402
from benchmarks.run_overhead import seconds  # noqa: E402

DOCKERFILE = """\
FROM busybox
COPY text /text
RUN for i in $(seq {count}); do cat /text{where}; done
"""
LINE = (
    "Get:{0} http://deb.example.org/debian bookworm/main amd64 lib{1} amd64 1.{0}.{2}-3 [{2} kB]\n"
)


def context(directory: Path, megabytes: int, where: str = "") -> str:
    """A context whose step prints that much to `where`."""
    directory.mkdir()
    some = random.Random(1)
    lines = (LINE.format(n, some.randbytes(5).hex(), some.randrange(9999)) for n in range(200_000))
    text = "".join(lines).encode()[: 16 << 20]
    (directory / "text").write_bytes(text)
    count = -(-megabytes * 1_000_000 // len(text))
    (directory / "Dockerfile").write_text(DOCKERFILE.format(count=count, where=where))
    return str(directory)


def secrets(directory: Path) -> dict[str, list[str]]:
    """Options that give secrets."""
    some = random.Random(2)
    values = {f"token{n}": base64.b64encode(some.randbytes(30)) for n in range(3)}
    values["key"] = base64.encodebytes(some.randbytes(52 * 57))
    for name, value in values.items():
        (directory / name).write_bytes(value)
    given = [f"--secret=id={name},src={directory / name}" for name in values]
    return {"no secret": [], "three tokens": given[:3], "a key of 52 lines": given[3:]}


def main() -> None:
    """Print the table."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with place("out") as directory:
        store = directory / "store"
        base = [sys.executable, str(ROOT / "fixtures/base/image.py"), "busybox", str(store)]
        seconds([*base, "docker.io/library/busybox:latest", str(directory / "base")])
        silent = context(directory / "silent", megabytes, " > /dev/null")
        loud = context(directory / "loud", megabytes)
        command = ["-m", "assembler", "build", "--store", str(store), "--no-cache"]
        contenders = {
            name: [sys.executable, *command, *options]
            for name, options in secrets(directory).items()
        }
        if len(sys.argv) > 3:
            other = ["env", "-C", sys.argv[3], f"PYTHONPATH={sys.argv[3]}", sys.executable]
            contenders["the other, no secret"] = [*other, *command]
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, options in contenders.items():
                _, less = seconds([*options, silent])
                _, used = seconds([*options, loud])
                shutil.rmtree(store / "logs")
                times[name].append(used - less)
        first = statistics.median(times["no secret"])
        for name, found in times.items():
            used = statistics.median(found)
            print(
                f"{name:<22} CPU {used:6.2f} s, {megabytes / used:6.0f} MB/s, {used / first:5.2f} ×"
            )
        print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
