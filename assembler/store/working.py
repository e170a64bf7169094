"""Work that one of several builds does for all: who wants the same waits, and looks again.

    working/<digest>    locked by its owner while it works: who that is, and what it says meanwhile

A lock that can be taken is of a process that ended (flock(2)), whatever clocks and process ids say.
A file is removed only by who holds its lock, before it is let go: whoever gets the lock of a file
without a name begins anew. The first byte says whether the owner failed; then a line about it comes,
then what it says.

Nobody needs this: where no file can be made, as in a store that cannot be written, everybody works.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from assembler.cancellation import Cancellation
from assembler.errors import Cancelled
from assembler.linux.claims import taken

Tell = Callable[[bytes | str], None]
"""Shows who waits: a text is a line about who is waited for, bytes are what that one says."""

_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_BUSY, _FAILED = b" ", b"!"
_TURNS = (0.005, 0.05)  # seconds between looks at a lock: at first, and in the end
_UNSAID = 0.5  # seconds of waiting that nobody need be told of
_HEAD = 1 << 10  # bytes that the line about the owner is found in
_SAID = 1 << 20  # bytes that an owner's output may take
_LOOK = 1.0  # seconds between looks at whether the owner is stopped


class Turn:
    """This process' turn at something. `waited` says that another had its own before."""

    def __init__(self, waited: bool = False, file: int = -1) -> None:
        self.waited = waited
        self._file = file
        self._left = _SAID

    def say(self, output: bytes) -> None:
        """Show `output` to those who wait; of much, the beginning."""
        if self._file < 0 or not self._left:
            return
        piece = output[: self._left]
        self._left -= len(piece)
        try:
            os.write(self._file, piece)
        except OSError:  # a full disk: who waits sees less
            self._left = 0


