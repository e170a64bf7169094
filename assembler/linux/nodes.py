"""Device nodes of the host."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

_KINDS = {stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFIFO: "p"}


@dataclass(frozen=True, slots=True)
class HostNode:
    """A node: `kind` is c, b or p (then the numbers are 0), `mode` its permissions."""

    kind: str
    numbers: tuple[int, int]
    mode: int


def open_by_group(path: str) -> bool:
    """Whether a supplementary group lets this process read or write the node at `path` where others
    may not: after setgroups(2) it may not either. (Groups that are not mapped look alike.)"""
    status = os.stat(path)
    gained = status.st_mode >> 3 & 0o6 & ~status.st_mode  # the bits of R_OK and W_OK
    if not gained or status.st_uid == os.getuid() or status.st_gid == os.getgid():
        return False
    return status.st_gid in os.getgroups() and os.access(path, gained)


def host_node(path: str) -> HostNode | None:
    """The node at `path`, links followed; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    numbers = (0, 0) if kind == "p" else (os.major(status.st_rdev), os.minor(status.st_rdev))
    return HostNode(kind, numbers, stat.S_IMODE(status.st_mode))
