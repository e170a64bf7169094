"""The embedded runtime: sandboxes of our own, forked by the zygote. Needs nothing installed."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from assembler.cancellation import Cancellation
from assembler.errors import HostError, StepError
from assembler.linux import owner_filter, seccomp, syscalls, zygote
from assembler.linux.cgroups import Group
from assembler.linux.job import DirectoryMount, FileMount, Job, Setting
from assembler.linux.nodes import host_node
from assembler.linux.owner_filter import Ownership
from assembler.linux.root import memory_of
from assembler.linux.sandbox import SandboxJob
from assembler.linux.supervision import kept_here
from assembler.linux.userns import IdMap
from assembler.runtime.base import (
    BindSource,
    DeviceNode,
    FileContent,
    Process,
    Root,
    RunMount,
    TemporaryFiles,
)

GRACE = 2.0  # seconds between SIGTERM to the step's processes and SIGKILL
_CHUNK = 1 << 16
_REMEMBERED = 9  # chunks of output
# apt makes sure that it is another user after the calls that make it one: it may stay root then.
_UNSANDBOXED_APT = FileMount(
    "/etc/apt/apt.conf.d/zz-one-id", b'APT::Sandbox::User "root";\n', 0o644, 0, 0
)


class Forked(ABC):
    """What every runtime shares: its processes are forked by a zygote."""

    name: str

    def __init__(self, started: zygote.Zygote, ownership: Ownership) -> None:
        self._zygote = started
        self.ownership = ownership

    @property
    def forks(self) -> zygote.Zygote:
        """What forks the processes."""
        return self._zygote

    def run(
        self,
        process: Process,
        root: Root,
        mounts: Sequence[RunMount],
        output: Callable[[bytes], None],
        cancellation: Cancellation,
    ) -> int:
        """See `runtime.base.Runtime.run`."""
        cancellation.check()
        if process.hooks:
            from assembler.runtime.hooks import with_hooks

            root = with_hooks(
                self._zygote, process, root, mounts, self.ownership, output, cancellation
            )
        files, directories = split_mounts(mounts)
        files = [*network_files(process), *files]
        if self.ownership is Ownership.IGNORED:
            files.append(_UNSANDBOXED_APT)
        said: deque[bytes] = deque(maxlen=_REMEMBERED)

        def listen(chunk: bytes) -> None:
            said.append(chunk)
            output(chunk)

        with ExitStack() as stack:
            job = self._job(process, root, files, directories, stack)
            status = run_job(
                self._zygote,
                job,
                listen,
                cancellation,
                process.cgroups,
                preparation=job.preparation if isinstance(job, SandboxJob) else None,
                more=process.more,
            )
        return self._checked(status, b"".join(said))

    def close(self) -> None:
        """End the zygote and with it every process."""
        self._zygote.close()

    @abstractmethod
    def _job(
        self,
        process: Process,
        root: Root,
        files: Sequence[FileMount],
        directories: Sequence[DirectoryMount],
        stack: ExitStack,
    ) -> zygote.Work:
        """What runs `process`; `stack` ends when it has."""

    def _checked(self, status: int, said: bytes) -> int:
        """The process' status. Raises what `status` and the last output say of the runtime."""
        return status


class Native(Forked):
    """Runs each process in its own pid, mount, IPC and UTS namespace."""

    name = "native"

    def __init__(self, started: zygote.Zygote, ownership: Ownership) -> None:
        super().__init__(started, ownership)
        machine = syscalls.machine()
        self._profile = seccomp.profile(machine)
        self._filter = owner_filter.program(machine, ownership, self._profile)
        mapped = ownership is Ownership.MAPPED  # insecure steps may make devices, or be refused
        self._insecure_filter = b"" if mapped else owner_filter.program(machine, ownership)

    @classmethod
    def start(cls, id_map: IdMap) -> Native:
        """Fork the zygote; call it before any thread, after entering the namespace of `id_map`."""
        return cls(zygote.start(), kept_here(single=id_map.single))

    def _job(
        self,
        process: Process,
        root: Root,
        files: Sequence[FileMount],
        directories: Sequence[DirectoryMount],
        stack: ExitStack,
    ) -> SandboxJob:
        setting = Setting(
            hostname=process.hostname,
            memory=memory_of(root.scratch),
            private_network=process.network == "none",
            ownership=self.ownership,
            profile=b"" if process.insecure else self._profile,
            owner_filter=self._insecure_filter if process.insecure else self._filter,
            insecure=process.insecure,
            shared_memory=process.shared_memory,
        )
        job = Job(
            setting=setting,
            argv=process.argv,
            env=process.env,
            cwd=process.cwd,
            user=process.user,
            lowers=root.lowers,
            upper=root.upper,
            work=root.work,
            scratch=root.scratch,
            program=root.program,
            files=tuple(files),
            directories=tuple(directories),
            limits=tuple((one.name, one.soft, one.hard) for one in process.limits),
            groups=process.groups,
            host_groups=bool(process.host_groups),
        )
        return SandboxJob(job)