class Working:
    """What builds on one store are at, in `directory`. Threads of one build are as good as
    several builds. `cancellation` ends waiting."""

    def __init__(
        self,
        directory: str,
        cancellation: Cancellation | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._cancellation = cancellation
        self._clock = clock

    @contextmanager
    def claim(
        self, name: str, tell: Tell, check: Callable[[], None] | None = None
    ) -> Iterator[Turn]:
        """This thread's turn at `name`, when no other has it; look only then whether it is done.
        `tell` shows who is waited for; `check` is called meanwhile, and may raise.

        Where an owner failed that was waited for, others try at once, not one after the other.
        Claims may be nested where all who nest do it in one order; one within itself is a mistake
        of the caller, and raises RuntimeError. Raises Cancelled.
        """
        path = os.path.join(self._directory, hashlib.sha256(name.encode()).hexdigest())
        waiting = _Waiting(self._cancellation, self._clock, tell, check)
        file = self._taken(path, waiting)
        if file < 0:
            yield Turn(waiting.waited)
            return
        try:
            yield Turn(waiting.waited, file)
        except BaseException as error:
            if not isinstance(error, Cancelled | KeyboardInterrupt):
                with suppress(OSError):
                    os.pwrite(file, _FAILED, 0)
            raise
        finally:
            _give_up(path, file)

    def _taken(self, path: str, waiting: _Waiting) -> int:
        """The file that is locked by this thread now, -1 where it works without one."""
        while True:
            try:
                file = self._opened(path)
            except OSError:
                return -1
            with ExitStack() as stack:
                stack.callback(os.close, file)
                free = taken(file)
                if not free and waiting.failed:
                    return -1
                free = free or waiting.until_free(file)
                status = os.fstat(file)
                if not (free and status.st_nlink):
                    continue
                if not status.st_size:
                    _introduce(file, self._clock())
                    stack.pop_all()
                    return file
                try:
                    os.unlink(path)  # its owner died: who waits for that one waits anew
                except OSError:
                    return -1

    def _opened(self, path: str) -> int:
        try:
            return os.open(path, _OPEN, 0o600)
        except FileNotFoundError:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            return os.open(path, _OPEN, 0o600)


class _Waiting:
    """One thread's waiting for whoever has the lock."""

    def __init__(
        self,
        cancellation: Cancellation | None,
        clock: Callable[[], float],
        tell: Tell,
        check: Callable[[], None] | None,
    ) -> None:
        self._cancellation = cancellation
        self._clock = clock
        self._tell = tell
        self._check = check
        self.waited = False
        self.failed = False
        """Whether an owner failed that was waited for."""

    def until_free(self, file: int) -> bool:
        """Wait until the owner of the open `file` ended; whether its lock is this process' now.
        Raises Cancelled."""
        self.waited = True
        owner = _Owner(file, self._clock, self._tell)
        turn, most = _TURNS
        began = time.monotonic()
        while not (free := taken(file)) and os.fstat(file).st_nlink:
            self._pause(turn)
            turn = min(turn * 1.5, most)
            if time.monotonic() - began > _UNSAID:
                owner.follow()
        self.failed = os.pread(file, 1, 0) == _FAILED
        if owner.introduced:
            owner.follow()
            if self.failed:
                owner.line("failed; trying it here")
            elif free and os.fstat(file).st_nlink:
                owner.line("is gone; going on without it")
        return free

    def _pause(self, seconds: float) -> None:
        if self._cancellation is None:
            time.sleep(seconds)
        elif self._cancellation.wait(seconds):
            self._cancellation.check()
        if self._check is not None:
            self._check()


class _Owner:
    """What `tell` is told of the owner of the open `file`."""

    def __init__(self, file: int, clock: Callable[[], float], tell: Tell) -> None:
        self._file = file
        self._clock = clock
        self._tell = tell
        self._pid = 0
        self._name = "another build"
        self._read = 0
        self._looked = 0.0
        self._stopped = False
        self.introduced = False

    def follow(self) -> None:
        """Tell who it is, once, then what it said since, and whether it is stopped."""
        if not self.introduced:
            self._introduce()
        if self.introduced:
            while piece := os.pread(self._file, 1 << 16, self._read):
                self._read += len(piece)
                self._tell(piece)
            self._look()

    def line(self, text: str) -> None:
        """Tell `text` of it."""
        self._tell(f"{self._name} {text}")

    def _introduce(self) -> None:
        head, newline, _ = os.pread(self._file, _HEAD, 0).partition(b"\n")
        if not newline:
            return  # it is just about to
        self._read = len(head) + 1
        since, within = "", False
        with suppress(ValueError, KeyError, TypeError):
            told = json.loads(head[1:])
            ago = max(0.0, self._clock() - float(told["since"]))
            since = f", which has been at it for {ago:.1f} s"
            if told["namespace"] == _namespace():
                self._pid = int(told["pid"])
                own = self._pid == os.getpid()
                within = own and told["thread"] == threading.get_ident()
                self._name = "another stage of this build" if own else f"process {self._pid}"
        if within:
            raise RuntimeError("a thread waits for itself")
        self.introduced = True
        self._tell(f"waiting for {self._name}{since}")

    def _look(self) -> None:
        now = time.monotonic()
        if not self._pid or now - self._looked < _LOOK:
            return
        self._looked = now
        before, self._stopped = self._stopped, _is_stopped(self._pid)
        if self._stopped and not before:
            self.line("is stopped (Ctrl-Z?): continue it, or end it")


def sweep(directory: str) -> None:
    """Remove the files of dead processes, and the lock with them, as far as this one may. Raises
    OSError."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    for name in names:
        path = os.path.join(directory, name)
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # gone, or of another user: nobody needs them
            continue
        if taken(file):
            _give_up(path, file)
        else:
            os.close(file)


def _introduce(file: int, now: float) -> None:
    told = {
        "pid": os.getpid(),
        "thread": threading.get_ident(),
        "namespace": _namespace(),
        "since": now,
    }
    with suppress(OSError):  # a full disk: it is locked all the same
        os.write(file, _BUSY + json.dumps(told).encode() + b"\n")


def _give_up(path: str, file: int) -> None:
    try:
        with suppress(OSError):  # whoever comes takes it for one of a dead process
            if os.fstat(file).st_nlink:  # else somebody removed the store
                os.unlink(path)
    finally:
        os.close(file)


def _namespace() -> str:
    """In which process ids mean something; empty where the kernel does not say."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _is_stopped(pid: int) -> bool:
    with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as stream:
        return stream.read().rpartition(b")")[2].split()[:1] == [b"T"]
    return False
