"""Calls of supervised processes that create files: whose they are, and device nodes as records.

A file that is created through a dangling link after chroot(2), and by an openat2(2) that confines its
path, belongs to root.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from assembler.linux import ownership, syscalls
from assembler.linux.caller_credentials import CallerCredentials
from assembler.linux.callers import (
    AT_FDCWD,
    Answer,
    Answering,
    ByKernel,
    Call,
    Callers,
    failure,
    unsigned,
)
from assembler.linux.file_owners import FileOwners, exists
from assembler.linux.owner_filter import CREATES, O_TMPFILE, Ownership
from assembler.linux.ownership import ROOT, Owner

_CAP_MKNOD = 27
_FLAGS = 0x7FFFFFFF  # those of open(2), which takes no notice of unknown ones


class CreateCalls:
    """Answers them; `kept` is what the filter was made for."""

    def __init__(
        self,
        callers: Callers,
        credentials: CallerCredentials,
        owners: FileOwners,
        kept: Ownership,
    ) -> None:
        self._callers = callers
        self._credentials = credentials
        self._owners = owners
        self._kept = kept

    def answers(self) -> dict[str, Answering]:
        """What answers the calls, by name."""
        at, creat = AT_FDCWD, os.O_CREAT | os.O_WRONLY | os.O_TRUNC
        return {
            "mknod": lambda c: self._mknod(c, at, *c.args[:3]),
            "mknodat": lambda c: self._mknod(c, *c.args[:4]),
            "mkdir": lambda c: self._mkdir(c, at, *c.args[:2]),
            "mkdirat": lambda c: self._mkdir(c, *c.args[:3]),
            "symlink": lambda c: self._symlink(c, c.args[0], at, c.args[1]),
            "symlinkat": lambda c: self._symlink(c, *c.args[:3]),
            "creat": lambda c: self._create(c, at, c.args[0], creat, c.args[1]),
            "open": lambda c: self._create(c, at, c.args[0], c.args[1] & _FLAGS, c.args[2]),
            "openat": lambda c: self._create(
                c, c.args[0], c.args[1], c.args[2] & _FLAGS, c.args[3]
            ),
            "openat2": self._openat2,
        }

    def _heir(self, call: Call, parent: int, name: bytes) -> Owner:
        """Whom `name` belongs to when the caller creates it in the directory `parent`. Raises
        OSError where it may not, ByKernel where the kernel does right: 0:0."""
        credentials = self._credentials.of(call)
        uid, gid = credentials.owner
        status = os.fstat(parent)
        if credentials.privileged and (uid, gid) == ROOT and not status.st_mode & stat.S_ISGID:
            raise ByKernel
        owner = self._owners.of(parent, status)
        if not credentials.may_add(owner, status.st_mode):
            reason = errno.EEXIST if exists(parent, name) else errno.EACCES
            raise failure(reason)
        heir = (uid, owner[1] if status.st_mode & stat.S_ISGID else gid)
        if heir == ROOT:
            raise ByKernel
        return heir

    def _created(self, parent: int, name: bytes, owner: Owner) -> None:
        file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            self._owners.set(file, os.fstat(file), owner)
        finally:
            os.close(file)

    def _plain(self, call: Call, directory: int, path: bytes) -> None:
        """Raise ByKernel where root creates something in a directory that passes on no group."""
        credentials = self._credentials.of(call)
        if credentials.owner != ROOT or not credentials.privileged or self._callers.chrooted:
            return
        above, slash, _ = path.rstrip(b"/").rpartition(b"/")
        try:
            status = os.stat(self._callers.location(call, directory, above or slash))
        except OSError as error:
            raise ByKernel from error
        if not status.st_mode & stat.S_ISGID:
            raise ByKernel

    def _mkdir(self, call: Call, directory: int, address: int, mode: int) -> int:
        path = self._callers.text(call, address)
        self._plain(call, directory, path)
        parent, name = self._parent(call, directory, path)
        try:
            owner = self._heir(call, parent, name)
            os.mkdir(name, mode & 0o1777 & ~self._callers.umask(call), dir_fd=parent)
            self._created(parent, name, owner)
        finally:
            os.close(parent)
        return 0

    def _symlink(self, call: Call, text: int, directory: int, address: int) -> int:
        path = self._callers.text(call, address)
        if not self._owners.any_link:
            self._plain(call, directory, path)
        parent, name = self._parent(call, directory, path)
        try:
            owner = self._heir_of_special(call, parent, name)
            os.symlink(self._callers.text(call, text), name, dir_fd=parent)
            self._created(parent, name, owner)
        finally:
            os.close(parent)
        return 0

    def _heir_of_special(self, call: Call, parent: int, name: bytes) -> Owner:
        try:
            return self._heir(call, parent, name)
        except ByKernel:
            if not self._owners.any_link:
                raise
            return ROOT  # its inode may be that of a removed link

    def _mknod(self, call: Call, directory: int, address: int, mode: int, device: int) -> int:
        mode = unsigned(mode)
        kind = stat.S_IFMT(mode)
        special = kind in (stat.S_IFCHR, stat.S_IFBLK)
        parent, name = self._parent(call, directory, self._callers.text(call, address))
        try:
            if special:
                return self._make_device(call, parent, name, mode, device)
            heir = self._heir_of_special if kind == stat.S_IFIFO else self._heir
            owner = heir(call, parent, name)
            os.mknod(name, kind | mode & 0o7777 & ~self._callers.umask(call), dir_fd=parent)
            self._created(parent, name, owner)
        finally:
            os.close(parent)
        return 0

    def _make_device(self, call: Call, parent: int, name: bytes, mode: int, device: int) -> int:
        numbers = (os.major(device & 0xFFFFFFFF), os.minor(device & 0xFFFFFFFF))
        block = stat.S_ISBLK(mode)
        if not self._may_make_devices(call) or (not block and numbers == (0, 0)):
            raise failure(errno.EPERM)
        owner: Owner | None = None
        if self._kept is Ownership.SUPERVISED:
            try:
                owner = self._heir(call, parent, name)
            except ByKernel:
                owner = ROOT
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, mode & 0o7777 & ~self._callers.umask(call), dir_fd=parent)
        try:
            os.setxattr(file, ownership.NODE, ownership.encode_node(block, numbers))
            if owner is not None:
                ownership.record(file, owner)
        finally:
            os.close(file)
        return 0

    def _may_make_devices(self, call: Call) -> bool:
        if self._kept is Ownership.SUPERVISED:
            return self._credentials.of(call).privileged
        return bool(int(self._callers.field(call, b"CapEff"), 16) >> _CAP_MKNOD & 1)

    def _create(self, call: Call, directory: int, address: int, flags: int, mode: int) -> Answer:
        if flags & os.O_PATH:  # then nothing is created, whatever else is asked for
            raise ByKernel
        path = self._callers.text(call, address)
        if not flags & O_TMPFILE:
            self._plain(call, directory, path)
        if flags & O_TMPFILE == O_TMPFILE:
            parent, name = self._callers.open(call, directory, path, 0), b"."
        else:
            parent, name = self._parent(call, directory, path)
        try:
            apart = flags & (os.O_EXCL | O_TMPFILE)
            if not apart and self._leads_to_a_file(parent, name, flags):
                raise ByKernel
            owner = self._heir(call, parent, name)
            mode &= 0o7777 & ~self._callers.umask(call)
            if apart:
                return self._hand_over(
                    call, os.open(name, flags, mode, dir_fd=parent), owner, flags
                )
            # The caller's own open will find it.
            flags = os.O_CREAT | os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            beware = syscalls.RESOLVE_NO_MAGICLINKS  # /proc/self would be us
            file = syscalls.openat2(parent, name, flags, mode, beware)
            try:
                self._owners.set(file, os.fstat(file), owner)
            finally:
                os.close(file)
        finally:
            os.close(parent)
        raise ByKernel

    def _leads_to_a_file(self, parent: int, name: bytes, flags: int) -> bool:
        """Whether nothing is created by opening `name`: it is there, or is a link to what is. A
        dangling link counts only where we and the caller see the same behind it."""
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if not stat.S_ISLNK(status.st_mode) or flags & os.O_NOFOLLOW or self._callers.chrooted:
            return True
        return exists(parent, name, follow=True)

    def _hand_over(self, call: Call, file: int, owner: Owner, flags: int) -> Answer:
        """Answer with a new descriptor, in the caller, of what is open as `file`."""
        try:
            self._owners.set(file, os.fstat(file), owner)
            return self._callers.add(call, file, flags)
        finally:
            os.close(file)

    def _openat2(self, call: Call) -> Answer:
        directory, address, how, size = call.args[:4]
        if size < 24:
            raise ByKernel
        flags, mode, resolve = struct.unpack("=QQQ", self._callers.read(call, how, 24))
        if not flags & CREATES or resolve or flags & ~_FLAGS or mode & ~0o7777:
            raise ByKernel
        return self._create(call, directory, address, flags, mode)

    def _parent(self, call: Call, directory: int, path: bytes) -> tuple[int, bytes]:
        """The directory a new name is to be made in, and the name."""
        above, slash, name = path.rstrip(b"/").rpartition(b"/")
        if name in (b"", b".", b".."):
            raise ByKernel
        try:
            if not slash:
                return self._callers.descriptor(call, directory), name
            flags = os.O_DIRECTORY
            return self._callers.open(call, directory, above or b"/", 0, flags), name
        except OSError as error:
            raise ByKernel from error  # for the kernel to say what is wrong
