"""The process of a RUN, forked by the first process of its sandbox: restricted, executed, waited
for, its calls about owners answered (rootless-runtime.md 3, steps 13 and 14; 5a)."""

from __future__ import annotations

import errno
import marshal
import os
import resource
import select
import signal
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from assembler.linux import ownership, restraint, syscalls
from assembler.linux.accounts import Account, account
from assembler.linux.credentials import Credentials
from assembler.linux.job import Job, Setting, SetupFailed
from assembler.linux.owner_filter import RLIMIT_LOCKS, Ownership
from assembler.linux.ownership import Owner
from assembler.linux.root import make_working_directory
from assembler.linux.supervisor import Supervisor

CAPABILITIES = 0xA80425FB  # Docker's fourteen
ALL_CAPABILITIES = (1 << 41) - 1  # up to CAP_CHECKPOINT_RESTORE
_LAST_CAPABILITY = 63
_MAX_SIGNALS = 4096
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Records:
    """Descriptors of the upper directory and of where its table goes (-1 for none), and what the
    tables of lower layers say."""

    upper: int = -1
    table: int = -1
    below: Mapping[str, Owner] = field(default_factory=dict)

    @classmethod
    def open(cls, upper: str, lowers: Sequence[str]) -> Records:
        """Those of the layer directories `upper` and `lowers`. Raises OSError."""
        descriptor = os.open(upper, _DIRECTORY)
        if not ownership.has_table(upper):
            return cls(descriptor)
        table = os.open(os.path.dirname(upper), _DIRECTORY)
        return cls(descriptor, table, ownership.read_tables(lowers or (upper,)))


@dataclass(frozen=True, slots=True)
class Payload:
    """The process of a step: forked, restricted as far as that needs no root, and waiting for one.

    It is forked before the root is made, which then goes on beside it; and a process that forks
    writes to every page it uses once more.
    """

    pid: int
    problem: int
    channel: socket.socket

    @classmethod
    def start(cls, setting: Setting, chroot: str = "") -> Payload:
        """Fork it, in the tree `chroot` where that is not empty. Raises OSError."""
        problem_reader, problem_writer = os.pipe()
        ours, theirs = socket.socketpair()
        pid = syscalls.fork()
        if pid == 0:
            os.close(problem_reader)
            ours.close()
            _become(setting, chroot, problem_writer, theirs)
        os.close(problem_writer)
        theirs.close()
        signal.signal(signal.SIGTERM, lambda *_: _terminate(pid))
        return cls(pid, problem_reader, ours)

    def run(self, job: Job, output: int, records: Records) -> int:
        """Let it be the process of `job`, whose root is ours by now, its output going to `output`,
        and reap until it ends; its status. Raises SetupFailed, OSError."""
        found = account(job.user, job.chroot or "/")
        found = found._replace(groups=list(dict.fromkeys((*found.groups, *job.groups))))
        make_working_directory(job.chroot or "/", job.cwd)
        account_of = (found.uid, found.gid, found.groups, found.home)
        order = (job.argv, job.env, job.cwd, job.limits, job.host_groups, account_of)
        with suppress(BrokenPipeError, ConnectionResetError):  # it has failed, or was killed
            socket.send_fds(self.channel, [b"o"], [output])
            self.channel.sendall(marshal.dumps(order))
            self.channel.shutdown(socket.SHUT_WR)
        initial = Credentials.of(found.uid, found.gid, tuple(found.groups))
        status = wait_for(
            self.pid,
            output,
            self.channel,
            lambda listener: Supervisor(
                listener,
                initial,
                records.upper,
                records.below,
                kept=job.setting.ownership,
                apart=job.setting.insecure,
            ),
            records.table,
        )
        problem = b""
        while part := os.read(self.problem, 4096):
            problem += part
        if problem:
            raise SetupFailed(problem.decode("utf-8", "replace"))
        return status


