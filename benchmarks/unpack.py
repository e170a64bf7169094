"""Unpacking a base layer (.tar.gz): ours, GNU tar, umoci and buildah, side by side.

    .venv/bin/python benchmarks/unpack.py [FILES] [ROUNDS] [--layers N] [--on DIRECTORY]

As an unprivileged user with subordinate ids. The layer is made of files of this host, about 10,000
if it has as many. Ours is what a build does: the blob, verified by its diff_id, into a layer
directory in our user namespace, and the directory published; it is timed alone (`assembler`) and
with the interpreter's start and the namespace (`... as a process`). GNU tar reads the same .tar.gz,
verifies nothing, and starts a gzip; once more with the tar already decompressed. With `--layers` the
files are in so many layers: ours takes them apart at once, in forks of the zygote as a build does, and
once more one after the other; GNU tar has them one after the other. umoci and buildah
(storage driver as shown) take it from an OCI layout. Prints medians of wall and CPU seconds,
children included, ratios to GNU tar, and the peak memory of the largest process.

Every tree goes where none was before, and all are removed at the end: on ext4, making files soon
after as many were removed takes ten times as long, whoever makes them. So wait a minute between two
runs on one disk, or say `--on /dev/shm`.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ("/usr/lib/python3", "/usr/lib/python3.11", "/usr/share/perl", "/usr/share/zoneinfo")
SOURCES += ("/usr/share/doc", "/etc", "/usr/share/man", "/usr/include", "/usr/lib", "/usr/share")
LARGEST = 8 << 20

OURS = """
import resource, sys, time
from assembler.layer.limits import DEFAULT_LIMITS
from assembler.layer.apply import unpack
from assembler.linux import userns
from assembler.oci.digest import Digest
from assembler.snapshot.overlay import OverlaySnapshotter
from assembler.layer.apart import Apart
from assembler.layer.compression import processors
from assembler.linux import zygote
how, directory, *rest = sys.argv[1:]
layers = [(blob, Digest.parse(diff_id)) for blob, diff_id in zip(rest[::2], rest[1::2])]
userns.enter()
def used():
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both)
def here(layer):
    blob, diff_id = layer
    with snapshotter.create(diff_id.hex) as into, open(blob, "rb") as stream:
        unpack(stream, into, diff_id=diff_id)
def beside(layer):
    blob, diff_id = layer
    with snapshotter.create(diff_id.hex) as into:
        apart.unpack(blob, into, diff_id=diff_id, check=lambda: None, lower=lambda path: None,
                     limits=DEFAULT_LIMITS)
with OverlaySnapshotter(directory) as snapshotter:
    before = used()
    if how == "here":
        started = time.monotonic()
        for layer in layers:
            here(layer)
        wall = time.monotonic() - started
    else:
        forks = zygote.start()
        apart = Apart(forks)
        started = time.monotonic()
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(processors()) as pool:
            list(pool.map(beside, layers))
        wall = time.monotonic() - started
        forks.close()  # what was used there counts from now on
    print(wall, used() - before)
"""
CLEAN = """
import sys
from assembler.linux import userns
from assembler.linux.paths import remove_tree
userns.enter()
for path in sys.argv[1:]:
    remove_tree(path)
