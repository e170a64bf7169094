"""Cache mounts carried to a second machine: packages by apt, objects by ccache.

    .venv/bin/python benchmarks/cache_mounts.py [FILES] [ROUNDS]

As an unprivileged user with subordinate ids; needs docker-registry, mmdebstrap and this machine's apt
sources. The first machine installs a compiler and compiles FILES C files, its caches in mounts, and
exports them. Then an argument changes, so that both steps run again, on a second machine whose store
has the base and nothing else: with the mounts of the first, and without. Prints medians of wall and
CPU seconds, the seconds of both steps, and the bytes from the registry and from the package mirror.
"""

from __future__ import annotations

import os
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.places import place  # noqa: E402
from tests.conftest import apt_mirror, base_tar  # noqa: E402
from tests.served import Relay, serving  # noqa: E402

DOCKERFILE = """\
FROM debian
ARG MIRROR
ARG ROUND
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \\
    --mount=type=cache,target=/var/lib/apt,sharing=locked \\
    echo "deb $MIRROR bookworm main" > /etc/apt/sources.list && apt-get update && \\
    apt-get install -y --no-install-recommends gcc libc6-dev ccache
COPY . /src
RUN --mount=type=cache,target=/root/.cache/ccache \\
    cd /src && for file in *.c; do ccache gcc -O2 -c $file -o $file.o || exit 1; done; ccache -s
"""
FUNCTION = """\
int f{0}(int *a, int n) {{ int s = {0}; for (int i = 0; i < n; i++)
for (int j = i; j < n; j++) {{ s += a[i] * a[j] ^ (s >> {1}); a[j] = s % (i + {1}); }} return s; }}
"""
UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}


def context(directory: Path, files: int) -> str:
    """A Dockerfile, and C files that take a while."""
    directory.mkdir()
    (directory / "Dockerfile").write_text(DOCKERFILE)
    for number in range(files):
        functions = (FUNCTION.format(number * 100 + one, one % 7 + 1) for one in range(60))
        (directory / f"f{number}.c").write_text("#include <stdio.h>\n" + "".join(functions))
    return str(directory)


def build(store: Path, path: str, number: int, *options: str) -> tuple[float, float, str]:
    """Wall and CPU seconds of a build, and its progress."""
    argv = [sys.executable, "-m", "assembler", "build", "--store", str(store), *options]
    argv += ["--progress", "plain", "--build-arg", f"ROUND={number}"]
    argv += ["--build-arg", f"MIRROR={apt_mirror()}", path]
    before, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}\n{done.stderr}")
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return time.monotonic() - before, cpu, done.stderr


def of_steps(progress: str) -> list[float]:
    """The seconds of both steps that run."""
    runs = re.findall(r"^#(\d+) \[.*\] RUN ", progress, re.MULTILINE)
    done = dict(re.findall(r"^#(\d+) DONE ([\d.]+)s", progress, re.MULTILINE))
    return [float(done[one]) for one in dict.fromkeys(runs)]


def fetched(progress: str) -> float:
    """The bytes that apt fetched."""
    found = re.findall(r"Fetched ([\d.,]+) (k?M?G?B) in", progress)
    return sum(float(number.replace(",", "")) * UNITS[unit] for number, unit in found)


def base(store: Path) -> None:
    """A store with the base."""
    image = [sys.executable, str(ROOT / "fixtures/base/image.py"), "tar", str(store)]
    name = "docker.io/library/debian:latest"
    subprocess.run([*image, name, str(base_tar("debian"))], check=True, capture_output=True)


def main() -> None:
    """Print the table."""
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    with place("cm") as directory, serving(directory) as host, Relay(host) as relay:
        measure(directory, relay, context(directory / "context", files), rounds)


def measure(directory: Path, relay: Relay, path: str, rounds: int) -> None:
    """Export from the first machine, then build on others in turn."""
    place = f"type=registry,ref={relay.host}/bench/cache:1,mounts=true"
    base(directory / "first")
    wall, cpu, progress = build(directory / "first", path, 0)
    plain = build(directory / "first", path, 0)  # what exporting takes is what is more than this
    relay.moved()
    export = build(directory / "first", path, 0, "--cache-to", place)
    print(f"first machine {wall:.1f} s wall, {cpu:.1f} s CPU, steps {of_steps(progress)} s")
    print(
        f"export of the mounts and of what steps made {export[0] - plain[0]:.1f} s wall, {export[1] - plain[1]:.1f} s CPU,"
        f" {relay.moved()['sent'] / 1e6:.1f} MB to the registry"
    )
    options = {"with": ("--cache-from", place), "without": ()}
    found: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in options}
    for number in range(1, 1 + rounds):
        for kind, words in options.items():
            store = directory / f"{kind}-{number}"
            base(store)
            relay.moved()
            wall, cpu, progress = build(store, path, number, *words)
            apt, compile = of_steps(progress)
            received = relay.moved()["received"]
            found[kind].append((wall, cpu, apt, compile, received, fetched(progress)))
    for kind, rows in found.items():
        wall, cpu, apt, compile, received, mirror = map(statistics.median, zip(*rows, strict=True))
        print(
            f"second machine, {kind:<7} the mounts: {wall:6.1f} s wall, {cpu:6.1f} s CPU; apt"
            f" {apt:5.1f} s, compiling {compile:5.1f} s; {received / 1e6:6.1f} MB from the registry,"
            f" {mirror / 1e6:6.1f} MB from the mirror"
        )
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
