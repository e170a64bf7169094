"""What making a layer costs: many small files and a few large ones, against tar, compressors, buildah.

    .venv/bin/python benchmarks/layers.py [--rounds N] [--large MIB] [--rows small,zstd,large]
        [--data DIR]

As an unprivileged user, for buildah. Makes 50,000 small files (about 340 MB in 7,700 directories)
and `--large` MiB of large ones out of what programs and libraries of this machine hold, in a
temporary directory, or in DIR, where they are kept and found again. `walk and pack` is the work of
the layer, without Python's start: find the files, tar, hash, compress, hash, store; `assemble build`
is the whole command, `FROM scratch` and one COPY into an empty store. Everything is run in turn,
rounds times. Prints medians of wall and CPU seconds (children included), each as a ratio to the first
line of its table, the largest resident set, and bytes written. CPU time says more than wall time
where others are at work: the load is shown.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shlex
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES, DIRECTORIES, MEAN = 50_000, 7_700, 6_800
POOL = 96 << 20


def pool(kind: str) -> bytes:
    """Content to cut files out of: this Python's sources, or the machine's shared libraries."""
    if kind == "text":
        found = sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"))
        found += sorted(Path("/usr/share").rglob("*.txt")) + sorted(
            Path("/usr/share/doc").rglob("*")
        )
    else:
        found = sorted(Path("/usr/lib").rglob("*.so*"))
    content = bytearray()
    for path in found:
        if len(content) >= POOL:
            break
        if path.is_file() and not path.is_symlink():
            content += path.read_bytes()
    return bytes(content[:POOL])


def small(directory: Path) -> None:
    """Small files as a tree of sources with objects between them has: most of them text."""
    choose = random.Random(5)
    text, binary = pool("text"), pool("binary")
    below = [directory]
    for number in range(DIRECTORIES - 1):
        parent = below[choose.randrange(max(0, len(below) - 400), len(below))]
        made = parent if len(parent.parts) - len(directory.parts) < 6 else directory
        made = made / f"{choose.choice(('lib', 'src', 'test', 'module'))}-{number}"
        made.mkdir(parents=True)
        below.append(made)
    for number in range(FILES):
        content = text if choose.random() < 0.75 else binary
        size = min(int(choose.expovariate(1 / MEAN)), len(content) - 1)
        at = choose.randrange(len(content) - size)
        name = f"{choose.choice(('init', 'util', 'data', 'main'))}{number}.py"
        (choose.choice(below) / name).write_bytes(content[at : at + size])


def large(directory: Path, size: int) -> None:
    """Files of 1 to 64 MiB, `size` bytes in all, two thirds of them programs."""
    choose = random.Random(7)
    text, binary = pool("text"), pool("binary")
    number = 0
    while size > 0:
        content = binary if choose.random() < 0.66 else text
        length = min(size, choose.randrange(1 << 20, min(64 << 20, len(content))))
        at = choose.randrange(len(content) - length + 1)
        (directory / f"library-{number}.so").write_bytes(content[at : at + length])
        number, size = number + 1, size - length


def made(directory: Path, kind: str, size: int = 0) -> Path:
    """`directory`, filled unless it is there already. By a process of its own: what a process had in
    memory counts as that of the children it starts."""
    if not directory.exists():
        unfinished = directory.with_suffix(".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        argv = [sys.executable, __file__, "--make", kind, str(unfinished), str(size)]
        subprocess.run(argv, check=True)
        unfinished.rename(directory)
    return directory


@dataclass(slots=True)
class Run:
    """One contender: its command lines, a new one for each run, and what was measured."""

    command: Callable[[Path], list[str]]
    written: Callable[[Path], int] = lambda place: 0
    wall: list[float] = field(default_factory=list)
    used: list[float] = field(default_factory=list)
    peak: int = 0
    size: int = 0

    def once(self, place: Path) -> None:
        """Run it with the empty directory `place` for what it writes."""
        argv = self.command(place)
        started = time.monotonic()
        child = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        said = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall, used = time.monotonic() - started, usage.ru_utime + usage.ru_stime
        if child.returncode:
            raise SystemExit(f"{shlex.join(argv)} failed")
        if said.startswith("only "):
            wall, used = map(float, said.split()[1:])
        self.wall.append(wall)
        self.used.append(used)
        self.peak = max(self.peak, usage.ru_maxrss)
        self.size = self.written(place)


def piped(tree: Path, compressor: str = "") -> Run:
    """GNU tar, a digest of what it writes and, with a compressor, the blob and its digest too."""
    source = f"tar -C {shlex.quote(str(tree))} -cf - ."
    if not compressor:
        return Run(lambda place: ["sh", "-c", f"{source} | openssl dgst -sha256"])
    script = (
        "mkfifo a b; openssl dgst -sha256 <a & openssl dgst -sha256 <b & "
        f"{source} | tee a | {compressor} | tee b >blob; wait"
    )
    return Run(
        lambda place: ["sh", "-c", f"cd {shlex.quote(str(place))}; {script}"],
        lambda place: (place / "blob").stat().st_size,
    )


def packed(tree: Path, compression: str, *, kept: bool = True) -> Run:
    """Our walk and pack, into a store or into nothing."""
    return Run(
        lambda place: [
            *(sys.executable, str(Path(__file__)), "--pack", compression),
            *(str(tree), str(place / "store") if kept else ""),
        ],
        stored,
    )


def stored(place: Path) -> int:
    """The bytes of the largest blob of the store in `place`."""
    found = (place / "store/blobs/sha256").glob("*")
    return max((path.stat().st_size for path in found), default=0)


def built(tree: Path, compression: str) -> Run:
    """`assemble build` of the tree."""
    output = f"type=image,name=layers,compression={compression}"
    words = ("build", "--progress", "quiet", "-o", output, "-f", str(dockerfile(tree)), str(tree))
    return Run(
        lambda place: [sys.executable, "-m", "assembler", *words, "--store", str(place / "store")],
        stored,
    )


def buildah(tree: Path) -> Run:
    """`buildah bud` of the tree, into a storage of its own."""
    words = ("bud", "-q", "--isolation=chroot", "-t", "x", "-f", str(dockerfile(tree)), str(tree))
    return Run(
        lambda place: ["buildah", f"--root={place}/root", f"--runroot={place}/run", *words],
    )


def dockerfile(tree: Path) -> Path:
    """A Dockerfile, beside the tree, that copies all of it."""
    path = tree.with_name("Dockerfile")
    path.write_text("FROM scratch\nCOPY . /\n")
    return path


def pack(compression: str, tree: str, store: str) -> None:
    """What a child does: walk `tree` and pack it."""
    from assembler.context.directory import DirectoryContext
    from assembler.layer.compression import by_name
    from assembler.layer.tree import everything
    from assembler.layer.write import pack
    from assembler.store.blobs import Blobs

    class Nothing:
        def write(self, data: bytes, /) -> int:
            return len(data)

    gc.set_threshold(200_000)  # as the command does
    if store:
        Path(store).mkdir()
    started, used = time.monotonic(), time.process_time()
    entries = everything(DirectoryContext(tree, None).tree())
    if store:
        with Blobs(store).ingest(hashed=False) as ingest:
            made = pack(entries, ingest, by_name(compression))
            ingest.commit_as(made.digest, made.size)
    else:
        pack(entries, Nothing(), by_name(compression))
    print("only", time.monotonic() - started, time.process_time() - used)


def tables(data: Path, rows: list[str], mebibytes: int) -> Iterator[tuple[str, dict[str, Run]]]:
    """A title and the contenders of each table, the peer first."""
    if "small" in rows or "zstd" in rows:
        tree = made(data / "small", "small")
    if "small" in rows:
        yield (
            "50,000 small files, tar and digest",
            {
                "tar | openssl": piped(tree),
                "walk and pack": packed(tree, "uncompressed", kept=False),
                "assemble build": built(tree, "uncompressed"),
            },
        )
    if "zstd" in rows:
        yield (
            "50,000 small files, zstd, both digests, stored",
            {
                "tar | zstd -3 -T2": piped(tree, "zstd -q -3 -T2"),
                "walk and pack": packed(tree, "zstd"),
                "assemble build": built(tree, "zstd"),
            },
        )
    if "large" in rows:
        tree = made(data / f"large-{mebibytes}", "large", mebibytes << 20)
        runs = {
            "tar | pigz -6": piped(tree, "pigz -6"),
            "walk and pack": packed(tree, "gzip"),
            "assemble build": built(tree, "gzip"),
        }
        if shutil.which("buildah"):
            runs["buildah bud"] = buildah(tree)
        yield f"{mebibytes} MiB of large files, gzip, both digests, stored", runs


def measure(runs: dict[str, Run], rounds: int, scratch: Path) -> None:
    """Run everything in turn, the first time unmeasured, so that files are in memory."""
    for number in range(rounds + 1):
        for name, run in runs.items():
            place = Path(tempfile.mkdtemp(prefix=f"{name.split()[0]}-{number}-", dir=scratch))
            run.once(place)
            if not number:
                run.wall.clear()
                run.used.clear()


def shown(title: str, runs: dict[str, Run]) -> None:
    """Print one table."""
    print(f"\n{title}; load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    peer = next(iter(runs.values()))
    for name, run in runs.items():
        wall, used = statistics.median(run.wall), statistics.median(run.used)
        ratios = wall / statistics.median(peer.wall), used / statistics.median(peer.used)
        size = f"{run.size / 1e6:8.1f} MB" if run.size else ""
        print(
            f"  {name:<18} wall {wall:6.2f} s {ratios[0]:5.2f} ×   CPU {used:6.2f} s "
            f"{ratios[1]:5.2f} ×   {run.peak // 1024:5} MiB  {size}"
        )


def removed(path: Path) -> None:
    """Remove what was written, files of other ids too."""
    clean = "import sys; from assembler.linux import userns; from assembler.linux.paths import"
    clean += " remove_tree; userns.enter(); remove_tree(sys.argv[1])"
    subprocess.run([sys.executable, "-c", clean, str(path)], cwd=ROOT, check=True)


def main() -> None:
    """Print the tables."""
    if sys.argv[1:2] == ["--pack"]:
        pack(*sys.argv[2:])
        return
    if sys.argv[1:2] == ["--make"]:
        kind, directory, size = sys.argv[2:]
        small(Path(directory)) if kind == "small" else large(Path(directory), int(size))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", type=int, default=2048)
    parser.add_argument("--rows", default="small,zstd,large")
    parser.add_argument("--data", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="layers", dir="/var/tmp") as name:
        scratch = Path(name) / "written"
        scratch.mkdir()
        data = given.data or Path(name)
        for title, runs in tables(data, given.rows.split(","), given.large):
            measure(runs, given.rounds, scratch)
            shown(title, runs)
        removed(scratch)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
