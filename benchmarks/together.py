"""Many builds at once on one new store, while everything nobody uses is removed all the time.

    .venv/bin/python benchmarks/together.py [BUILDS] [ROUNDS]

As an unprivileged user with subordinate ids; needs busybox-static. BUILDS builds, 16 unless told, of
one file begin at once, with `assemble prune --all --force` in a loop beside them; then as many that
have half of their steps in common. The base image and a file for ADD come from a registry in this
process, which counts. Prints what failed and what was done more often than once, what `store check`
finds afterwards, and the wall and CPU seconds beside those of one build alone.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from assembler.testing import MemoryRegistry  # noqa: E402
from assembler.testing.server import Answer, Asked  # noqa: E402
from benchmarks.places import place  # noqa: E402

LAYERS = 6
FILE = random.Random(2).randbytes(3_000_000)
COMPUTE = (
    "i=0; while [ $i -lt 150000 ]; do i=$((i+1)); done; dd if=/dev/urandom of={0} bs=64k count=40"
)
SHARED = """\
FROM {base} AS one
ADD {url} /added
COPY src /src
WORKDIR /work
RUN {0}
RUN {1}
FROM {base} AS two
COPY --from=one /work/a /a
RUN {2}
"""
OWN = """\
FROM {base} AS three
ARG OWN
RUN : $OWN; {3}
RUN --mount=type=cache,target=/c,sharing=locked {4}
FROM {base}
COPY src /copied
COPY --from=two /c /two/
COPY --from=three /d /e /three/
"""
COUNTED = """\
import os, sys
log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)

def counted(owner, name, kind, id):
    real = getattr(owner, name)
    def count(*arguments, **options):
        os.write(log, f"{kind} {id(*arguments)}\\n".encode())
        return real(*arguments, **options)
    setattr(owner, name, count)

