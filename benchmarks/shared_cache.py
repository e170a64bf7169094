"""A cache shared by a registry: what a second machine pulls, sends and runs, beside building anew.

    .venv/bin/python benchmarks/shared_cache.py [MEGABYTES] [ROUNDS]

As an unprivileged user with subordinate ids; needs docker-registry and busybox-static. Three stages, of
which each RUN writes MEGABYTES of noise, 20 unless told. Machine 1 builds and exports with mode=max; a
machine is an empty store. The registry is behind a port that counts bytes. Prints medians of wall and
CPU seconds, ratios to building anew, bytes from and to the registry, and the steps that ran. buildah
shares layers of its own kind (--layers --cache-to, --cache-from), single stages only.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.places import place  # noqa: E402
from tests.served import Relay, serving  # noqa: E402

DOCKERFILE = """\
FROM {base} AS deps
RUN echo +ran >&2; mkdir /deps && dd if=/dev/urandom of=/deps/a bs=64k count={blocks} 2>/dev/null
RUN echo +ran >&2; dd if=/dev/urandom of=/deps/b bs=64k count={blocks} 2>/dev/null
FROM {base} AS build
COPY src /src
RUN echo +ran >&2; dd if=/dev/urandom of=/unused bs=64k count={blocks} 2>/dev/null; cp -r /src /built
FROM {base}
RUN echo +ran >&2; dd if=/dev/urandom of=/tools bs=64k count={blocks} 2>/dev/null
COPY --from=deps /deps/a /deps/a
COPY --from=build /built /built
RUN echo +ran >&2; echo {last} > /last
"""


@dataclass
class Row:
    """What one case took, over the rounds."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    received: int = 0
    sent: int = 0
    ran: int = 0


def run(argv: list[str]) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds, and how many steps said that they ran."""
    before = time.monotonic()
    process = subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(f"{' '.join(argv)}\n{said}")
    ran = sum(line.split()[-1:] == ["+ran"] for line in said.splitlines())
    return time.monotonic() - before, usage.ru_utime + usage.ru_stime, ran


def ours(store: Path, *words: str) -> list[str]:
    """A build of ours."""
    command = [sys.executable, "-m", "assembler", "build", "--store", str(store)]
    return [*command, "--progress", "plain", *words]


def buildah(storage: Path, *words: str) -> list[str]:
    """A build of buildah's, with storage of its own."""
    start = ["buildah", f"--root={storage}/r", f"--runroot={storage}/rr"]
    return [*start, "bud", "--layers", "--isolation=chroot", "--tls-verify=false", *words]


class Contexts:
    """The Dockerfile by what its last RUN says."""

    def __init__(self, directory: Path, base: str, megabytes: int) -> None:
        self._directory = directory
        self._base = base
        self._blocks = megabytes * 16

    def __call__(self, name: str, last: str) -> str:
        """A context `name`."""
        path = self._directory / name
        (path / "src").mkdir(parents=True, exist_ok=True)
        (path / "src/main").write_text("source\n")
        text = DOCKERFILE.format(base=self._base, blocks=self._blocks, last=last)
        (path / "Dockerfile").write_text(text)
        return str(path)


def main() -> None:
    """Print the table."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with place("sc") as directory, serving(directory) as host, Relay(host) as relay:
        measure(directory, relay, megabytes, rounds)


def measure(directory: Path, relay: Relay, megabytes: int, rounds: int) -> None:
    """The cases in turn, as often as there are rounds."""
    base, work = f"{relay.host}/bench/base:1", directory / "busybox"
    image = [sys.executable, str(ROOT / "fixtures/base/image.py"), "busybox"]
    run([*image, str(directory / "maker"), base, str(work)])
    push = [sys.executable, "-m", "assembler", "push", "--store", str(directory / "maker")]
    run([*push, "--progress", "quiet", base, base])
    contexts = Contexts(directory, base, megabytes)
    rows: dict[str, Row] = {}

    def case(title: str, argv: list[str]) -> None:
        relay.moved()
        wall, cpu, ran = run(argv)
        row = rows.setdefault(title, Row())
        row.wall.append(wall)
        row.cpu.append(cpu)
        moved = relay.moved()
        row.received, row.sent = moved["received"], moved["sent"]
        row.ran = ran

    for number in range(rounds):
        repository = f"{relay.host}/bench/r{number}"
        cache, app = f"{repository}/cache:main", f"{repository}/app"
        plain, changed = contexts(f"plain{number}", f"{number}"), contexts("changed", "new")
        stores = {kind: directory / f"{kind}-{number}" for kind in ("one", "anew", "kept", "sent",
                                                                    "last", "peer1", "peer2")}  # fmt: skip
        to = f"type=registry,ref={cache},mode=max"
        case("machine 1: build, export", ours(stores["one"], "--cache-to", to, plain))
        case("machine 1: cached, export", ours(stores["one"], "--cache-to", to, plain))
        case("building anew", ours(stores["anew"], plain))
        case("machine 2: kept in its store", ours(stores["kept"], "--cache-from", cache, plain))
        push2 = ("--push", "-t", f"{app}:2")
        case("machine 2: --push", ours(stores["sent"], "--cache-from", cache, *push2, plain))
        case("machine 2: again", ours(stores["sent"], "--cache-from", cache, *push2, plain))
        push3 = ("--push", "-t", f"{app}:3")
        case(
            "machine 2: last RUN changed",
            ours(stores["last"], "--cache-from", cache, *push3, changed),
        )
        if shutil.which("buildah"):
            peer = f"{repository}/peer"
            for kind in ("peer1", "peer2"):
                stores[kind].mkdir()
            case("buildah: build, export", buildah(stores["peer1"], "--cache-to", peer, plain))
            case("buildah: machine 2", buildah(stores["peer2"], "--cache-from", peer, plain))
    anew_wall = statistics.median(rows["building anew"].wall)
    anew_cpu = statistics.median(rows["building anew"].cpu)
    print(f"{megabytes} MB of noise from each of 4 RUNs, {rounds} rounds; ratios to building anew")
    for title, row in rows.items():
        wall, cpu = statistics.median(row.wall), statistics.median(row.cpu)
        print(
            f"{title:<30} {wall:6.2f} s wall {wall / anew_wall:5.2f} ×, {cpu:6.2f} s CPU"
            f" {cpu / anew_cpu:5.2f} ×; {row.received / 1e6:8.2f} MB pulled,"
            f" {row.sent / 1e6:8.2f} MB sent; RUNs that ran: {row.ran}"
        )
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