def wait_for(
    payload: int,
    output: int,
    channel: socket.socket,
    supervisor_of: Callable[[int], Supervisor],
    table: int,
) -> int:
    """Let go of the output and reap everything until `payload` ends; its status as shells count it.
    The calls of the listener that comes from `channel`, if one does, are answered meanwhile, and
    what is to be kept of that goes into the directory open as `table`, if not -1."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for descriptor in (0, 1, 2, output):  # else the log pipe never ends
        os.dup2(null, descriptor)
    _, sent, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(4))
    if not sent:
        return _wait(payload)
    (listener,) = struct.unpack("=i", sent[0][2])
    supervisor = supervisor_of(listener)
    status = supervise(supervisor, payload)
    if table >= 0:
        _write_table(table, supervisor)
    return status


def supervise(supervisor: Supervisor, payload: int) -> int:
    """Answer calls and reap everything until `payload` ends; its status as shells count it."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    poller = select.poll()
    poller.register(reader, select.POLLIN)
    poller.register(supervisor, select.POLLIN)
    while True:
        status = _reap(payload)
        if status is not None:
            return status
        ended = False
        while not ended:
            for descriptor, event in poller.poll():
                if descriptor == reader:
                    os.read(reader, _MAX_SIGNALS)
                    ended = True
                elif event & select.POLLIN:
                    supervisor.answer()
                else:  # nobody is left that could ask
                    poller.unregister(descriptor)


def _write_table(directory: int, supervisor: Supervisor) -> None:
    flags = os.O_WRONLY | os.O_TRUNC | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(ownership.TABLE, flags, 0o600, dir_fd=directory)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(ownership.rows(supervisor.owners()))


def _terminate(payload: int) -> None:
    try:
        os.killpg(payload, signal.SIGTERM)
    except ProcessLookupError:
        os.kill(payload, signal.SIGTERM)


def _wait(payload: int) -> int:
    """Reap everything until `payload` ends; its status as shells count it."""
    while True:
        pid, status = os.wait()
        if pid == payload:
            return _counted(status)


