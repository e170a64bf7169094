"""Fork bombs and memory hogs, contained by real cgroups of either version (rules R5, B11, RS-04)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from assembler.linux import hierarchies
from assembler.linux.cgroups import Group
from assembler.linux.entrances import fork_into
from assembler.linux.group_files import remove
from assembler.linux.hierarchies import Hierarchy

pytestmark = [pytest.mark.integration, pytest.mark.root]
every_runtime = pytest.mark.parametrize("runtime", ["native", "crun", "runc", "podman", "chroot"])
PROCESSES = 300


def hierarchy(controller: str) -> Hierarchy:
    """The hierarchy that limits by `controller`."""
    return next(one for one in hierarchies.mounted() if controller in one.offers(one.top))


@dataclass(frozen=True)
class Bounded:
    """Groups with few processes: `prefix` runs a command in them, so that nothing here endangers
    the machine, and nothing else on it is looked at."""

    groups: tuple[Path, ...]

    @property
    def prefix(self) -> list[str]:
        enter = " && ".join(f"echo $$ > {group}/cgroup.procs" for group in self.groups)
        return ["sh", "-c", f'{enter} && exec "$@"', "sh"]

    def left(self) -> list[str]:
        """The groups of builds that are there."""
        return [str(path) for group in self.groups for path in group.rglob("assemble-*")]


@pytest.fixture
def bounded() -> Iterator[Bounded]:
    """Groups that have to be empty and without groups in the end."""
    name = f"assembler-test-{os.urandom(4).hex()}"
    found = {hierarchy(controller) for controller in ("pids", "memory")}
    above = [one.directory if one.version == 1 else one.top for one in found]
    groups = tuple(Path(directory) / name for directory in above)
    try:
        for group in groups:
            group.mkdir()
            if (group / "pids.max").exists():
                (group / "pids.max").write_text(str(PROCESSES))
        yield Bounded(groups)
    finally:
        for group in groups:
            remove_soon(group)


BOMB = """\
FROM busybox AS bomb
RUN sleep 4 & (while :; do sleep 1000 & done); wait $!; echo the bomb is over
FROM busybox AS other
RUN for i in $(seq 60); do sleep 0.02; done; echo first
RUN for i in $(seq 60); do sleep 0.02; done; echo second
FROM busybox
COPY --from=bomb /etc/passwd /a
COPY --from=other /etc/passwd /b
"""


@every_runtime
def test_B11_a_fork_bomb_stops_neither_the_builder_nor_another_stage(
    assemble: Any, require: Callable[..., None], tmp_path: Path, bounded: Bounded, runtime: str
) -> None:
    require("crun", "runc", "podman")
    (tmp_path / "Dockerfile").write_text(BOMB)
    done = assemble("build", "--no-cache", "--runtime", runtime, tmp_path, prefix=bounded.prefix)
    assert "can't fork" in done.stderr
    for said in ("the bomb is over", "first", "second"):
        assert f" {said}\n" in done.stderr, done.stderr
    assert bounded.left() == []


def test_B11_a_step_that_fails_for_want_of_processes_is_told_so(
    assemble: Any, tmp_path: Path, bounded: Bounded
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN while :; do sleep 1000 & done\n")
    done = assemble("build", tmp_path, prefix=bounded.prefix, code=1)
    assert f"hint: this step may have {PROCESSES * 9 // 16} processes and threads" in done.stderr
    assert bounded.left() == []


HOG = """\
FROM busybox AS hog
RUN tail /dev/zero; echo the hog ended with $?
FROM busybox AS other
RUN for i in $(seq 20); do sleep 0.02; done; echo first
RUN for i in $(seq 20); do sleep 0.02; done; echo second
FROM busybox
COPY --from=hog /etc/passwd /a
COPY --from=other /etc/passwd /b
"""


@every_runtime
def test_B11_a_memory_hog_stops_neither_the_builder_nor_another_stage(
    assemble: Any, require: Callable[..., None], tmp_path: Path, bounded: Bounded, runtime: str
) -> None:
    require("crun", "runc", "podman")
    (tmp_path / "Dockerfile").write_text(HOG)
    words = ("build", "--no-cache", "--runtime", runtime, "--resource", "memory=64m", tmp_path)
    done = assemble(*words, prefix=bounded.prefix)
    for said in ("the hog ended with 137", "first", "second"):
        assert f" {said}\n" in done.stderr, done.stderr
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN tail /dev/zero\n")
    done = assemble(*words, prefix=bounded.prefix, code=1)
    lines = done.stderr.splitlines()
    assert lines[-1].endswith("did not complete successfully: exit code: 137")
    assert lines[-2].startswith("hint: the kernel's OOM killer ended a process of this step: its")
    assert "limited to 64 MiB" in lines[-2]
    assert bounded.left() == []


def test_RS04_a_builder_in_a_small_group_survives_a_hog_in_it(
    assemble: Any, tmp_path: Path
) -> None:
    one = hierarchy("memory")
    group = Path(one.directory if one.version == 1 else one.top) / f"small-{os.urandom(4).hex()}"
    group.mkdir()
    try:
        name = "memory.limit_in_bytes" if one.version == 1 else "memory.max"
        (group / name).write_text(str(256 << 20))
        (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN tail /dev/zero\n")
        prefix = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
        done = assemble("build", tmp_path, prefix=prefix, code=1)
        assert "exit code: 137" in done.stderr
        assert "hint: the kernel's OOM killer was at work while this step ran" in done.stderr
    finally:
        remove_soon(group)


def test_R5_the_kernel_takes_every_limit(assemble: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nRUN echo on $(grep Cpus_allowed_list /proc/self/status)\n"
    )
    words = (
        "memory=64m", "memory-swap=96m", "cpu-shares=512", "cpu-period=50000",
        "cpu-quota=40000", "cpuset-cpus=1", "cpuset-mems=0",
    )  # fmt: skip
    options = [word for limit in words for word in ("--resource", limit)]
    first = assemble("build", *options, tmp_path)
    assert " on Cpus_allowed_list: 1\n" in first.stderr
    again = assemble("build", tmp_path)
    assert " on Cpus" not in again.stderr, "limits are not part of a key"
    assert again.stdout == first.stdout


def test_R5_a_limit_that_cannot_be_is_told_before_anything_runs(
    assemble: Any, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo ran\n")
    done = assemble("build", "--resource", "cpuset-mems=900", tmp_path, code=1)
    assert "cpuset (900) cannot be set: " in done.stderr and "cpuset.mems" in done.stderr
    assert "RUN" not in done.stderr


def test_R5_steps_run_below_the_parent_that_is_named(assemble: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN cat /proc/self/cgroup\n")
    name = f"assembler-test-{os.urandom(4).hex()}"
    done = assemble("build", "--cgroup-parent", f"/{name}/a", tmp_path)
    assert f"/{name}/a/assemble-" in done.stderr
    tops = {one.top for one in hierarchies.mounted()}
    assert not [top for top in tops if os.path.exists(f"{top}/{name}")]


@every_runtime
def test_the_next_command_removes_the_groups_of_a_killed_builder(
    assemble: Any, require: Callable[..., None], tmp_path: Path, bounded: Bounded, runtime: str
) -> None:
    require("crun", "runc", "podman")
    mark = f"45{os.getpid()}"
    (tmp_path / "Dockerfile").write_text(f"FROM busybox\nRUN sleep {mark}\n")
    command = assemble.command("build", "--runtime", runtime, "--resource", "memory=64m", tmp_path)
    builder = subprocess.Popen(
        [*bounded.prefix, *command], env=assemble.env, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: [pid for pid in running(f"sleep {mark}") if scored(pid)])
    groups = bounded.left()
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    wait_until(lambda: not running(f"sleep {mark}"))
    assert groups and bounded.left() == groups, "nobody is left to remove them"
    assemble("images")
    assert bounded.left() == []


def test_a_process_is_born_in_a_group_of_version_2() -> None:
    (unified,) = (one for one in hierarchies.mounted() if one.version == 2)
    group = Group(2, f"{unified.directory}/born-{os.urandom(4).hex()}")
    group.make()
    try:
        entrance = group.entrance()
        pid, left = fork_into([entrance])
        if pid == 0:
            status = 1
            try:
                mine = Path("/proc/self/cgroup").read_text()
                child = subprocess.run(["cat", "/proc/self/cgroup"], capture_output=True, text=True)
                assert left == [] and os.path.basename(group.path) in mine == child.stdout
                status = 0
            finally:
                os._exit(status)
        os.close(entrance)
        assert left == [] and os.waitpid(pid, 0)[1] == 0
    finally:
        remove(group.path)


def running(text: str) -> list[int]:
    """The processes whose arguments end with `text`."""
    done = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    lines = [line.strip().partition(" ") for line in done.stdout.splitlines()]
    return [int(pid) for pid, _, args in lines if args.strip() == text]


def scored(pid: int) -> bool:
    """Whether a process of a step is offered to the OOM killer, and this one is not."""
    ours = int(Path("/proc/self/oom_score_adj").read_text())
    try:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == min(1000, ours + 500)
    except OSError:
        return False


def remove_soon(group: Path) -> None:
    """Remove a group without groups. What is over may be in it for a moment: the kernel does not
    have it out of its group before it is told to have ended."""

    def removed() -> bool:
        with suppress(OSError):
            group.rmdir()
        return not group.exists()

    wait_until(removed)


def wait_until(condition: Callable[[], object]) -> None:
    """Poll for up to a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
