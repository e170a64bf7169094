"""Programs of the host that end with this process: git, credential helpers, graphviz.

A program leads a session of its own. In its process group a shell waits for the end of a socket
whose other end only this process holds: when this process ends, SIGKILL included, the shell kills
the group. PR_SET_PDEATHSIG would not do: it follows the thread that forked, is lost with setuid
programs, and says nothing to a program's own children. What a program moves to another group, as
gpg does its agent, is meant to stay.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from assembler.cancellation import Cancellation

GRACE = 3.0  # seconds from SIGTERM to SIGKILL
_CHUNK = 1 << 16
_MOST_SAID = 64 << 10
_ABOVE = 10  # a shell names only descriptors of one digit
# An asynchronous list reads /dev/null unless it is told otherwise (POSIX sh 2.9.3): hence 3.
_WATCHED = (
    "exec 3<&0; (trap '' HUP INT TERM; read -r _; kill -KILL 0) <&3 >/dev/null 2>&1 & "
    'exec 3<&-; exec "$@" <"$0"'
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its status (-N after signal N), its stdout, the end of its stderr."""

    status: int
    output: bytes = field(repr=False)
    said: bytes = field(repr=False)


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    content: bytes = b"",
    cancellation: Cancellation,
    silence: float | None = None,
    seconds: float | None = None,
    most: int = 16 << 20,
) -> Ended:
    """Run `argv`, looked up in the PATH of `env`, with `content` as its stdin.

    Raises FileNotFoundError; TimeoutError after `seconds`, or when it says nothing for `silence`
    seconds; OverflowError for more than `most` bytes of output; Cancelled. No process of its group
    is left then: SIGTERM comes first, so that it removes its lock files.
    """
    if shutil.which(argv[0], path=env.get("PATH", os.defpath)) is None:
        raise FileNotFoundError(argv[0])
    with ExitStack() as stack:
        alive, held = socket.socketpair()
        stack.enter_context(held)
        with alive:
            process = _started(argv, env, content, alive, stack)
        stack.callback(_kill, process.pid, held)  # what it left in its group, the shell too
        ended = os.pidfd_open(process.pid)
        stack.callback(os.close, ended)
        try:
            output, said = _Watch(process, ended, cancellation, silence, seconds, most).read()
        except BaseException:
            _stop(process, ended, cancellation)
            raise
        return Ended(process.wait(), output, said)


def _started(
    argv: Sequence[str],
    env: Mapping[str, str],
    content: bytes,
    alive: socket.socket,
    stack: ExitStack,
) -> subprocess.Popen[bytes]:
    stdin = os.devnull
    passed: list[int] = []
    if content:
        memory = os.memfd_create("stdin", os.MFD_CLOEXEC)
        with os.fdopen(memory, "wb") as stream:
            stream.write(content)
            stream.flush()
            passed = [fcntl.fcntl(memory, fcntl.F_DUPFD_CLOEXEC, _ABOVE)]
        stack.callback(os.close, passed[0])
        stdin = f"/proc/self/fd/{passed[0]}"
    process = subprocess.Popen(
        ["/bin/sh", "-c", _WATCHED, stdin, *argv],
        env=env,
        stdin=alive.fileno(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=passed,
        start_new_session=True,
    )
    for said in (process.stdout, process.stderr):
        assert said is not None
        stack.callback(said.close)
    return process


class _Watch:
    """Reads what a process says until it ends; lives only inside `run`."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        ended: int,
        cancellation: Cancellation,
        silence: float | None,
        seconds: float | None,
        most: int,
    ) -> None:
        assert process.stdout is not None and process.stderr is not None
        self._output, self._said = bytearray(), bytearray()
        self._into = {
            process.stdout.fileno(): self._output,
            process.stderr.fileno(): self._said,
        }
        self._ended = ended
        self._cancellation = cancellation
        self._silence = silence
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._most = most

    def read(self) -> tuple[bytes, bytes]:
        poller = select.poll()
        for descriptor in (*self._into, self._ended, self._cancellation.fileno()):
            poller.register(descriptor, select.POLLIN)
        for descriptor in self._into:
            os.set_blocking(descriptor, False)
        heard = time.monotonic()
        while True:
            ready = {descriptor for descriptor, _ in poller.poll(self._patience(heard))}
            self._cancellation.check()
            if not ready:
                raise TimeoutError
            heard = time.monotonic()
            over = self._ended in ready  # whatever it said is in the pipes by now
            for descriptor in list(self._into) if over else ready & self._into.keys():
                if not self._drain(descriptor, over):
                    poller.unregister(descriptor)
                    del self._into[descriptor]
            if over:
                return bytes(self._output), bytes(self._said)

    def _patience(self, heard: float) -> float | None:
        """Milliseconds that may pass without anything."""
        ends = [] if self._silence is None else [heard + self._silence]
        ends += [] if self._deadline is None else [self._deadline]
        return max(0.0, min(ends) - time.monotonic()) * 1000 if ends else None

    def _drain(self, descriptor: int, over: bool) -> bool:
        """Take what is there, all of it when it is `over`; False at the end."""
        into = self._into[descriptor]
        with suppress(BlockingIOError):
            while True:
                chunk = os.read(descriptor, _CHUNK)
                if not chunk:
                    return False
                into += chunk
                if into is self._said:
                    del into[:-_MOST_SAID]
                elif len(into) > self._most:
                    raise OverflowError
                if not over:
                    break
        return True


def _stop(process: subprocess.Popen[bytes], ended: int, cancellation: Cancellation) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    poller = select.poll()
    poller.register(ended, select.POLLIN)
    poller.register(cancellation.urgent_fileno(), select.POLLIN)
    poller.poll(GRACE * 1000)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _kill(group: int, shell: socket.socket) -> None:
    """Kill what is left of `group`, and wait until its shell's end of the socket is closed."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    poller = select.poll()
    poller.register(shell, select.POLLIN)
    poller.poll(GRACE * 1000)