"""


@dataclass(frozen=True)
class Sample:
    """Seconds and bytes of one run."""

    wall: float
    cpu: float
    peak: int


def run(argv: list[str]) -> tuple[Sample, str]:
    """One run, and what it printed."""
    started = time.monotonic()
    process = subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    if status:
        raise SystemExit(f"{' '.join(argv)}\n{output}")
    return Sample(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10), output


def readable() -> Iterator[str]:
    """Files that anybody may read, relative to the root."""
    seen = set()
    for source in SOURCES:
        for top, directories, files in os.walk(source):
            directories.sort()
            for name in sorted(files):
                path = os.path.join(top, name)
                allowed = os.path.islink(path) or os.access(path, os.R_OK)
                if path not in seen and allowed and os.lstat(path).st_size <= LARGEST:
                    seen.add(path)
                    yield path[1:]


Layer = tuple[Path, Path]
"""A tar, and the same compressed."""


def make_layers(directory: Path, count: int, layers: int) -> list[Layer]:
    """`count` files with their directories, in so many layers."""
    chosen = [path for path, _ in zip(readable(), range(count), strict=False)]
    each = -(-len(chosen) // layers)
    made = []
    for number in range(layers):
        some = chosen[number * each : (number + 1) * each]
        above = {str(parent) for path in some for parent in Path(path).parents} - {"."}
        listed = "\0".join(sorted([*some, *above]))
        plain = directory / f"layer-{number}.tar"
        subprocess.run(
            ["tar", "-C", "/", "--null", "--no-recursion", "--files-from=-", "--owner=0",
             "--group=0", "--numeric-owner", "-cf", str(plain)],
            input=listed, text=True, check=True,
        )  # fmt: skip
        packed = plain.with_suffix(".tar.gz")
        with plain.open("rb") as source, gzip.open(packed, "wb", 6) as out:
            shutil.copyfileobj(source, out, 1 << 20)
        made.append((plain, packed))
    return made


def make_layout(directory: Path, made: list[Layer]) -> Path:
    """An OCI layout of one image, `base`, with these layers."""
    layout = directory / "layout"
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)

    def described(path: Path, kind: str) -> dict[str, object]:
        digest = digest_of(path)
        os.link(path, blobs / digest)
        media_type, size = f"application/vnd.oci.image.{kind}", path.stat().st_size
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}

    def put(document: dict[str, object], kind: str) -> dict[str, object]:
        path = directory / kind
        path.write_text(json.dumps(document))
        return described(path, kind)

    layers = [described(packed, "layer.v1.tar+gzip") for _, packed in made]
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest_of(plain)}" for plain, _ in made]}
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config = put(
        {"architecture": machine, "os": "linux", "config": {}, "rootfs": rootfs}, "config.v1+json"
    )
    kind = "manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": f"application/vnd.oci.image.{kind}"}
    named = put({**manifest, "config": config, "layers": layers}, kind)
    named["annotations"] = {"org.opencontainers.image.ref.name": "base"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return layout


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def buildah(directory: Path, layout: Path) -> tuple[str, list[str]]:
    """The storage driver that works in `directory`, and a command line up to the storage."""
    for driver in ("overlay", "vfs"):
        storage = directory / f"try-{driver}"
        argv = ["buildah", f"--root={storage}/r", f"--runroot={storage}/rr"]
        argv.append(f"--storage-driver={driver}")
        tried = subprocess.run([*argv, "from", f"oci:{layout}:base"], capture_output=True)
        if tried.returncode == 0:
            return driver, argv
    raise SystemExit("buildah works with neither overlay nor vfs")


def contenders(
    directory: Path, count: int, number: int
) -> dict[str, Callable[[Path], list[Sample]]]:
    """What unpacks the layers into a new directory; ours gives two samples."""
    layers = make_layers(directory, count, number)
    layout = make_layout(directory, layers)
    blobs = [word for one, packed in layers for word in (str(packed), f"sha256:{digest_of(one)}")]
    sizes = [
        sum(one.stat().st_size for one in column) >> 20 for column in zip(*layers, strict=True)
    ]
    print(f"{count} files in {number} layers, {sizes[0]} MiB, .gz {sizes[1]} MiB")

    def ours(how: str) -> Callable[[Path], list[Sample]]:
        def unpack(into: Path) -> list[Sample]:
            whole, output = run([sys.executable, "-c", OURS, how, str(into), *blobs])
            wall, cpu = map(float, output.split())
            return [Sample(wall, cpu, whole.peak), whole]

        return unpack

    def tar(column: int) -> Callable[[Path], list[Sample]]:
        def extract(into: Path) -> list[Sample]:
            into.mkdir()
            each = 'into=$1; shift; for one; do tar -C "$into" -xf "$one" || exit; done'
            archives = [str(layer[column]) for layer in layers]
            return [run(["sh", "-c", each, "sh", str(into), *archives])[0]]

        return extract

    all: dict[str, Callable[[Path], list[Sample]]] = {"GNU tar": tar(1)}
    if number > 1:
        all["assembler"] = ours("beside")
        all["one by one, assembler"] = ours("here")
    else:
        all["assembler"] = ours("here")
    all["GNU tar, no gzip"] = tar(0)
    if shutil.which("umoci"):
        argv = ["umoci", "unpack", "--rootless", "--image", f"{layout}:base"]
        all["umoci"] = lambda into: [run([*argv, str(into)])[0]]
    if shutil.which("buildah"):
        driver, words = buildah(directory, layout)
        trial = str(directory / f"try-{driver}")

        def pulled(into: Path) -> list[Sample]:
            argv = [word.replace(trial, str(into)) for word in words]
            return [run([*argv, "from", f"oci:{layout}:base"])[0]]

        all[f"buildah, {driver}"] = pulled
    return all


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("files", type=int, nargs="?", default=10_000)
    arguments.add_argument("rounds", type=int, nargs="?", default=5)
    arguments.add_argument("--layers", type=int, default=1)
    arguments.add_argument("--on", default="/var/tmp", metavar="DIRECTORY")
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="unpack", dir=asked.on) as name:
        directory = Path(name)
        samples: dict[str, list[list[Sample]]] = {}
        found = contenders(directory, asked.files, asked.layers)
        for number in range(asked.rounds + 1):
            for one, unpack in found.items():
                taken = unpack(directory / f"{one.split(',')[0].split()[0]}-{len(one)}-{number}")
                if number:  # the first round warms caches
                    samples.setdefault(one, []).append(taken)
        report(samples)
        below = [str(path) for path in directory.iterdir()]
        subprocess.run([sys.executable, "-c", CLEAN, *below], cwd=ROOT, check=True)


def report(samples: dict[str, list[list[Sample]]]) -> None:
    """Print medians and ratios to GNU tar."""
    rows: dict[str, list[Sample]] = {}
    for name, taken in samples.items():
        for extra, column in zip(("", ", as a process"), zip(*taken, strict=True), strict=False):
            rows[name + extra] = list(column)

    def middle(name: str, field: str) -> float:
        return statistics.median(getattr(sample, field) for sample in rows[name])

    for name in rows:
        wall, cpu = middle(name, "wall"), middle(name, "cpu")
        print(
            f"{name:<24} {wall:6.2f} s, CPU {cpu:6.2f} s   × {wall / middle('GNU tar', 'wall'):5.2f}"
            f", CPU × {cpu / middle('GNU tar', 'cpu'):5.2f}"
            f"   peak {max(sample.peak for sample in rows[name]) >> 20:4} MiB"
        )
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
