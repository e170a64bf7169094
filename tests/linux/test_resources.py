"""Limits of a step as the cgroup files that say them."""

from __future__ import annotations

import pytest

from assembler.linux.resources import Resources, less_reserve, weight

ALL = Resources(
    memory=64 << 20,
    memory_swap=96 << 20,
    cpu_shares=512,
    cpu_period=50_000,
    cpu_quota=25_000,
    cpuset_cpus="0-1",
    cpuset_mems="0",
)


def test_R5_only_what_is_limited_needs_a_controller() -> None:
    assert Resources().controllers == frozenset()
    assert Resources(memory=1).controllers == {"memory"}
    assert Resources(memory_swap=-1).controllers == {"memory"}
    assert ALL.controllers == {"memory", "cpu", "cpuset"}


def test_R5_the_files_of_version_1() -> None:
    assert ALL.settings("memory", 1) == (
        ("memory.limit_in_bytes", "67108864"),
        ("memory.memsw.limit_in_bytes", "100663296"),
    )
    assert ALL.settings("cpu", 1) == (
        ("cpu.shares", "512"),
        ("cpu.cfs_period_us", "50000"),
        ("cpu.cfs_quota_us", "25000"),
    )
    assert ALL.settings("cpuset", 1) == (("cpuset.cpus", "0-1"), ("cpuset.mems", "0"))
    assert ALL.settings("pids", 1) == ()


def test_R5_the_files_of_version_2_where_swap_is_counted_alone() -> None:
    assert ALL.settings("memory", 2) == (
        ("memory.max", "67108864"),
        ("memory.swap.max", "33554432"),
    )
    assert ALL.settings("cpu", 2) == (("cpu.weight", "59"), ("cpu.max", "25000 50000"))
    assert ALL.settings("cpuset", 2) == ALL.settings("cpuset", 1)


def test_R5_what_stands_for_no_limit() -> None:
    swap = Resources(memory=64 << 20, memory_swap=-1)
    assert swap.settings("memory", 1)[1] == ("memory.memsw.limit_in_bytes", "-1")
    assert swap.settings("memory", 2)[1] == ("memory.swap.max", "max")
    assert Resources(cpu_quota=5000).settings("cpu", 2) == (("cpu.max", "5000 100000"),)
    assert Resources(cpu_period=5000).settings("cpu", 2) == (("cpu.max", "max 5000"),)


@pytest.mark.parametrize(
    ("shares", "expected"), [(2, 1), (1024, 100), (262_144, 10_000), (1, 1), (1 << 40, 10_000)]
)
def test_R5_the_usual_shares_are_the_usual_weight(shares: int, expected: int) -> None:
    assert weight(shares) == expected


def test_shares_and_weights_rise_together() -> None:
    weights = [weight(shares) for shares in range(2, 5000)]
    assert weights == sorted(weights)


@pytest.mark.parametrize(
    ("amount", "left"), [(50, 38), (1024, 768), (4096, 3840), (100_000, 99_744)]
)
def test_RS04_the_builder_keeps_a_reserve(amount: int, left: int) -> None:
    assert less_reserve(amount) == left
