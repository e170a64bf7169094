"""A cgroup for each step (cgroups(7), Control Group v2): made, limited, entered, removed.

A build has one group in every hierarchy it needs, and its steps have groups in that one. What was
made is on record in the store, in a directory that is locked by its owner, so that a later command
proves a killed builder dead and removes it. Groups are made below the group of this process, since
its limits bind its steps as well, or below the one that `--cgroup-parent` names.

Version 2 lets a group with processes hand down no controller but those of threads. Where these are
enough, as for the bound on processes, a build's groups are threaded, and whoever shares the group of
this process is not disturbed. Else this process moves into a group of its own meanwhile.

Moving a process waits for an RCU grace period (4 to 20 ms). What is free of charge is a thread that
moves itself (`tasks`, `cgroup.threads`), and being born in a group (CLONE_INTO_CGROUP).
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace

from assembler.errors import HostError
from assembler.linux import claims, hierarchies, syscalls
from assembler.linux.hierarchies import Hierarchy, counted, read
from assembler.linux.resources import CONTROLLERS, THREADED, Resources, less_reserve

MOST_GROUPS = len(CONTROLLERS) + 1
_PREFIX = "assemble-"
_RECORD = "groups"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PATIENCE = 2.0  # seconds for killed processes to be gone


@dataclass(frozen=True, slots=True)
class Group:
    """A cgroup of a hierarchy of version 1 or 2, and the controllers that limit it."""

    version: int
    path: str
    controllers: frozenset[str] = frozenset()
    threaded: bool = False

    def entrance(self) -> int:
        """A descriptor through which a process comes in: see `fork_into`, `enter`."""
        if self.version == 2 and not self.threaded:
            return os.open(self.path, _DIRECTORY)
        name = "cgroup.threads" if self.threaded else "tasks"
        return os.open(os.path.join(self.path, name), os.O_WRONLY | os.O_CLOEXEC)

    def make(self) -> None:
        """Make the group, without limits. Raises HostError."""
        with _told(self.path, ", ".join(sorted(self.controllers)) or "--cgroup-parent"):
            os.mkdir(self.path)
            if self.threaded:
                _write(os.path.join(self.path, "cgroup.type"), "threaded")


@dataclass(frozen=True, slots=True)
class StepGroups:
    """The groups of one step; none where nothing is limited."""

    groups: tuple[Group, ...]
    watched: Watched

    def shortage(self, killed: bool) -> str:
        """What a step that failed ran out of, and what would help; empty when nothing tells.
        `killed` says whether a signal ended it that could be the OOM killer's."""
        for group in self.groups:
            if "memory" in group.controllers and _killed_for_memory(group):
                return (
                    "the kernel's OOM killer ended a process of this step: its memory is limited"
                    f" to {_limit_of(group)}; allow it more (--resource memory=…), or let less run"
                    " at once in it"
                )
            if "pids" in group.controllers and counted(group.path, "pids.events", "max"):
                return (
                    f"this step may have {read(group.path, 'pids.max').strip()} processes and"
                    " threads at once, and wanted more: --ulimit nproc=… takes the place of that"
                )
        if killed and self.watched.more():
            return (
                "the kernel's OOM killer was at work while this step ran: the host, or the"
                " container this is, has too little memory; give it more, or let less run at once"
                " (--jobs)"
            )
        return ""


