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
from typing import NamedTuple

from assembler.linux import reaping, syscalls
from assembler.linux.job import Job, Setting, SetupFailed
from assembler.linux.payload import Payload, Records
from assembler.linux.root import make_root, prepare_root, remove_made, root_of


class SandboxJob(NamedTuple):
    """`job` in namespaces of its own."""

    job: Job

    def run(self, output: int) -> int:
        """Be the first process of a sandbox, its output going to the descriptor `output`.

        Returns the payload's status. Raises SetupFailed, OSError.
        """
        return self.preparation.make().run(self, output)

    @property
    def preparation(self) -> Preparation:
        """What it has in common with other jobs."""
        return Preparation(self.job.setting)


class Preparation(NamedTuple):
    """A sandbox without a step: what is the same for all that have `setting`."""

    setting: Setting

    def make(self) -> Sandbox:
        """Make this process the first one of such a sandbox. Raises SetupFailed, OSError."""
        setting = self.setting
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        flags = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
        syscalls.unshare(flags | (syscalls.CLONE_NEWNET if setting.private_network else 0))
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        if setting.private_network:
            _loopback_up()
        try:
            socket.sethostname(setting.hostname)
        except OSError as error:
            raise SetupFailed(f"hostname {setting.hostname}: {error.strerror}") from error
        payload = Payload.start(setting)
        prepare_root(setting)
        return Sandbox(payload)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox that waits for its step."""

    payload: Payload

    def run(self, work: SandboxJob, output: int) -> int:
        """See `SandboxJob.run`; once only, for a job of the setting it was made for."""
        job = work.job
        created = make_root(job)
        records = Records.open(job.upper, job.lowers)
        os.chdir(root_of(job.scratch))
        syscalls.pivot_root(".", ".")
        syscalls.umount(".", syscalls.MNT_DETACH)
        os.chdir("/")
        serving: list[int] = []
        if job.program and _own_proc():
            serving = [pid for pid in reaping.children() if pid != self.payload.pid]
        try:
            return self.payload.run(job, output, records)
        finally:
            if serving:
                # Whoever maps a file writes its pages when it ends, to a program that must live
                # then.
                reaping.end_children(spared=serving)
            remove_made(created, mounted=True)


def _own_proc() -> bool:
    """Whether /proc tells pids as this process knows them."""
    return os.readlink("/proc/self") == str(os.getpid())


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        import fcntl

        fcntl.ioctl(control, 0x8914, struct.pack("16sH14s", b"lo", 0x41, b""))
