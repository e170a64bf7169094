"""Calls of supervised processes that change a file's owner or tell it: the families of chown(2) and
stat(2)."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Sequence

from assembler.linux import syscalls
from assembler.linux.caller_credentials import CallerCredentials
from assembler.linux.callers import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    BY_KERNEL,
    Answer,
    Answering,
    ByKernel,
    Call,
    Callers,
    Elsewhere,
    failure,
    handle,
    unsigned,
)
from assembler.linux.credentials import KEEP
from assembler.linux.file_owners import FileOwners, is_special, node
from assembler.linux.ownership import Owner

_ROOT_OR_KEEP = (0, KEEP)
_AT_STATX_SYNC = 0x6000
_STAT_LAYOUT = {"x86_64": (24, 28, 40), "aarch64": (16, 24, 32)}
"""Where st_mode, st_uid (st_gid follows) and st_rdev are in struct stat."""


class OwnerCalls:
    """Answers them, by what `owners` has recorded."""

    def __init__(
        self, callers: Callers, credentials: CallerCredentials, owners: FileOwners
    ) -> None:
        self._callers = callers
        self._credentials = credentials
        self._owners = owners

    def answers(self) -> dict[str, Answering]:
        """What answers the calls, by name."""
        at, nofollow = AT_FDCWD, AT_SYMLINK_NOFOLLOW
        return {
            "chown": lambda c: self._chown(c, at, c.args[0], c.args[1:3], 0),
            "lchown": lambda c: self._chown(c, at, c.args[0], c.args[1:3], nofollow),
            "fchown": self._fchown,
            "fchownat": lambda c: self._chown(c, c.args[0], c.args[1], c.args[2:4], c.args[4]),
            "stat": lambda c: self._stat(c, at, c.args[0], c.args[1], 0),
            "lstat": lambda c: self._stat(c, at, c.args[0], c.args[1], nofollow),
            "fstat": lambda c: self._stat(c, c.args[0], 0, c.args[1], AT_EMPTY_PATH),
            "newfstatat": lambda c: self._stat(c, *c.args[:4]),
            "statx": self._statx,
        }

    def _chown(
        self, call: Call, directory: int, address: int, owner: Sequence[int], flags: int
    ) -> int:
        uid, gid = unsigned(owner[0]), unsigned(owner[1])
        path = self._callers.text(call, address)
        if uid in _ROOT_OR_KEEP and gid in _ROOT_OR_KEEP:
            self._leave(call, directory, path, flags)
        try:
            file = self._callers.open(call, directory, path, flags)
        except Elsewhere:
            return 0
        try:
            return self._give(call, file, uid, gid)
        finally:
            os.close(file)

    def _fchown(self, call: Call) -> int:
        uid, gid = unsigned(call.args[1]), unsigned(call.args[2])
        if uid in _ROOT_OR_KEEP and gid in _ROOT_OR_KEEP:
            self._leave(call, call.args[0], b"", AT_EMPTY_PATH)
        file = self._callers.descriptor(call, call.args[0])
        try:
            return self._give(call, file, uid, gid)
        finally:
            os.close(file)

    def _leave(self, call: Call, directory: int, path: bytes, flags: int) -> None:
        """Raise ByKernel where the privileged give to root what nothing says is another's."""
        if self._credentials.of(call).privileged and not self._owners.perhaps_recorded(
            call, directory, path, flags
        ):
            raise ByKernel

    def _give(self, call: Call, file: int, uid: int, gid: int) -> int:
        status = os.fstat(file)
        before = self._owners.of(file, status)
        if not self._credentials.of(call).may_give(before, uid, gid):
            raise failure(errno.EPERM)
        # The kernel's part: errors, copy-up, set-id bits and capabilities that go (chown(2)).
        os.chown(handle(file), -1 if uid == KEEP else 0, -1 if gid == KEEP else 0)
        after = (before[0] if uid == KEEP else uid, before[1] if gid == KEEP else gid)
        if after != before or is_special(status):
            self._owners.set(file, status, after)
        return 0

    def _stat(self, call: Call, directory: int, address: int, buffer: int, flags: int) -> Answer:
        path = self._callers.text(call, address) if address else b""
        if not self._owners.perhaps_recorded(call, directory, path, flags):
            return BY_KERNEL
        file, owner, device = self._recorded(call, directory, path, flags)
        try:
            content = syscalls.stat_bytes(file)
        finally:
            os.close(file)
        mode_at, owner_at, device_at = _STAT_LAYOUT[syscalls.machine()]
        struct.pack_into("=II", content, owner_at, *owner)
        if device is not None:
            block, numbers = device
            (mode,) = struct.unpack_from("=I", content, mode_at)
            kind = stat.S_IFBLK if block else stat.S_IFCHR
            struct.pack_into("=I", content, mode_at, kind | stat.S_IMODE(mode))
            struct.pack_into("=Q", content, device_at, os.makedev(*numbers))
        self._callers.write(call, buffer, bytes(content))
        return 0

    def _statx(self, call: Call) -> Answer:
        directory, address, flags, mask, buffer = call.args[:5]
        path = self._callers.text(call, address) if address else b""
        if not self._owners.perhaps_recorded(call, directory, path, flags):
            return BY_KERNEL
        file, owner, device = self._recorded(call, directory, path, flags)
        try:
            content = syscalls.statx_bytes(file, flags & _AT_STATX_SYNC, mask & 0xFFFFFFFF)
        finally:
            os.close(file)
        struct.pack_into("=II", content, 20, *owner)
        if device is not None:
            block, numbers = device
            (mode,) = struct.unpack_from("=H", content, 28)
            kind = stat.S_IFBLK if block else stat.S_IFCHR
            struct.pack_into("=H", content, 28, kind | stat.S_IMODE(mode))
            struct.pack_into("=II", content, 128, *numbers)
        self._callers.write(call, buffer, bytes(content))
        return 0

    def _recorded(
        self, call: Call, directory: int, path: bytes, flags: int
    ) -> tuple[int, Owner, tuple[bool, tuple[int, int]] | None]:
        """A file, its owner and the device it is. Raises ByKernel where the kernel knows best."""
        try:
            file = self._callers.open(call, directory, path, flags)
        except OSError as error:
            raise ByKernel from error
        try:
            status = os.fstat(file)
            owner, device = self._owners.of(file, status), None
            if stat.S_ISREG(status.st_mode) and not status.st_size:
                device = node(handle(file))
            if owner == (status.st_uid, status.st_gid) and device is None:
                raise ByKernel
            return file, owner, device
        except BaseException:
            os.close(file)
            raise