@dataclass(frozen=True, slots=True)
class Watched:
    """Where the OOM killer's victims among this process' group are counted, and how many there
    were (None: not told)."""

    directory: str
    name: str
    before: int | None

    @classmethod
    def begin(cls, found: Iterable[Hierarchy]) -> Watched:
        """Count from now on."""
        for one in found:
            if "memory" in one.offers():
                name = "memory.oom_control" if one.version == 1 else "memory.events"
                before = counted(one.directory, name, "oom_kill")
                if before is not None:
                    return cls(one.directory, name, before)
        return cls("/proc", "vmstat", counted("/proc", "vmstat", "oom_kill"))

    def more(self) -> bool:
        """Whether there were any since."""
        now = counted(self.directory, self.name, "oom_kill")
        return now is not None and self.before is not None and now > self.before


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of a build. `processes` is what a step may have of them at once, 0 for any
    number."""

    builds: tuple[Group, ...]
    resources: Resources
    processes: int
    watched: Watched

    @contextmanager
    def step(self) -> Iterator[StepGroups]:
        """Groups for one step, limited; removed after the block. Raises HostError."""
        name = f"step-{os.urandom(6).hex()}"
        with ExitStack() as stack:
            found = []
            for build in self.builds:
                group = replace(build, path=os.path.join(build.path, name))
                group.make()
                stack.callback(_remove, group.path)
                _limit(group, self.resources, self.processes)
                found.append(group)
            yield StepGroups(tuple(found), self.watched)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a build's group goes in one hierarchy. Version 2: whether it is `threaded`, and which
    controllers are to be `enabled` in `directory` for it."""

    hierarchy: Hierarchy
    directory: str
    controllers: frozenset[str]
    enabled: frozenset[str] = frozenset()
    threaded: bool = False

    @classmethod
    def of(cls, one: Hierarchy, parent: str, controllers: frozenset[str]) -> _Place:
        """The place for groups with `controllers`."""
        directory = _below(one, parent)
        if one.version == 1:
            return cls(one, directory, controllers)
        enabled = _enabled(directory)
        threaded = not parent and _inner(directory) and controllers | enabled <= THREADED
        return cls(one, directory, controllers, controllers - enabled, threaded)

    def obstacle(self) -> str:
        """Why no groups can be made here, empty if they can."""
        if not os.access(self.directory, os.W_OK | os.X_OK):
            return f"{self.directory} is not this user's"
        if self.hierarchy.version == 1:
            return ""
        control = os.path.join(self.directory, "cgroup.subtree_control")
        if not os.access(control, os.W_OK):
            return f"{control} is not this user's"
        if self.threaded or not self.enabled or not _inner(self.directory):
            return ""
        strangers = _strangers(self.directory)
        if not strangers:
            return ""
        pids, names = ", ".join(map(str, strangers[:5])), ", ".join(sorted(self.enabled))
        return f"{self.directory} has other processes in it ({pids}), so {names} cannot be enabled there"


