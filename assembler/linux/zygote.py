"""A small single-threaded process that forks one sandbox per RUN (rootless-runtime.md 0.2, 1).

It is the first process of a pid namespace of its own: when it ends, for whatever reason, every
sandbox ends with it, and it ends when the process that started it does. Jobs come as a memfd with
three descriptors: the job, a reply socket, the output pipe; any others are entrances of cgroups. The
reply is the sandbox's pidfd, then a line `exit N` or `failed TEXT`; a socket that closes without one
means the sandbox was killed.

When a job says that another one like it follows, a *spare* is forked while that job runs: a process
that does what does not depend on the job, and waits. So a step starts without waiting for forks.

Where no namespace can be made it is a plain process that adopts orphans and kills them.
"""

from __future__ import annotations

import array
import gc
import os
import pickle
import select
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from assembler.linux import reaping, syscalls
from assembler.linux.entrances import MOST, enter, fork_into

_UNCONFINED = 3  # descriptors of a job that goes into no cgroup
_DESCRIPTORS = _UNCONFINED + MOST
_MESSAGE = 1 << 17  # bytes: two filters of 4096 instructions, and some names
_ONE, _MORE = b"1", b"+"


class Work(Protocol):
    """What a fork does as the first process of its pid namespace; it can be pickled."""

    def run(self, output: int) -> int:
        """Do it, output going to the descriptor `output`; the status of what was run."""
        ...


class Ready(Protocol):
    """A process that has only its job to be told."""

    def run(self, work: Any, output: int) -> int:
        """Do `work`, as its own `run` would."""
        ...


class Preparation(Protocol):
    """What jobs have in common and can be done before one is there; it can be pickled, and equal
    ones have equal pickles."""

    def make(self) -> Ready:
        """Do it, as the first process of a pid namespace."""
        ...


@dataclass(frozen=True, slots=True)
class Zygote:
    """The starting side: `control` takes jobs, `shim` is the child to wait for in the end."""

    control: socket.socket
    shim: int

    def submit(
        self,
        job: Work,
        reply: socket.socket,
        output: int,
        entrances: Sequence[int] = (),
        *,
        preparation: Preparation | None = None,
        more: bool = False,
    ) -> None:
        """Have `job` forked, in the cgroups of `entrances`; the reply comes on the other end of
        `reply`. Thread-safe: one packet. Raises OSError when the zygote is gone.

        `preparation` is the part of it that others may have in common with it, and `more` says that
        such a one will follow.
        """
        payload = os.memfd_create("job", os.MFD_CLOEXEC)
        try:
            content = memoryview(pickle.dumps(job))
            while content:
                content = content[os.write(payload, content) :]
            os.lseek(payload, 0, os.SEEK_SET)
            common = b"" if preparation is None else pickle.dumps(preparation)
            descriptors = [payload, reply.fileno(), output, *entrances]
            socket.send_fds(self.control, [_MORE if more else _ONE, common], descriptors)
        finally:
            os.close(payload)

    def close(self) -> None:
        """End the zygote and every sandbox, and wait until they are gone."""
        self.control.close()
        os.waitpid(self.shim, 0)


def start(*, isolated: bool = True) -> Zygote:
    """Fork the zygote. Call it before any thread, inside the user namespace; without one,
    `isolated` is false."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    shim = os.fork()
    if shim == 0:
        _child(lambda: _shim(theirs, isolated))
    theirs.close()
    return Zygote(ours, shim)


def _child(body: Callable[[], None]) -> None:
    status = 1
    try:
        body()
        status = 0
    finally:
        os._exit(status)


def _shim(control: socket.socket, isolated: bool) -> None:
    """The zygote's parent: it stays outside the new pid namespace, and reaps the zygote."""
    os.setsid()  # the terminal's Ctrl-C is for the main process, which then ends us
    os.chdir("/")  # a root that is moved takes a process along that is in the old one's
    os.umask(0o022)  # what is made in a root does not depend on who runs the builder
    # Steps see it; the words of the command are not theirs.
    syscalls.name_process("assemble: steps")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for kept in (32, 33):  # whoever ignores them passes that on, and Python leaves it so
        syscalls.heed(kept)
    signal.set_wakeup_fd(-1)
    keep = os.dup(control.fileno())
    _close_others(keep)
    if not isolated:
        _outlive(keep)
        return
    syscalls.unshare(syscalls.CLONE_NEWPID)
    zygote = os.fork()
    if zygote == 0:
        _child(lambda: _serve(socket.socket(fileno=keep)))
    os.close(keep)
    os.waitpid(zygote, 0)


