"""A program of the host that runs outside of the namespaces that this process enters later.

docker and podman, run inside, would take themselves for root and look for root's storage and sockets.
A child that was forked before stays where the user is, and runs the program each time it is asked to.
The program leads a session of its own: signals are passed on to it.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from typing import NoReturn

from assembler.cancellation import Cancellation
from assembler.errors import HostError

GRACE = 3.0  # seconds from the end of stdin to SIGTERM, and from there to SIGKILL
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_RUN, _TERMINATE, _KILL = b"r", b"t", b"k"
_NOT_STARTED = b"!"
_MESSAGE = 512  # bytes
_CHUNK = 1 << 16
_MOST_SAID = 4096
_PIPE = 1 << 20  # bytes in a pipe, where the kernel lets a user have that


class Over(Exception):
    """The program has ended, or reads no more."""


class Outside:
    """Runs `argv` with the environment `env`, as often as asked, one at a time. Use it with `with`,
    around all threads and namespaces; no process is left when that ends, or this one does."""

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], cancellation: Cancellation
    ) -> None:
        self.argv = tuple(argv)
        self._env = dict(env)
        self._cancellation = cancellation
        self._stack = ExitStack()
        self._turn = threading.Lock()

    def __enter__(self) -> Outside:
        self._child, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # its handlers are ours yet
            try:
                pid = os.fork()
                if pid == 0:
                    self._child.close()
                    _serve(theirs, self.argv, self._env, mask)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._stack.callback(os.waitpid, pid, 0)
        self._stack.callback(self._leave)
        return self

    def _leave(self) -> None:
        with self._child, suppress(OSError):  # others may have been forked with this end of it
            self._child.shutdown(socket.SHUT_RDWR)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def running(self) -> Iterator[Running]:
        """The program, begun; ended with the block, unless it has."""
        with self._turn, ExitStack() as stack:
            stdin, writer = _pipe(stack)
            said, output = _pipe(stack)
            with suppress(OSError):
                fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE)
            with suppress(ConnectionError):  # the child is gone, and says nothing
                socket.send_fds(self._child, [_RUN], [stdin.fileno(), output.fileno()])
            stdin.close()
            output.close()
            running = Running(self.argv[0], self._child, writer, said, self._cancellation)
            stack.callback(running.end)
            yield running


class Running:
    """A program that runs: `writer` leads to its stdin, what it says comes from `said`, and `child`
    tells how it ended. Lives only inside `Outside.running`."""

    def __init__(
        self,
        name: str,
        child: socket.socket,
        writer: FileIO,
        said: FileIO,
        cancellation: Cancellation,
    ) -> None:
        self._name = name
        self._child = child
        self._writer = writer
        self._said = said
        self._cancellation = cancellation
        self._words = bytearray()
        self._status: bytes | None = None
        self._poller = select.poll()
        for one in (child, said, cancellation):
            self._poller.register(one, select.POLLIN)
        os.set_blocking(writer.fileno(), False)
        os.set_blocking(said.fileno(), False)

    def write(self, piece: memoryview) -> int:
        """How many bytes of `piece` its stdin took. Raises Over, Cancelled."""
        while True:
            try:
                return os.write(self._writer.fileno(), piece[:_PIPE])
            except BlockingIOError:
                self._wait(writing=True)
            except BrokenPipeError as error:
                raise Over from error

    def finish(self) -> tuple[int, str]:
        """Its exit status, -N after signal N, and the end of what it said, once it has ended. Raises
        HostError where it was not started, Cancelled."""
        self._writer.close()
        with suppress(Over):
            while self._status is None:
                self._wait(writing=False)
        self._hear()  # who holds the pipe's other end may stay: a podman leaves a process
        status = self._status or b""
        if not status or status.startswith(_NOT_STARTED):
            why = status[1:].decode(errors="replace") or "whoever was to do that was killed"
            raise HostError(f"{self._name} could not be run: {why}", self._name)
        return int(status), self._words.decode(errors="replace")

    def end(self) -> None:
        """End it, unless it has ended: by the end of its stdin, at which podman removes its temporary
        files, then by SIGTERM and SIGKILL."""
        self._writer.close()
        if self._status is None:
            poller = select.poll()
            poller.register(self._child, select.POLLIN)
            poller.register(self._cancellation.urgent_fileno(), select.POLLIN)
            with suppress(ConnectionError):
                for order in (_TERMINATE, _KILL):
                    poller.poll(GRACE * 1000)
                    self._child.send(order)
            self._status = self._answer()

    def _wait(self, *, writing: bool) -> None:
        """Wait until something can be done, and hear what it says. Raises Over when it has ended."""
        if writing:
            self._poller.register(self._writer, select.POLLOUT)
        ready = {descriptor for descriptor, _ in self._poller.poll()}
        if writing:
            self._poller.unregister(self._writer)
        self._cancellation.check()
        if self._said.fileno() in ready and not self._hear():
            self._poller.unregister(self._said)
        if self._child.fileno() in ready:
            self._status = self._answer()
            raise Over

    def _answer(self) -> bytes:
        """How it ended, as the child says; empty where that is gone."""
        try:
            return self._child.recv(_MESSAGE)
        except ConnectionError:
            return b""

    def _hear(self) -> bool:
        """Take what it has said; False at the end of that."""
        while chunk := self._said.read(_CHUNK):
            self._words += chunk
            del self._words[:-_MOST_SAID]
        return chunk is None


def _pipe(stack: ExitStack) -> tuple[FileIO, FileIO]:
    """The two ends of a pipe, closed with `stack`."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    return (
        stack.enter_context(FileIO(reader, "r")),
        stack.enter_context(FileIO(writer, "w")),
    )


def _serve(
    requests: socket.socket, argv: Sequence[str], env: Mapping[str, str], mask: set[int]
) -> NoReturn:
    """What the child does until its parent is gone."""
    status = 1
    try:
        for number in _SIGNALS:  # by handlers, which a program that is executed does not inherit
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, frame: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        while True:
            asked, descriptors, _, _ = socket.recv_fds(requests, _MESSAGE, 2)
            if not asked:
                break
            if len(descriptors) == 2:  # else an order for a program that has ended meanwhile
                requests.send(_run(requests, argv, env, descriptors))
        status = 0
    finally:
        os._exit(status)


def _run(
    requests: socket.socket, argv: Sequence[str], env: Mapping[str, str], streams: Sequence[int]
) -> bytes:
    """Run the program between the two `streams`; how it ended, as a message."""
    import subprocess

    stdin, output = streams
    try:
        process = subprocess.Popen(
            argv, env=env, stdin=stdin, stdout=output, stderr=output, start_new_session=True
        )
    except OSError as error:
        return _NOT_STARTED + (error.strerror or "").encode()
    finally:
        os.close(stdin)
        os.close(output)
    ended = os.pidfd_open(process.pid)
    poller = select.poll()
    poller.register(requests, select.POLLIN)
    poller.register(ended, select.POLLIN)
    patience: float | None = None
    last = b""
    while ended not in (ready := [descriptor for descriptor, _ in poller.poll(patience)]):
        order = requests.recv(1) if ready else _KILL if last else _TERMINATE
        if not order:  # whoever asked was killed, and its end of stdin closed
            poller.unregister(requests)
            patience = GRACE * 1000
            continue
        last = order
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL if order == _KILL else signal.SIGTERM)
    os.close(ended)
    if last:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left
    return b"%d" % process.wait()
