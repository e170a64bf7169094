"""The cgroup hierarchies that are mounted, and where this process is in them (cgroups(7))."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from assembler.linux.resources import CONTROLLERS


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A hierarchy of cgroup version 1 or 2, mounted at `top`; `directory` is the group of this
    process. What version 2 offers is in its files, what version 1 does in `attached`."""

    version: int
    top: str
    directory: str
    attached: frozenset[str] = frozenset()

    def offers(self, directory: str = "") -> frozenset[str]:
        """The controllers that groups below `directory` (this process' own) can have."""
        if self.version == 1:
            return self.attached
        try:
            words = read(directory or self.directory, "cgroup.controllers").split()
        except OSError:
            return frozenset()
        return frozenset(words) & frozenset(CONTROLLERS)

    def above(self) -> list[str]:
        """The directory of this process and those above it, as far as they are mounted."""
        found = [self.directory]
        while found[-1] != self.top:
            found.append(os.path.dirname(found[-1]))
        return found


def mounted() -> tuple[Hierarchy, ...]:
    """The hierarchies of this process that can be seen; none where /proc cannot be read."""
    try:
        return parsed(read("/proc/self", "cgroup"), read("/proc/self", "mountinfo"))
    except OSError:
        return ()


def parsed(groups: str, mounts: str) -> tuple[Hierarchy, ...]:
    """The hierarchies that /proc/self/cgroup and /proc/self/mountinfo tell of, those of version 1
    first: a controller is only ever attached to one."""
    points = [point for line in mounts.splitlines() for point in _point(line)]
    found = []
    for line in groups.splitlines():
        _, names, path = line.split(":", 2)
        attached = frozenset(names.split(",")) & frozenset(CONTROLLERS)
        if names and not attached:
            continue
        for kind, options, root, top in points:
            below = path if root == "/" else path.removeprefix(root)
            seen = root == "/" or f"{path}/".startswith(f"{root}/")
            if not seen or path.startswith("/..") or kind != ("cgroup" if names else "cgroup2"):
                continue
            if attached <= options:
                directory = os.path.normpath(f"{top}/{below}")
                found.append(Hierarchy(1 if names else 2, top, directory, attached))
                break
    return tuple(sorted(found, key=lambda one: one.version))


def _point(line: str) -> list[tuple[str, frozenset[str], str, str]]:
    """Type, options, root and place of a line's mount, if it is one of cgroups (proc(5))."""
    place, _, device = line.partition(" - ")
    kind, _, rest = device.partition(" ")
    if kind not in ("cgroup", "cgroup2"):
        return []
    root, top = (_unescaped(word) for word in place.split(" ")[3:5])
    return [(kind, frozenset(rest.split(" ")[-1].split(",")), root, top)]


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def allowed_processes(hierarchies: tuple[Hierarchy, ...]) -> int | None:
    """How many processes the groups of this process may have, None for any number."""
    found = []
    for hierarchy in hierarchies:
        if "pids" in hierarchy.attached or hierarchy.version == 2:
            for directory in hierarchy.above():
                try:
                    text = read(directory, "pids.max").strip()
                except OSError:
                    continue  # the root has none, nor has a group without the controller
                found += [int(text)] if text.isdigit() else []
    return min(found, default=None)


def read(directory: str, name: str) -> str:
    """The file `name` of `directory`. Raises OSError."""
    with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as stream:
        return stream.read()


def counted(directory: str, name: str, key: str) -> int | None:
    """The number behind the word `key` in a file of lines `KEY NUMBER`, None where it is not."""
    try:
        lines = read(directory, name).splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key} ")), None)
