"""Directories that belong to a live process: locked for its life, swept when it died.

The lock is on the directory itself (flock(2)), so a dead owner is proved without pids or clocks.
Making one and sweeping take the parent's lock, so nobody sees a directory that is not locked yet.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from assembler.linux.paths import remove_tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Claim:
    """A directory of this process at `path`, mode 0700."""

    path: str
    lock: int

    def close(self) -> None:
        """Remove the directory and everything in it."""
        remove_tree(self.path)
        os.close(self.lock)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def claim(parent: str, prefix: str = "") -> Claim:
    """A new directory below `parent`, its name beginning with `prefix`. Raises OSError."""
    path = os.path.join(parent, f"{prefix}{uuid.uuid4().hex}")
    with held(parent):
        os.mkdir(path, 0o700)
        lock = os.open(path, _DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return Claim(path, lock)


def sweep(parent: str, prefix: str = "", last_act: Callable[[str], bool] | None = None) -> None:
    """Remove the directories of dead processes: those whose lock can be taken. `last_act` is given
    each before; where it says no, the directory stays for another time."""
    dead: list[Claim] = []
    with held(parent):
        for name in os.listdir(parent):
            if name.startswith(prefix):
                found = _take(os.path.join(parent, name))
                dead += [found] if found is not None else []
    for one in dead:
        if last_act is None or last_act(one.path):
            one.close()
        else:
            os.close(one.lock)


def _take(path: str) -> Claim | None:
    try:
        lock = os.open(path, _DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None  # its owner has just removed it, or it is no directory of ours
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return Claim(path, lock)


@contextmanager
def held(directory: str) -> Iterator[None]:
    """The exclusive lock of `directory`, waited for. Raises OSError."""
    lock = os.open(directory, _DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
