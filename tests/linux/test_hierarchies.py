"""Where a process is among cgroups, as its files in /proc tell it."""

from __future__ import annotations

from pathlib import Path

from assembler.linux.hierarchies import Hierarchy, allowed_processes, counted, parsed

V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = """\
22 1 8:1 / / rw - ext4 /dev/vda rw
31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:4 - cgroup cgroup rw,cpu,cpuacct
32 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 25 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
34 25 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
35 25 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
HYBRID = "9:name=systemd:/x\n8:pids:/\n4:memory:/a/b\n2:cpu,cpuacct:/c\n1:blkio:/\n0::/u\n"


def test_version_2_alone() -> None:
    found = parsed("0::/user.slice/run-1.scope\n", V2)
    assert found == (Hierarchy(2, "/sys/fs/cgroup", "/sys/fs/cgroup/user.slice/run-1.scope"),)
    assert found[0].above() == [
        "/sys/fs/cgroup/user.slice/run-1.scope",
        "/sys/fs/cgroup/user.slice",
        "/sys/fs/cgroup",
    ]


def test_version_1_and_both_at_once_version_1_first() -> None:
    found = {one.directory: (one.version, set(one.attached)) for one in parsed(HYBRID, V1)}
    assert found == {
        "/sys/fs/cgroup/pids": (1, {"pids"}),
        "/sys/fs/cgroup/memory/a/b": (1, {"memory"}),
        "/sys/fs/cgroup/cpu,cpuacct/c": (1, {"cpu"}),
        "/sys/fs/cgroup/unified/u": (2, set()),
    }
    assert [one.version for one in parsed(HYBRID, V1)] == [1, 1, 1, 2]


def test_a_container_sees_its_own_group_at_the_top() -> None:
    mounts = "30 24 0:26 /docker/ab\\040c /sys/fs/cgroup\\040x rw - cgroup2 cgroup rw\n"
    (found,) = parsed("0::/docker/ab c/sub\n", mounts)
    assert (found.top, found.directory) == ("/sys/fs/cgroup x", "/sys/fs/cgroup x/sub")


def test_a_group_outside_of_what_is_mounted_cannot_be_used() -> None:
    mounts = "30 24 0:26 /docker/ab /sys/fs/cgroup rw - cgroup2 cgroup rw\n"
    assert parsed("0::/docker/abc\n", mounts) == ()
    assert parsed("0::/../../other\n", V2) == ()
    assert parsed("0::/a\n", "22 1 8:1 / / rw - ext4 /dev/vda rw\n") == ()


def test_what_version_2_offers_is_in_its_files(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids misc\n")
    found = Hierarchy(2, str(tmp_path), str(tmp_path))
    assert found.offers() == {"cpuset", "cpu", "memory", "pids"}
    assert Hierarchy(2, "/nowhere", "/nowhere").offers() == frozenset()


def test_the_tightest_bound_of_all_groups_above_holds(tmp_path: Path) -> None:
    inner = tmp_path / "outer/inner"
    inner.mkdir(parents=True)
    one = Hierarchy(2, str(tmp_path), str(inner))
    assert allowed_processes((one,)) is None
    (inner / "pids.max").write_text("max\n")
    assert allowed_processes((one,)) is None
    (inner.parent / "pids.max").write_text("500\n")
    assert allowed_processes((one,)) == 500
    (inner / "pids.max").write_text("900\n")
    assert allowed_processes((one,)) == 500


def test_counters(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert counted(str(tmp_path), "memory.events", "oom_kill") == 2
    assert counted(str(tmp_path), "memory.events", "nope") is None
    assert counted(str(tmp_path), "nope", "oom_kill") is None
