"""Cache mounts carried to a second machine: packages by apt, objects by ccache and go, wheels by pip.

    .venv/bin/python benchmarks/cache_mounts.py [FILES] [ROUNDS]

As an unprivileged user with subordinate ids; needs docker-registry, mmdebstrap and this machine's apt
sources. The first machine installs compilers, go and pip, compiles FILES C files, builds a program of
go's standard library, and installs wheels and sources of extensions from an index on loopback, all
caches in mounts; it exports them. Then an argument changes, so that every step runs again, on a second
machine whose store has the base and nothing else: with the mounts of the first, and without. Prints
medians of wall and CPU seconds, the seconds of each step, the bytes from the registry, from the mirror
of packages and from the index, and what go and pip had to compile.
"""

from __future__ import annotations

import os
import re
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.packages import Index, indexing  # noqa: E402
from benchmarks.places import place  # noqa: E402
from tests.conftest import apt_mirror, base_tar  # noqa: E402
from tests.served import Relay, serving  # noqa: E402

DOCKERFILE = """\
FROM debian
ARG MIRROR
ARG INDEX
ARG ROUND
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \\
    --mount=type=cache,target=/var/lib/apt,sharing=locked \\
    echo "deb $MIRROR bookworm main" > /etc/apt/sources.list && apt-get update && \\
    apt-get install -y --no-install-recommends \\
        gcc libc6-dev ccache golang-go python3-pip python3-dev
COPY . /src
RUN --mount=type=cache,target=/root/.cache/ccache \\
    cd /src/c && for file in *.c; do ccache gcc -O2 -c $file -o $file.o || exit 1; done; ccache -s
RUN --mount=type=cache,target=/root/.cache/go-build \\
    cd /src && GOFLAGS=-mod=mod GOPROXY=off CGO_ENABLED=0 go build -v -o /app . 2> /built && \\
    /app && echo "go compiled $(wc -l < /built) packages"
RUN --mount=type=cache,target=/root/.cache/pip \\
    pip install --break-system-packages --index-url $INDEX --trusted-host 127.0.0.1 {packages} \\
        | tee /said && echo "pip built $(grep -c '^  Created wheel' /said) wheels"
"""
FUNCTION = """\
int f{0}(int *a, int n) {{ int s = {0}; for (int i = 0; i < n; i++)
for (int j = i; j < n; j++) {{ s += a[i] * a[j] ^ (s >> {1}); a[j] = s % (i + {1}); }} return s; }}
"""
PROGRAM = """\
package main

import (
\t"encoding/json"
\t"fmt"
\t"html/template"
\t"net/http"
\t"os"
)

func main() {
\thttp.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
\t\ttemplate.Must(template.New("page").Parse("{{.}}")).Execute(w, r.URL.Path)
\t})
\ttext, err := json.Marshal(map[string]int{"arguments": len(os.Args)})
\tfmt.Println(string(text), err)
}
"""
UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
STEPS = ("apt", "ccache", "go", "pip")


@dataclass(frozen=True)
class Figures:
    """What one build took: seconds, of the steps too, and bytes."""

    wall: float
    cpu: float
    apt: float
    ccache: float
    go: float
    pip: float
    registry: float = 0
    mirror: float = 0
    index: float = 0
    compiled: float = 0
    built: float = 0


def context(directory: Path, files: int, packages: list[str]) -> str:
    """A Dockerfile, C files that take a while, and a program in go."""
    directory.mkdir()
    (directory / "Dockerfile").write_text(DOCKERFILE.format(packages=" ".join(packages)))
    (directory / "go.mod").write_text("module example.test/app\n\ngo 1.19\n")
    (directory / "main.go").write_text(PROGRAM)
    # no file of go's package: without cgo, go takes C files beside it for a mistake
    (directory / "c").mkdir()
    for number in range(files):
        functions = (FUNCTION.format(number * 100 + one, one % 7 + 1) for one in range(60))
        text = "#include <stdio.h>\n" + "".join(functions)
        (directory / f"c/f{number}.c").write_text(text)
    return str(directory)