def _outlive(control: int) -> None:
    """Have the server in a child: when it is killed, its orphans come here, and end."""
    reaping.adopt()
    server = os.fork()
    if server == 0:
        _child(lambda: _serve_plainly(socket.socket(fileno=control)))
    os.close(control)
    os.waitpid(server, 0)
    reaping.end_children()


def _close_others(keep: int) -> None:
    """Close every descriptor but the standard streams and `keep`: locks and databases of the
    main process must not live on here."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2 and descriptor != keep:
            try:
                os.close(descriptor)
            except OSError:
                continue  # the listing's own descriptor


def _serve(control: socket.socket) -> None:
    # A collection in a fork would write to every object there is, and so copy every page.
    gc.disable()
    gc.freeze()
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    poller = select.poll()
    poller.register(control, select.POLLIN)
    spares: dict[bytes, _Spare] = {}
    preparations: dict[bytes, Preparation] = {}
    while True:
        ready = poller.poll(1000)
        ended = _reaped()
        spares = {common: one for common, one in spares.items() if one.pid not in ended}
        if not ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, _MESSAGE, _DESCRIPTORS)
        if not message:
            return
        more, common = message[:1] == _MORE, message[1:]
        if common in spares and len(descriptors) == _UNCONFINED:
            spares.pop(common).take(descriptors)
        else:
            _fork_sandbox(control, own, descriptors)
        if more and common and common not in spares:
            if common not in preparations:  # as with jobs: read where no fork has to do it again
                preparations[common] = pickle.loads(common)
            with suppress(OSError):  # then the next job is forked when it comes
                spares[common] = _fork_spare(control, own, preparations[common])


@dataclass(frozen=True, slots=True)
class _Spare:
    """The first process of a pid namespace of its own, which waits at the other end of `control` for
    a job."""

    pid: int
    control: socket.socket

    def take(self, descriptors: Sequence[int]) -> None:
        """Have it do the job of a message with `descriptors`, which are closed."""
        _, reply_fd, _ = descriptors
        with socket.socket(fileno=os.dup(reply_fd)) as reply, self.control:
            pidfd = os.pidfd_open(self.pid)
            with suppress(OSError):  # it has just been killed, which is told by the reply's end
                socket.send_fds(reply, [b"p"], [pidfd])
                socket.send_fds(self.control, [_ONE], descriptors)
        for descriptor in (pidfd, *descriptors):
            os.close(descriptor)


def _fork_spare(control: socket.socket, own: int, preparation: Preparation) -> _Spare:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        syscalls.unshare(syscalls.CLONE_NEWPID)
        try:
            pid = syscalls.fork()
            if pid == 0:
                control.close()
                ours.close()
                os.close(own)
                _child(lambda: _wait_for_job(theirs, preparation))
        except OSError:
            ours.close()
            raise
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWPID)
    return _Spare(pid, ours)


def _wait_for_job(control: socket.socket, preparation: Preparation) -> None:
    problem, ready = b"", None
    try:
        ready = preparation.make()
    except Exception as error:
        problem = _failed(error)
    _, descriptors, _, _ = socket.recv_fds(control, 1, _UNCONFINED)
    control.close()
    if not descriptors:
        return
    payload, reply_fd, output = descriptors
    with socket.socket(fileno=reply_fd) as reply:
        if ready is None:
            reply.send(problem)
            return
        try:
            reply.send(b"exit %d" % ready.run(_job(payload), output))
        except BaseException as error:
            reply.send(_failed(error))


def _serve_plainly(control: socket.socket) -> None:
    """Serve without namespaces: whatever a job's first process leaves behind comes here and is
    killed. No PR_SET_PDEATHSIG: this process must outlive its parent by that much."""
    reaping.adopt()
    parent = os.getppid()
    poller = select.poll()
    poller.register(control, select.POLLIN)
    jobs: set[int] = set()
    left = False  # children of the dead, whose own are still to come
    while True:
        ready = poller.poll(20 if jobs or left else 1000)
        jobs -= _reaped()
        left = reaping.kill_children(spared=jobs)
        if os.getppid() != parent:
            break  # the shim was killed
        if not ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, 16, _DESCRIPTORS)
        if not message:
            break
        jobs |= {_fork_plainly(control, descriptors)} - {0}
    reaping.end_children()


def _fork_plainly(control: socket.socket, descriptors: list[int]) -> int:
    """The pid of the job's first process, 0 where none could be made."""
    payload, reply_fd, output, *entrances = descriptors
    pid = 0
    with _answering(reply_fd, (output, *entrances)) as reply:
        job = _job(payload)
        pid, left = fork_into(entrances)
        if pid == 0:
            control.close()
            _child(lambda: _sandbox(job, reply, output, left))
    return pid


