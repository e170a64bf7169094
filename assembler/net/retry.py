"""When to try again, and for how long (reliability.md 1.2).

Attempts are counted since something last moved on. What is plainly dead fails six times in one way and
is given up. What answers now and then is worth more: who asks with a probability of 0.3 in vain does so
six times in a row once in 1,400 requests, and a push has dozens of them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from assembler.values import field, value

RETRYABLE = frozenset({408, 425, 429, 499, 500, 502, 503, 504, 522})
TRIES = 6
LIVELY_TRIES = 12  # of who shows signs of life
LONGEST_WAIT = 300.0  # seconds that are waited for a server that asks for more
_FAR = 10**10  # seconds; what a header asks beyond is the same


@value
class RetryPolicy:
    """At most `tries` attempts, or where that is left open `TRIES` and `LIVELY_TRIES`; waiting up to
    `first` × 2ⁿ seconds but no more than `cap`, with full jitter. No attempt begins later than
    `budget` seconds after the first."""

    tries: int | None = None
    first: float = 1.0
    cap: float = 30.0
    budget: float = 900.0
    jitter: Callable[[], float] = field(default=random.random, compare=False)

    def delay(self, attempt: int, retry_after: str = "", now: float | None = None) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 0).

        `retry_after` is the header's value: seconds or a date (RFC 9110 10.2.3); nonsense and dates
        in the past are passed over.
        """
        asked = asked_for(retry_after, now)
        if asked is not None:
            return min(asked, LONGEST_WAIT)
        return min(self.cap, self.first * 2.0**attempt) * self.jitter()

    def wait(
        self,
        attempt: int,
        retry_after: str = "",
        spent: float = 0.0,
        now: float | None = None,
        *,
        lively: bool = False,
    ) -> float | None:
        """The same, None when the policy allows no further attempt: there were enough, of who is
        `lively` or not, or the budget, of which `spent` seconds are gone, ends before the server
        wants to be asked."""
        if attempt + 1 >= (self.tries or (LIVELY_TRIES if lively else TRIES)):
            return None
        seconds = self.delay(attempt, retry_after, now)
        asked = asked_for(retry_after, now) or 0.0
        return seconds if spent + max(asked, seconds) <= self.budget else None


class Attempts:
    """The attempts at one request or transfer since it last moved on; `began` is when that was. A
    `brief` one is of what can be had elsewhere: signs of life do not prolong it, and who wants to be
    asked later than in `cap` seconds is not waited for."""

    __slots__ = ("_brief", "_failed", "_policy", "_several", "_way", "began")

    def __init__(self, policy: RetryPolicy, now: float, *, brief: bool = False) -> None:
        self._policy = policy
        self._brief = brief
        self.move_on(now)

    def move_on(self, now: float) -> None:
        """Something arrived: what comes has all of its attempts again."""
        self.began = now
        self._failed, self._way, self._several = 0, "", False

    def fail(
        self, way: str, now: float, *, lively: bool = False, worth: int = 0, retry_after: str = ""
    ) -> float | None:
        """Seconds to wait after one more failure, which was of the kind `way` (empty for one that
        tells nothing); None when it was the last.

        It is lively who failed in several ways, or is known to be, and has more than the `worth`
        attempts (0: any number) that a failure as this is usually worth; a `worth` of 1 says that it
        stays.
        """
        attempt, self._failed = self._failed, self._failed + 1
        self._several = self._several or bool(attempt and way != self._way)
        self._way = way
        lively = (lively or self._several) and not self._brief
        if worth and self._failed >= worth and (worth == 1 or not lively):
            return None
        if self._brief and (asked_for(retry_after) or 0.0) > self._policy.cap:
            return None
        return self._policy.wait(attempt, retry_after, now - self.began, lively=lively)


def asked_for(retry_after: str, now: float | None = None) -> float | None:
    """Seconds until the moment that a Retry-After header names, None when it names none to come."""
    text = retry_after.strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return min(float(text[:18]), _FAR)
    try:
        when = parsedate_to_datetime(text)
        known = when.replace(tzinfo=UTC) if when.tzinfo is None else when
        seconds = known.timestamp() - (time.time() if now is None else now)
    except (ValueError, TypeError, OverflowError):
        return None
    return min(seconds, _FAR) if seconds > 0 else None


def come_back(retry_after: str, now: float | None = None) -> str:
    """When a Retry-After header wants to be asked again, for people; empty when it does not say."""
    now = time.time() if now is None else now
    asked = asked_for(retry_after, now)
    if asked is None:
        return ""
    moment = datetime.fromtimestamp(now + asked, UTC)
    days, minutes = int(asked // 86400), int(asked // 60)
    if days:
        return f"{moment:%Y-%m-%d %H:%M} UTC, in {days} d"
    left = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
    return f"{moment:%H:%M:%S} UTC, in {left if minutes else f'{int(asked)} s'}"
