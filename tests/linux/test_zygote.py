"""What forks the sandboxes outlives a job that cannot be begun."""

from __future__ import annotations

import os
import socket
from typing import Any

from assembler.linux import zygote


class Unreadable:
    """A job that no process can be made of."""

    def __reduce__(self) -> Any:
        return int, ("no number",)

    def run(self, output: int) -> int:
        raise NotImplementedError


class Said:
    """A job that says `well`."""

    def run(self, output: int) -> int:
        os.write(output, b"well")
        return 7


def told(forks: zygote.Zygote, job: zygote.Work) -> tuple[bytes, bytes]:
    """The last reply to a job, and its output."""
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            forks.submit(job, theirs, writer)
        os.close(writer)
        message, pidfd = zygote.receive_pidfd(ours)
        if pidfd >= 0:
            os.close(pidfd)
            message = ours.recv(100)
    with os.fdopen(reader, "rb") as stream:
        return message, stream.read()


def test_a_job_that_cannot_be_begun_is_told_and_ends_no_other() -> None:
    forks = zygote.start(isolated=False)
    try:
        assert told(forks, Unreadable())[0].startswith(b"failed invalid literal")
        assert told(forks, Said()) == (b"exit 7", b"well")
    finally:
        forks.close()
