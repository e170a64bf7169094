"""Mounts as values: each can be described before it is made, and making it is one call."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass

from assembler.linux import syscalls
from assembler.linux.paths import remove_tree
from assembler.linux.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_REC

_OPTION_LIMIT = 4000  # mount(2) takes one page of options
_STRING_LIMIT = 255  # bytes that fsconfig(2) takes as a string
_OVERLAY_SPECIAL = str.maketrans({"\\": "\\\\", ":": "\\:", ",": "\\,"})


@dataclass(frozen=True, slots=True)
class Bind:
    """`source` shown at `target`, with everything mounted below it."""

    source: str
    target: str
    read_only: bool = False

    def execute(self) -> None:
        """Mount it. A plain remount would fail on locked flags, so mount_setattr(2) is used."""
        syscalls.mount(self.source, self.target, None, MS_BIND | MS_REC)
        if self.read_only:
            syscalls.mount_setattr(self.target, syscalls.MOUNT_ATTR_RDONLY)

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
    `xino=on`: files have the root's device number and keep their inode's, whatever file systems the
    layers are on; without it tar --one-file-system sees several, and so does the supervisor.
    """

    lowers: tuple[str, ...]
    target: str
    upper: str = ""
    work: str = ""

    def execute(self) -> None:
        """Mount it: by one option string where that is short enough, else by fsconfig(2)."""
        options = self._options()
        if len(os.fsencode(options)) < _OPTION_LIMIT:
            syscalls.mount("overlay", self.target, "overlay", 0, options)
            return
        self._execute_by_fsconfig()

    def describe(self) -> str:
        """The equivalent command."""
        return f"mount -t overlay -o {self._options()} overlay {self.target}"

    def _options(self) -> str:
        lowers = ":".join(path.translate(_OVERLAY_SPECIAL) for path in self.lowers)
        options = f"lowerdir={lowers},userxattr"
        if self.upper:
            upper, work = (p.translate(_OVERLAY_SPECIAL) for p in (self.upper, self.work))
            options += f",upperdir={upper},workdir={work},volatile,xino=on"
        return options

    def _execute_by_fsconfig(self) -> None:
        with ExitStack() as stack:
            context = syscalls.fsopen("overlay")
            stack.callback(os.close, context)

            def give(key: str, path: str) -> None:
                # Only `lowerdir+` is taken as it is, without escapes (overlayfs, params.c).
                text = path if key == "lowerdir+" else path.translate(_OVERLAY_SPECIAL)
                if len(os.fsencode(text)) > _STRING_LIMIT:
                    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
                    stack.callback(os.close, descriptor)
                    text = f"/proc/self/fd/{descriptor}"
                syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, key, text)

            syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, "source", "overlay")
            for lower in self.lowers:
                give("lowerdir+", lower)
            syscalls.fsconfig(context, syscalls.FSCONFIG_SET_FLAG, "userxattr")
            if self.upper:
                give("upperdir", self.upper)
                give("workdir", self.work)
                syscalls.fsconfig(context, syscalls.FSCONFIG_SET_FLAG, "volatile")
                syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, "xino", "on")
            syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE)
            mounted = syscalls.fsmount(context)
            stack.callback(os.close, mounted)
            syscalls.move_mount(mounted, self.target)


def try_overlay(directory: str) -> None:
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
        Overlay((lower,), merged, upper, work).execute()
        try:
            os.rmdir(os.path.join(merged, "again"))
            os.mkdir(os.path.join(merged, "again"))
        finally:
            syscalls.umount(merged, syscalls.MNT_DETACH)
    finally:
        remove_tree(directory)