from assembler.engine import realisation, stage, unpacking
counted(stage, "execute", "steps", lambda step, id, *rest: id)
counted(unpacking.LayerDirectories, "_create", "layers", lambda self, to, change, *rest: change.id)
counted(realisation.Realisation, "name", "packed", lambda self, identity, layer: identity)
from assembler.__main__ import main
sys.exit(main())
"""


@dataclass
class Trial:
    """Builds on a new store, and what they did."""

    store: Path
    log: Path
    failures: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    cpu: float = 0.0
    wall: float = 0.0
    prunes: int = 0

    def command(self, *words: str) -> list[str]:
        """A command on the store."""
        return [sys.executable, "-m", "assembler", words[0], "--store", str(self.store), *words[1:]]

    def run(self, context: Path, builds: int, own: bool, prune: bool) -> None:
        """`builds` builds of `context` at once, the `own` half of each its own."""
        began = time.monotonic()
        processes = []
        for number in range(builds):
            words = ["build", "--store", str(self.store), "-q"]
            words += ["--build-arg", f"OWN={number if own else 0}", str(context)]
            argv = [sys.executable, "-c", COUNTED, str(self.log), *words]
            processes.append(
                subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            )
        over = threading.Event()
        pruning = threading.Thread(target=self._prune, args=(over,))
        if prune:
            pruning.start()
        digests = set()
        for process in processes:
            assert process.stdout is not None and process.stderr is not None
            digests.add(process.stdout.read())
            errors = process.stderr.read().decode()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            self.cpu += used.ru_utime + used.ru_stime
            if process.returncode:
                self.failures.append(errors)
        self.wall = time.monotonic() - began
        over.set()
        if prune:
            pruning.join()
        if self.log.exists():
            self.done.update(self.log.read_text().splitlines())

    def _prune(self, over: threading.Event) -> None:
        while not over.is_set():
            argv = self.command("prune", "--all", "--force")
            done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
            self.prunes += 1
            if done.returncode:
                self.failures.append(done.stderr)

    def twice(self, kind: str) -> int:
        """How often something of `kind` was done again."""
        times = [count for what, count in self.done.items() if what.startswith(f"{kind} ")]
        return sum(times) - len(times)

    def problems(self) -> int:
        """What is wrong with the store, and what is left of builds."""
        argv = self.command("check", "--json")
        argv[3:4] = ["store", "check"]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
        left = [path for name in ("working", "ingest", "scratch") for path in self._in(name)]
        return len(json.loads(done.stdout)["problems"]) + len(left)

    def _in(self, name: str) -> list[Path]:
        return list((self.store / name).iterdir()) if (self.store / name).is_dir() else []


def tagged(asked: Asked) -> Answer | None:
    """The file for ADD, as a web server gives it."""
    if asked.path.endswith("/file"):
        if asked.header("if-none-match"):
            return Answer(304)
        return Answer(200, {"ETag": '"1"'}, FILE)
    return None


def base(directory: Path, registry: MemoryRegistry) -> tuple[str, str]:
    """A base image of some layers in `registry`; its name, and the URL of a file there."""
    seed = Trial(directory / "seed", directory / "log")
    image = [str(ROOT / "fixtures/base/image.py"), "busybox", str(seed.store)]
    name = "docker.io/library/busybox:latest"
    check([sys.executable, *image, name, str(directory / "work")])
    context = directory / "base"
    context.mkdir()
    generator = random.Random(1)
    lines = []
    for layer in range(LAYERS):
        (context / f"layer-{layer}").mkdir()
        for number in range(200):
            content = generator.randbytes(generator.randrange(20_000))
            (context / f"layer-{layer}/{number}").write_bytes(content)
        lines.append(f"COPY layer-{layer} /usr/share/layer-{layer}\n")
    (context / "Dockerfile").write_text("FROM busybox\n" + "".join(lines))
    pushed = f"{registry.host}/base:1"
    check(seed.command("build", "-q", "-t", pushed, "--push", str(context)))
    return pushed, f"http://{registry.host}/file"


def check(argv: list[str]) -> None:
    """Run `argv`, which has to go well."""
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}\n{done.stdout}{done.stderr}")


def report(title: str, builds: int, trial: Trial, alone: Trial, asked: Counter[str]) -> None:
    """One line."""
    again = {kind: trial.twice(kind) for kind in ("steps", "layers", "packed")}
    again["downloads"] = sum(asked.values()) - len(asked)
    print(
        f"{title}: {builds} builds, {trial.prunes} prunes, {len(trial.failures)} failures; "
        f"done again: {', '.join(f'{count} {kind}' for kind, count in again.items())}; "
        f"store check: {trial.problems()} problems; "
        f"wall {trial.wall:.1f} s, {trial.wall / alone.wall:.1f} × one alone; "
        f"CPU {trial.cpu:.1f} s, {trial.cpu / alone.cpu:.1f} ×",
        flush=True,
    )
    if "--verbose" in sys.argv:
        print([what for what, count in (trial.done + asked).items() if count > 1])
    for failure in trial.failures[:3]:
        print(failure, file=sys.stderr)


def main() -> None:
    """Print the lines."""
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    builds, rounds = (*numbers, *(16, 1)[len(numbers) :])
    with place("tg") as directory, MemoryRegistry(tagged) as registry:
        pushed, url = base(directory, registry)
        steps = [COMPUTE.format(path) for path in ("a", "b", "/c", "/d", "/e")]
        context = directory / "context"
        (context / "src").mkdir(parents=True)
        for number in range(300):
            (context / f"src/{number}").write_bytes(os.urandom(5000))
        (context / "Dockerfile").write_text((SHARED + OWN).format(*steps, base=pushed, url=url))
        ratios = []
        for turn in range(rounds):
            alone = Trial(directory / f"alone-{turn}", directory / f"alone-{turn}.log")
            alone.run(context, 1, False, False)
            if alone.failures:
                raise SystemExit(alone.failures[0])
            for title, own in (("the same", False), ("half the same", True)):
                for prune in (False, True):
                    store = directory / f"{len(list(directory.iterdir()))}"
                    trial = Trial(store, store.with_suffix(".log"))
                    registry.asked.clear()
                    trial.run(context, builds, own, prune)
                    asked = Counter(
                        one.path
                        for one in registry.asked
                        if one.method == "GET"
                        and one.status == 200
                        and one.path.startswith(("/v2/base/blobs/", "/file"))
                    )
                    report(title, builds, trial, alone, asked)
                    ratios.append(trial.cpu / alone.cpu)
        print(f"CPU: median {statistics.median(ratios):.1f} × one build alone")


if __name__ == "__main__":
    main()
