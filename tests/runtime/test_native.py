"""What the embedded runtime does with a sandbox that ends just when it is told to."""

from __future__ import annotations

import os
import socket

import pytest

from assembler.cancellation import Cancellation
from assembler.errors import Cancelled
from assembler.runtime import native


@pytest.mark.parametrize("hurried", [False, True])
def test_a_sandbox_that_has_just_ended_is_cancelled_all_the_same(hurried: bool) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    pidfd = os.pidfd_open(child)
    os.waitpid(child, 0)  # now there is nothing left that a signal could be sent to
    reader, writer = os.pipe()
    os.close(writer)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, Cancellation() as cancellation:
        theirs.send(b"exit 143")
        cancellation.cancel(15)
        if hurried:
            cancellation.hurry()
        with pytest.raises(Cancelled):
            native._follow(reader, ours, pidfd, lambda chunk: None, cancellation)
    os.close(reader)
    os.close(pidfd)
