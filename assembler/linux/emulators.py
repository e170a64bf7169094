"""Whose programs this host executes: its own, those of its processor's other modes, and those that
an emulator is registered for in binfmt_misc.

Two are asked. The files of binfmt_misc tell which emulators there are and what they need; but in most
containers they cannot be seen, and binfmt_misc mounted anew in a user namespace is an empty one of its
own (since Linux 6.7, before that it cannot be mounted there). So the kernel has the last word: it is
given a program for the architecture to execute. Where that is no format it knows (ENOEXEC, execve(2)),
nothing executes such programs here; any other answer proves nothing against it.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from assembler.linux.binfmt import Emulator, parse
from assembler.linux.elf import EMULATED, Elf, program_for

DIRECTORY = "/proc/sys/fs/binfmt_misc"
_MOST = 64 << 10  # bytes of an entry
_EXECUTABLE = 0x10  # MFD_EXEC, since Linux 6.3
_OWN = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Foreign:
    """An architecture that is executed here beside the host's own: by `emulator`, else by the
    processor, or by what cannot be seen from here."""

    architecture: str
    emulator: Emulator | None


@dataclass(frozen=True, slots=True)
class Host:
    """What executes programs here. `emulators` is None where binfmt_misc cannot be seen; `known` says
    whether the kernel knows a program's format, None for an answer that proves nothing."""

    architecture: str
    emulators: tuple[Emulator, ...] | None
    known: Callable[[bytes], bool | None]

    @classmethod
    def here(cls, directory: str = DIRECTORY) -> Host:
        """This host, its binfmt_misc mounted at `directory`."""
        machine = os.uname().machine
        return cls(_OWN.get(machine, machine), registered(directory), knows)

    @property
    def platform(self) -> str:
        """What people are told it is."""
        return f"linux/{self.architecture}"

    def executes(self, architecture: str) -> bool:
        """Whether images for linux on `architecture` run here whatever is in them, as far as can be
        seen: an emulator that they would have to bring along will not do."""
        program = program_for(architecture)
        if architecture == self.architecture or not program:
            return True
        found = self._for(program)
        if any(one.fixed for one in found):
            return True
        return not found and self.known(program) is not False

    def interprets(self, head: bytes, name: str) -> bool:
        """Whether a file that begins with `head` and is executed as `name` is an emulator's."""
        return bool(self._for(head, name))

    def refusal(self, head: bytes, name: str, has: Callable[[str], bool]) -> str:
        """Why a program that begins with `head` and is executed as `name` is sure to be refused in a
        root that `has` files at some paths; empty where it is not."""
        elf = Elf.of(head)
        if elf is None or elf.architecture == self.architecture:
            return ""
        found = self._for(head, name)
        if any(one.fixed or has(one.interpreter) for one in found):
            return ""
        if found:
            one = found[0]
            return (
                f"the emulator {one.interpreter} is registered without the flag F (binfmt_misc"
                f" entry {one.name}), and the stage has no such file"
            )
        if self.known(elf.program) is not False:
            return ""
        return f"no emulator for {elf.platform} is registered here"

    def foreign(self) -> list[Foreign]:
        """The architectures besides its own that programs of are executed here."""
        found = []
        for architecture in EMULATED:
            program = program_for(architecture)
            if architecture == self.architecture:
                continue
            emulators = self._for(program)
            if emulators or self.known(program):
                best = next((one for one in emulators if one.fixed), None)
                found.append(Foreign(architecture, best or next(iter(emulators), None)))
        return found

    def _for(self, head: bytes, name: str = "") -> list[Emulator]:
        return [one for one in self.emulators or () if one.matches(head, name)]


def remedy(architecture: str = "") -> str:
    """The line that would have programs for `architecture`, or all, executed here, by whoever may
    register emulators."""
    return (
        "register an emulator with the flag F, as root: apt-get install qemu-user-static (Debian 13 and"
        f" later: qemu-user-binfmt), or docker run --privileged --rm tonistiigi/binfmt --install"
        f" {architecture if architecture in EMULATED else 'all'}"
    )


def registered(directory: str = DIRECTORY) -> tuple[Emulator, ...] | None:
    """The entries of the binfmt_misc at `directory` that are in effect; None where none is mounted
    there, or it may not be read."""
    try:
        names = os.listdir(directory)
        status = _text(directory, "status").strip()
    except OSError:
        return None
    if status != "enabled":
        return () if status == "disabled" else None
    found: list[Emulator] = []
    for name in sorted(set(names) - {"status", "register"}):
        with suppress(OSError):  # it has just been removed
            entry = parse(name, _text(directory, name))
            found += [] if entry is None else [entry]
    return tuple(found)


def _text(directory: str, name: str) -> str:
    with open(os.path.join(directory, name), "rb") as stream:
        return stream.read(_MOST).decode("utf-8", "surrogateescape")


def knows(program: bytes) -> bool | None:
    """Whether the kernel executes `program`, which is one of ours, or has it executed: False where
    that is no format that it knows, None where the answer proves nothing."""
    try:
        memory = _memory()
    except OSError:
        return None
    try:
        with suppress(OSError):
            os.write(memory, program)
            return _executed(memory)
        return None
    finally:
        os.close(memory)


def _memory() -> int:
    try:
        return os.memfd_create("program", os.MFD_CLOEXEC | _EXECUTABLE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create("program", os.MFD_CLOEXEC)


def _executed(memory: int) -> bool | None:
    """posix_spawn tells how execve ended, from any thread and without a copy of what is in memory."""
    actions = [  # the program stays open: an emulator opens it by this path
        (os.POSIX_SPAWN_DUP2, memory, 3),
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_DUP2, 0, 2),
    ]
    try:
        child = os.posix_spawn("/proc/self/fd/3", ["program"], {}, file_actions=actions)
    except OSError as error:
        return False if error.errno == errno.ENOEXEC else None
    try:
        os.kill(child, signal.SIGKILL)  # that it was executed is the answer
    finally:
        os.waitpid(child, 0)
    return True
