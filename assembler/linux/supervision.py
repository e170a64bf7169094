"""Whether processes can be supervised in this user namespace, and so how steps keep owners."""

from __future__ import annotations

import os
import resource

from assembler.linux import syscalls
from assembler.linux.caller_credentials import MOST_KNOWN
from assembler.linux.mounts import FileSystem
from assembler.linux.owner_filter import RLIMIT_LOCKS, Ownership, program


def kept_here(*, single: bool) -> Ownership:
    """How steps keep owners in this user namespace, `single` for one of one id (see `available`)."""
    if not single:
        return Ownership.MAPPED
    return Ownership.SUPERVISED if available() else Ownership.IGNORED


def available() -> bool:
    """Whether processes can be supervised here: a listener can be made, and a namespace's first
    process has a /proc of its own to look at the others. Asked in a child, inside the user
    namespace that the sandboxes will be in."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    status = 1
    try:
        syscalls.unshare(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS)
        grandchild = os.fork()
        if grandchild:
            status = os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1])
        else:
            FileSystem("proc", "/proc").execute()
            syscalls.seccomp_listener(program(syscalls.machine(), Ownership.MAPPED))
            _, most = resource.getrlimit(RLIMIT_LOCKS)
            status = int(0 <= most < MOST_KNOWN)  # no room for credentials
    except (OSError, KeyError):
        status = 1
    finally:
        os._exit(status)
