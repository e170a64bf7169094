"""Push and pull beside skopeo and buildah, and what faults cost on the wire.

    .venv/bin/python benchmarks/registry.py transfers [MEGABYTES] [LAYERS] [ROUNDS]
    .venv/bin/python benchmarks/registry.py faults [MEGABYTES]
    .venv/bin/python benchmarks/registry.py rounds [ROUNDS]

`transfers`: one blob of so many MiB, and so many layers of 100 KiB, pushed to and pulled from Debian's
docker-registry on loopback, in turn; medians of wall and CPU seconds (children included) and the
largest memory of a process. buildah keeps images unpacked, which for a thousand layers it cannot
within reason: it pushes the one blob only. `faults`: a reset at 10, 50, 90 and 99 % of a blob, in a
push and in a pull, a push cut by kill -9 and finished by the same command, a mount from another
repository: bytes that were sent more than once; of a pull no more than that, for what a reset leaves
in the sender's buffer counts as sent. `rounds`: pushes and pulls of which every request fails with
probability 0.3, waits made short.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.registry.faulty import FaultyRegistry  # noqa: E402
from tests.registry.rules import BLOB, reset  # noqa: E402
from tests.served import serving  # noqa: E402

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
SMALL = 100 << 10


def write_layout(directory: Path, sizes: list[int]) -> list[str]:
    """An OCI layout, its image tagged `1`, with a layer of noise for each size; their digests."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)
    layers, diffs = [], []
    for number, size in enumerate(sizes):
        partial = directory / "partial"
        with partial.open("wb") as stream:
            diffs.append(_write_layer(stream, f"f{number}", size))
        digest, length = _digest(partial)
        partial.rename(blobs / digest)
        layers.append({"mediaType": LAYER, "digest": f"sha256:{digest}", "size": length})
    config = {
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diffs},
    }  # fmt: skip
    described = _put(blobs, config) | {"mediaType": "application/vnd.oci.image.config.v1+json"}
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": described, "layers": layers}
    entry = _put(blobs, manifest) | {"mediaType": kind}
    entry["annotations"] = {"org.opencontainers.image.ref.name": "1"}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return [layer["digest"] for layer in layers]


def _write_layer(sink: Any, name: str, size: int) -> str:
    """A tar of one file of noise, gzipped without being made smaller; its diff_id."""
    hasher = hashlib.sha256()

    class Both(io.RawIOBase):
        def write(self, data: Any) -> int:
            hasher.update(data)
            packed.write(data)
            return len(data)

    class Noise(io.RawIOBase):
        left = size

        def read(self, most: int = -1) -> bytes:
            piece = os.urandom(min(most, self.left))
            self.left -= len(piece)
            return piece

    with (
        gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=0, mtime=0) as packed,
        tarfile.open(fileobj=Both(), mode="w|", bufsize=1 << 20) as archive,
    ):
        member = tarfile.TarInfo(name)
        member.size = size
        archive.addfile(member, Noise())  # type: ignore[arg-type]
    return f"sha256:{hasher.hexdigest()}"


def _digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest(), path.stat().st_size


def _put(blobs: Path, document: dict[str, Any]) -> dict[str, Any]:
    content = json.dumps(document).encode()
    digest = hashlib.sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


