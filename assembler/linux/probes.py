"""What this host lets a build do, asked of the kernel (rootless-runtime.md 5, "Doctor probes").

Every question is put in a forked child, so that nothing of the answer stays behind.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from assembler.errors import AssemblerError, HostError
from assembler.linux import fuse, places, seccomp, supervision, syscalls, userns
from assembler.linux.group_files import delegation
from assembler.linux.mounts import FileSystem, try_overlay
from assembler.linux.resources import CONTROLLERS

_FICLONE = 0x40049409
_FILE_SYSTEMS = {
    0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs", 0x01021994: "tmpfs",
    0x794C7630: "overlay", 0x6969: "nfs", 0x65735546: "fuse", 0x2FC12FC1: "zfs",
}  # fmt: skip
_SUPERVISION = "supervised system calls"
_OVERLAYS, _FUSE = "overlay mounts", "fuse-overlayfs"
_SERVED = "fuse-overlayfs is used instead: many small files take 4 to 10 times as long"
_OWNERS_KEPT = {
    True: "other owners are kept in records, by answering RUN's system calls",
    False: "what RUN creates or gives away belongs to 0:0",
}
_DEADLINE = 30.0  # seconds a single probe may take; all together take well under 100 ms


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether the host has `feature`. `cost` is what a build goes without, `remedy` the one line
    that would provide it; both matter only where it is missing."""

    feature: str
    works: bool
    detail: str = ""
    cost: str = ""
    remedy: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a build would do here. `mode` is full, identity, single, or host where steps run by
    chroot; empty when a build must refuse, and then `reason` and `remedy` are what it says."""

    mode: str
    reason: str
    remedy: str
    answers: tuple[Answer, ...]
    runtimes: tuple[str, ...]
    """Programs that `--runtime` could use, besides the embedded one."""


_BY_CHROOT = (
    "steps run by chroot in copies of their tree: with the network and processes of this container"
    " in sight, no /proc, and secrets on the disk while a step runs"
)


@dataclass(frozen=True, slots=True)
class _Probe:
    feature: str
    ask: Callable[[str], str]
    cost: str
    remedy: str


def report(store: str) -> Report:
    """Ask everything; `store` is where layers would be kept (it need not exist)."""
    with _directory(store) as directory:
        said = _in_child(lambda: _inside(directory))
    names = ("podman", "crun", "runc")
    runtimes = tuple(name for name in names if shutil.which(name))
    if "failed" in said:
        reason, hint = str(said["failed"]), str(said.get("hint", ""))
        if os.geteuid() != 0:
            return Report("", reason, hint, (), runtimes)
        return Report("host", f"{reason}; {_BY_CHROOT}", hint, (_cgroups(),), runtimes)
    kind, count = str(said["kind"]), int(said["count"])
    answers = (*(Answer(**answer) for answer in said["answers"]), _cgroups())
    lacking, remedy = userns.shortfall() if kind == "single" else ("", "")
    reasons = {
        "full": f"{count} ids: this user's and the subordinate ones, mapped by newuidmap",
        "identity": f"{count} ids, as they are: this is root, or root of a container",
        "single": f"one id: {lacking}; {_OWNERS_KEPT[_supervised(answers)]}",
    }
    return Report(kind, reasons[kind], remedy, answers, runtimes)


def _supervised(answers: tuple[Answer, ...]) -> bool:
    return all(answer.works for answer in answers if answer.feature == _SUPERVISION)


def _inside(directory: str) -> dict[str, Any]:
    """Enter a namespace as a build does, and put every question there."""
    id_map = userns.enter()
    count = sum(extent[2] for extent in id_map.uids)
    answers = _with_substitute([_asked(probe, directory) for probe in _PROBES])
    return {"kind": id_map.kind, "count": count, "answers": list(map(asdict, answers))}


def _with_substitute(answers: list[Answer]) -> list[Answer]:
    """`answers`, that to overlays telling what is used instead where they are refused."""
    if not any(answer.works for answer in answers if answer.feature == _FUSE):
        return answers
    return [
        replace(answer, cost=_SERVED) if answer.feature == _OVERLAYS else answer
        for answer in answers
    ]


def _asked(probe: _Probe, directory: str) -> Answer:
    started = time.monotonic()
    said = _in_child(lambda: {"detail": probe.ask(directory)}, deadline=_DEADLINE)
    return Answer(
        probe.feature,
        "failed" not in said,
        str(said.get("failed", said.get("detail"))),
        probe.cost,
        str(said.get("hint") or probe.remedy),
        time.monotonic() - started,
    )


def _in_child(work: Callable[[], dict[str, Any]], *, deadline: float = 0) -> dict[str, Any]:
    """What `work` gives in a forked child, or the reason why it failed, under `failed`. The child
    has `deadline` seconds, if that is not 0."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            signal.setitimer(signal.ITIMER_REAL, deadline)
            try:
                answer = work()
            except AssemblerError as error:
                answer = {"failed": error.message, "hint": error.hint}
            except OSError as error:
                answer = {"failed": error.strerror or str(error)}
            except Exception as error:
                answer = {"failed": f"{type(error).__name__}: {error}"}
            os.write(writer, json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        content = stream.read()
    os.waitpid(child, 0)
    found: dict[str, Any] = json.loads(content) if content else {"failed": "no answer in time"}
    return found


@contextmanager
def _directory(store: str) -> Iterator[str]:
    """A directory on the file system of the store, for the time of the probes."""
    above = os.path.abspath(store)
    while not os.path.isdir(above):
        above = os.path.dirname(above)
    with ExitStack() as stack:
        try:
            made = tempfile.TemporaryDirectory(prefix=".assemble-doctor-", dir=above)
        except OSError:  # the build will say that its store cannot be used
            made = tempfile.TemporaryDirectory(prefix="assemble-doctor-")
        yield stack.enter_context(made)


def _overlay(directory: str) -> str:
    try_overlay(os.path.join(directory, "overlay"))
    return file_system(directory)


def _fuse(directory: str) -> str:
    reason, remedy = fuse.shortfall(os.path.join(directory, "fuse"))
    if reason:
        raise HostError(reason, _FUSE, hint=remedy)
    return ""


def file_system(path: str) -> str:
    """The kind of file system `path` is on, by statfs(2)'s magic number."""
    number = syscalls.file_system_type(path)
    return _FILE_SYSTEMS.get(number, hex(number))


def _proc(directory: str) -> str:
    syscalls.unshare(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS)  # else it hides ours from others

    def mounted() -> dict[str, Any]:
        FileSystem("proc", "/proc").execute()
        return {}

    said = _in_child(mounted, deadline=_DEADLINE)
    if "failed" in said:
        raise OSError(0, said["failed"])
    return ""


def _private_network(directory: str) -> str:
    syscalls.unshare(syscalls.CLONE_NEWNET)
    return ""


def _filter(directory: str) -> str:
    syscalls.seccomp_filter(seccomp.profile(syscalls.machine()))
    return ""


def _supervision(directory: str) -> str:
    if not supervision.available():
        raise OSError(0, "no listener can be made, or no /proc mounted")
    return ""


def _owners(directory: str) -> str:
    path = os.path.join(directory, "owned")
    with open(path, "x"):
        os.chown(path, 1, 1)
    os.unlink(path)
    return ""


def _reflink(directory: str) -> str:
    import fcntl

    source, copy = os.path.join(directory, "source"), os.path.join(directory, "copy")
    try:
        with open(source, "x+b") as one, open(copy, "xb") as other:
            one.write(b"x" * 4096)
            one.flush()
            fcntl.ioctl(other, _FICLONE, one.fileno())
    finally:
        os.unlink(source)
        os.unlink(copy)
    return file_system(directory)


def _cgroups() -> Answer:
    """Asked of this process, not of a child in a namespace: whether others share its group is part
    of the answer."""
    started = time.monotonic()
    names, problem = places.limitable()
    lacking = ", ".join(name for name in CONTROLLERS if name not in names)
    detail = f"{', '.join(names)} of a step can be limited"
    if not names:
        detail = problem
    elif lacking:
        detail += f", not {lacking}: {problem}"
    return Answer(
        "delegated cgroups",
        bool(names),
        detail,
        "--resource and --cgroup-parent are refused; a step's processes are bounded by"
        " RLIMIT_NPROC, which does not hold the host's root",
        delegation(),
        time.monotonic() - started,
    )


_PROBES = (
    _Probe(
        _OVERLAYS,
        _overlay,
        "every RUN that does not follow another one copies the tree it runs in",
        "put the store on a local file system (ext4, xfs, btrfs, tmpfs) with --store DIR",
    ),
    _Probe(
        _FUSE,
        _fuse,
        "nothing where overlay mounts work; where they do not, steps run in copies",
        "apt-get install fuse-overlayfs",
    ),
    _Probe(
        "a /proc of its own",
        _proc,
        "RUN sees the /proc of the container it is in",
        "in Kubernetes: securityContext.procMount: Unmasked",
    ),
    _Probe(
        "a private network",
        _private_network,
        "RUN --network=none is refused",
        "sysctl -w user.max_net_namespaces=65536",
    ),
    _Probe(
        "system call filters",
        _filter,
        "RUN is refused: nothing would keep a step from the kernel's rare corners",
        "a kernel with CONFIG_SECCOMP_FILTER",
    ),
    _Probe(
        "other owners",
        _owners,
        "owners are records, and RUN is up to a tenth slower for it",
        "apt-get install uidmap, and lines in /etc/subuid and /etc/subgid",
    ),
    _Probe(
        _SUPERVISION,
        _supervision,
        "RUN can make no device nodes, and with one id everything it makes belongs to 0:0",
        "Linux 5.9 or newer; in a container, allow seccomp(2) and mounting proc",
    ),
    _Probe(
        "reflinks",
        _reflink,
        "a copied layer costs its size in time and space",
        "put the store on xfs or btrfs with --store DIR",
    ),
)