@contextmanager
def prepared(
    records: str,
    resources: Resources | None = None,
    parent: str = "",
    *,
    processes: int = 0,
) -> Iterator[Groups]:
    """The groups of a build, gone after the block; on record in the directory `records`.

    `parent` is a group by its path from the top of the hierarchies. `processes` is what all steps
    together may have of them, 0 for any number, where that can be limited at no cost to others.
    Raises HostError when `resources` or `parent` are given and cannot be had.
    """
    resources = resources or Resources()
    found = hierarchies.mounted()
    watched = Watched.begin(found)
    places = _places(found, resources, parent, processes)
    if not places:
        yield Groups((), resources, 0, watched)
        return
    os.makedirs(records, mode=0o700, exist_ok=True)
    with claims.claim(records) as claimed, ExitStack() as stack:
        id = os.path.basename(claimed.path)
        _write_record(claimed.path, places, id)
        builds = tuple(_build_group(stack, place, id, processes) for place in places)
        groups = Groups(builds, resources, processes * 3 // 4, watched)
        if parent or resources.controllers:
            with groups.step() as step:
                _try_entering(step.groups)
        yield groups


def unlimited() -> Groups:
    """No groups at all."""
    return Groups((), Resources(), 0, Watched.begin(()))


def default_processes() -> int:
    """How many processes all steps of a build may have together when nothing is asked: three
    quarters of what the kernel can have, and what the groups of this process may have less a
    reserve for the builder."""
    bounds = [int(read("/proc/sys/kernel", name)) * 3 // 4 for name in ("pid_max", "threads-max")]
    allowed = hierarchies.allowed_processes(hierarchies.mounted())
    return min(*bounds, less_reserve(allowed)) if allowed is not None else min(bounds)


def sweep(records: str) -> None:
    """Remove what killed builders left; what cannot be removed stays on record. Raises OSError."""
    claims.sweep(records, last_act=_remove_recorded)


def limitable() -> tuple[dict[str, str], str]:
    """The directory of the groups by which each controller that can be used here limits steps, and
    what keeps the others from it."""
    usable: dict[str, str] = {}
    problem = "no hierarchy that is mounted offers more"
    for one in hierarchies.mounted():
        for name in one.offers():
            place = _Place.of(one, "", frozenset({name}))
            if reason := place.obstacle():
                problem = reason
            else:
                usable.setdefault(name, one.directory)
    return {name: usable[name] for name in CONTROLLERS if name in usable}, problem


def delegation() -> str:
    """The line that gives a build a group of its own on a host with systemd."""
    user = "" if os.getuid() == 0 else " --user"
    return f"systemd-run{user} --scope -p Delegate=yes assemble build …"


def fork_into(entrances: Sequence[int]) -> tuple[int, list[int]]:
    """`syscalls.fork`, the child being born in the group of version 2 among `entrances`, if there is
    one and the kernel can. The child has to `enter` what is returned besides."""
    for entrance in entrances:
        if stat.S_ISDIR(os.fstat(entrance).st_mode):
            try:
                pid = syscalls.fork_into(entrance)
            except OSError:  # clone3 is filtered, or may not: writing tells which
                break
            if pid == 0:
                os.close(entrance)
            return pid, [one for one in entrances if one != entrance]
    return syscalls.fork(), list(entrances)


def enter(entrances: Iterable[int]) -> None:
    """Move this process, which must have one thread, into groups, and close the descriptors.
    Raises OSError."""
    for entrance in entrances:
        if stat.S_ISDIR(os.fstat(entrance).st_mode):
            procs = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=entrance)
            os.close(entrance)
            entrance = procs
        os.write(entrance, b"0")
        os.close(entrance)


def _places(
    found: tuple[Hierarchy, ...], resources: Resources, parent: str, processes: int
) -> list[_Place]:
    wanted: dict[Hierarchy, set[str]] = {}
    for one in found if parent else ():
        if one.offers(one.top):
            wanted[one] = set()
    for name in sorted(resources.controllers):
        offering = [one for one in found if name in one.offers(one.top if parent else "")]
        if not offering:
            raise _unavailable(name, found)
        wanted.setdefault(offering[0], set()).add(name)
    if parent and not wanted:
        raise HostError("--cgroup-parent: no cgroup hierarchy can be seen here", "cgroups")
    for one in found if processes else ():
        if "pids" in one.offers(one.top if parent else ""):
            if one in wanted or not _Place.of(one, parent, frozenset({"pids"})).obstacle():
                wanted.setdefault(one, set()).add("pids")
            break
    return [_Place.of(one, parent, frozenset(names)) for one, names in wanted.items()]


def _below(one: Hierarchy, parent: str) -> str:
    return os.path.join(one.top, parent.strip("/")) if parent else one.directory


def _inner(directory: str) -> bool:
    """Whether `directory` is a group that may not have both processes and controllers: any but
    the root of version 2."""
    return os.path.exists(os.path.join(directory, "cgroup.type"))


def _strangers(directory: str) -> list[int]:
    """The processes in a group that are neither this one nor its descendants; 0 for one that
    cannot be seen from here."""
    pids = [int(word) for word in read(directory, "cgroup.procs").split()]
    return [pid for pid in pids if not _is_ours(pid)]


def _is_ours(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            fields = read(f"/proc/{pid}", "stat").rpartition(")")[2].split()
        except OSError:
            return True  # it has ended
        pid = int(fields[1])
    return pid == os.getpid()


def _enabled(directory: str) -> frozenset[str]:
    try:
        return frozenset(read(directory, "cgroup.subtree_control").split())
    except OSError:
        return frozenset()


def _unavailable(name: str, found: tuple[Hierarchy, ...]) -> HostError:
    where = ", ".join(one.directory for one in found if one.version == 2)
    reason = f"{where} does not offer it" if where else "no cgroup hierarchy has it"
    return HostError(
        f"--resource: the controller {name} cannot be used here: {reason}",
        "cgroups",
        hint=delegation(),
    )


def _build_group(stack: ExitStack, place: _Place, id: str, processes: int) -> Group:
    """The group of a build; `stack` removes it. Raises HostError."""
    path = _named(place, id)
    group = Group(place.hierarchy.version, path, place.controllers, place.threaded)
    _make_parents(stack, place)
    if problem := place.obstacle():
        raise HostError(problem, "cgroups", hint=delegation())
    if place.enabled and not place.threaded:
        _leave(stack, place, _leaf(place, id))
    if place.enabled:
        _enable(place.directory, place.enabled)
        stack.callback(_disable, place.directory, place.enabled)
    group.make()
    stack.callback(_remove, group.path)
    if group.version == 2 and group.controllers:
        _enable(group.path, group.controllers)
    _limit(group, Resources(), processes)
    return group


def _named(place: _Place, id: str) -> str:
    return os.path.join(place.directory, f"{_PREFIX}{id}")


def _leaf(place: _Place, id: str) -> str:
    return f"{_named(place, id)}-builder"


def _missing(place: _Place) -> list[str]:
    """The directories of a place that are not there, outermost first."""
    found = []
    directory = place.directory
    while directory != place.hierarchy.top and not os.path.isdir(directory):
        found.append(directory)
        directory = os.path.dirname(directory)
    return found[::-1]


def _make_parents(stack: ExitStack, place: _Place) -> None:
    """Make the group that `--cgroup-parent` names; what was made goes again."""
    for directory in _missing(place):
        above = os.path.dirname(directory)
        if place.hierarchy.version == 2 and not place.controllers <= _enabled(above):
            _enable(above, place.controllers)
        with _told(directory, "--cgroup-parent"):
            os.mkdir(directory)
        stack.callback(_remove_empty, directory)
        if place.hierarchy.version == 1:
            _inherit_cpuset(directory)


def _leave(stack: ExitStack, place: _Place, leaf: str) -> None:
    """Let this process, with its children, go from the place's group into the group `leaf`, and
    come back in the end. Raises HostError."""
    path = place.directory
    if path == place.hierarchy.directory and _inner(path):
        with _told(leaf, ", ".join(sorted(place.controllers))):
            os.mkdir(leaf)
            stack.callback(_remove, leaf)
            stack.callback(_move_all, leaf, path)
            _move_all(path, leaf)


def _move_all(source: str, target: str) -> None:
    while pids := read(source, "cgroup.procs").split():
        for pid in pids:
            with suppress(ProcessLookupError):
                _write(os.path.join(target, "cgroup.procs"), pid)


def _enable(directory: str, controllers: frozenset[str]) -> None:
    names = ", ".join(sorted(controllers))
    with _told(os.path.join(directory, "cgroup.subtree_control"), names):
        for name in sorted(controllers):
            _write(os.path.join(directory, "cgroup.subtree_control"), f"+{name}")


def _disable(directory: str, controllers: Iterable[str]) -> None:
    for name in controllers:
        with suppress(OSError):  # somebody else has made use of it meanwhile
            _write(os.path.join(directory, "cgroup.subtree_control"), f"-{name}")


def _limit(group: Group, resources: Resources, processes: int) -> None:
    """Write the limits of a new group. Raises HostError."""
    if group.version == 1:
        _inherit_cpuset(group.path)
    for controller in CONTROLLERS:
        if controller in group.controllers:
            for name, value in resources.settings(controller, group.version):
                path = os.path.join(group.path, name)
                if name.startswith(("memory.memsw", "memory.swap")) and _swapless(path):
                    continue
                with _told(path, f"{controller} ({value})"):
                    _write(path, value)
    if processes and "pids" in group.controllers:
        with _told(group.path, "pids"):
            _write(os.path.join(group.path, "pids.max"), str(processes))


def _swapless(path: str) -> bool:
    """Whether the limit of swap at `path` is not there because there is no swap."""
    return not os.path.exists(path) and len(read("/proc", "swaps").splitlines()) < 2


def _inherit_cpuset(directory: str) -> None:
    """Where version 1 limits processors, a new group has none, and takes no process before it
    has."""
    if not os.path.exists(os.path.join(directory, "cpuset.cpus")):
        return
    for name in ("cpuset.cpus", "cpuset.mems"):
        path = os.path.join(directory, name)
        with _told(path, "cpuset"):
            if not read(directory, name).strip():
                _write(path, read(os.path.dirname(directory), name).strip())


@contextmanager
def _told(path: str, what: str) -> Iterator[None]:
    """OSErrors as a HostError about `what`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"{what} cannot be limited: {path}: {reason}"
        raise HostError(message, "cgroups", hint=delegation()) from error


def _try_entering(groups: Sequence[Group]) -> None:
    """See that a process can come into `groups`. Raises HostError."""
    entrances = [group.entrance() for group in groups]
    pid, left = fork_into(entrances)
    if pid == 0:
        status = 0
        try:
            enter(left)
        except OSError as error:
            status = error.errno or errno.EIO
        finally:
            os._exit(status)
    for entrance in entrances:
        os.close(entrance)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status > 0:
        where = ", ".join(group.path for group in groups)
        message = f"no process can be moved into {where}: {os.strerror(status)}"
        if status == errno.EACCES:
            message += "; this user would have to own a group above both that one and its own"
        raise HostError(message, "cgroups", hint=delegation())


def _killed_for_memory(group: Group) -> bool:
    name = "memory.oom_control" if group.version == 1 else "memory.events"
    return bool(counted(group.path, name, "oom_kill"))


def _limit_of(group: Group) -> str:
    text = read(group.path, "memory.limit_in_bytes" if group.version == 1 else "memory.max").strip()
    return f"{int(text) / (1 << 20):.6g} MiB" if text.isdigit() else text


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _write_record(directory: str, places: Sequence[_Place], id: str) -> None:
    """Put down everything that will be made, before it is."""
    document = {
        "groups": [path for one in places for path in (_named(one, id), _leaf(one, id))],
        "enabled": [[one.directory, sorted(one.enabled)] for one in places],
        "parents": [path for one in places for path in _missing(one)[::-1]],
    }
    with open(os.path.join(directory, _RECORD), "x", encoding="utf-8") as stream:
        json.dump(document, stream)


def _remove_recorded(directory: str) -> bool:
    """Remove the groups that the dead owner of the claim `directory` has put down; whether that
    could be done by this user, now."""
    try:
        document = json.loads(read(directory, _RECORD))
    except (OSError, ValueError):
        return True  # it died before anything was made
    try:
        for path in document["groups"]:
            _remove(path)
        for path, controllers in document["enabled"]:
            _disable(path, controllers)
        for path in document["parents"]:
            _remove_empty(path)
    except (OSError, HostError):
        return False
    return True


def _remove(path: str) -> None:
    """Remove a group and those in it; what is left in them is killed. Raises HostError."""
    try:
        below = [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for child in below:
        _remove(child)
    deadline = time.monotonic() + _PATIENCE
    for attempt in itertools.count():
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise HostError(f"{path} cannot be removed: {error.strerror}", "cgroups") from error
            _kill(path)
            time.sleep(min(0.001 * 2**attempt, 0.05))
        else:
            return


def _remove_empty(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError as error:  # others have put groups in it
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT):
            raise


def _kill(path: str) -> None:
    with suppress(OSError):  # version 1, or Linux before 5.14
        _write(os.path.join(path, "cgroup.kill"), "1")
        return
    threaded = os.path.exists(os.path.join(path, "cgroup.threads"))  # it tells nothing else
    for word in read(path, "cgroup.threads" if threaded else "cgroup.procs").split():
        with suppress(ProcessLookupError):
            os.kill(int(word), signal.SIGKILL)
