"""The wish to stop: who asked first, and how work begins again."""

from __future__ import annotations

import select
import signal

import pytest

from assembler.cancellation import Cancellation
from assembler.errors import Cancelled, TimedOut
from tests.leftovers import nothing_left


def test_work_begins_again_after_a_failed_step_has_stopped_it() -> None:
    with Cancellation() as cancellation:
        cancellation.cancel()
        cancellation.renew()
        cancellation.check()
        assert select.select([cancellation], [], [], 0) == ([], [], [])
        cancellation.cancel(signal.SIGTERM)
        assert cancellation.asked and select.select([cancellation], [], [], 0)[0]


@pytest.mark.parametrize("first", [True, False])
def test_a_signal_beside_a_failed_step_is_not_lost(first: bool) -> None:
    with Cancellation() as cancellation:
        for number in (signal.SIGINT, 0) if first else (0, signal.SIGINT):
            cancellation.cancel(number)
        with pytest.raises(Cancelled) as caught:
            cancellation.renew()
        assert caught.value.signal == signal.SIGINT and cancellation.cancelled


def test_the_end_of_the_time_beside_a_failed_step_is_not_lost() -> None:
    with Cancellation() as cancellation:
        cancellation.cancel()
        cancellation.expire(5, "push")
        with pytest.raises(TimedOut, match="the push took longer than 5 s"):
            cancellation.renew()


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_what_nobody_needs_ends_with_its_time_or_with_the_rest(seconds: float) -> None:
    with Cancellation() as cancellation, cancellation.within(seconds) as limit:
        if seconds:
            cancellation.cancel()
        assert limit.wait(30)
        assert select.select([limit], [], [], 30)[0]
        assert cancellation.cancelled == bool(seconds), "its end is not that of the rest"


def test_what_ends_in_time_leaves_no_thread() -> None:
    with nothing_left(), Cancellation() as cancellation, cancellation.within(60) as limit:
        assert not limit.cancelled
