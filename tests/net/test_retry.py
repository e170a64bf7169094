"""How long is waited, and for what."""

from __future__ import annotations

from typing import Any

import pytest

from assembler.net.retry import (
    LIVELY_TRIES,
    LONGEST_WAIT,
    TRIES,
    Attempts,
    RetryPolicy,
    come_back,
)


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


def tried(policy: RetryPolicy, *ways: str, **how: Any) -> int:
    """How many attempts there are of what fails in these ways, again and again."""
    attempts = Attempts(policy, 0.0, brief=how.pop("brief", False))
    for number in range(1, 100):
        if attempts.fail(ways[number % len(ways)], 0.0, **how) is None:
            return number
    raise AssertionError("it never ends")


def test_R5_what_shows_no_sign_of_life_is_given_up_sooner() -> None:
    assert (TRIES, LIVELY_TRIES) == (6, 12)
    usual = RetryPolicy()
    assert tried(usual, "503") == tried(usual, "") == TRIES
    assert tried(usual, "503", lively=True) == LIVELY_TRIES, "it has answered well before"
    assert tried(usual, "503", "the connection broke") == LIVELY_TRIES, "it fails in several ways"
    assert tried(usual, "503", "500", lively=True, brief=True) == TRIES, "another one may have it"


def test_R5_who_wants_to_be_asked_later_is_not_waited_for_where_another_one_may_have_it() -> None:
    policy = RetryPolicy(cap=30)
    assert Attempts(policy, 0.0).fail("429", 0.0, retry_after="60") == 60
    assert Attempts(policy, 0.0, brief=True).fail("429", 0.0, retry_after="60") is None
    assert Attempts(policy, 0.0, brief=True).fail("429", 0.0, retry_after="20") == 20


def test_R5_what_is_mostly_in_vain_is_not_tried_so_often() -> None:
    usual = RetryPolicy()
    assert tried(usual, "", worth=3) == 3
    assert tried(usual, "", worth=3, lively=True) == LIVELY_TRIES, "it is started anew, maybe"
    assert tried(usual, "", worth=1, lively=True) == 1, "a certificate stays as it is"


def test_R5_who_says_how_often_is_taken_at_their_word() -> None:
    for tries in (1, 3, 20):
        said = RetryPolicy(tries=tries)
        assert tried(said, "503") == tried(said, "503", "500", lively=True) == tries
    assert tried(RetryPolicy(tries=20), "", worth=3) == 3


def test_R5_what_moves_on_has_all_of_its_attempts_and_time_again() -> None:
    attempts = Attempts(RetryPolicy(budget=100, jitter=lambda: 1.0), 0.0)
    assert [attempts.fail("503", 10.0 * n) for n in range(4)] == [1, 2, 4, 8]
    attempts.move_on(90.0)
    assert [attempts.fail("503", 90.0 + 10 * n) for n in range(6)] == [1, 2, 4, 8, 16, None]
    attempts.move_on(150.0)
    assert attempts.fail("503", 249.5) is None, "the budget is over"


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
