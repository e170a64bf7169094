"""Directories that belong to a live process: locked for its life, swept when it died.

The lock is on the directory itself (flock(2)), so a dead owner is proved without pids or clocks.
Making one and sweeping take the parent's lock, so nobody sees a directory that is not locked yet.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from assembler.cancellation import Cancellation
from assembler.errors import AssemblerError
from assembler.linux.paths import remove_tree
from assembler.linux.replacing import unnamed
from assembler.values import value

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_TURN = 0.02  # seconds between looks at a lock that is held
_AT_ONCE = 16  # directories that are open while they are removed: any limit leaves room


@value
class Claim:
    """A directory of this process at `path`, mode 0700."""

    path: str
    lock: int

    def close(self) -> None:
        """Remove the directory and everything in it. Raises OSError for what cannot be removed,
        which is left to the next sweep."""
        try:
            remove_tree(self.path)
        finally:
            os.close(self.lock)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def claim(parent: str, prefix: str = "") -> Claim:
    """A new directory below `parent`, its name beginning with `prefix`. Raises OSError."""
    path = os.path.join(parent, f"{prefix}{unnamed()}")
    with held(parent):
        os.mkdir(path, 0o700)
        lock = os.open(path, _DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return Claim(path, lock)


def sweep(parent: str, prefix: str = "", last_act: Callable[[str], bool] | None = None) -> None:
    """Remove the directories of dead processes, as far as this one may. `last_act` is given each
    before; where it says no, the directory stays for another time."""
    seen: set[str] = set()
    while found := dead(parent, prefix, seen, _AT_ONCE):
        for one in found:
            if last_act is not None and not last_act(one.path):
                os.close(one.lock)
                continue
            with suppress(OSError):  # a dead build's step is just being killed, and writes
                one.close()


def dead(
    parent: str, prefix: str = "", seen: set[str] | None = None, most: int = 1 << 30
) -> list[Claim]:
    """The directories of dead processes: those whose lock can be taken, and now is. Nothing where
    there is no `parent`. At most `most` of those that are not in `seen`, and then are."""
    seen = set() if seen is None else seen
    if all(name in seen for name in _names(parent, prefix)):
        return []
    taken: list[Claim] = []
    with held(parent):
        for name in _names(parent, prefix):
            if name in seen or len(taken) == most:
                continue
            seen.add(name)
            one = _take(os.path.join(parent, name))
            if one is not None:
                taken.append(one)
    return taken


def discard(claims: Sequence[Claim], cancellation: Cancellation) -> None:
    """Close `claims`, whoever owns what is in them: in a fork, which enters a user namespace, where
    subordinate ids are ours. What cannot be removed even there is left. Raises Cancelled."""
    if not claims:
        return
    try:
        if threading.active_count() == 1:
            _in_a_fork(lambda: _remove(claims), cancellation)
        else:  # no namespace can be entered
            for one in claims:
                with suppress(OSError):
                    remove_tree(one.path)
    finally:
        for one in claims:
            os.close(one.lock)


def _remove(claims: Sequence[Claim]) -> None:
    from assembler.linux import userns

    with suppress(AssemblerError):
        userns.enter()
    for one in claims:
        with suppress(OSError):
            remove_tree(one.path)


def _in_a_fork(work: Callable[[], None], cancellation: Cancellation) -> None:
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    ended = os.pidfd_open(child)
    try:
        poller = select.poll()
        poller.register(ended, select.POLLIN)
        poller.register(cancellation.fileno(), select.POLLIN)
        poller.poll()
        if cancellation.cancelled:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(ended)
        os.waitpid(child, 0)
    cancellation.check()


def _names(parent: str, prefix: str = "") -> list[str]:
    try:
        return [name for name in os.listdir(parent) if name.startswith(prefix)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _take(path: str) -> Claim | None:
    try:
        lock = os.open(path, _DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None  # its owner has just removed it, or it is no directory of ours
    if taken(lock):
        return Claim(path, lock)
    os.close(lock)
    return None


def taken(descriptor: int) -> bool:
    """Whether the exclusive lock of what is open as `descriptor` was taken; nobody is waited for.
    Raises OSError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def held(directory: str, check: Callable[[], None] | None = None) -> Iterator[None]:
    """The exclusive lock of `directory`, waited for; `check` is called meanwhile and may raise.
    Raises OSError."""
    with locked(os.open(directory, _DIRECTORY), check):
        yield


@contextmanager
def sharing(directory: str, check: Callable[[], None]) -> Iterator[None]:
    """A lock of `directory` that others may have too, but none alone, which is waited for; `check` is
    called meanwhile and may raise. Raises OSError."""
    descriptor = os.open(directory, _DIRECTORY)
    try:
        while not _shared(descriptor):
            check()
            time.sleep(_TURN)
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # forks may have it open for longer
        os.close(descriptor)


def _shared(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(descriptor: int, check: Callable[[], None] | None = None) -> Iterator[None]:
    """The exclusive lock of what is open as `descriptor`, waited for as by `held`; it is closed
    afterwards."""
    try:
        if check is None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        else:
            while not taken(descriptor):
                check()
                time.sleep(_TURN)
        yield
    finally:
        os.close(descriptor)
