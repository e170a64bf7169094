"""Stages as threads: each waits for the stages it needs, at the step that needs them.

The only module of the engine that starts threads. A stage runs once; its result is a future. The
first failure cancels the rest, and every thread has ended before the error leaves `run`.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Generic, TypeVar

from assembler.cancellation import NOTICING, Cancellation
from assembler.errors import Cancelled

Result = TypeVar("Result")
Task = Callable[[], None]
_NICER = 10  # a tenth of the processor time that a step gets which wants all of it (sched(7))
_NICEST = 19


class Scheduler(Generic[Result]):
    """Runs `work(index)` at most once for each stage index, each in a thread of its own.

    `slots` bounds how many threads are inside `working()` at once; waiting for another stage
    holds no slot, so stages that wait for each other in a chain cannot starve.
    """

    def __init__(
        self, work: Callable[[int], Result], cancellation: Cancellation, slots: int
    ) -> None:
        self._work = work
        self._cancellation = cancellation
        self._guard = threading.Lock()
        self._futures: dict[int, Future[Result]] = {}
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._beside: threading.Thread | None = None
        self._over = False
        self.working = threading.BoundedSemaphore(slots)

    def start(self, index: int) -> Future[Result]:
        """The future of stage `index`, started now if it was not."""
        with self._guard:
            future = self._futures.get(index)
            if future is not None:
                return future
            future = self._futures[index] = Future()
            thread = threading.Thread(
                target=self._run_stage, args=(index, future), name=f"stage-{index}"
            )
            self._threads.append(thread)
            thread.start()
            return future

    def result(self, index: int) -> Result:
        """The result of stage `index`, waiting for it. Raises Cancelled where it failed."""
        future = self.start(index)
        try:
            return future.result()
        except Cancelled:
            raise
        except BaseException as error:
            raise Cancelled("a stage this one needs has failed") from error

    def beside(self, task: Task) -> None:
        """Have `task` done while stages run, after those given before it, in one thread that leaves
        the processors to steps. Its error is as one of a stage. What has not begun when all stages
        are done is left undone."""
        with self._guard:
            if self._beside is None:
                self._beside = threading.Thread(target=self._work_beside, name="beside")
                self._beside.start()
        self._tasks.put(task)

    def run(self, indexes: Iterable[int], target: int) -> Result:
        """Run the stages at `indexes` at once and return the target's result.

        Raises the first error of any stage, after all threads have ended.
        """
        try:
            for index in indexes:
                self.start(index)
            future = self.start(target)
            self._join()
        except BaseException:
            self._cancellation.cancel()
            self._join()
            raise
        if self._errors and self._cancellation.asked:
            self._cancellation.check()  # what failed then may have failed of that
        for error in self._errors:
            if not isinstance(error, Cancelled):
                raise error
        if self._errors:
            raise self._errors[0]
        return future.result()

    def _run_stage(self, index: int, future: Future[Result]) -> None:
        try:
            future.set_result(self._work(index))
        except BaseException as error:  # it travels to `run` and to every stage that waits
            self._fail(error)
            future.set_exception(error)

    def _work_beside(self) -> None:
        with suppress(OSError):  # then they share alike
            own = os.getpriority(os.PRIO_PROCESS, 0)  # of this thread, and those it starts
            os.setpriority(os.PRIO_PROCESS, 0, min(own + _NICER, _NICEST))
        while (task := self._tasks.get()) is not None and not self._over:
            try:
                task()
            except BaseException as error:  # it travels to `run`
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._errors.append(error)
        self._cancellation.cancel()

    def _join(self) -> None:
        while True:
            with self._guard:
                alive = [thread for thread in self._threads if thread.is_alive()]
            if not alive:
                break
            for thread in alive:
                thread.join(NOTICING)
        self._over = True
        self._tasks.put(None)
        while self._beside is not None and self._beside.is_alive():
            self._beside.join(NOTICING)
