"""Layers taken apart in processes of their own, so that several are at once: threads would wait for
the interpreter lock.

The zygote forks one process for each, inside the user namespace. It does what `apply.unpack` does, to
the same directory and with the same errors; what the layers below have at a path it asks over a
socket, which it seldom has to. It is killed when it is not needed any more, and ends with the zygote,
so with the builder.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedRWPair
from typing import Any

from assembler.cancellation import NOTICING
from assembler.errors import HostError, causes
from assembler.layer.apply import unpack
from assembler.layer.changeset import Entry
from assembler.layer.directory import Lower
from assembler.layer.limits import Limits
from assembler.linux import zygote
from assembler.oci.digest import Digest

_LOWER, _FAILED, _DONE = range(3)


_WORTH = 256 << 10


class Apart:
    """Unpacks layers in forks of the zygote `started`. Threads share it. `least` are the bytes of a
    blob from which on that is worth a process."""

    def __init__(self, started: zygote.Zygote, least: int = _WORTH) -> None:
        self._zygote = started
        self.least = least

    def unpack(
        self,
        blob: str,
        into: str,
        *,
        diff_id: Digest,
        check: Callable[[], None],
        lower: Lower,
        limits: Limits,
    ) -> None:
        """As `apply.unpack`, of the blob at the path `blob`. `check` is called a few times a second.
        The sources of what `lower` gives must be files. Raises HostError too, where the process was
        killed; when this returns or raises, it is gone."""
        with ExitStack() as stack:
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            reply, replies = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(reply)
            try:
                job = _Unpacking(blob, into, diff_id, limits)
                self._zygote.submit(job, replies, theirs.fileno())
            except OSError as error:
                raise HostError(f"the process of steps is gone: {error}", "zygote") from error
            finally:
                theirs.close()
                replies.close()
            message, pidfd = zygote.receive_pidfd(reply)
            if pidfd < 0:
                reason = message.removeprefix(b"failed ").decode("utf-8", "replace")
                raise HostError(f"no process to unpack a layer: {reason}", "processes")
            stack.callback(os.close, pidfd)
            stack.callback(zygote.kill, pidfd)
            _follow(stack.enter_context(ours.makefile("rwb")), ours, check, lower)


def _follow(
    stream: BufferedRWPair, channel: socket.socket, check: Callable[[], None], lower: Lower
) -> None:
    poller = select.poll()
    poller.register(channel, select.POLLIN)
    while True:
        check()
        if not poller.poll(NOTICING * 1000):
            continue
        try:
            kind, content = pickle.load(stream)
            if kind == _LOWER:
                _send(stream, lower(content))
        except (EOFError, pickle.UnpicklingError, ConnectionError) as error:
            raise HostError(
                "the process that unpacked a layer was killed from outside (out of memory?)",
                "processes",
            ) from error
        if kind == _FAILED:
            raise _error(content)
        if kind == _DONE:
            return


@dataclass(frozen=True, slots=True)
class _Unpacking:
    """See `zygote.Work`; `output` is the socket."""

    blob: str
    into: str
    diff_id: Digest
    limits: Limits

    def run(self, output: int) -> int:
        gc.enable()
        with socket.socket(fileno=output) as channel, channel.makefile("rwb") as stream:

            def lower(path: str) -> Entry | None:
                _send(stream, (_LOWER, path))
                found: Entry | None = pickle.load(stream)
                return found

            try:
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
                with os.fdopen(os.open(self.blob, flags), "rb") as blob:
                    unpack(blob, self.into, diff_id=self.diff_id, lower=lower, limits=self.limits)
            except BaseException as error:
                _send(stream, (_FAILED, _told(error)))
            else:
                _send(stream, (_DONE, None))
        return 0


def _send(stream: BufferedRWPair, message: object) -> None:
    pickle.dump(message, stream)
    stream.flush()


def _told(error: BaseException) -> list[Any]:
    """`error` and its causes; exceptions are pickled by calling their classes, which take more."""
    told = []
    for cause in causes(error):
        arguments: tuple[Any, ...] = cause.args
        if isinstance(cause, OSError):
            arguments = cause.errno, cause.strerror, cause.filename
        told.append((type(cause), arguments, vars(cause)))
    return told


def _error(told: list[Any]) -> BaseException:
    kind, arguments, attributes = told[0]
    error: BaseException = kind.__new__(kind, *arguments)
    vars(error).update(attributes)
    error.__cause__ = _error(told[1:]) if told[1:] else None
    return error
