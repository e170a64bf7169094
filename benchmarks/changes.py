"""What runs after a change: the table of docs/cache.md, with real processes in a fresh store.

    .venv/bin/python benchmarks/changes.py

As an unprivileged user with subordinate ids. Builds the file of fixtures/changes.py once, then each of
its changes, and prints which steps ran and which were expected to. Exits with 1 if one differs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.places import place  # noqa: E402
from fixtures.changes import ALL, BUILD, CHANGES, Build, step_name  # noqa: E402

BASE = "docker.io/library/base:latest"


def run(*argv: str) -> str:
    """What `argv` says on stderr."""
    done = subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}\n{done.stderr}")
    return done.stderr


class Yard:
    """A store, and the contexts of the builds on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = str(directory / "store")
        self.bases: tuple[str, str] | None = None
        image = (str(ROOT / "fixtures/base/image.py"), "busybox", self.store)
        run(*image, "docker.io/library/busybox:latest", str(ROOT / ".cache/base"))

    def steps(self, build: Build) -> frozenset[str]:
        """The steps that run for `build`."""
        if self.bases != (build.base, build.label):
            self._make_base(build)
        context = build.write(self.directory)
        (self.directory / "Dockerfile").write_text(build.dockerfile)
        (self.directory / "secret").write_text(build.secret)
        words = ["-f", str(self.directory / "Dockerfile"), "-t", "app"]
        words += ["--secret", f"id=key,src={self.directory}/secret"]
        for name, value in build.args.items():
            words += ["--build-arg", f"{name}={value}"]
        for stage in build.fresh:
            words += ["--no-cache"] if stage == "*" else ["--no-cache-filter", stage]
        if build.shared_memory:
            words += ["--shm-size", str(build.shared_memory)]
        return self._ran(*words, str(context))

    def _make_base(self, build: Build) -> None:
        self.bases = build.base, build.label
        text = f"FROM busybox\nCOPY version /\nLABEL version={build.label}\n"
        base = Build(dockerfile=text, files={"version": build.base}, place="base")
        context = base.write(self.directory)
        (context / "Dockerfile").write_text(base.dockerfile)
        self._ran("-t", BASE, str(context))

    def _ran(self, *words: str) -> frozenset[str]:
        command = ("-m", "assembler", "build", "--store", self.store, "--progress", "rawjson")
        ran = set()
        for line in run(*command, *words).splitlines():
            for vertex in json.loads(line).get("vertexes", ()):
                if "completed" in vertex and not vertex.get("cached"):
                    ran.add(step_name(vertex["name"]))
        return frozenset(ran) - {""}


def main() -> None:
    """Print the table."""
    wrong = 0
    with place("ch") as directory:
        yard = Yard(directory)
        rows = [("the first build", yard.steps(BUILD), ALL)]
        print(f"{'change':<56} {'ran':>3} {'expected':>8}")
        for change in (None, *CHANGES):
            if change is not None:
                rows.append((change.name, yard.steps(change.make(BUILD)), change.steps))
            what, ran, expected = rows[-1]
            wrong += ran != expected
            print(f"{what:<56} {len(ran):>3} {len(expected):>8}  {', '.join(sorted(ran))}")
            for step in sorted(ran - expected):
                print(f"    NOT EXPECTED {step}")
            for step in sorted(expected - ran):
                print(f"    DID NOT RUN {step}")
    print(f"{len(rows)} rows, {wrong} differ")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
