"""A build whose layers are pushed while it goes on: beside build and then push, and beside buildah.

    .venv/bin/python benchmarks/push_while_building.py [MEGABYTES] [ROUNDS] [MEGABYTES A SECOND]

As an unprivileged user with subordinate ids; needs docker-registry and busybox-static. A layer of so
many megabytes that do not compress well, then a RUN that keeps one processor busy, then one that
keeps all busy; every build has an empty store. The registry is on loopback, and then behind a port
that lets so many bytes a second through, 0 for no such round. Prints medians of wall and CPU seconds,
of the seconds that the RUNs took, and the largest memory of a process, which is at least this one's.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.base_push import buildah, run  # noqa: E402
from benchmarks.places import place  # noqa: E402
from tests.served import serving  # noqa: E402

LOOP = "i=0; while [ $i -lt {0} ]; do i=$((i+1)); done"
STEPS = 1_500_000
DOCKERFILE = """\
FROM scratch
COPY busybox /bin/sh
COPY data /data/
RUN {0}
RUN {1}
"""


def context(directory: Path, megabytes: int) -> str:
    """Files of 10 MB, half noise."""
    data = directory / "data"
    data.mkdir(parents=True)
    for number in range(-(-megabytes // 10)):
        with (data / f"f{number}").open("wb") as stream:
            for _ in range(10):
                stream.write(os.urandom(500_000) + random.choice(b"ab").to_bytes() * 500_000)
    busybox = shutil.which("busybox")
    if busybox is None:
        raise SystemExit("busybox is not installed")
    shutil.copy(busybox, directory / "busybox")
    one = LOOP.format(STEPS)
    several = " ".join(f"( {one} ) &" for _ in range(os.cpu_count() or 1)) + " wait"
    (directory / "Dockerfile").write_text(DOCKERFILE.format(one, several))
    return str(directory)


@contextmanager
def slowed(host: str, rate: int) -> Iterator[str]:
    """A port that leads to `host`, and takes `rate` bytes a second at most, of all together."""
    address, _, port = host.partition(":")
    allowed, begun, passed = threading.Lock(), time.monotonic(), 0.0

    def pace(count: int) -> None:
        nonlocal passed
        with allowed:
            passed = max(passed, (time.monotonic() - begun) * rate) + count
            due = begun + passed / rate
        time.sleep(max(0.0, due - time.monotonic()))

    def pump(source: socket.socket, target: socket.socket, paced: bool) -> None:
        try:
            while piece := source.recv(1 << 16):
                if paced:
                    pace(len(piece))
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            target.close()

    def accept() -> None:
        while True:
            try:
                near, _ = server.accept()
            except OSError:
                return
            far = socket.create_connection((address, int(port)))
            for ends in ((near, far, True), (far, near, False)):
                threading.Thread(target=pump, args=ends, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def ours(store: Path, log: Path, *words: str) -> list[str]:
    """A command of ours whose events go to `log`."""
    command = [sys.executable, "-m", "assembler", *words, "--store", str(store)]
    text = " ".join([*command, "--progress", "rawjson"])
    return ["sh", "-c", f"exec {text} 2>>{log}"]


def seconds_of_runs(log: Path) -> list[float]:
    """How long each RUN took."""
    took: dict[str, float] = {}
    for line in log.read_text().splitlines():
        for one in json.loads(line).get("vertexes") or () if line.startswith("{") else ():
            if " RUN " in one["name"] and one.get("completed"):
                ends = [datetime.fromisoformat(one[name][:26].rstrip("Z")) for name in TIMES]
                took[one["name"]] = (ends[1] - ends[0]).total_seconds()
    return list(took.values())


TIMES = ("started", "completed")


def main() -> None:
    """Print the tables."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    rate = int(sys.argv[3]) if len(sys.argv) > 3 else 25
    with place("pb") as directory:
        words = context(directory / "context", megabytes)
        with serving(directory) as host:
            print(f"{megabytes} MB, {rounds} rounds, registry on loopback")
            measure(directory / "near", host, words, rounds)
            if rate:
                with slowed(host, rate * 1_000_000) as far:
                    print(f"the same at {rate} MB/s")
                    measure(directory / "far", far, words, rounds)


def measure(directory: Path, host: str, words: str, rounds: int) -> None:
    """Each contender in turn, `rounds` times."""
    directory.mkdir()
    times: dict[str, list[tuple[float, float, int]]] = {}
    steps: dict[str, list[list[float]]] = {}
    for number in range(rounds):
        log = {kind: directory / f"{kind}-{number}.log" for kind in ("alone", "then", "while")}
        store = {kind: directory / f"{kind}-{number}" for kind in (*log, "peer")}
        for one in store.values():
            one.mkdir()
        name = {kind: f"{host}/bench/{directory.name}-{kind}-{number}:1" for kind in store}
        contenders: dict[str, tuple[list[str], ...]] = {
            "alone": (ours(store["alone"], log["alone"], "build", "-t", name["alone"], words),),
            "then": (
                ours(store["then"], log["then"], "build", "-t", name["then"], words),
                ours(store["then"], log["then"], "push", name["then"]),
            ),
            "while": (
                ours(store["while"], log["while"], "build", "--push", "-t", name["while"], words),
            ),
        }
        if shutil.which("buildah"):
            contenders["peer"] = buildah(store["peer"], name["peer"], words)
        for kind, commands in contenders.items():
            times.setdefault(kind, []).append(run(*commands))
            if kind in log:
                steps.setdefault(kind, []).append(seconds_of_runs(log[kind]))
    middle = {
        kind: [statistics.median(column) for column in zip(*found, strict=True)]
        for kind, found in times.items()
    }
    titles = {
        "alone": "build", "then": "build, then push", "while": "build --push",
        "peer": "buildah bud + push",
    }  # fmt: skip
    best = middle["while"]
    for kind, (wall, used, memory) in middle.items():
        runs = [statistics.median(column) for column in zip(*steps.get(kind, [[]]), strict=True)]
        print(
            f"{titles[kind]:<20} {wall:7.2f} s wall ({wall / best[0]:.2f} × build --push),"
            f" {used:7.2f} s CPU ({used / best[1]:.2f} ×), {memory / 1e6:4.0f} MB memory;"
            f" RUNs {', '.join(f'{one:.2f} s' for one in runs)}"
        )
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
