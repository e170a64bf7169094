"""Groups of a build, on a directory tree that stands in for a cgroup file system. What the kernel
makes of them is in tests/integration/test_limits_as_root.py."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from assembler.errors import HostError
from assembler.linux import cgroups, claims, group_files, hierarchies
from assembler.linux.cgroups import Groups, prepared, sweep
from assembler.linux.hierarchies import Hierarchy
from assembler.linux.places import limitable
from assembler.linux.resources import Resources

V1_FILES = {
    "memory": "memory.limit_in_bytes memory.memsw.limit_in_bytes memory.oom_control",
    "pids": "pids.max pids.events",
    "cpu": "cpu.shares cpu.cfs_period_us cpu.cfs_quota_us",
    "cpuset": "cpuset.cpus cpuset.mems",
}
V2_FILES = {
    "memory": "memory.max memory.swap.max memory.events",
    "pids": "pids.max pids.events",
    "cpu": "cpu.weight cpu.max",
    "cpuset": "cpuset.cpus cpuset.mems",
}


class StandIn:
    """Directories that behave like groups: files come and go with them, controllers are handed
    down, a group with processes enables no memory. `written` is what was written, in order."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.top = top
        self.written: list[tuple[str, str]] = []
        self.mounted: list[Hierarchy] = []
        self._mkdir, self._rmdir = os.mkdir, os.rmdir
        monkeypatch.setattr(os, "mkdir", self.make)
        monkeypatch.setattr(os, "rmdir", self.remove)
        for module in (cgroups, group_files):
            monkeypatch.setattr(module, "write", self.write)
        monkeypatch.setattr(hierarchies, "mounted", lambda: tuple(self.mounted))

    def version_1(self, *controllers: str) -> None:
        """Mount one hierarchy for each, this process in the group `own`."""
        for name in controllers:
            top = self.top / name
            self._mkdir(top)
            self._fill(top, f"tasks cgroup.procs {V1_FILES[name]}")
            if name == "cpuset":
                (top / "cpuset.cpus").write_text("0-1\n")
                (top / "cpuset.mems").write_text("0\n")
            own = top / "own"
            os.mkdir(own)
            self.mounted.append(Hierarchy(1, str(top), str(own), frozenset({name})))
            if name == "cpuset":
                (own / "cpuset.cpus").write_text("0-1\n")
                (own / "cpuset.mems").write_text("0\n")

    def version_2(self, offered: str, *, processes: tuple[int, ...] | None = None) -> None:
        """Mount the unified hierarchy, this process (or `processes`) in the group `own`."""
        top = self.top / "unified"
        self._mkdir(top)
        self._fill(top, "cgroup.procs cgroup.controllers cgroup.subtree_control")
        (top / "cgroup.controllers").write_text(offered)
        (top / "cgroup.subtree_control").write_text(offered)
        os.mkdir(top / "own")
        pids = (os.getpid(),) if processes is None else processes
        (top / "own/cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
        self.mounted.append(Hierarchy(2, str(top), str(top / "own")))

    def groups(self) -> list[str]:
        """The groups there are, but for those that were mounted."""
        found = [str(path.relative_to(self.top)) for path in self.top.rglob("*") if path.is_dir()]
        return sorted(path for path in found if path.count("/") > 1 or "assemble-" in path)

    def make(self, path: str | Path, mode: int = 0o777) -> None:
        self._mkdir(path, mode)
        path = Path(path)
        if self.top not in path.parents:
            return
        if (path.parent / "cgroup.controllers").exists():
            controllers = (path.parent / "cgroup.subtree_control").read_text()
            self._fill(path, "cgroup.procs cgroup.threads cgroup.controllers")
            self._fill(path, "cgroup.subtree_control cgroup.type")
            (path / "cgroup.controllers").write_text(controllers)
            for name in controllers.split():
                self._fill(path, V2_FILES[name])
        else:
            self._fill(path, "tasks cgroup.procs")
            self._fill(path, V1_FILES[path.relative_to(self.top).parts[0]])

    def remove(self, path: str, *, dir_fd: int | None = None) -> None:
        if self.top in Path(path).parents:
            if any(entry.is_dir() for entry in os.scandir(path)):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            for entry in os.scandir(path):
                os.unlink(entry.path)
        self._rmdir(path, dir_fd=dir_fd)

    def write(self, path: str, text: str) -> None:
        file = Path(path)
        self.written.append((str(file.relative_to(self.top)), text))
        if not file.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if file.name == "cgroup.subtree_control":
            inner = (file.parent / "cgroup.type").exists() and text == "+memory"
            if inner and (file.parent / "cgroup.procs").read_text().strip():
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            held = set(file.read_text().split()) - {text[1:]}
            held |= {text[1:]} if text[0] == "+" else set()
            file.write_text(" ".join(sorted(held)))
        elif file.name == "cgroup.procs":
            for other in self.top.rglob("cgroup.procs"):
                left = [pid for pid in other.read_text().split() if pid != text]
                other.write_text("".join(f"{pid}\n" for pid in left))
            with file.open("a") as stream:
                stream.write(f"{text}\n")
        else:
            file.write_text(f"{text}\n")

    @staticmethod
    def _fill(path: Path, names: str) -> None:
        for name in names.split():
            (path / name).write_text("")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    top = tmp_path / "cgroup"
    top.mkdir()
    yield StandIn(top, monkeypatch)


@pytest.fixture
def records(tmp_path: Path) -> str:
    return str(tmp_path / "groups")


def files(groups: Groups) -> dict[str, str]:
    """What a step's groups hold, by file."""
    with groups.step() as step:
        return {
            path.name: path.read_text().strip()
            for group in step.groups
            for path in Path(group.path).iterdir()
            if path.read_text().strip()
        }


def test_nothing_asked_and_nothing_there_makes_nothing(tree: StandIn, records: str) -> None:
    with prepared(records, processes=100) as groups, groups.step() as step:
        assert step.groups == ()
    assert not os.path.exists(records)


def test_R5_version_1_has_a_group_for_every_controller(tree: StandIn, records: str) -> None:
    tree.version_1("memory", "pids", "cpu", "cpuset")
    asked = Resources(memory=64 << 20, cpu_quota=5000, cpuset_cpus="1")
    with prepared(records, asked, processes=100) as groups:
        with groups.step() as step:
            assert len(tree.groups()) == 8, "the build's, and the step's in it"
            assert {group.version for group in step.groups} == {1}
        assert files(groups) == {
            "memory.limit_in_bytes": str(64 << 20),
            "cpu.cfs_quota_us": "5000",
            "cpuset.cpus": "1",
            "cpuset.mems": "0",
            "pids.max": "75",
        }
        assert len(tree.groups()) == 4
    assert tree.groups() == [] and os.listdir(records) == []


def test_all_steps_together_have_more_processes_than_one(tree: StandIn, records: str) -> None:
    tree.version_1("pids")
    with prepared(records, processes=1000), claims.held(records):
        (build,) = tree.groups()
        assert (tree.top / build / "pids.max").read_text() == "1000\n"


def test_R5_version_2_enables_controllers_after_its_process_has_left(
    tree: StandIn, records: str
) -> None:
    tree.version_2("cpu memory pids")
    with prepared(records, Resources(memory=64 << 20), processes=100) as groups:
        own = tree.top / "unified/own"
        assert (own / "cgroup.procs").read_text() == ""
        assert set((own / "cgroup.subtree_control").read_text().split()) == {"memory", "pids"}
        (leaf,) = (path for path in tree.groups() if path.endswith("-builder"))
        assert (tree.top / leaf / "cgroup.procs").read_text() == f"{os.getpid()}\n"
        assert files(groups) == {
            "memory.max": str(64 << 20),
            "pids.max": "75",
            "cgroup.controllers": (own / "cgroup.subtree_control").read_text(),
        }
    assert tree.groups() == []
    assert (own / "cgroup.procs").read_text() == f"{os.getpid()}\n"
    assert (own / "cgroup.subtree_control").read_text() == ""


def test_the_children_of_the_builder_leave_with_it(tree: StandIn, records: str) -> None:
    child = os.fork()
    if child == 0:
        os.execvp("sleep", ["sleep", "900"])
    try:
        tree.version_2("memory pids", processes=(os.getpid(), child))
        with prepared(records, Resources(memory=64 << 20)):
            assert (tree.top / "unified/own/cgroup.procs").read_text() == ""
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_R5_a_group_shared_with_others_is_left_alone_and_that_is_said(
    tree: StandIn, records: str
) -> None:
    tree.version_2("memory pids", processes=(os.getpid(), os.getppid()))
    with (
        pytest.raises(HostError, match="has other processes in it") as raised,
        prepared(records, Resources(memory=64 << 20)),
    ):
        pass
    assert str(os.getppid()) in raised.value.message
    assert "--scope -p Delegate=yes" in raised.value.hint
    assert tree.groups() == [] and tree.written == []


def test_threaded_groups_disturb_nobody(tree: StandIn, records: str) -> None:
    tree.version_2("cpu memory pids", processes=(os.getpid(), os.getppid()))
    with prepared(records, Resources(cpu_quota=5000), processes=100) as groups:
        assert files(groups) == {
            "cgroup.controllers": "cpu pids",
            "cgroup.type": "threaded",
            "cpu.max": "5000 100000",
            "pids.max": "75",
        }
        own = tree.top / "unified/own"
        assert str(os.getpid()) in (own / "cgroup.procs").read_text().split()
    assert tree.groups() == [] and (own / "cgroup.subtree_control").read_text() == ""


def test_R5_a_group_of_somebody_else_cannot_be_used(
    tree: StandIn, records: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.version_2("memory pids")
    monkeypatch.setattr(os, "access", lambda path, mode: "own" not in str(path))
    with prepared(records, processes=100) as groups, groups.step() as step:
        assert step.groups == ()
    with (
        pytest.raises(HostError, match="own is not this user's"),
        prepared(records, Resources(memory=64 << 20)),
    ):
        pass
    assert tree.written == []
    assert limitable()[0] == {} and "not this user's" in limitable()[1]


def test_what_can_be_limited_beside_others(tree: StandIn) -> None:
    tree.version_2("memory pids", processes=(os.getpid(), os.getppid()))
    names, problem = limitable()
    assert list(names) == ["pids"] and "so memory cannot be enabled" in problem


def test_R5_a_controller_that_is_not_offered_is_named(tree: StandIn, records: str) -> None:
    tree.version_2("pids")
    with (
        pytest.raises(HostError, match=r"controller memory cannot be used here: .*/own does not"),
        prepared(records, Resources(memory=64 << 20)),
    ):
        pass


def test_R5_where_controllers_are_in_both_versions_each_is_found(
    tree: StandIn, records: str
) -> None:
    tree.version_1("memory")
    tree.version_2("pids")
    with prepared(records, Resources(memory=64 << 20), processes=100) as groups:
        with groups.step() as step:
            assert [group.version for group in step.groups] == [1, 2]
        found = files(groups)
    assert (found["memory.limit_in_bytes"], found["pids.max"]) == (str(64 << 20), "75")


def test_R5_a_value_the_kernel_refuses_ends_the_build_before_it_starts(
    tree: StandIn, records: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.version_1("cpuset")

    def refuse(path: str, text: str) -> None:
        if text == "7":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        tree.write(path, text)

    monkeypatch.setattr(cgroups, "write", refuse)
    with (
        pytest.raises(HostError, match=r"cpuset \(7\) cannot be set: .*cpuset.cpus: Invalid"),
        prepared(records, Resources(cpuset_cpus="7")),
    ):
        pass
    assert tree.groups() == []


def test_R5_the_parent_is_made_and_goes_again(tree: StandIn, records: str) -> None:
    tree.version_1("memory", "cpuset")
    tree.version_2("pids")
    with prepared(records, Resources(memory=64 << 20), "a/b", processes=100) as groups:
        with groups.step() as step:
            places = {
                os.path.relpath(group.path, tree.top).split("/assemble")[0] for group in step.groups
            }
        assert places == {"memory/a/b", "cpuset/a/b", "unified/a/b"}
        assert (tree.top / "cpuset/a/b/cpuset.cpus").read_text().strip() == "0-1"
    left = [path for path in tree.top.rglob("*") if path.is_dir() and path.name in "ab"]
    assert left == []


def test_R5_a_parent_that_is_there_stays(tree: StandIn, records: str) -> None:
    tree.version_1("memory")
    os.mkdir(tree.top / "memory/there")
    with prepared(records, parent="there") as groups, groups.step() as step:
        (group,) = step.groups
        assert group.path.startswith(str(tree.top / "memory/there/assemble-"))
    assert (tree.top / "memory/there").is_dir()


def test_what_a_killed_builder_left_is_swept(tree: StandIn, records: str) -> None:
    tree.version_1("pids")
    tree.version_2("memory")
    child = os.fork()
    if child == 0:  # dies in the middle of a step, its record and groups behind it
        try:
            asked = Resources(memory=64 << 20)
            with prepared(records, asked, "made", processes=100) as groups, groups.step():
                os.kill(os.getpid(), 9)
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    assert len(tree.groups()) >= 4
    with prepared(records, processes=100):
        before = tree.groups()
        sweep(records)
        assert [path for path in tree.groups() if "made" in path] == []
        assert tree.groups() == [path for path in before if "made" not in path], "live ones stay"
    assert tree.groups() == [] and os.listdir(records) == []


def test_a_builder_that_died_before_it_made_anything_leaves_only_its_record(
    records: str,
) -> None:
    for content in (None, "", "{", json.dumps({"groups": ["/gone"], "enabled": [], "parents": []})):
        path = Path(records) / "dead"
        path.mkdir(parents=True)
        if content is not None:
            (path / "groups").write_text(content)
        sweep(records)
        assert os.listdir(records) == []


def test_what_cannot_be_removed_yet_stays_on_record(
    records: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, record = tmp_path / "group", Path(records) / "dead"
    group.mkdir()
    record.mkdir(parents=True)
    document = {"groups": [str(group)], "enabled": [], "parents": []}
    (record / "groups").write_text(json.dumps(document))
    with monkeypatch.context() as patched:

        def forbidden(path: str) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        patched.setattr(os, "rmdir", forbidden)
        sweep(records)
    assert record.is_dir() and group.is_dir()
    sweep(records)
    assert not record.exists() and not group.exists()


def test_what_ran_out_is_told(tree: StandIn, records: str) -> None:
    tree.version_1("memory", "pids")
    asked = Resources(memory=64 << 20)
    with prepared(records, asked, processes=100) as groups, groups.step() as step:
        assert step.shortage(killed=False) == ""
        (memory, pids) = (Path(group.path) for group in step.groups)
        (pids / "pids.events").write_text("max 3\n")
        assert "may have 75 processes" in step.shortage(killed=False)
        (memory / "memory.oom_control").write_text("oom_kill_disable 0\noom_kill 1\n")
        assert "its memory is limited to 64 MiB" in step.shortage(killed=False)


def test_the_oom_killer_of_a_container_is_told_of_a_step_that_was_killed(
    tree: StandIn, records: str
) -> None:
    tree.version_2("memory")
    events = tree.top / "unified/own/memory.events"
    events.write_text("oom 1\noom_kill 1\n")
    with prepared(records) as groups, groups.step() as step:
        assert step.shortage(killed=True) == ""
        events.write_text("oom 2\noom_kill 2\n")
        assert "too little memory" in step.shortage(killed=True)
        assert step.shortage(killed=False) == "", "it failed by itself"
