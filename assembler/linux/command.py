"""A host program over a mounted root, alone in a pid namespace: how other runtimes are called.

Whatever the program leaves behind (conmon, containers) dies with the first process here, and every
mount is in this process' own mount namespace.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from assembler.linux import syscalls
from assembler.linux.job import DirectoryMount, FileMount
from assembler.linux.mounts import Bind, FileSystem
from assembler.linux.root import Made, mount_directory, mount_root, remove_made, write_file
from assembler.linux.syscalls import MS_NODEV, MS_NOSUID

_PLACES = (("root", "merged"), ("memory", "memory"))


@dataclass(frozen=True, slots=True)
class Command:
    """`argv` with `{root}` and `{N}` standing for the root's path and that of mount number N.

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

    def run(self, output: int) -> int:
        """Mount, run, wait; the program's status. Raises SetupFailed, OSError."""
        with self.mounted() as names:
            argv = [filled(word, names) for word in self.argv]
            return execute(argv, dict(self.env), output)

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
        names = {name: os.path.join(self.scratch, path) for name, path in _PLACES}
        created = self._mount(names)
        try:
            yield names
        finally:
            remove_made(created)

    def _mount(self, names: dict[str, str]) -> list[Made]:
        memory = names["memory"]
        os.makedirs(memory, exist_ok=True)
        FileSystem("tmpfs", memory, "mode=755", MS_NOSUID | MS_NODEV).execute()
        targets = dict(self.targets)
        _, created = mount_root(
            self.lowers, self.upper, self.work, self.scratch, targets, self.links
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
            mount_directory(directory, target, f"{target}.private")
        return created


def execute(argv: list[str], env: Mapping[str, str], output: int) -> int:
    """Run a host program with nothing but its output, reap until it ends; its status."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            syscalls.close_range(3)
            os.execvpe(argv[0], argv, env)
        finally:
            os._exit(127)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for descriptor in (0, 1, 2, output):  # else the log pipe never ends
        os.dup2(null, descriptor)
    signal.signal(signal.SIGTERM, lambda *_: _terminate(child))
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status) & 0xFF


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
    """`word` with every `{name}` replaced."""
    for name, path in names.items():
        word = word.replace("{" + name + "}", path)
    return word