@contextmanager
def _answering(reply_fd: int, kept: Sequence[int]) -> Iterator[socket.socket]:
    """The reply socket, on which an error of the block is told: it is not the zygote's end. Closed
    afterwards, and so is what is `kept`."""
    with socket.socket(fileno=reply_fd) as reply:
        try:
            yield reply
        except Exception as error:
            with suppress(OSError):  # nobody listens any more
                reply.send(b"failed " + str(error).encode("utf-8", "replace"))
        finally:
            for descriptor in kept:
                os.close(descriptor)


def _job(payload: int) -> Work:
    """Read here, where the objects that are needed are this process' own already: what a fork
    touches first it copies, page by page."""
    with os.fdopen(payload, "rb") as stream:
        job: Work = pickle.load(stream)
    return job


def _reaped() -> set[int]:
    found = set()
    try:
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            found.add(pid)
    except ChildProcessError:
        return found
    return found


def _fork_sandbox(control: socket.socket, own: int, descriptors: list[int]) -> None:
    payload, reply_fd, output, *entrances = descriptors
    with _answering(reply_fd, (output, *entrances)) as reply:
        job = _job(payload)
        syscalls.unshare(syscalls.CLONE_NEWPID)
        try:
            pid, left = fork_into(entrances)
            if pid == 0:
                control.close()
                os.close(own)
                _child(lambda: _sandbox(job, reply, output, left))
        finally:  # whatever fork(2) said: else no other namespace could be made
            syscalls.setns(own, syscalls.CLONE_NEWPID)


def _sandbox(job: Work, reply: socket.socket, output: int, entrances: list[int]) -> None:
    try:
        # From here, not from the zygote: that may be kept waiting for longer than this process lives.
        pidfd = os.pidfd_open(os.getpid())
        socket.send_fds(reply, [b"p"], [pidfd])
        os.close(pidfd)
        enter(entrances)
        status = job.run(output)
        reply.send(b"exit %d" % status)
    except BaseException as error:
        reply.send(_failed(error))


def _failed(error: BaseException) -> bytes:
    text = f"{type(error).__name__}: {error}"
    return b"failed " + text.encode("utf-8", "replace")[:4000]


def kill(pidfd: int) -> None:
    """Kill the sandbox, and wait until its first process is a corpse."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.poll(10_000)


def receive_pidfd(reply: socket.socket) -> tuple[bytes, int]:
    """The first reply: (b"p", pidfd), or (b"failed …", -1), or (b"", -1) when all is over."""
    message, ancillary, _, _ = reply.recvmsg(8192, socket.CMSG_SPACE(4))
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            return message, array.array("i", content[:4])[0]
    return message, -1
