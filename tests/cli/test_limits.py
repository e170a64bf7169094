"""Amounts as docker's command line spells them (rule R5)."""

from __future__ import annotations

import pytest

from assembler.cli.limits import limits_of, shared_memory_of, timeout_of
from assembler.errors import UsageError
from assembler.runtime.base import Limit


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


def test_a_timeout_is_a_duration() -> None:
    assert timeout_of("") is None
    assert timeout_of("1h30m") == 5400
    assert timeout_of("250ms") == 0.25
    for text in ("0s", "-1s", "soon", "10"):
        with pytest.raises(UsageError, match="--timeout"):
            timeout_of(text)