class Commands:
    """The contenders, each with a home of its own that is emptied before each run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def ours(self, *words: str, store: str = "store") -> list[str]:
        """A command of ours that knows `store`."""
        return [
            sys.executable, "-m", "assembler", words[0], "--store", f"{self.directory}/{store}",
            *(["--progress", "quiet"] if words[0] in ("push", "pull") else []), *words[1:],
        ]  # fmt: skip

    def skopeo(self, source: str, target: str) -> list[str]:
        """A copy by skopeo."""
        insecure = ["--src-tls-verify=false", "--dest-tls-verify=false"]
        return ["skopeo", "--insecure-policy", "copy", "-q", *insecure, source, target]

    def buildah(self, *words: str) -> list[str]:
        """buildah with storage of its own."""
        roots = [f"--root={self.directory}/r", f"--runroot={self.directory}/rr"]
        return ["buildah", *roots, "--storage-driver=vfs", *words]

    def run(self, argv: list[str]) -> tuple[float, float, int]:
        """Wall seconds, CPU seconds and the largest memory in bytes."""
        home = self.directory / "home"
        shutil.rmtree(home, ignore_errors=True)  # skopeo remembers where blobs are
        home.mkdir()
        env = {**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT)}
        env.pop("XDG_DATA_HOME", None)
        before = time.monotonic()
        process = subprocess.Popen(
            argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env
        )
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            raise SystemExit(f"{' '.join(argv)}\n{errors}")
        wall = time.monotonic() - before
        return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10


def transfers(directory: Path, megabytes: int, layers: int, rounds: int) -> None:
    """Print the table of pushes and pulls."""
    commands = Commands(directory)
    with serving(directory) as host:
        for kind, sizes in (("one", [megabytes << 20]), ("many", [SMALL] * layers)):
            layout = directory / f"layout-{kind}"
            layout.mkdir()
            write_layout(layout, sizes)
            source = f"oci:{layout}:1"
            commands.run(commands.ours("import", str(layout), kind, store=f"store-{kind}"))
            if kind == "one":
                commands.run(commands.buildah("pull", "-q", source))
                images = commands.buildah("images", "-q")
                image = subprocess.run(images, capture_output=True, text=True, check=True).stdout
            times: dict[str, list[tuple[float, float, int]]] = {}
            for number in range(rounds):
                name = f"{host}/{kind}{number}"
                fresh = f"pulled-{number}"
                todo = {
                    "push, assemble": commands.ours(
                        "push", kind, f"{name}:1", store=f"store-{kind}"
                    ),
                    "push, skopeo": commands.skopeo(source, f"docker://{name}s:1"),
                    "pull, assemble": commands.ours("pull", f"{name}:1", store=fresh),
                    "pull, skopeo": commands.skopeo(
                        f"docker://{name}:1", f"oci:{directory}/copy-{number}:1"
                    ),
                }
                if kind == "one":
                    todo["push, buildah"] = commands.buildah(
                        "push", "-q", "--tls-verify=false", image.strip(), f"docker://{name}b:1"
                    )
                for what, argv in todo.items():
                    times.setdefault(what, []).append(commands.run(argv))
                for left in (fresh, f"copy-{number}"):
                    shutil.rmtree(directory / left)
            report(kind, len(sizes), sum(sizes), times)
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


def report(
    kind: str, count: int, size: int, times: dict[str, list[tuple[float, float, int]]]
) -> None:
    """Medians, and ratios to the better of the others and to skopeo."""
    print(f"{count} × {size / count / 1e6:.1f} MB")
    middle = {
        what: [statistics.median(column) for column in zip(*found, strict=True)]
        for what, found in times.items()
    }
    for what, (wall, used, memory) in sorted(middle.items()):
        way = what.partition(",")[0]
        peers = [
            found[0]
            for other, found in middle.items()
            if other in (f"{way}, skopeo", f"{way}, buildah")
        ]
        ratios = ""
        if what.endswith("assemble"):
            ratios = f"; {wall / min(peers):.2f} × the wall of the better, {used / middle[f'{way}, skopeo'][1]:.2f} × skopeo's CPU"
        print(
            f"  {what:<16} {wall:7.2f} s wall, {used:7.2f} s CPU, {memory / (1 << 20):4.0f} MiB{ratios}"
        )


def faults(directory: Path, megabytes: int) -> None:
    """Print what is sent twice."""
    commands = Commands(directory)
    layout = directory / "layout"
    layout.mkdir()
    (digest,) = write_layout(layout, [megabytes << 20])
    size = (layout / "blobs/sha256" / digest.partition(":")[2]).stat().st_size
    commands.run(commands.ours("import", str(layout), "app"))
    for percent in (10, 50, 90, 99):
        with FaultyRegistry() as registry:
            at = size * percent // 100
            up = registry.on("PATCH|PUT|POST", "/v2/*/blobs/uploads/*", reset(), nth=1, at=at)
            commands.run(commands.ours("push", "app", f"{registry.host}/app:1"))
            down = registry.on("GET", BLOB, reset(), nth=1, at=at)
            commands.run(commands.ours("pull", f"{registry.host}/app:1", store=f"cold-{percent}"))
            assert up.fired == down.fired == 1
            again = registry.received(digest) - size, registry.sent(digest) - size
            print(
                f"reset at {percent:2} %: pushed twice {again[0]:9} bytes, pulled twice {again[1]:9}"
            )
            shutil.rmtree(directory / f"cold-{percent}")
    with FaultyRegistry() as registry:
        killed(commands, registry, digest, size)
        registry.log.clear()
        first = f"{registry.host}/app"
        commands.run(commands.ours("pull", f"{first}:1", store="other"))
        registry.log.clear()
        commands.run(
            commands.ours("push", f"{first}:1", f"{registry.host}/mounted:1", store="other")
        )
        print(f"mount from another repository: {registry.received()} blob bytes")


def killed(commands: Commands, registry: FaultyRegistry, digest: str, size: int) -> None:
    """Cut a push by kill -9 at half of the blob, and give the same command again."""
    argv = commands.ours("push", "app", f"{registry.host}/app:1")
    process = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(ROOT)})
    while registry.received() < size // 2:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # for what is under way to come in
    cut = registry.received()
    commands.run(argv)
    print(
        f"kill -9 after {cut} bytes, the same command: {registry.received() - cut} bytes,"
        f" {registry.received() - size} of {size} twice; sha256 right: {digest in registry.contents}"
    )


def rounds(count: int) -> None:
    """Print how many rounds end right."""
    from tests.registry.test_chaos import one_round

    good = failed = 0
    for seed in range(count):
        try:
            failed += one_round(seed)
            good += 1
        except Exception as error:
            print(f"round {seed}: {type(error).__name__}: {error}")
    print(f"{good} of {count} rounds end right; {failed} requests failed in them")


def main() -> None:
    """See the module."""
    kind, numbers = sys.argv[1], list(map(int, sys.argv[2:]))
    if kind == "rounds":
        rounds(*(numbers or [50]))
        return
    with tempfile.TemporaryDirectory(prefix="br", dir="/var/tmp") as name:
        if kind == "faults":
            faults(Path(name), *(numbers or [200]))
        else:
            transfers(Path(name), *(numbers + [1024, 1000, 3][len(numbers) :]))


if __name__ == "__main__":
    main()
