"""What one RUN's process is given, as values that travel to the zygote: tuples, which are pickled by
no Python code, whose pages a fork would have to copy first."""

from __future__ import annotations

from typing import NamedTuple

from assembler.linux.owner_filter import Ownership


class FileMount(NamedTuple):
    """A file that exists only in memory."""

    target: str
    content: bytes
    mode: int
    uid: int
    gid: int


class DirectoryMount(NamedTuple):
    """A host path, or (with `source` empty) a tmpfs of `size` bytes. `options` of a bind mount are
    nosuid, nodev, noexec."""

    target: str
    source: str = ""
    read_only: bool = False
    discard: bool = False
    size: int = 0
    options: tuple[str, ...] = ()


class Setting(NamedTuple):
    """What a sandbox is without its root and its process: the same for most steps of a build."""

    hostname: str
    memory: str
    """The directory where what only its mount namespace sees is mounted."""
    private_network: bool = False
    ownership: Ownership = Ownership.MAPPED
    profile: bytes = b""
    """The program of `seccomp.profile`; empty for none."""
    owner_filter: bytes = b""
    """The program of `owner_filter.program` with `profile` as the rest; empty where nothing is to
    be kept of owners and device nodes."""
    insecure: bool = False
    """Every capability of the user namespace, no filter, nothing masked (rule N2)."""
    shared_memory: int = 64 << 20


class Job(NamedTuple):
    """Everything one process needs; it travels to the zygote by pickle."""

    setting: Setting
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str
    user: str
    lowers: tuple[str, ...]
    upper: str
    work: str
    scratch: str
    files: tuple[FileMount, ...]
    directories: tuple[DirectoryMount, ...]
    limits: tuple[tuple[str, int, int], ...] = ()
    """As setrlimit(2) has them: name in lower case without RLIMIT_, soft, hard; -1 is no limit."""
    groups: tuple[int, ...] = ()
    """Groups of the process besides those that the root's files give its user."""
    host_groups: bool = False
    """It keeps the groups of this process instead."""
    program: str = ""
    """The program that serves the root's overlay; empty for the kernel's."""
    chroot: str = ""
    """The tree to run in where no namespace can be made; empty in a sandbox."""


class SetupFailed(Exception):
    """A step of the set-up failed; the text names it."""
