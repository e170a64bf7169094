"""How long is waited, and for what."""

from __future__ import annotations

import pytest

from assembler.net.origin import Origin, is_inside, is_loopback
from assembler.net.retry import LONGEST_WAIT, RetryPolicy


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
        ("garbage", 1.0),
        ("", 1.0),
    ],
)
def test_R5_retry_after_is_heeded_within_reason(header: str, seconds: float) -> None:
    policy = RetryPolicy(first=1.0, jitter=lambda: 1.0)
    assert policy.delay(0, header, now=10.0) == seconds


def test_origins_differ_by_scheme_host_and_port() -> None:
    assert Origin.of("https://A.example/x?y") == Origin.of("https://a.example:443/z")
    assert Origin.of("http://a.example") != Origin.of("https://a.example")
    assert Origin.of("http://127.0.0.1") != Origin.of("http://localhost")
    with pytest.raises(ValueError, match="not an http URL"):
        Origin.of("file:///etc/passwd")


def test_R2_inside_addresses_are_known() -> None:
    assert is_inside("169.254.169.254") and is_inside("10.0.0.1") and is_inside("localhost")
    assert not is_inside("8.8.8.8")
    assert is_loopback("127.9.9.9") and is_loopback("[::1]") and not is_loopback("example.com")
