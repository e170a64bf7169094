"""Jobs for several threads whose results come back in the order of the jobs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

Job = TypeVar("Job")
Result = TypeVar("Result")


class InOrder(Generic[Job, Result]):
    """Calls `work` for each job in one of `threads` threads, then `receive` with job and result, in
    the order the jobs were put and in the thread that puts them.

    One job more than there are threads may wait or be done and not received, so memory is bounded
    by what so many jobs hold. After `close` no thread is left.
    """

    def __init__(
        self,
        work: Callable[[Job], Result],
        receive: Callable[[Job, Result], None],
        threads: int,
        name: str,
    ) -> None:
        self._work = work
        self._receive = receive
        self._threads = threads
        self._name = name
        self._pool: ThreadPoolExecutor | None = None
        self._running: deque[tuple[Job, Future[Result]]] = deque()

    def put(self, job: Job) -> None:
        """Start `job`. Raises what `work` and `receive` raised for the ones before it."""
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(self._threads, self._name)
        self._running.append((job, self._pool.submit(self._work, job)))
        self._drain(self._threads + 1)

    def finish(self) -> None:
        """Wait for every job; all are received afterwards."""
        self._drain(0)

    def close(self) -> None:
        """Give up what is not received. Harmless after `finish`, and twice."""
        self._running.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _drain(self, allowed: int) -> None:
        while len(self._running) > allowed:
            job, result = self._running.popleft()
            self._receive(job, result.result())
