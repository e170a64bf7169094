"""Hooks of an OCI runtime, run on a mounted root that has an upper directory of its own: what they
change becomes a layer below the step's (runtime-spec, config.md and runtime.md).

The mount namespace is that of createContainer: the root is mounted, the host's files are still in
sight, and pid 1 of the pid namespace is this process.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
from dataclasses import dataclass

from assembler.linux import syscalls
from assembler.linux.job import Job, SetupFailed
from assembler.linux.mounts import FileSystem
from assembler.linux.root import make_root, prepare_root, remove_made, root_of

_VERSION = "1.0.2"


@dataclass(frozen=True, slots=True)
class HostProgram:
    """`name` is how messages call it; `argv` and `env` are whole, `timeout` is seconds or 0."""

    name: str
    path: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    timeout: int


@dataclass(frozen=True, slots=True)
class HooksJob:
    """`programs`, one after the other, over the root of `job`, whose process is not started."""

    job: Job
    programs: tuple[HostProgram, ...]

    def run(self, output: int) -> int:
        """Run them; 0. Raises SetupFailed when one fails, OSError."""
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        # the first process of a pid namespace has to want it; the hooks end with it
        signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
        private = syscalls.CLONE_NEWNET if self.job.setting.private_network else 0
        syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | private)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        try:
            FileSystem("proc", "/proc").execute()
        except OSError as error:
            if error.errno != errno.EPERM:  # nested in a container whose own /proc is masked
                raise
        prepare_root(self.job.setting)
        created = make_root(self.job)
        try:
            root = root_of(self.job.scratch)
            state = _state(os.path.join(self.job.setting.memory, "bundle"), root, self.job)
            before = _mounts_below(root)
            for program in self.programs:
                _run(program, state, output)
            for path in sorted(_mounts_below(root) - before):
                said = f"a CDI hook mounted {path.removeprefix(root)}: the step does not have it\n"
                os.write(output, said.encode("utf-8", "surrogateescape"))
        finally:
            remove_made(created)
        return 0


def _state(bundle: str, root: str, job: Job) -> bytes:
    """The state of the container that hooks read, after writing the bundle it names; the
    environment is not in it, there may be secrets in that."""
    config = {"ociVersion": _VERSION, "root": {"path": root}, "hostname": job.setting.hostname}
    os.mkdir(bundle, 0o700)
    with open(os.path.join(bundle, "config.json"), "x", encoding="utf-8") as stream:
        json.dump(config, stream)
    state = {"ociVersion": _VERSION, "id": "step", "status": "creating", "pid": os.getpid()}
    return json.dumps({**state, "bundle": bundle}).encode()


def _mounts_below(root: str) -> set[str]:
    """The mount points below `root`, by proc(5)'s mountinfo."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
        points = [line.split(" ")[4] for line in stream]
    return {point for point in points if point.startswith(f"{root}/")}


def _run(program: HostProgram, state: bytes, output: int) -> None:
    given = os.memfd_create("state", os.MFD_CLOEXEC)
    os.write(given, state)
    os.lseek(given, 0, os.SEEK_SET)
    child = os.fork()
    if child == 0:
        _become(program, given, output)
    os.close(given)
    pidfd = os.pidfd_open(child)
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    ended = poller.poll(program.timeout * 1000 or None)
    os.close(pidfd)
    if not ended:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not ended:
        raise SetupFailed(f"{program.name}: not done after {program.timeout} s")
    if status:
        code = os.waitstatus_to_exitcode(status)
        how = f"exit code: {code}" if code >= 0 else f"killed by signal {-code}"
        raise SetupFailed(f"{program.name} failed: {how}")


def _become(program: HostProgram, given: int, output: int) -> None:
    """Turn this fork into the program; never returns."""
    try:
        os.setsid()
        os.dup2(given, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        syscalls.close_range(3)
        os.execve(program.path, program.argv, dict(program.env))
    except OSError as error:
        os.write(2, f"{program.path}: {error.strerror}\n".encode("utf-8", "surrogateescape"))
    finally:
        os._exit(127)
