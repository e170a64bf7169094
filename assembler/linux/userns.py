"""Entering a user namespace in place, before any thread (user_namespaces(7), rootless-runtime 1).

The ladder: root copies its own id extents as they are; a user with subordinate ids maps them with
newuidmap(1) and newgidmap(1); else one id is mapped, and owners are kept in records (`ownership`).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from dataclasses import dataclass

from assembler.cancellation import Cancellation
from assembler.errors import HostError, NamespacesForbidden
from assembler.linux import syscalls

Extent = tuple[int, int, int]
"""First id inside, first id outside, how many."""


@dataclass(frozen=True, slots=True)
class IdMap:
    """The ids of a user namespace. `kind` is identity, full, single, or host for none at all."""

    kind: str
    uids: tuple[Extent, ...]
    gids: tuple[Extent, ...]
    outer_uid: int
    outer_gid: int

    @property
    def single(self) -> bool:
        """Whether only one id is mapped, so that no other owner can be expressed."""
        return sum(count for _, _, count in self.gids) == 1


def host_map() -> IdMap:
    """The ids of a process that stays where it is."""
    every = ((0, 0, (1 << 32) - 1),)
    return IdMap("host", every, every, os.getuid(), os.getgid())


def enter(cancellation: Cancellation | None = None) -> IdMap:
    """Enter a new user and mount namespace; this process is uid 0 in it afterwards.

    Raises NamespacesForbidden with the line that would allow it, and Cancelled. The process must
    have one thread.
    """
    if threading.active_count() > 1:
        raise HostError("the user namespace must be entered before threads start", "threads")
    id_map = plan_map()
    alive_reader, alive_writer = os.pipe()
    done_reader, done_writer = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(alive_writer)
        os.close(done_reader)
        _map_from_outside(id_map, parent, alive_reader, done_writer)
    os.close(alive_reader)
    os.close(done_writer)
    try:
        _unshare()
        os.write(alive_writer, b"x")
        message = _drain(done_reader, cancellation)
    finally:
        os.close(alive_writer)
        os.close(done_reader)
        os.waitpid(child, 0)
    if message != b"ok":
        raise NamespacesForbidden(
            f"the ids of a user namespace could not be mapped: {message.decode(errors='replace')}",
            "uid_map",
            hint="apt-get install uidmap, and give the user a line in /etc/subuid and /etc/subgid",
        )
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    return id_map


def plan_map() -> IdMap:
    """The id map this process can have."""
    import shutil

    uid, gid = os.getuid(), os.getgid()
    if uid == 0 and _capable():
        return IdMap("identity", _own_extents("uid"), _own_extents("gid"), uid, gid)
    uids, gids = subordinate("/etc/subuid", uid), subordinate("/etc/subgid", uid)
    if uids and gids and shutil.which("newuidmap") and shutil.which("newgidmap"):
        return IdMap(
            "full", ((0, uid, 1), *_stacked(uids)), ((0, gid, 1), *_stacked(gids)), uid, gid
        )
    return IdMap("single", ((0, uid, 1),), ((0, gid, 1),), uid, gid)


def shortfall() -> tuple[str, str]:
    """What keeps this user from a full map, and the one line that would mend it."""
    import pwd
    import shutil

    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    for path in ("/etc/subuid", "/etc/subgid"):
        if not subordinate(path, uid):
            line = f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
            return f"{path} has no line for {name}", line
    for tool in ("newuidmap", "newgidmap"):
        if not shutil.which(tool):
            return f"{tool} is not installed", "apt-get install uidmap"
    return "the host maps no other", "ask for a user namespace with more ids"


def subordinate(path: str, uid: int) -> tuple[tuple[int, int], ...]:
    """The (start, count) ranges that `path` gives the user, by number or by name (subuid(5))."""
    import pwd

    names = {str(uid)}
    with contextlib.suppress(KeyError):  # a uid without an entry is only ever named by number
        names.add(pwd.getpwuid(uid).pw_name)
    ranges = []
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            lines = stream.read().splitlines()
    except FileNotFoundError:
        return ()
    for line in lines:
        name, _, rest = line.partition(":")
        start, _, count = rest.partition(":")
        if name in names and start.isdigit() and count.isdigit() and int(count):
            ranges.append((int(start), int(count)))
    return tuple(ranges)


def _stacked(ranges: tuple[tuple[int, int], ...]) -> tuple[Extent, ...]:
    extents = []
    inside = 1
    for start, count in ranges:
        extents.append((inside, start, count))
        inside += count
    return tuple(extents)


def group_is_mapped(gid: int) -> bool:
    """Whether processes here can be in the group `gid`."""
    with open("/proc/self/gid_map", encoding="ascii") as stream:
        rows = [tuple(map(int, line.split())) for line in stream]
    return any(inside <= gid < inside + count for inside, _, count in rows)


def _own_extents(which: str) -> tuple[Extent, ...]:
    """This process' own map, line by line: each must lie inside one extent of the parent's.

    The first id stands alone: a map in one piece looks like that of the host's own namespace, and
    crun and podman would take themselves for real root.
    """
    with open(f"/proc/self/{which}_map", encoding="ascii") as stream:
        rows = [tuple(map(int, line.split())) for line in stream]
    extents = []
    for inside, _, count in rows:
        if inside == 0 and count > 1:
            extents += [(0, 0, 1), (1, 1, count - 1)]
        else:
            extents.append((inside, inside, count))
    return tuple(extents)


def _capable() -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
        for line in stream:
            if line.startswith("CapEff:"):
                effective = int(line.split()[1], 16)
                wanted = (1 << 6) | (1 << 7)  # CAP_SETGID, CAP_SETUID
                return effective & wanted == wanted
    return False


def _run_tools(id_map: IdMap, pid: int, alive: int) -> None:
    """Run both tools at once, until `alive` ends: they look names up, and a name service may hang."""
    import subprocess

    tools = (("newuidmap", id_map.uids), ("newgidmap", id_map.gids))
    started = []
    for tool, extents in tools:
        words = [str(number) for extent in extents for number in extent]
        argv = [tool, str(pid), *words]
        started.append(
            subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
            )
        )
    running = {os.pidfd_open(process.pid): process for process in started}
    poller = select.poll()
    for descriptor in (alive, *running):
        poller.register(descriptor, select.POLLIN)
    try:
        while running:
            for descriptor, _ in poller.poll():
                if descriptor == alive:
                    raise OSError("cancelled")
                poller.unregister(descriptor)
                process = running.pop(descriptor)
                if process.wait():
                    assert process.stderr is not None
                    errors = process.stderr.read(4096).decode(errors="replace").strip()
                    raise OSError(errors or "newuidmap failed")
    finally:
        for process in running.values():
            os.killpg(process.pid, signal.SIGKILL)


def _write_maps(id_map: IdMap, pid: int) -> None:
    if id_map.kind == "single":
        _write(f"/proc/{pid}/setgroups", "deny")
    for which, extents in (("gid", id_map.gids), ("uid", id_map.uids)):
        lines = "\n".join(" ".join(map(str, extent)) for extent in extents)
        _write(f"/proc/{pid}/{which}_map", lines)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _map_from_outside(id_map: IdMap, parent: int, alive: int, done: int) -> None:
    """What the child does: `alive` ends with the parent. Never returns."""
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # they are for the parent, which tells us
        if os.read(alive, 1):
            if id_map.kind == "full":
                _run_tools(id_map, parent, alive)
            else:
                _write_maps(id_map, parent)
            os.write(done, b"ok")
        status = 0
    except BaseException as error:  # reported to the parent, which raises
        os.write(done, str(error).encode(errors="replace") or b"failed")
    finally:
        os._exit(status)


def _unshare() -> None:
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    except OSError as error:
        raise NamespacesForbidden(
            f"this host lets no user namespace be made: {error.strerror}",
            "user namespaces",
            hint=_advice(),
        ) from error


def _advice() -> str:
    for path, wanted, line in (
        ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=65536"),
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ):
        try:
            with open(path, encoding="ascii") as stream:
                if stream.read().strip() == wanted:
                    return line
        except OSError:
            continue
    return "in a container, allow unshare(2) in its seccomp profile"


def _drain(descriptor: int, cancellation: Cancellation | None) -> bytes:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    if cancellation is not None:
        poller.register(cancellation.fileno(), select.POLLIN)
    parts: list[bytes] = []
    while True:
        poller.poll()
        if cancellation is not None:
            cancellation.check()
        part = os.read(descriptor, 4096)
        if not part:
            return b"".join(parts)
        parts.append(part)