def _reap(payload: int) -> int | None:
    """Reap what has ended by now; the status of `payload` when it is among it."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == payload:
            return _counted(status)
        if pid == 0:
            return None


def _counted(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _become(setting: Setting, chroot: str, problem: int, channel: socket.socket) -> None:
    """Turn this fork into the payload; never returns.

    Until `channel` tells that the root is made, whatever looks for a path might find the host's.
    """
    told = problem
    try:
        os.setsid()
        os.umask(0o022)
        for number in range(1, signal.NSIG):
            if signal.getsignal(number) not in (signal.SIG_DFL, None):  # None: the C library's own
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        restraint.offer_to_the_oom_killer()
        if chroot:
            os.chroot(chroot)
        _restrict(setting, channel, lenient=bool(chroot))
        output, order = _told(channel)
        channel.close()
        argv, pairs, cwd, limits, host_groups, account = marshal.loads(order)
        found = Account(*account)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        _limit(limits)
        _take_ids(setting, found, lends=not chroot, groups=not host_groups)
        told = os.dup2(problem, 3, inheritable=False)
        syscalls.close_range(4)
        os.chdir(cwd)
        env = dict(pairs)
        env.setdefault("HOME", found.home)
        message = _execute(argv, env)
        os.write(2, message.encode("utf-8", "surrogateescape") + b"\n")
        os._exit(127 if "not found" in message else 126)
    except BaseException as error:  # the parent raises it
        os.write(told, f"{error}".encode("utf-8", "replace"))
    finally:
        os._exit(125)


def _told(channel: socket.socket) -> tuple[int, bytes]:
    """Where the output goes, and what this process becomes: said when its root is made. Ends it when
    nothing is said."""
    _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    if not descriptors:
        os._exit(125)
    said = b""
    while part := channel.recv(1 << 16):
        said += part
    return descriptors[0], said


def _limit(limits: tuple[tuple[str, int, int], ...]) -> None:
    for name, soft, hard in limits:
        if name == "locks":
            continue  # without effect since Linux 2.4.25, getrlimit(2); the supervisor uses it
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (soft, hard))
        except (OSError, ValueError) as error:
            raise SetupFailed(
                f"ulimit {name}={soft}:{hard} cannot be set: {error}; this user's hard limit is"
                f" {resource.getrlimit(getattr(resource, f'RLIMIT_{name.upper()}'))[1]}"
            ) from error


def _capabilities(setting: Setting) -> int:
    return ALL_CAPABILITIES if setting.insecure else CAPABILITIES


def _restrict(setting: Setting, channel: socket.socket, *, lenient: bool) -> None:
    """seccomp first (it needs CAP_SYS_ADMIN, so that setuid programs keep working), then
    capabilities, then ids: capabilities(7)."""
    kept = _capabilities(setting)
    try:
        watched = watch_owners(setting.ownership, setting.owner_filter, channel)
        if not watched and setting.profile:
            syscalls.seccomp_filter(setting.profile)
    except OSError as error:
        if not lenient or error.errno != errno.EACCES:
            raise  # in a container without CAP_SYS_ADMIN its own filter holds
    _for_capabilities(~kept, lambda one: syscalls.prctl(syscalls.PR_CAPBSET_DROP, one))


def _take_ids(setting: Setting, found: Account, *, lends: bool, groups: bool) -> None:
    kept = _capabilities(setting)
    lent = setting.insecure and found.uid != 0 and lends  # to any user, as BuildKit's
    if setting.ownership is Ownership.MAPPED:
        if lent:
            syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
        try:
            os.fchown(1, found.uid, -1)  # as runc does: /dev/stdout opens the pipe anew
            if groups:
                os.setgroups(found.groups)
            os.setresgid(found.gid, found.gid, found.gid)
            os.setresuid(found.uid, found.uid, found.uid)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            ids = sorted({found.uid, found.gid, *found.groups})
            raise SetupFailed(
                f"the step's user and groups are {', '.join(map(str, ids))}, and not all of these ids"
                " are mapped here: /etc/subuid and /etc/subgid say which this user has"
            ) from error
    if found.uid == 0 or lent or setting.ownership is not Ownership.MAPPED:
        syscalls.capset(kept, kept, kept if lent else 0)
    if lent:
        ambient, up = syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE
        _for_capabilities(kept, lambda one: syscalls.prctl(ambient, up, one))


def _for_capabilities(mask: int, execute: Callable[[int], None]) -> None:
    """Do it for every capability in `mask` that the kernel has."""
    for capability in range(_LAST_CAPABILITY + 1):
        if mask >> capability & 1:
            try:
                execute(capability)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                return  # the kernel's last capability is behind us


def watch_owners(kept: Ownership, code: bytes, supervisor: socket.socket) -> bool:
    """Put this process under the filter for owners `code`, unless it is empty; the listener, if any,
    goes to `supervisor`. False where it is under none now: only device nodes go without."""
    if kept is Ownership.SUPERVISED:  # 0 is the number of the first credentials
        resource.setrlimit(RLIMIT_LOCKS, (0, resource.getrlimit(RLIMIT_LOCKS)[1]))
    if not code:
        return False
    if kept is Ownership.IGNORED:
        syscalls.seccomp_filter(code)
    else:
        try:
            listener = syscalls.seccomp_listener(code)
        except OSError:
            if kept is Ownership.SUPERVISED:
                raise
            return False
        socket.send_fds(supervisor, [b"l"], [listener])
        os.close(listener)
    return True


def _execute(argv: tuple[str, ...], env: dict[str, str]) -> str:
    """Replace the process; only returns, with the reason, when nothing could be executed."""
    name = argv[0]
    if "/" in name or not name:
        candidates = [name] if name else []
    else:
        directories = env.get(
            "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        )
        candidates = [os.path.join(part or ".", name) for part in directories.split(":")]
    failure: OSError | None = None
    for candidate in candidates:
        try:
            os.execve(candidate, argv, env)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                failure = error
    if failure is not None:
        return f'exec: "{name}": {(failure.strerror or "").lower()}'
    if "/" in name:
        return f'exec: "{name}": stat {name}: no such file or directory (not found)'
    return f'exec: "{name}": executable file not found in $PATH'
