"""Files and directories of cgroups: written, made, removed (cgroups(7))."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from assembler.errors import HostError
from assembler.linux.hierarchies import read

_PATIENCE = 10.0  # seconds for killed processes to be gone


def write(path: str, text: str) -> None:
    """Write to a file that is there, by one write(2). Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


@contextmanager
def told(path: str, what: str) -> Iterator[None]:
    """OSErrors as a HostError about `what`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"{what} cannot be set: {path}: {reason}"
        raise HostError(message, "cgroups", hint=delegation()) from error


def delegation() -> str:
    """The line that gives a build a group of its own on a host with systemd."""
    user = "" if os.getuid() == 0 else " --user"
    return f"systemd-run{user} --scope -p Delegate=yes assemble build …"


def enabled(directory: str) -> frozenset[str]:
    """The controllers that a group of version 2 hands down."""
    try:
        return frozenset(read(directory, "cgroup.subtree_control").split())
    except OSError:
        return frozenset()


def enable(directory: str, controllers: frozenset[str]) -> None:
    """Let a group of version 2 hand down `controllers`. Raises HostError."""
    names = ", ".join(sorted(controllers))
    with told(os.path.join(directory, "cgroup.subtree_control"), names):
        for name in sorted(controllers):
            write(os.path.join(directory, "cgroup.subtree_control"), f"+{name}")


def disable(directory: str, controllers: Iterable[str]) -> None:
    """Undo `enable`, as far as nobody else needs it."""
    for name in controllers:
        with suppress(OSError):
            write(os.path.join(directory, "cgroup.subtree_control"), f"-{name}")


def inherit_cpuset(directory: str) -> None:
    """Where version 1 limits processors, a new group has none, and takes no process before it
    has."""
    if not os.path.exists(os.path.join(directory, "cpuset.cpus")):
        return
    for name in ("cpuset.cpus", "cpuset.mems"):
        path = os.path.join(directory, name)
        with told(path, "cpuset"):
            if not read(directory, name).strip():
                write(path, read(os.path.dirname(directory), name).strip())


def move_all(source: str, target: str) -> None:
    """Move every process of one group into another. Raises OSError."""
    while pids := read(source, "cgroup.procs").split():
        for pid in pids:
            with suppress(ProcessLookupError):
                write(os.path.join(target, "cgroup.procs"), pid)


def remove(path: str) -> None:
    """Remove a group and those in it; what is left in them is killed. Raises HostError."""
    try:
        below = [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for child in below:
        remove(child)
    deadline = time.monotonic() + _PATIENCE
    for attempt in itertools.count():
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise HostError(f"{path} cannot be removed: {error.strerror}", "cgroups") from error
            _kill(path)
            time.sleep(min(0.001 * 2**attempt, 0.05))
        else:
            return


def remove_empty(path: str) -> None:
    """Remove a group if others have put nothing into it. Raises OSError."""
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT):
            raise


def _kill(path: str) -> None:
    with suppress(OSError):  # version 1, or Linux before 5.14
        write(os.path.join(path, "cgroup.kill"), "1")
        return
    threaded = os.path.exists(os.path.join(path, "cgroup.threads"))  # it tells nothing else
    for word in read(path, "cgroup.threads" if threaded else "cgroup.procs").split():
        with suppress(ProcessLookupError):
            os.kill(int(word), signal.SIGKILL)
