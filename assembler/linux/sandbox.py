"""One RUN's sandbox: the first process of its pid namespace, which makes the root and waits.

Runs in a fork of the zygote, single-threaded; the order is rootless-runtime.md section 3. Every
mount is in this process' own mount namespace, so its death removes all of them.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from dataclasses import dataclass

from assembler.linux import syscalls
from assembler.linux.job import Job
from assembler.linux.payload import Payload, Records
from assembler.linux.root import make_root, remove_made, root_of


@dataclass(frozen=True, slots=True)
class SandboxJob:
    """`job` in namespaces of its own."""

    job: Job

    def run(self, output: int) -> int:
        """Be the first process of a sandbox, its output going to the descriptor `output`.

        Returns the payload's status. Raises SetupFailed, OSError.
        """
        return _run(self.job, output)


def _run(job: Job, output: int) -> int:
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    flags = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
    syscalls.unshare(flags | (syscalls.CLONE_NEWNET if job.private_network else 0))
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    if job.private_network:
        _loopback_up()
    socket.sethostname(job.hostname)
    payload = Payload.start(job, output)
    created = make_root(job)
    root = root_of(job.scratch)
    records = Records.open(job.upper, job.lowers)
    os.chdir(root)
    syscalls.pivot_root(".", ".")
    syscalls.umount(".", syscalls.MNT_DETACH)
    os.chdir("/")
    try:
        return payload.run(records)
    finally:
        remove_made(created, root)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        import fcntl

        fcntl.ioctl(control, 0x8914, struct.pack("16sH14s", b"lo", 0x41, b""))
