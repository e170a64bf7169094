"""Bounds that a busy machine does not move."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def watchdog(seconds: float = 60.0) -> Iterator[None]:
    """Fail the block when it waits for what never comes: the seconds are no measure of speed. In the
    main thread only."""

    def bark(*_: object) -> None:
        raise AssertionError("it waits for what never comes")

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def cpu_seconds(most: float) -> Iterator[None]:
    """Fail the block when this process works for longer. For what would take minutes if it looked at
    everything again for each part, and takes a small part of `most`."""
    began = time.process_time()
    yield
    assert time.process_time() - began < most
