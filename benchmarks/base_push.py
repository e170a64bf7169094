"""`FROM` a big base, one small COPY, pushed to the registry that has the base: ours and buildah.

    .venv/bin/python benchmarks/base_push.py [MEGABYTES] [ROUNDS]

As an unprivileged user with subordinate ids; needs docker-registry. Every build has an empty store,
but for one whose store has the index of the base and nothing else. The base is packed by gzip, and
for one by zstd:chunked, whose table of contents is read alone. The registry is behind a port that
counts bytes. Prints medians of wall and CPU seconds, ratios to buildah, the bytes that the registry
sent and was sent, and the largest memory of a process, which is at least this one's.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.places import place  # noqa: E402
from tests.served import Relay, serving  # noqa: E402

FILES = 5_000  # small ones, besides the large
LARGE = 20 << 20
PLAIN = "FROM {base}\nCOPY f /srv/app/f\n"


def make_base(directory: Path, megabytes: int) -> str:
    """A context whose image has two layers: many small files, and large ones. Half of the bytes is
    noise, half is words, so that they compress as programs and libraries do."""
    small, large = directory / "small", directory / "large"
    for number in range(FILES):
        path = small / f"d{number // 100}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(words(4_000))
    large.mkdir()
    for number in range(-(-(megabytes << 20) // LARGE)):
        with (large / f"f{number}").open("wb") as stream:
            for _ in range(LARGE >> 20):  # little at once: a child's memory is at least ours
                stream.write(os.urandom(1 << 19) + words(1 << 19))
    (directory / "Dockerfile").write_text("FROM scratch\nCOPY small /usr/\nCOPY large /srv/\n")
    return str(directory)


def words(size: int) -> bytes:
    """About `size` bytes of text."""
    vocabulary = [hex(number * 2_654_435_761)[2:] for number in range(4_000)]
    return " ".join(random.choices(vocabulary, k=size // 10)).encode()


def run(*commands: list[str]) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds and the largest memory in bytes of commands, one after another."""
    wall = used = 0.0
    memory = 0
    for argv in commands:
        before = time.monotonic()
        process = subprocess.Popen(
            argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            raise SystemExit(f"{' '.join(argv)}\n{errors}")
        wall += time.monotonic() - before
        used += usage.ru_utime + usage.ru_stime
        memory = max(memory, usage.ru_maxrss << 10)
    return wall, used, memory


def ours(store: Path, *words: str) -> list[str]:
    """A build of ours."""
    command = [sys.executable, "-m", "assembler", "build", "--store", str(store)]
    return [*command, "--progress", "quiet", *words]


def buildah(storage: Path, name: str, context: str) -> tuple[list[str], list[str]]:
    """The same by buildah, with storage of its own."""
    start = ["buildah", f"--root={storage}/r", f"--runroot={storage}/rr"]
    insecure = "--tls-verify=false"
    build = [*start, "bud", "-q", "--isolation=chroot", insecure, "-t", name, context]
    return build, [*start, "push", "-q", insecure, name]


def context(directory: Path, name: str, text: str) -> str:
    """A context with a small file."""
    path = directory / name
    path.mkdir()
    (path / "f").write_text("small\n")
    (path / "Dockerfile").write_text(text)
    return str(path)


def main() -> None:
    """Print the table."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with place("bp") as directory, serving(directory) as host, Relay(host) as relay:
        measure(directory, relay, megabytes, rounds)


def measure(directory: Path, relay: Relay, megabytes: int, rounds: int) -> None:
    """Push the base, then build on it in turn."""
    (directory / "base").mkdir()
    base = f"{relay.host}/bench/base:1"
    run(ours(directory / "maker", "--push", "-t", base, make_base(directory / "base", megabytes)))
    size = relay.moved()["sent"]
    tabled = f"{relay.host}/bench/tabled:1"
    chunked = f"type=registry,name={tabled},compression=zstd:chunked"
    run(ours(directory / "maker", "-o", chunked, str(directory / "base")))
    plain = context(directory, "plain", PLAIN.format(base=base))
    table = context(directory, "table", PLAIN.format(base=tabled))
    linked = context(directory, "linked", PLAIN.replace("COPY", "COPY --link").format(base=base))
    indexed = directory / "indexed"
    run(ours(indexed, "--push", "-t", f"{relay.host}/bench/first:1", plain))
    times: dict[str, list[tuple[float, float, int]]] = {}
    moved: dict[str, dict[str, int]] = {}
    for number in range(rounds):
        stores = [
            directory / f"{kind}-{number}" for kind in ("linked", "plain", "known", "table", "peer")
        ]
        for store in stores:
            store.mkdir()
        shutil.copytree(indexed / "indexes", stores[2] / "indexes")
        names = [f"{relay.host}/bench/{store.name}:1" for store in stores]
        contenders: dict[str, tuple[list[str], ...]] = {
            "COPY --link": (ours(stores[0], "--push", "-t", names[0], linked),),
            "COPY": (ours(stores[1], "--push", "-t", names[1], plain),),
            "COPY, index known": (ours(stores[2], "--push", "-t", names[2], plain),),
            "COPY, zstd:chunked": (ours(stores[3], "--push", "-t", names[3], table),),
        }
        if shutil.which("buildah"):
            contenders["buildah bud + push"] = buildah(stores[4], names[4], plain)
        for kind, commands in contenders.items():
            relay.moved()
            times.setdefault(kind, []).append(run(*commands))
            moved[kind] = relay.moved()
    print(f"base of {size / 1e6:.0f} MB compressed, {rounds} rounds")
    middle = {
        kind: [statistics.median(column) for column in zip(*found, strict=True)]
        for kind, found in times.items()
    }
    peer = middle.get("buildah bud + push", [0.0, 0.0, 0])
    for kind, (wall, used, memory) in middle.items():
        received, sent = moved[kind]["received"], moved[kind]["sent"]
        print(
            f"{kind:<20} {wall:7.2f} s wall, {used:7.2f} s CPU, buildah takes {peer[0] / wall:6.1f} × and"
            f" {peer[1] / used:6.1f} ×; {received / 1e6:8.3f} MB from the registry,"
            f" {sent / 1e6:8.3f} MB to it; {memory / 1e6:4.0f} MB memory"
        )
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
