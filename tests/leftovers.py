"""What tests may not leave behind in their process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fail when a thread that the block started still runs, or what it opened is open. What was there
    before may end meanwhile: threads of earlier tests, files that the collector has not come to."""
    threads, opened = set(threading.enumerate()), descriptors()
    yield
    assert not set(threading.enumerate()) - threads
    assert not descriptors() - opened


def descriptors() -> set[tuple[str, str]]:
    """The open descriptors of this process, and of what they are."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return found
