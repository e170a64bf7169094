"""Go's durations (rule K12)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembler.dockerfile.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("5m", 300_000_000_000),
        ("1h2m3.5s", 3_723_500_000_000),
        (".5s", 500_000_000),
        ("5.s", 5_000_000_000),
        ("100us", 100_000),
        ("1µs1μs", 2_000),
        ("1.0000000001s", 1_000_000_000),
        ("-1ms", -1_000_000),
        ("+3ns", 3),
        ("9223372036854775807ns", (1 << 63) - 1),
        ("0" * 5000 + "1s" + "0" * 5000 + ".5s", 1_500_000_000),
    ],
)
def test_K12_durations(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'time: invalid duration ""'),
        ("x", 'time: invalid duration "x"'),
        (".s", 'time: invalid duration ".s"'),
        ("5", 'time: missing unit in duration "5"'),
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        ("9223372036854775808ns", 'time: invalid duration "9223372036854775808ns"'),
        ("9999999h", 'time: invalid duration "9999999h"'),
        ("9" * 5000 + "s", "time: invalid duration"),
    ],
)
def test_K12_bad_durations(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="time: ") as caught:
        parse_duration(text)
    assert str(caught.value).startswith(message)


@given(st.text("0123456789.hmsnuµ+-", max_size=12))
def test_K12_only_value_errors(text: str) -> None:
    try:
        parse_duration(text)
    except ValueError as error:
        assert str(error).startswith("time: ")
