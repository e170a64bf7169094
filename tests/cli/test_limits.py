"""Amounts as docker's command line spells them (rule R5)."""

from __future__ import annotations

import pytest

from assembler.cli.limits import (
    archive_limits_of,
    cgroup_parent_of,
    limits_of,
    resources_of,
    shared_memory_of,
)
from assembler.environment import Environment
from assembler.errors import UsageError
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.linux.resources import Resources
from assembler.plan.steps import Limit


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", 64 << 20),
        ("100", 100),
        ("64m", 64 << 20),
        ("64MB", 64 << 20),
        ("1GiB", 1 << 30),
        ("1.5g", 3 << 29),
        ("2 k", 2048),
    ],
)
def test_R5_sizes(text: str, size: int) -> None:
    assert shared_memory_of(text) == size


@pytest.mark.parametrize("text", ["m", "-1", "0", "1x", "64m m", "٣"])
def test_R5_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="--shm-size"):
        shared_memory_of(text)


def test_R5_limits_and_the_last_of_one_name_wins() -> None:
    words = ("nofile=1024:2048", "core=-1", "nofile=7", "stack=5:-1")
    assert limits_of(words) == (Limit("nofile", 7, 7), Limit("core", -1, -1), Limit("stack", 5, -1))


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("nofil=1", "invalid ulimit type: nofil (did you mean nofile?)"),
        ("nofile", "not an amount"),
        ("nofile=", "not an amount"),
        ("nofile=x", "not an amount"),
        ("nofile=1:x", "not an amount"),
        ("nofile=5:4", "5 > 4"),
        ("nofile=-1:4", "-1 > 4"),
        ("nofile=9999999999999999999", "not an amount"),
    ],
)
def test_R5_what_is_no_limit(word: str, problem: str) -> None:
    with pytest.raises(UsageError) as raised:
        limits_of((word,))
    assert problem in raised.value.message


def test_R5_resources_are_those_of_buildx() -> None:
    words = (
        "memory=2g", "memory-swap=4g", "cpu-shares=1024", "cpu-period=100000",
        "cpu-quota=50000", "cpuset-cpus=0-3", "cpuset-mems=0,1",
    )  # fmt: skip
    assert resources_of(words) == Resources(
        memory=2 << 30,
        memory_swap=4 << 30,
        cpu_shares=1024,
        cpu_period=100_000,
        cpu_quota=50_000,
        cpuset_cpus="0-3",
        cpuset_mems="0,1",
    )
    assert resources_of(()) == Resources()


def test_R5_what_is_no_resource_limit_and_the_last_of_one_key_wins() -> None:
    assert resources_of(("memory=0", "cpu-quota=-1", "cpu-shares=0", "cpuset-cpus=")) == Resources()
    assert resources_of(("memory=1g", " memory = 64M ")).memory == 64 << 20
    assert resources_of(("memory=1g", "memory-swap=-1")).memory_swap == -1


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("memory", 'invalid resource "memory", expected key=value'),
        ("bogus=1", 'unknown resource "bogus"'),
        ("memry=1g", 'unknown resource "memry" (did you mean memory?)'),
        ("=1", 'unknown resource ""'),
        ("memory=lots", 'invalid value "lots" for resource memory'),
        ("memory=-1", 'invalid value "-1" for resource memory'),
        ("memory=", 'invalid value "" for resource memory'),
        ("memory=1m", "the least that a process can be given is 6m"),
        ("memory-swap=1g", "it needs memory as well"),
        ("cpu-shares=many", 'invalid value "many" for resource cpu-shares'),
        ("cpu-shares=1.5", 'invalid value "1.5" for resource cpu-shares'),
        ("cpu-quota=--1", 'invalid value "--1" for resource cpu-quota'),
        ("cpu-quota=5", "it must be at least 1000 microseconds"),
        ("cpu-period=5", "it must be between 1000 and 1000000 microseconds"),
        ("cpu-period=1000001", "it must be between 1000 and 1000000 microseconds"),
        ("cpuset-cpus=a", 'invalid value "a" for resource cpuset-cpus'),
        ("cpuset-cpus=0-", 'invalid value "0-" for resource cpuset-cpus'),
        ("cpuset-mems=0,,1", 'invalid value "0,,1" for resource cpuset-mems'),
    ],
)
def test_R5_what_is_no_resource(word: str, problem: str) -> None:
    with pytest.raises(UsageError) as raised:
        resources_of((word,))
    assert problem in raised.value.message
    assert raised.value.hint


def test_R5_swap_is_counted_with_memory() -> None:
    with pytest.raises(UsageError, match="it must be at least memory"):
        resources_of(("memory=2g", "memory-swap=1g"))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", ""),
        ("/builds", "builds"),
        ("builds/a/", "builds/a"),
        ("a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice"),
        ("/a.slice/b.slice", "a.slice/b.slice"),
        ("builds.slice", "builds.slice"),
    ],
)
def test_R5_the_parent_is_named_from_the_top(text: str, path: str) -> None:
    assert cgroup_parent_of(text) == path


@pytest.mark.parametrize("text", ["/", "a/../b", "..", "a\0b"])
def test_R5_what_is_no_parent(text: str) -> None:
    with pytest.raises(UsageError, match="--cgroup-parent"):
        cgroup_parent_of(text)


def test_T15_what_layers_and_archives_may_hold_is_the_users_to_say() -> None:
    def limits(**variables: str) -> Limits:
        return archive_limits_of(Environment.read(variables))

    assert limits() == DEFAULT_LIMITS
    assert limits(ASSEMBLE_MAX_LAYER="128gb") == Limits(size=128 << 30)
    assert limits(ASSEMBLE_MAX_ENTRIES="10000000") == Limits(entries=10_000_000)
    with pytest.raises(UsageError, match="ASSEMBLE_MAX_LAYER much: not a size"):
        limits(ASSEMBLE_MAX_LAYER="much")


@pytest.mark.parametrize("text", ["-1", "1e9", "5M", "٣", "9" * 13, " "])
def test_T15_what_is_no_number_of_entries(text: str) -> None:
    with pytest.raises(UsageError, match=r"ASSEMBLE_MAX_ENTRIES .*: not a number"):
        archive_limits_of(Environment.read({"ASSEMBLE_MAX_ENTRIES": text}))
