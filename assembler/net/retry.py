"""When to try again, and for how long (reliability.md 1.2)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

RETRYABLE = frozenset({408, 425, 429, 499, 500, 502, 503, 504, 522})
LONGEST_WAIT = 300.0  # seconds; a server that asks for more is not waited for


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """At most `tries` attempts, waiting `first` × 2ⁿ seconds up to `cap`, with full jitter."""

    tries: int = 6
    first: float = 1.0
    cap: float = 30.0
    jitter: Callable[[], float] = field(default=random.random, compare=False)

    def delay(self, attempt: int, retry_after: str = "", now: float | None = None) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 0).

        `retry_after` is the header's value: seconds or a date (RFC 9110 10.2.3); nonsense and dates
        in the past are passed over.
        """
        asked = _retry_after(retry_after, time.time() if now is None else now)
        if asked is not None:
            return min(asked, LONGEST_WAIT)
        return min(self.cap, self.first * 2.0**attempt) * (0.5 + self.jitter() / 2)


def _retry_after(text: str, now: float) -> float | None:
    text = text.strip()
    if not text:
        return None
    if text.isdigit():
        return float(text[:9])
    try:
        seconds = parsedate_to_datetime(text).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None
    return seconds if seconds > 0 else None
