"""Several builds on one store at once, and big files through a small memory."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from assembler.testing import MemoryRegistry

pytestmark = pytest.mark.integration


def test_CR05_builds_of_one_file_on_one_store_agree(assemble: Any, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM busybox AS a\nCOPY f /f\nRUN sleep 0.3; cat /f > /out\n"
        "FROM busybox\nCOPY --from=a /out /\nRUN ls -la / > /dev/null && mkdir /made\n"
    )
    (context / "f").write_text("content")
    env = {**assemble.env, "SOURCE_DATE_EPOCH": "1700000000"}
    builds = [
        subprocess.Popen(
            assemble.command("build", "--progress", "quiet", "-t", f"same:{number}", context),
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(6)
    ]  # fmt: skip
    results = [build.communicate(timeout=300) for build in builds]
    assert [build.returncode for build in builds] == [0] * 6, results
    assert len({out for out, _ in results}) == 1
    store = Path(assemble.env["ASSEMBLE_STORE"])
    assert not list((store / "ingest").iterdir()) and not list((store / "scratch").iterdir())


def test_a_large_layer_goes_through_a_small_memory(
    assemble: Any, registry: Any, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM busybox\nCOPY big /big\nRUN cp /big /copy\n")
    with (context / "big").open("wb") as stream:
        for _ in range(40):
            stream.write(os.urandom(1 << 20) * 10)
    name = f"{registry.host}/large/layer:1"
    code = (
        "import sys\n"
        "from assembler.__main__ import main\n"
        "sys.argv = ['assemble', 'build', '--progress', 'quiet', '-t', sys.argv[2], '--push', sys.argv[1]]\n"
        "status = main()\n"
        "peak = [line for line in open('/proc/self/status') if line.startswith('VmHWM')]\n"
        "print(peak[0].split()[1], file=sys.stderr)\n"
        "sys.exit(status)\n"
    )
    import sys

    done = subprocess.run(
        [sys.executable, "-c", code, str(context), name],
        env=dict(assemble.env), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peak = int(done.stderr.split()[-1])  # KiB
    assert peak < 200 * 1024, f"{peak} KiB for an image of 800 MiB"
    assemble("pull", name, ASSEMBLE_STORE=str(tmp_path / "second"))


GATE = (
    "FROM busybox\nRUN --mount=type=cache,id=gate,target=/c"
    " echo run >> /c/log; echo com''piling; until test -e /c/go; do sleep 0.05; done; {0}\n"
)


@dataclass(eq=False)
class Begun:
    """A build that goes on; its progress is in the file `shown`."""

    process: subprocess.Popen[str]
    shown: Path

    def until(self, part: str) -> str:
        """The progress, as soon as `part` is in it."""
        deadline = time.monotonic() + 60
        while part not in (text := self.shown.read_text()):
            assert time.monotonic() < deadline and self.process.poll() is None, text
            time.sleep(0.02)
        return text

    def end(self) -> tuple[int, str, str]:
        """Its status, what it printed, and its progress."""
        out, _ = self.process.communicate(timeout=300)
        return self.process.returncode, out, self.shown.read_text()


class Gate:
    """Builds of a step that says `compiling`, waits until `open`, and then does `last`."""

    def __init__(self, assemble: Any, directory: Path) -> None:
        self.assemble = assemble
        self.store = Path(assemble.env["ASSEMBLE_STORE"])
        self.directory = directory
        self.last = "echo x > /x"
        self.builds: list[Begun] = []

    def begin(self, *more: str) -> Begun:
        """Begin a build."""
        (self.directory / "Dockerfile").write_text(GATE.format(self.last))
        shown = self.directory.parent / f"shown-{len(self.builds)}"
        with shown.open("w") as stderr:
            process = subprocess.Popen(
                self.assemble.command("build", "--progress", "plain", *more, self.directory),
                env={**self.assemble.env, "SOURCE_DATE_EPOCH": "1700000000"},
                stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True,
            )  # fmt: skip
        self.builds.append(Begun(process, shown))
        return self.builds[-1]

    @property
    def runs(self) -> int:
        """How often the step was begun."""
        found = list(self.store.glob("mounts/*/*/log"))
        return len(found[0].read_text().splitlines()) if found else 0

    def wait_for(self, runs: int) -> None:
        """Wait until the step was begun so often."""
        deadline = time.monotonic() + 60
        while self.runs < runs:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def open(self) -> None:
        """Let the step go on, and those that follow."""
        (log,) = self.store.glob("mounts/*/*/log")
        (log.parent / "go").touch()

    def left(self) -> list[Path]:
        """What builds left of what they were at."""
        return list((self.store / "working").iterdir())

    def close(self) -> None:
        """End what goes on."""
        for build in self.builds:
            with suppress(ProcessLookupError):
                os.killpg(build.process.pid, signal.SIGKILL)
            build.process.communicate()


@pytest.fixture
def gate(assemble: Any, tmp_path: Path) -> Iterator[Gate]:
    """See `Gate`."""
    (tmp_path / "gate").mkdir()
    made = Gate(assemble, tmp_path / "gate")
    yield made
    made.close()


def test_CR05_a_step_that_is_running_elsewhere_is_waited_for_with_its_progress(gate: Gate) -> None:
    first = gate.begin()
    gate.wait_for(1)
    others = [gate.begin() for _ in range(3)]
    for other in others:
        seen = other.until("compiling")
        assert f"waiting for process {first.process.pid}, which has been at it for" in seen
    gate.open()
    status, digest, _ = first.end()
    assert status == 0
    for other in others:
        status, same, shown = other.end()
        assert (status, same) == (0, digest) and "#2 CACHED" in shown
    assert gate.runs == 1 and gate.left() == []


def test_CR05_a_step_that_fails_elsewhere_is_run_by_who_waited_once(gate: Gate) -> None:
    gate.last = "test $(wc -l < /c/log) -gt 1 && echo x > /x"
    first = gate.begin()
    gate.wait_for(1)
    second = gate.begin()
    second.until("compiling")
    gate.open()
    status, _, shown = first.end()
    assert status == 1 and "exit code: 1" in shown
    status, _, shown = second.end()
    assert status == 0 and f"process {first.process.pid} failed; trying it here" in shown
    assert gate.runs == 2 and gate.left() == []


def test_CR05_a_stopped_build_is_named_and_who_waits_for_it_ends_at_once(gate: Gate) -> None:
    first = gate.begin()
    gate.wait_for(1)
    os.killpg(first.process.pid, signal.SIGSTOP)
    second = gate.begin()
    second.until(f"process {first.process.pid} is stopped")
    second.process.send_signal(signal.SIGINT)
    assert second.end()[0] == 130
    os.killpg(first.process.pid, signal.SIGCONT)
    gate.open()
    assert first.end()[0] == 0
    assert gate.runs == 1 and gate.left() == []


def test_CR05_a_cancelled_build_is_followed_by_who_waited(gate: Gate) -> None:
    first = gate.begin()
    gate.wait_for(1)
    others = [gate.begin() for _ in range(2)]
    for other in others:
        other.until("compiling")
    first.process.send_signal(signal.SIGTERM)
    assert first.end()[0] == 143
    gate.wait_for(2)
    gate.open()
    assert [other.end()[0] for other in others] == [0, 0]
    assert gate.runs == 2 and gate.left() == []


def test_CR05_without_the_cache_nobody_is_waited_for(gate: Gate) -> None:
    first = gate.begin()
    gate.wait_for(1)
    others = [gate.begin("--no-cache") for _ in range(2)]
    gate.wait_for(3)
    gate.open()
    assert [build.end()[0] for build in (first, *others)] == [0] * 3
    assert gate.runs == 3


def test_CR11_builds_killed_at_any_moment_are_followed_by_who_waits(
    assemble: Any, tmp_path: Path
) -> None:
    """Of three builds one is killed, at a random moment, round after round."""
    context = tmp_path / "context"
    context.mkdir()
    generator = random.Random(time.time_ns())
    store = Path(assemble.env["ASSEMBLE_STORE"])
    for number in range(6):
        (context / "Dockerfile").write_text(
            "FROM busybox AS a\nCOPY f /f\nRUN sleep 0.2; cat /f > /g\nWORKDIR /w\n"
            "RUN sleep 0.1; cp /g /h\nFROM busybox\nCOPY --from=a /h /\nCOPY f /last\n"
        )
        (context / "f").write_text(f"content {number}")
        builds = [
            subprocess.Popen(
                assemble.command("build", "-q", context),
                env={**assemble.env, "SOURCE_DATE_EPOCH": "1700000000"},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for _ in range(3)
        ]  # fmt: skip
        time.sleep(generator.uniform(0.2, 1.5))
        builds[0].kill()
        ended = [build.communicate(timeout=300) for build in builds]
        assert [build.returncode for build in builds[1:]] == [0, 0], ended
        assert ended[1][0] == ended[2][0]
    assemble("prune", "--force")
    found = json.loads(assemble("store", "check", "--json").stdout)
    assert found["problems"] == []
    for name in ("working", "ingest", "scratch", "leases"):
        assert not list((store / name).iterdir())


def test_CR05_builds_at_once_fetch_a_base_once(assemble: Any, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    with MemoryRegistry() as registry:
        name = f"{registry.host}/base:1"
        (context / "f").write_bytes(random.Random(1).randbytes(3_000_000))
        (context / "Dockerfile").write_text("FROM busybox\nCOPY f /f\n")
        assemble("build", "-q", "-t", name, "--push", context)
        (context / "Dockerfile").write_text(
            f"FROM {name} AS a\nRUN cp /f /g\nFROM {name} AS b\nRUN cp /f /h\n"
            f"FROM {name}\nCOPY --from=a /g /\nCOPY --from=b /h /\n"
        )
        registry.asked.clear()
        env = {**assemble.env, "ASSEMBLE_STORE": str(tmp_path / "second")}
        builds = [
            subprocess.Popen(
                assemble.command("build", "-q", context),
                env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for _ in range(4)
        ]  # fmt: skip
        ended = [build.communicate(timeout=300) for build in builds]
        assert [build.returncode for build in builds] == [0] * 4, ended
        blobs = [
            one.path for one in registry.asked if one.method == "GET" and "/blobs/" in one.path
        ]
        assert len(blobs) == len(set(blobs)) == 3  # two layers and the configuration