class Machines:
    """Builds of one context, beside a registry and an index whose bytes are counted."""

    def __init__(self, directory: Path, path: str, relay: Relay, index: Index) -> None:
        self._directory = directory
        self._path = path
        self._relay = relay
        self._index = index

    def make(self, name: str) -> None:
        """A store with the base."""
        image = [sys.executable, str(ROOT / "fixtures/base/image.py"), "tar"]
        base = ("docker.io/library/debian:latest", str(base_tar("debian")))
        argv = [*image, str(self._directory / name), *base]
        subprocess.run(argv, check=True, capture_output=True)

    def build(self, name: str, number: int, *options: str) -> Figures:
        """A build on the machine `name` whose steps are those of round `number`."""
        argv = [sys.executable, "-m", "assembler", "build", "--progress", "plain"]
        argv += ["--store", str(self._directory / name), *options]
        arguments = {"ROUND": number, "MIRROR": apt_mirror(), "INDEX": self._index.url}
        argv += [f"--build-arg={key}={value}" for key, value in arguments.items()]
        self._relay.moved()
        self._index.served()
        before, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*argv, self._path], cwd=ROOT, capture_output=True, text=True)
        wall = time.monotonic() - before
        if done.returncode:
            raise SystemExit(f"{' '.join(argv)}\n{done.stderr}")
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        return Figures(
            wall,
            cpu,
            *of_steps(done.stderr),
            registry=sum(self._relay.moved().values()),
            mirror=fetched(done.stderr),
            index=self._index.served(),
            compiled=said(r"go compiled (\d+) packages", done.stderr),
            built=said(r"pip built (\d+) wheels", done.stderr),
        )


def of_steps(progress: str) -> list[float]:
    """The seconds of the steps that run; nothing for each if they did not."""
    runs = re.findall(r"^#(\d+) \[.*\] RUN ", progress, re.MULTILINE)
    done = dict(re.findall(r"^#(\d+) DONE ([\d.]+)s", progress, re.MULTILINE))
    return [float(done.get(one, 0)) for one in dict.fromkeys(runs)]


def fetched(progress: str) -> float:
    """The bytes that apt fetched."""
    found = re.findall(r"Fetched ([\d.,]+) (k?M?G?B) in", progress)
    return sum(float(number.replace(",", "")) * UNITS[unit] for number, unit in found)


def said(pattern: str, progress: str) -> int:
    """The number that a step said."""
    return sum(map(int, re.findall(rf"^#\d+ [\d.]+ {pattern}", progress, re.MULTILINE)))


def main() -> None:
    """Print the table."""
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    with (
        place("cm") as directory,
        serving(directory) as host,
        Relay(host) as relay,
        indexing(wheels=8, wheel_size=4 << 20, extensions=4, functions=300) as index,
    ):
        path = context(directory / "context", files, index.names)
        measure(Machines(directory, path, relay, index), relay.host, rounds)


def measure(machines: Machines, host: str, rounds: int) -> None:
    """Export from the first machine, then build on others in turn."""
    place = f"type=registry,ref={host}/bench/cache:1,mounts=true"
    machines.make("first")
    first = machines.build("first", 0)
    plain = machines.build("first", 0)  # what exporting takes is what is more than this
    export = machines.build("first", 0, "--cache-to", place)
    print(row("first machine", first))
    print(
        f"export of the mounts and of what steps made {export.wall - plain.wall:.1f} s wall,"
        f" {export.cpu - plain.cpu:.1f} s CPU, {export.registry / 1e6:.1f} MB to the registry"
    )
    options = {"with": ("--cache-from", place), "without": ()}
    found: dict[str, list[Figures]] = {kind: [] for kind in options}
    for number in range(1, 1 + rounds):
        for kind, words in options.items():
            machines.make(f"{kind}-{number}")
            found[kind].append(machines.build(f"{kind}-{number}", number, *words))
    for kind, rows in found.items():
        middle = Figures(
            *(
                statistics.median(getattr(one, field.name) for one in rows)
                for field in fields(Figures)
            )
        )
        print(row(f"second machine, {kind} the mounts", middle))
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


def row(title: str, one: Figures) -> str:
    """A line of the table."""
    steps = ", ".join(f"{step} {getattr(one, step):.1f}" for step in STEPS)
    return (
        f"{title:<35} {one.wall:6.1f} s wall, {one.cpu:6.1f} s CPU; seconds: {steps};"
        f" MB from the registry {one.registry / 1e6:.1f}, from the mirror {one.mirror / 1e6:.1f},"
        f" from the index {one.index / 1e6:.2f}; compiled: {one.compiled:.0f} packages of go,"
        f" {one.built:.0f} wheels"
    )


if __name__ == "__main__":
    main()
