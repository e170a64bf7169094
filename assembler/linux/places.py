"""Where the groups of a build can be, and what keeps them from being there."""

from __future__ import annotations

import os
from dataclasses import dataclass

from assembler.errors import HostError
from assembler.linux import hierarchies
from assembler.linux.group_files import delegation, enabled
from assembler.linux.hierarchies import Hierarchy, read
from assembler.linux.resources import CONTROLLERS, THREADED, Resources


@dataclass(frozen=True, slots=True)
class Place:
    """Where a build's group goes in one hierarchy. Version 2: whether it is `threaded`, and which
    controllers are to be `enabled` in `directory` for it."""

    hierarchy: Hierarchy
    directory: str
    controllers: frozenset[str]
    enabled: frozenset[str] = frozenset()
    threaded: bool = False

    @classmethod
    def of(cls, one: Hierarchy, parent: str, controllers: frozenset[str]) -> Place:
        """The place for groups with `controllers`, below this process' group or `parent`."""
        directory = _below(one, parent)
        if one.version == 1:
            return cls(one, directory, controllers)
        there = enabled(directory)
        threaded = not parent and inner(directory) and controllers | there <= THREADED
        return cls(one, directory, controllers, controllers - there, threaded)

    def obstacle(self) -> str:
        """Why no groups can be made here, empty if they can."""
        if not os.access(self.directory, os.W_OK | os.X_OK):
            return f"{self.directory} is not this user's"
        if self.hierarchy.version == 1:
            return ""
        control = os.path.join(self.directory, "cgroup.subtree_control")
        if not os.access(control, os.W_OK):
            return f"{control} is not this user's"
        if self.threaded or not self.enabled or not inner(self.directory):
            return ""
        strangers = _strangers(self.directory)
        if not strangers:
            return ""
        pids, names = ", ".join(map(str, strangers[:5])), ", ".join(sorted(self.enabled))
        return f"{self.directory} has other processes in it ({pids}), so {names} cannot be enabled there"


def places_for(
    found: tuple[Hierarchy, ...], resources: Resources, parent: str, processes: int
) -> list[Place]:
    """One place for each hierarchy that is needed: see `cgroups.prepared`. Raises HostError when
    one that is asked for is not there."""
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
            if one in wanted or not Place.of(one, parent, frozenset({"pids"})).obstacle():
                wanted.setdefault(one, set()).add("pids")
            break
    return [Place.of(one, parent, frozenset(names)) for one, names in wanted.items()]


def limitable() -> tuple[dict[str, str], str]:
    """The directory of the groups by which each controller that can be used here limits steps, and
    what keeps the others from it."""
    usable: dict[str, str] = {}
    problem = "no hierarchy that is mounted offers more"
    for one in hierarchies.mounted():
        for name in one.offers():
            place = Place.of(one, "", frozenset({name}))
            if reason := place.obstacle():
                problem = reason
            else:
                usable.setdefault(name, one.directory)
    return {name: usable[name] for name in CONTROLLERS if name in usable}, problem


def _below(one: Hierarchy, parent: str) -> str:
    return os.path.join(one.top, parent.strip("/")) if parent else one.directory


def missing(place: Place) -> list[str]:
    """The directories of a place that are not there, outermost first."""
    found = []
    directory = place.directory
    while directory != place.hierarchy.top and not os.path.isdir(directory):
        found.append(directory)
        directory = os.path.dirname(directory)
    return found[::-1]


def inner(directory: str) -> bool:
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


def _unavailable(name: str, found: tuple[Hierarchy, ...]) -> HostError:
    where = ", ".join(one.directory for one in found if one.version == 2)
    reason = f"{where} does not offer it" if where else "no cgroup hierarchy has it"
    return HostError(
        f"--resource: the controller {name} cannot be used here: {reason}",
        "cgroups",
        hint=delegation(),
    )
