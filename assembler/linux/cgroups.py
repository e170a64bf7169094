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
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace

from assembler.errors import HostError
from assembler.linux import claims, hierarchies
from assembler.linux.entrances import enter, fork_into
from assembler.linux.group_files import (
    delegation,
    disable,
    enable,
    enabled,
    inherit_cpuset,
    move_all,
    remove,
    remove_empty,
    told,
    write,
)
from assembler.linux.hierarchies import Hierarchy, counted, read
from assembler.linux.places import Place, inner, missing, places_for
from assembler.linux.resources import CONTROLLERS, Resources, less_reserve

_PREFIX = "assemble-"
_RECORD = "groups"
_MOST_PROCESSES = 1 << 22  # PID_MAX_LIMIT
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


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
        with told(self.path, ", ".join(sorted(self.controllers)) or "--cgroup-parent"):
            os.mkdir(self.path)
            if self.threaded:
                write(os.path.join(self.path, "cgroup.type"), "threaded")


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
                stack.callback(remove, group.path)
                _limit(group, self.resources, self.processes)
                found.append(group)
            yield StepGroups(tuple(found), self.watched)


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
    places = places_for(found, resources, parent, processes)
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
    bounds = [_MOST_PROCESSES]
    for name in ("pid_max", "threads-max"):
        with suppress(OSError):  # hidden in a container
            bounds.append(int(read("/proc/sys/kernel", name)) * 3 // 4)
    allowed = hierarchies.allowed_processes(hierarchies.mounted())
    return min(*bounds, _MOST_PROCESSES if allowed is None else less_reserve(allowed))


def sweep(records: str) -> None:
    """Remove what killed builders left; what cannot be removed stays on record. Raises OSError."""
    claims.sweep(records, last_act=_remove_recorded)


def _build_group(stack: ExitStack, place: Place, id: str, processes: int) -> Group:
    """The group of a build; `stack` removes it. Raises HostError."""
    path = _named(place, id)
    group = Group(place.hierarchy.version, path, place.controllers, place.threaded)
    _make_parents(stack, place)
    if problem := place.obstacle():
        raise HostError(problem, "cgroups", hint=delegation())
    if place.enabled and not place.threaded:
        _leave(stack, place, _leaf(place, id))
    if place.enabled:
        enable(place.directory, place.enabled)
        stack.callback(disable, place.directory, place.enabled)
    group.make()
    stack.callback(remove, group.path)
    if group.version == 2 and group.controllers:
        enable(group.path, group.controllers)
    _limit(group, Resources(), processes)
    return group


def _named(place: Place, id: str) -> str:
    return os.path.join(place.directory, f"{_PREFIX}{id}")


def _leaf(place: Place, id: str) -> str:
    return f"{_named(place, id)}-builder"


def _make_parents(stack: ExitStack, place: Place) -> None:
    """Make the group that `--cgroup-parent` names; what was made goes again."""
    for directory in missing(place):
        above = os.path.dirname(directory)
        if place.hierarchy.version == 2 and not place.controllers <= enabled(above):
            enable(above, place.controllers)
        with told(directory, "--cgroup-parent"):
            os.mkdir(directory)
        stack.callback(remove_empty, directory)
        if place.hierarchy.version == 1:
            inherit_cpuset(directory)


def _leave(stack: ExitStack, place: Place, leaf: str) -> None:
    """Let this process, with its children, go from the place's group into the group `leaf`, and
    come back in the end. Raises HostError."""
    path = place.directory
    if path == place.hierarchy.directory and inner(path):
        with told(leaf, ", ".join(sorted(place.controllers))):
            os.mkdir(leaf)
            stack.callback(remove, leaf)
            stack.callback(move_all, leaf, path)
            move_all(path, leaf)


def _limit(group: Group, resources: Resources, processes: int) -> None:
    """Write the limits of a new group. Raises HostError."""
    if group.version == 1:
        inherit_cpuset(group.path)
    for controller in CONTROLLERS:
        if controller in group.controllers:
            for name, value in resources.settings(controller, group.version):
                path = os.path.join(group.path, name)
                if name.startswith(("memory.memsw", "memory.swap")) and _swapless(path):
                    continue
                with told(path, f"{controller} ({value})"):
                    write(path, value)
    if processes and "pids" in group.controllers:
        with told(group.path, "pids"):
            write(os.path.join(group.path, "pids.max"), str(processes))


def _swapless(path: str) -> bool:
    """Whether the limit of swap at `path` is not there because there is no swap."""
    return not os.path.exists(path) and len(read("/proc", "swaps").splitlines()) < 2


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


def _write_record(directory: str, places: Sequence[Place], id: str) -> None:
    """Put down everything that will be made, before it is."""
    document = {
        "groups": [path for one in places for path in (_named(one, id), _leaf(one, id))],
        "enabled": [[one.directory, sorted(one.enabled)] for one in places],
        "parents": [path for one in places for path in missing(one)[::-1]],
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
            remove(path)
        for path, controllers in document["enabled"]:
            disable(path, controllers)
        for path in document["parents"]:
            remove_empty(path)
    except (OSError, HostError):
        return False
    return True
