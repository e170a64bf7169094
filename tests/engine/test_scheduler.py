"""Stages as threads: they run at once, wait for each other, and fail together."""

import os
import threading
from functools import partial

import pytest

from assembler.cancellation import Cancellation
from assembler.engine.scheduler import Scheduler
from assembler.errors import Cancelled, StepError


def test_independent_stages_run_at_once() -> None:
    meeting = threading.Barrier(2, timeout=60)

    def work(index: int) -> int:
        if index < 2:
            meeting.wait()  # passes only when both branches are inside
        else:
            scheduler.result(0)
            scheduler.result(1)
        return index

    with Cancellation() as cancellation:
        scheduler = Scheduler(work, cancellation, slots=2)
        assert scheduler.run([0, 1, 2], target=2) == 2


def test_a_stage_runs_once_however_many_need_it() -> None:
    ran: list[int] = []

    def work(index: int) -> int:
        ran.append(index)
        return index if index == 0 else scheduler.result(0) + index

    with Cancellation() as cancellation:
        scheduler = Scheduler(work, cancellation, slots=1)
        assert scheduler.run([1, 2, 3], target=3) == 3
    assert sorted(ran) == [0, 1, 2, 3]


def test_the_first_error_is_raised_and_cancels_the_rest() -> None:
    def work(index: int) -> int:
        if index == 0:
            raise StepError("it broke")
        assert cancellation.wait(60), "the failure of another stage cancels this one"
        cancellation.check()
        return index

    with Cancellation() as cancellation:
        scheduler = Scheduler(work, cancellation, slots=4)
        with pytest.raises(StepError, match="it broke"):
            scheduler.run([0, 1], target=1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("stage-")]


def test_waiting_for_a_failed_stage_is_a_cancellation_not_a_second_error() -> None:
    def work(index: int) -> int:
        if index == 0:
            raise StepError("it broke")
        return scheduler.result(0)

    with Cancellation() as cancellation:
        scheduler = Scheduler(work, cancellation, slots=4)
        with pytest.raises(StepError, match="it broke"):
            scheduler.run([1], target=1)


def test_a_cancelled_build_raises_cancelled_with_the_signal() -> None:
    def work(index: int) -> int:
        cancellation.cancel(2)
        cancellation.check()
        return index

    with Cancellation() as cancellation:
        scheduler = Scheduler(work, cancellation, slots=1)
        with pytest.raises(Cancelled) as caught:
            scheduler.run([0], target=0)
    assert caught.value.signal == 2


@pytest.mark.parametrize("signal", [0, 2])
def test_what_fails_while_a_signal_ends_the_build_is_not_blamed(signal: int) -> None:
    def work(index: int) -> int:
        assert cancellation.wait(60)
        raise StepError("the sandbox is gone")

    with Cancellation() as cancellation:
        scheduler = Scheduler(work, cancellation, slots=1)
        threading.Timer(0.05, cancellation.cancel, [signal]).start()
        with pytest.raises(Cancelled if signal else StepError):
            scheduler.run([0], target=0)


def test_what_is_done_beside_stages_is_one_thing_after_the_other_at_a_lower_priority() -> None:
    done: list[int] = []
    priorities: list[int] = []
    over = threading.Event()

    def task(number: int) -> None:
        done.append(number)
        priorities.append(os.getpriority(os.PRIO_PROCESS, 0))
        if number == 2:
            over.set()

    def work(index: int) -> int:
        for number in range(3):
            scheduler.beside(partial(task, number))
        assert over.wait(60), "it is done while the stage runs"
        return os.getpriority(os.PRIO_PROCESS, 0)

    with Cancellation() as cancellation:
        scheduler = Scheduler(work, cancellation, slots=1)
        own = scheduler.run([0], target=0)
    assert done == [0, 1, 2]
    assert set(priorities) == {min(own + 10, 19)}, "as nice(2) counts: more is less"


def test_what_has_not_begun_beside_stages_when_they_are_done_is_left_undone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    begun, ended = threading.Event(), threading.Event()
    original = threading.Thread.join

    def join(thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name == "beside":  # the stages are done
            ended.set()
        original(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", join)

    def first() -> None:
        begun.set()
        ended.wait(60)
        done.append("first")

    def work(index: int) -> int:
        scheduler.beside(first)
        scheduler.beside(lambda: done.append("second"))
        assert begun.wait(60)
        return index

    with Cancellation() as cancellation:
        scheduler = Scheduler(work, cancellation, slots=1)
        scheduler.run([0], target=0)
    assert done == ["first"]
    assert not [one for one in threading.enumerate() if one.name == "beside"]


def test_an_error_beside_stages_is_as_one_of_a_stage() -> None:
    def fail() -> None:
        raise StepError("it could not be packed")

    def work(index: int) -> int:
        scheduler.beside(fail)
        assert cancellation.wait(60)
        cancellation.check()
        return index

    with Cancellation() as cancellation:
        scheduler = Scheduler(work, cancellation, slots=1)
        with pytest.raises(StepError, match="could not be packed"):
            scheduler.run([0], target=0)
