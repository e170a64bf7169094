"""How old things are, in a few letters."""

from __future__ import annotations

import pytest

from assembler.ages import age, duration, origin, since


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.9, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (86399, "23 h"),
        (400 * 86400, "400 d"),
    ],
)
def test_an_age_is_in_the_largest_unit(seconds: float, text: str) -> None:
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0s"), (59.9, "59.9s"), (185, "3m 5s"), (3725, "1h 2m")]
)
def test_a_duration_is_as_buildx_shows_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_where_nothing_is_known_nothing_is_said() -> None:
    assert origin("", 5.0) == ""
    assert origin("local", since(0.0, 10.0)) == "local"


def test_what_ran_later_than_now_is_not_older_than_that() -> None:
    assert origin("local", since(11.0, 10.0)) == "local, 0 s old"
    assert origin("local", since(5.0, 10.0)) == "local, 5 s old"
