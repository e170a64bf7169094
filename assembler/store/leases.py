"""What live commands use of the store, so that nobody collects it under their hands.

    leases/<uuid>   locked by its owner for life; a line for each thing it uses, a path in the store
    gc.lock         shared while a line is added, exclusive while it is decided what goes

A line is added *before* its user looks whether the thing is there. So either the collector has seen
the line, or the user sees that the thing is gone. A lease whose lock can be taken is of a process
that ended, whatever clocks and process ids say.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from assembler.errors import StoreUnusable
from assembler.linux.claims import locked, taken
from assembler.linux.replacing import unnamed
from assembler.store import uses
from assembler.store.disk import is_exhausted, is_refused, mount_point, unusable

_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
_TURN = 0.005  # seconds between looks at a lock that is held for moments


class Lease:
    """This process' lease on the store at `directory`, made when something is used. `check` is
    called while a collector decides, and may raise. Threads share it."""

    def __init__(self, directory: str, check: Callable[[], None] = lambda: None) -> None:
        self._directory = directory
        self._check = check
        self._guard = threading.Lock()
        self._items: set[str] = set()
        self._gate = self._file = -1
        self._path = ""
        self._noted = True

    def look_only(self) -> None:
        """To look what there is is not to use it: nothing of it is noted in the end."""
        self._noted = False

    def hold(self, *items: str) -> None:
        """Keep `items`, paths in the store, until this is closed; look only then whether they are
        there. Raises OSError, StoreUnusable."""
        if self._items.issuperset(items):
            return
        with self._guard:
            new = [item for item in items if item not in self._items]
            try:
                if new:
                    self._note(new)
            except OSError as error:
                if not is_refused(error):
                    raise
                # where nobody can write, nobody collects; who only looks may find something gone
                if error.errno != errno.EROFS and self._noted:
                    raise unusable(error, self._directory) from error
            self._items.update(new)

    def _note(self, items: Sequence[str]) -> None:
        text = "".join(f"{item}\n" for item in items)
        with self._gate_held():
            if self._file < 0:
                self._make()
            rest = memoryview(text.encode("utf-8", "surrogateescape"))
            while rest:
                rest = rest[os.write(self._file, rest) :]

    @contextmanager
    def _gate_held(self) -> Iterator[None]:
        if self._gate < 0:
            self._gate = os.open(os.path.join(self._directory, "gc.lock"), _OPEN, 0o600)
        _wait_for(self._gate, fcntl.LOCK_SH, self._check)
        try:
            yield
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    def _make(self) -> None:
        """The gate is held: nobody takes the file for one of a dead process before it is locked."""
        leases = os.path.join(self._directory, "leases")
        os.makedirs(leases, mode=0o700, exist_ok=True)
        self._path = os.path.join(leases, unnamed())
        self._file = os.open(self._path, _OPEN | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        other = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if not taken(other):
                return
        finally:
            os.close(other)
        raise StoreUnusable(
            f"locks have no effect on the file system {mount_point(self._path)}",
            self._path,
            hint="set ASSEMBLE_STORE to a local directory",
        )

    def close(self) -> None:
        """Give everything back; that it was used is noted, unless `look_only` was called."""
        with self._guard:
            if self._file >= 0:
                with suppress(OSError):  # swept by another, or the disk is full: so it is not noted
                    if self._noted:
                        os.utime(self._file)  # so far it was the time of what was noted last
                        _end(self._directory, self._path)
                    else:
                        os.unlink(self._path)
                os.close(self._file)
                self._file = -1
            if self._gate >= 0:
                os.close(self._gate)
                self._gate = -1
            self._items = set()


@contextmanager
def collecting(directory: str, check: Callable[[], None] = lambda: None) -> Iterator[set[str]]:
    """What live processes use of the store; no more is used until the block ends. Raises OSError,
    StoreUnusable."""
    try:
        gate = os.open(os.path.join(directory, "gc.lock"), _OPEN, 0o600)
    except PermissionError as error:
        raise unusable(error, directory) from error
    with locked(gate, check):
        _sweep(directory)
        yield {line for path in _paths(directory) for line in _lines(path)}


def sweep(directory: str) -> None:
    """Take leases of dead processes away, unless another command is about to, or this one may not.
    Raises OSError."""
    if not _paths(directory):
        return
    try:
        gate = os.open(os.path.join(directory, "gc.lock"), _OPEN, 0o600)
    except OSError as error:
        if is_refused(error):
            return
        raise
    try:
        if taken(gate):
            _sweep(directory)
    finally:
        os.close(gate)


def used(directory: str) -> set[str]:
    """What live processes use at the moment, for whoever only shows it."""
    return {line for path in _paths(directory) for line in _lines(path)}


def _sweep(directory: str) -> None:
    for path in _paths(directory):
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if taken(file):
                _end(directory, path)
        finally:
            os.close(file)


def _end(directory: str, path: str) -> None:
    """A lease becomes a note of what was used; where the disk has no room for one, as it may be when
    `prune` is to make some, nothing is noted. Raises OSError."""
    notes = os.path.join(directory, "uses")
    note = os.path.join(notes, os.path.basename(path))
    try:
        try:
            os.rename(path, note)
        except FileNotFoundError:
            os.makedirs(notes, mode=0o700, exist_ok=True)
            with suppress(FileNotFoundError):
                os.rename(path, note)
        uses.compact(notes, time.time())
    except OSError as error:
        if not is_exhausted(error):
            raise
        with suppress(FileNotFoundError):
            os.unlink(path)


def _paths(directory: str) -> list[str]:
    leases = os.path.join(directory, "leases")
    try:
        return [os.path.join(leases, name) for name in os.listdir(leases)]
    except FileNotFoundError:
        return []


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read().splitlines()
    except FileNotFoundError:
        return []


def _wait_for(descriptor: int, operation: int, check: Callable[[], None]) -> None:
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            check()
            time.sleep(_TURN)
        else:
            return
