"""The way into cgroups, for a process of one thread and those it forks."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence

from assembler.linux import syscalls

MOST = 5
"""Four hierarchies of version 1, one for each controller, and the one of version 2."""


def fork_into(entrances: Sequence[int]) -> tuple[int, list[int]]:
    """`syscalls.fork`, the child being born in the group of version 2 among `entrances`, if there is
    one and the kernel can. The child has to `enter` what is returned besides."""
    for entrance in entrances:
        if stat.S_ISDIR(os.fstat(entrance).st_mode):
            try:
                pid = syscalls.fork_into(entrance)
            except OSError:  # clone3 is filtered, or may not: writing tells which
                break
            if pid == 0:
                os.close(entrance)
            return pid, [one for one in entrances if one != entrance]
    return syscalls.fork(), list(entrances)


def enter(entrances: Iterable[int]) -> None:
    """Move this process, which must have one thread, into groups, and close the descriptors.
    Raises OSError."""
    for entrance in entrances:
        if stat.S_ISDIR(os.fstat(entrance).st_mode):
            procs = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=entrance)
            os.close(entrance)
            entrance = procs
        os.write(entrance, b"0")
        os.close(entrance)
