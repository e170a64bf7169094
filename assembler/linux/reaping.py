"""Ending everything a step started, where there is no pid namespace that would (prctl(2),
PR_SET_CHILD_SUBREAPER): orphans come to the subreaper, whatever sessions they made."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Container

from assembler.linux import syscalls


def adopt() -> None:
    """Become the parent of every orphan below this process."""
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)


def children() -> list[int]:
    """The processes whose parent is this (single-threaded) process, dead ones among them."""
    with open("/proc/thread-self/children", encoding="ascii") as stream:
        return [int(word) for word in stream.read().split()]


def kill_children(spared: Container[int] = ()) -> bool:
    """Send SIGKILL to every child not in `spared`; whether there was one."""
    found = False
    for pid in children():
        if pid not in spared:
            found = True
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    return found


def end_children(spared: Container[int] = ()) -> None:
    """Kill and reap until no child but those `spared` is left: each that dies hands its own children
    over."""
    while kill_children(spared):
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)
