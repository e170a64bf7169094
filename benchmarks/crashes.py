"""What a build leaves that is killed anywhere, or whose system calls fail, and what the next one does.

    .venv/bin/python benchmarks/crashes.py [KILLS] [CALLS]

As an unprivileged user with subordinate ids. A build of 300 small files, two steps and an OCI layout
is killed (SIGKILL) at KILLS random moments, 50 unless told; then the store is checked, and the build
is run again: it has to be the same image. As root, where strace is installed (which takes newuidmap
its power), the k-th write, fsync, rename, link and mkdir of a build fails with EIO and ENOSPC for k up
to CALLS, 60 unless told. Prints counts: what was wrong, what was left after the next command, and
tracebacks.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
CALLS = ("write", "fsync", "rename", "linkat", "mkdir")


class Trial:
    """A store, a context and a layout below `directory`."""

    def __init__(self, directory: Path) -> None:
        self.store, self.layout = directory / "store", directory / "layout"
        self.context = directory / "context"
        self.context.mkdir()
        generator = random.Random(1)
        for number in range(300):
            content = generator.randbytes(generator.randrange(8000))
            (self.context / f"file-{number}").write_bytes(content)
        (self.context / "Dockerfile").write_text(
            "FROM busybox\nCOPY . /all\nRUN cp -r /all /more\nRUN rm /all/file-1 && echo x > /x\n"
        )
        image = "docker.io/library/busybox:latest"
        fixture = [str(ROOT / "fixtures/base/image.py"), "busybox", str(self.store), image]
        self.run([sys.executable, *fixture, str(directory / "base")])

    def run(self, argv: list[str]) -> subprocess.CompletedProcess[str]:
        """Run `argv`."""
        env = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
        return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True)

    def assemble(self, *words: str) -> list[str]:
        """A command on the store."""
        return [sys.executable, "-m", "assembler", words[0], *words[1:], "--store", str(self.store)]

    def build(self) -> list[str]:
        """The build, which writes a layout too."""
        output = f"type=oci,dest={self.layout},tar=false"
        return self.assemble("build", "-q", "-t", "crash", "-o", output, str(self.context))

    def clear(self) -> None:
        """Begin anew: only the base image stays."""
        self.run(self.assemble("rmi", "crash"))
        self.run(self.assemble("prune", "--all", "--force"))
        shutil.rmtree(self.layout, ignore_errors=True)

    def judge(self, expected: str, counts: Counter[str]) -> None:
        """Check the store, build again, and look for what is left."""
        checked = self.run([*self.assemble("store", "check"), "--json"])
        counts["problems"] += len(json.loads(checked.stdout)["problems"])
        again = self.run(self.build())
        counts["next build wrong"] += again.returncode != 0 or again.stdout != expected
        left = [path for name in ("ingest", "scratch", "leases") for path in self._in(name)]
        left += list(self.store.glob("layers/*/.*"))
        left += list(self.layout.glob("ingest/*"))
        left += list(self.layout.glob(".*"))
        counts["left"] += len(left)

    def _in(self, name: str) -> list[Path]:
        directory = self.store / name
        return list(directory.iterdir()) if directory.is_dir() else []


def kills(trial: Trial, count: int) -> None:
    """Kill builds at random moments."""
    trial.clear()
    started = time.monotonic()
    expected = trial.run(trial.build()).stdout
    whole = time.monotonic() - started
    counts: Counter[str] = Counter(problems=0, left=0)
    generator = random.Random(time.time_ns())
    for _ in range(count):
        trial.clear()
        env = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
        build = subprocess.Popen(
            trial.build(), cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(generator.uniform(0.05, whole))
        counts["killed at work"] += build.poll() is None
        build.kill()
        build.wait()
        trial.judge(expected, counts)
    print(f"kill -9, {count} times within {whole:.2f} s: {dict(counts)}", flush=True)


def faults(trial: Trial, most: int) -> None:
    """Let system calls fail, one in each build."""
    trial.clear()
    expected = trial.run(trial.build()).stdout
    for call in CALLS:
        counts: Counter[str] = Counter(problems=0, left=0, tracebacks=0, builds=0)
        for number in range(1, most + 1):
            reason = ("EIO", "ENOSPC")[number % 2]
            trial.clear()
            inject = ["-e", f"trace={call}", "-e", f"inject={call}:error={reason}:when={number}"]
            with tempfile.NamedTemporaryFile("r") as log:
                argv = ["strace", "-f", "-qq", "-o", log.name, *inject, *trial.build()]
                done = trial.run(argv)
                met = "(INJECTED)" in log.read()
            if not met:
                break
            counts["builds"] += 1
            counts["tracebacks"] += "Traceback" in done.stderr
            counts["internal errors"] += done.returncode == 100
            counts["wrong image"] += done.returncode == 0 and done.stdout != expected
            counts[f"status {done.returncode}"] += 1
            if "Traceback" in done.stderr or done.returncode == 100:
                print(f"{call} {number} {reason}:\n{done.stderr}", file=sys.stderr)
            trial.judge(expected, counts)
        print(f"{call}: {dict(counts)}", flush=True)


def main() -> None:
    """Print the counts."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    most = int(sys.argv[2]) if len(sys.argv) > 2 else 60
    with tempfile.TemporaryDirectory(prefix="cr", dir="/var/tmp") as name:
        trial = Trial(Path(name))
        if count:
            kills(trial, count)
        if most and os.geteuid() == 0 and shutil.which("strace"):
            faults(trial, most)
        trial.clear()
        trial.run(trial.assemble("rmi", "busybox"))
        trial.run(trial.assemble("prune", "--all", "--force"))


if __name__ == "__main__":
    main()
