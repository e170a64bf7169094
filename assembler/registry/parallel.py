"""Transfers side by side: the first failure stops the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from assembler.cancellation import NOTICING
from assembler.errors import Cancelled

JOBS = 4  # at once: no registry is asked for more (rule R15)

Check = Callable[[], None]
"""Raises Cancelled when something else has failed."""


def all_at_once(tasks: Sequence[Callable[[Check], None]], stop: Check, jobs: int = JOBS) -> None:
    """Run `tasks` in at most `jobs` threads. After the first failure, which is raised, none begins,
    and those that run are to end where they check; so they do when `stop` raises."""
    failed = threading.Event()

    def check() -> None:
        stop()
        if failed.is_set():
            raise Cancelled("another transfer failed")

    if len(tasks) < 2 or jobs < 2:
        for task in tasks:
            task(check)
        stop()
        return
    with ThreadPoolExecutor(max_workers=min(jobs, len(tasks))) as pool:
        futures = [pool.submit(task, check) for task in tasks]
        while True:
            done, waiting = wait(futures, NOTICING, FIRST_EXCEPTION)
            errors = [error for future in done if (error := future.exception()) is not None]
            if not waiting or errors:
                break
        if errors:
            failed.set()
            for future in waiting:
                future.cancel()
            stop()
            raise next((one for one in errors if not isinstance(one, Cancelled)), errors[0])
    stop()