def run_job(
    started: zygote.Zygote,
    job: zygote.Work,
    output: Callable[[bytes], None],
    cancellation: Cancellation,
    groups: Sequence[Group] = (),
    *,
    preparation: zygote.Preparation | None = None,
    more: bool = False,
) -> int:
    """Have the zygote run `job` in `groups`, stream its output, and return its status; see
    `zygote.Zygote.submit`.

    When this returns or raises, the sandbox's first process has ended, and with it all others.
    """
    with ExitStack() as stack:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, reader)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(ours)
        try:
            with _entrances(groups) as entrances:
                started.submit(job, theirs, writer, entrances, preparation=preparation, more=more)
        except OSError as error:
            raise HostError(f"the sandbox process is gone: {error.strerror}", "zygote") from error
        finally:
            os.close(writer)
            theirs.close()
        message, pidfd = zygote.receive_pidfd(ours)
        if pidfd < 0:
            raise _failure(message)
        stack.callback(os.close, pidfd)
        stack.callback(zygote.kill, pidfd)
        return _follow(reader, ours, pidfd, output, cancellation)


@contextmanager
def _entrances(groups: Sequence[Group]) -> Iterator[list[int]]:
    with ExitStack() as stack:
        found = []
        for group in groups:
            found.append(group.entrance())
            stack.callback(os.close, found[-1])
        yield found


def _follow(
    reader: int,
    reply: socket.socket,
    pidfd: int,
    output: Callable[[bytes], None],
    cancellation: Cancellation,
) -> int:
    poller = select.poll()
    poller.register(reader, select.POLLIN)
    poller.register(reply, select.POLLIN)
    poller.register(cancellation.fileno(), select.POLLIN)
    poller.register(cancellation.urgent_fileno(), select.POLLIN)
    deadline = float("inf")
    message: bytes | None = None
    open_output = True
    while message is None or open_output:
        timeout = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
        ready = {fd for fd, _ in poller.poll(None if timeout is None else timeout * 1000)}
        if reader in ready:
            chunk = os.read(reader, _CHUNK)
            if chunk:
                output(chunk)
            else:
                open_output = False
                poller.unregister(reader)
        if reply.fileno() in ready:
            message = reply.recv(8192)
            poller.unregister(reply)
        if cancellation.fileno() in ready:
            poller.unregister(cancellation.fileno())
            _send(pidfd, signal.SIGTERM)
            deadline = time.monotonic() + GRACE
        if cancellation.urgent_fileno() in ready:
            poller.unregister(cancellation.urgent_fileno())
            deadline = time.monotonic()
        if time.monotonic() >= deadline:
            _send(pidfd, signal.SIGKILL)
            deadline = float("inf")
    cancellation.check()
    kind, _, text = message.partition(b" ")
    if kind != b"exit":
        raise _failure(message)
    return int(text)


def _send(pidfd: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended, and its reply is on the way
        signal.pidfd_send_signal(pidfd, number)


def _failure(message: bytes) -> Exception:
    text = message.removeprefix(b"failed ").decode("utf-8", "replace")
    if text.startswith("SetupFailed: "):
        return StepError(text.removeprefix("SetupFailed: "))
    if not text:
        return StepError("the sandbox was killed from outside (out of memory?)")
    return HostError(f"the sandbox could not be made: {text}", "namespaces")


def split_mounts(
    mounts: Sequence[RunMount],
) -> tuple[list[FileMount], list[DirectoryMount]]:
    """`mounts` as files in memory, and as directories."""
    files = [
        FileMount(mount.target, mount.content, mount.mode, mount.uid, mount.gid)
        for mount in mounts
        if isinstance(mount, FileContent)
    ]
    directories = [_directory(mount) for mount in mounts if not isinstance(mount, FileContent)]
    return files, directories


def _directory(mount: BindSource | DeviceNode | TemporaryFiles) -> DirectoryMount:
    if isinstance(mount, TemporaryFiles):
        return DirectoryMount(mount.target, size=mount.size)
    if isinstance(mount, BindSource):
        return DirectoryMount(
            mount.target, mount.source, mount.read_only, mount.discard, options=mount.options
        )
    there = host_node(mount.source)
    if there is None or (there.kind, there.numbers) != (mount.kind, mount.numbers):
        major, minor = mount.numbers
        raise StepError(
            f"device node {mount.target}: {mount.source} is not {mount.kind} {major}:{minor} on"
            " this host, and a user namespace can make no device nodes",
            hint="mend the CDI specification, or load the device's driver",
        )
    return DirectoryMount(mount.target, mount.source)


def network_files(process: Process) -> tuple[FileMount, ...]:
    """/etc/hosts, /etc/hostname and /etc/resolv.conf of the step (rule R3)."""
    hosts = f"127.0.0.1\tlocalhost {process.hostname}\n"
    hosts += "::1\tlocalhost ip6-localhost ip6-loopback\n"
    hosts += "".join(f"{address}\t{name}\n" for name, address in process.add_hosts)
    resolv = b""
    if process.network != "none":
        try:
            with open("/etc/resolv.conf", "rb") as stream:
                resolv = stream.read(1 << 20)
        except OSError:
            resolv = b""  # a host without a resolver has none to lend
    return (
        FileMount("/etc/hosts", os.fsencode(hosts), 0o644, 0, 0),
        FileMount("/etc/hostname", os.fsencode(f"{process.hostname}\n"), 0o644, 0, 0),
        FileMount("/etc/resolv.conf", resolv, 0o644, 0, 0),
    )
