"""Mounts as values: each can be described before it is made, and making it is one call."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from assembler.linux import syscalls
from assembler.linux.paths import remove_tree
from assembler.linux.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_REC

_OPTION_LIMIT = 4000  # mount(2) takes one page of options
_ATTRIBUTES = {
    "nosuid": syscalls.MOUNT_ATTR_NOSUID,
    "nodev": syscalls.MOUNT_ATTR_NODEV,
    "noexec": syscalls.MOUNT_ATTR_NOEXEC,
}
_OVERLAY_SPECIAL = str.maketrans({"\\": "\\\\", ":": "\\:", ",": "\\,"})


@dataclass(frozen=True, slots=True)
class Bind:
    """`source` shown at `target`, with everything mounted below it; `options` are nosuid, nodev,
    noexec."""

    source: str
    target: str
    read_only: bool = False
    options: tuple[str, ...] = ()

    def execute(self) -> None:
        """Mount it. A plain remount would fail on locked flags, so mount_setattr(2) is used."""
        syscalls.mount(self.source, self.target, None, MS_BIND | MS_REC)
        attributes = syscalls.MOUNT_ATTR_RDONLY if self.read_only else 0
        for option in self.options:
            attributes |= _ATTRIBUTES[option]
        if attributes:
            syscalls.mount_setattr(self.target, attributes)

    def describe(self) -> str:
        """The equivalent command."""
        return f"mount --rbind {self.source} {self.target}"


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A file system of `kind` (tmpfs, proc, sysfs, devpts, mqueue) at `target`."""

    kind: str
    target: str
    options: str = ""
    flags: int = MS_NOSUID | MS_NODEV | MS_NOEXEC

    def execute(self) -> None:
        """Mount it."""
        syscalls.mount(self.kind, self.target, self.kind, self.flags, self.options or None)

    def describe(self) -> str:
        """The equivalent command."""
        return f"mount -t {self.kind} -o {self.options or 'defaults'} {self.kind} {self.target}"


@dataclass(frozen=True, slots=True)
class Overlay:
    """An overlay of `lowers`, TOPMOST FIRST, at `target`; without `upper` it is read-only.

    `userxattr` always: without it a user-namespace overlay mounts and then fails with EIO.
    `volatile`: nothing here must survive a power cut, a layer is published only when complete.
    """

    lowers: tuple[str, ...]
    target: str
    upper: str = ""
    work: str = ""

    def execute(self) -> None:
        """Mount it. Many layers are given by short links, since the options are one page at most:
        fsconfig(2) takes a layer at a time only from Linux 6.7."""
        options = self._options(self.lowers)
        if len(os.fsencode(options)) < _OPTION_LIMIT:
            syscalls.mount("overlay", self.target, "overlay", 0, options)
            return
        names = f"{self.target}.lowers"
        before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.mkdir(names, 0o700)
        try:
            os.chdir(names)
            for number, lower in enumerate(self.lowers):
                os.symlink(lower, str(number))
            options = self._options(tuple(map(str, range(len(self.lowers)))))
            syscalls.mount("overlay", self.target, "overlay", 0, options)
        finally:
            os.fchdir(before)
            os.close(before)
            remove_tree(names)

    def describe(self) -> str:
        """The equivalent command."""
        return f"mount -t overlay -o {self._options(self.lowers)} overlay {self.target}"

    def _options(self, paths: tuple[str, ...]) -> str:
        lowers = ":".join(path.translate(_OVERLAY_SPECIAL) for path in paths)
        options = f"lowerdir={lowers},userxattr"
        if self.upper:
            upper, work = (p.translate(_OVERLAY_SPECIAL) for p in (self.upper, self.work))
            options += f",upperdir={upper},workdir={work},volatile"
        return options


class Mount(Protocol):
    """A mount that can be made."""

    def execute(self) -> None:
        """Make it. Raises OSError."""
        ...


def try_overlay(
    directory: str, overlay: Callable[[tuple[str, ...], str, str, str], Mount] = Overlay
) -> None:
    """Mount an overlay below the new directory `directory` and make a directory in it again that a
    lower layer has: without user extended attributes an overlay mounts, and then fails with EIO.

    Nothing of it stays. Raises OSError where overlays cannot be used.
    """
    os.mkdir(directory, 0o700)
    try:
        names = ("lower", "upper", "work", "merged")
        lower, upper, work, merged = (os.path.join(directory, name) for name in names)
        for path in (os.path.join(lower, "again"), upper, work, merged):
            os.makedirs(path)
        overlay((lower,), merged, upper, work).execute()
        try:
            os.rmdir(os.path.join(merged, "again"))
            os.mkdir(os.path.join(merged, "again"))
        finally:
            syscalls.umount(merged, syscalls.MNT_DETACH)
    finally:
        remove_tree(directory)
