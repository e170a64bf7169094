"""How long is waited, and for what."""

from __future__ import annotations

import pytest

from assembler.net.retry import LONGEST_WAIT, RetryPolicy, come_back


def test_waiting_doubles_up_to_the_cap() -> None:
    policy = RetryPolicy(first=1.0, cap=30.0, jitter=lambda: 1.0)
    assert [policy.delay(attempt) for attempt in range(7)] == [1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("99999999999", LONGEST_WAIT),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 1.0),
        ("Thu, 01 Jan 1970 00:01:40", 90.0),
        ("Thu, 01 Jan 2099 00:00:00 GMT", LONGEST_WAIT),
        ("-7", 1.0),
        ("7.5", 1.0),
        ("٧", 1.0),
        ("garbage", 1.0),
        ("", 1.0),
    ],
)
def test_R5_retry_after_is_heeded_within_reason(header: str, seconds: float) -> None:
    policy = RetryPolicy(first=1.0, jitter=lambda: 1.0)
    assert policy.delay(0, header, now=10.0) == seconds


def test_waits_are_jittered_from_nothing_to_the_whole() -> None:
    policy = RetryPolicy(first=1.0)
    waits = [policy.delay(3) for _ in range(200)]
    assert 0 <= min(waits) < 4 < max(waits) <= 8


def test_R5_no_attempt_begins_after_the_budget() -> None:
    policy = RetryPolicy(tries=6, budget=100, jitter=lambda: 1.0)
    assert policy.wait(0, spent=98.5) == 1.0
    assert policy.wait(0, spent=99.5) is None
    assert policy.wait(5) is None
    assert policy.wait(0, "99") == 99
    assert policy.wait(0, "101") is None


def test_R5_what_is_asked_beyond_the_budget_is_not_cut_short_to_fit() -> None:
    policy = RetryPolicy(budget=400)
    assert policy.wait(0, "350") == LONGEST_WAIT
    assert policy.wait(0, "999999999999999999999") is None


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("7", "00:00:07 UTC, in 7 s"),
        ("600", "00:10:00 UTC, in 10 min"),
        ("7500", "02:05:00 UTC, in 2 h 5 min"),
        ("Sat, 10 Jan 1970 00:00:00 GMT", "1970-01-10 00:00 UTC, in 9 d"),
        ("99999999999999", "2286-11-20 17:46 UTC, in 115740 d"),
        ("yesterday", ""),
    ],
)
def test_R5_when_to_come_back(header: str, text: str) -> None:
    assert come_back(header, now=0) == text
