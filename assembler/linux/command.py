"""A host program over a mounted root, alone in a pid namespace: how other runtimes are called.

Whatever the program leaves behind (conmon, containers) dies with the first process here, and every
mount is in this process' own mount namespace.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from assembler.linux import restraint, syscalls
from assembler.linux.accounts import Account, account
from assembler.linux.credentials import Credentials
from assembler.linux.job import DirectoryMount, FileMount
from assembler.linux.mounts import Bind, FileSystem
from assembler.linux.owner_filter import Ownership, program
from assembler.linux.payload import Records, wait_for, watch_owners
from assembler.linux.root import (
    Made,
    make_working_directory,
    memory_of,
    mount_directory,
    mount_root,
    private_memory,
    remove_made,
    root_of,
    write_file,
)
from assembler.linux.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class Command:
    """`argv` is a template: `{root}` and `{N}` stand for the root's path and that of mount number N,
    `{home}` for the home directory of the step's `user`, `{{` for a brace (see `literal`).

    `cgroups` is `covered` (/sys/fs/cgroup is an empty tmpfs: crun refuses hybrid hierarchies) or
    `read-only` (runc does without its own cgroup then; one made by root would outlive a kill).
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    lowers: tuple[str, ...]
    upper: str
    work: str
    scratch: str
    files: tuple[FileMount, ...]
    directories: tuple[DirectoryMount, ...]
    targets: tuple[tuple[str, bool], ...]
    shown: tuple[tuple[str, str], ...]
    """Host directories bound to other host paths for this command: source, target."""
    links: tuple[tuple[str, str], ...]
    """Symlinks the program would make in the root where they are missing: path, text."""
    cgroups: str
    user: str
    cwd: str
    ownership: Ownership
    insecure: bool
    program: str = ""
    """The program that serves the root's overlay; empty for the kernel's."""

    def run(self, output: int) -> int:
        """Mount, run, wait; the program's status. Raises SetupFailed, OSError."""
        with self.mounted() as names:
            found = account(self.user, names["root"])
            return self.execute(names | {"home": found.home}, found, output)

    def execute(self, names: Mapping[str, str], found: Account, output: int) -> int:
        """Run the program over what is mounted, which gives way to the mounts of the container
        where calls are answered, for as long as it runs; its status. `found` is the step's user."""
        root = names["root"]
        make_working_directory(root, self.cwd)
        records = Records.open(self.upper, self.lowers)
        mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        ours, theirs = socket.socketpair()
        child = syscalls.fork()
        if child == 0:
            self._become([filled(word, names) for word in self.argv], output, theirs)
        theirs.close()
        signal.signal(signal.SIGTERM, lambda *_: _terminate(child))
        try:
            return wait_for(
                child,
                output,
                ours,
                lambda listener: Supervisor(
                    listener,
                    Credentials.of(found.uid, found.gid, tuple(found.groups)),
                    records.upper,
                    records.below,
                    kept=self.ownership,
                    apart=self.insecure,
                    container=True,
                ),
                records.table,
            )
        finally:
            syscalls.setns(mounts, syscalls.CLONE_NEWNS)

    def _become(self, argv: list[str], output: int, supervisor: socket.socket) -> None:
        """Turn this fork into the program, with nothing of ours but its output."""
        try:
            os.setsid()
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            restraint.offer_to_the_oom_killer()
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            if self.watched:
                code = program(syscalls.machine(), self.ownership)
                watch_owners(self.ownership, code, supervisor)
            syscalls.close_range(3)
            os.execvpe(argv[0], argv, dict(self.env))
        except OSError as error:
            os.write(2, f"{argv[0]} cannot be run here: {error}\n".encode())
        finally:
            os._exit(127)

    @property
    def watched(self) -> bool:
        """Whether the container's calls come to us. Those that are to do nothing do so by the
        container's own filter: the runtime's must do something."""
        if self.ownership is Ownership.MAPPED:
            return not self.insecure
        return self.ownership is Ownership.SUPERVISED

    @contextmanager
    def mounted(self) -> Iterator[dict[str, str]]:
        """Make the mounts, in a mount namespace of their own; yields what the names in `argv`
        stand for. What had to be made in the root for them is removed in the end."""
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        FileSystem("proc", "/proc").execute()
        if os.path.isdir("/sys/fs/cgroup"):
            if self.cgroups == "covered":
                FileSystem("tmpfs", "/sys/fs/cgroup", "mode=755").execute()
            else:
                Bind("/sys/fs/cgroup", "/sys/fs/cgroup", read_only=True).execute()
        for source, target in self.shown:
            Bind(source, target).execute()
        memory = private_memory(memory_of(self.scratch))
        names = {"root": root_of(self.scratch), "memory": memory}
        created = self._mount(names)
        try:
            yield names
        finally:
            remove_made(created)

    def _mount(self, names: dict[str, str]) -> list[Made]:
        memory = names["memory"]
        _, created = mount_root(
            self.lowers,
            self.upper,
            self.work,
            self.scratch,
            dict(self.targets),
            self.links,
            program=self.program,
        )
        for number, file in enumerate(self.files):
            names[f"f{number}"] = os.path.join(memory, f"f{number}")
            write_file(names[f"f{number}"], file)
        for number, directory in enumerate(self.directories):
            target = names[f"d{number}"] = os.path.join(memory, f"d{number}")
            if not directory.source or os.path.isdir(directory.source):
                os.mkdir(target)
            else:
                os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC))
            mount_directory(directory, f"{target}.private", self.program, target)
        return created


def literal(word: str) -> str:
    """`word` as a template that stands for itself."""
    return word.replace("{", "{{").replace("}", "}}")


def _terminate(child: int) -> None:
    """SIGTERM to the program, which passes it on. A container's first process is ended by no signal
    that it has no handler for (pid_namespaces(7)): where SIGTERM has its default meaning there,
    SIGKILL does what it means."""
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGTERM)
    for name in os.listdir("/proc"):
        if name.isdigit() and _is_unmoved(name):
            with suppress(ProcessLookupError):
                os.kill(int(name), signal.SIGKILL)


def _is_unmoved(pid: str) -> bool:
    """Whether a process is the first of a pid namespace below ours and does nothing on SIGTERM,
    without having asked for that."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as stream:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in stream if ":\t" in line)
        numbers = fields["NSpid"].split()
        caught, ignored = (int(fields[name], 16) for name in ("SigCgt", "SigIgn"))
    except (OSError, KeyError, ValueError):  # it has just ended
        return False
    told = (caught | ignored) >> (signal.SIGTERM - 1) & 1
    return len(numbers) > 1 and numbers[-1] == "1" and not told


def filled(word: str, names: Mapping[str, str]) -> str:
    """The template `word` with every `{name}` replaced."""
    return word.format_map(names)
