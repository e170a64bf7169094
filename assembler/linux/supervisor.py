"""Owners and device nodes for the processes of a sandbox, where the kernel cannot make them.

In a user namespace of one id chown(2) to anybody else fails, and nobody else can be. The processes
run under a seccomp filter that passes such calls to the sandbox's first process, which carries them
out in records (`ownership`) and answers (seccomp_unotify(2), rootless-runtime.md 5 a2):

- chown and its family record the owner; mknod of a device makes an empty file with a record;
- set*id and get*id change and tell `Credentials`, which children inherit and programs keep;
- what a process creates belongs to its file-system ids, and to the group of a set-group-id
  directory; a program with set-id bits gives its owner's ids;
- stat tells the recorded owners, where they are not 0:0.

With a full id map only device nodes need this.

Nothing else is emulated: whoever calls himself app can still read and change what belongs to root,
though not create files beside it. An openat2(2) that confines its path, and a file created through
a dangling link after chroot(2), give files to root. Owners of links and FIFOs are kept by inode, so
that they survive renames, but not a copy that does not read them (of links there is no attribute
that could be copied), nor that the kernel forgets the inode of a lower layer's link it copied up.
A signal whose handler lacks SA_RESTART can interrupt a call that nothing else could (EINTR).

The credentials of a process are a number in its RLIMIT_LOCKS, which means nothing to Linux since
2.4.25 but is inherited by fork(2), kept by execve(2), and can be read and set from outside.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property

from assembler.linux import allowed_calls, ownership, syscalls
from assembler.linux.callers import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    Call,
    Callers,
    Elsewhere,
    failure,
    handle,
)
from assembler.linux.credentials import KEEP, Credentials, Ids
from assembler.linux.job import SetupFailed
from assembler.linux.mounts import FileSystem
from assembler.linux.owner_filter import CREATES, O_TMPFILE, RLIMIT_LOCKS, Ownership, program
from assembler.linux.ownership import ROOT, Owner

_CAP_MKNOD = 27
_ROOT_OR_KEEP = (0, KEEP)
_MAX_GROUPS = 65536
_MAX_KNOWN = 1 << 20  # credentials, and groups in them: no step has us hold more

_PAYLOAD = 1  # the number of the first credentials in a container
_SET_IDS = stat.S_ISUID | stat.S_ISGID


class _ByKernel(Exception):
    """The call is to be carried out by the kernel as it is."""


_BY_KERNEL = -1
_Answer = int | None
"""What the call returns; _BY_KERNEL as the exception, for what is asked most; None where the caller
was answered, or is gone."""


class Supervisor:
    """Answers the calls that come from `listener`. It lives in the first process of the sandbox's
    pid namespace, whose root is that of the payload and whose /proc is the namespace's own.

    `initial` are the credentials of a process that has not changed them. `upper` is a descriptor of
    the overlay's upper directory, -1 for none. `below` are the owners of the links and FIFOs of
    lower layers. `kept` is what the filter was made for. `apart` says that processes may have mounts
    or a root of their own.

    With `container` the filter was made for a program that makes a container, crun perhaps. Its own
    calls are the kernel's: to it a device node has to be one. The payload is whoever executes a
    program in another root than ours (with a full map: asks for a device there), and what comes of
    it; with the first such call this process takes the container's mounts for its own.
    """

    def __init__(
        self,
        listener: int,
        initial: Credentials,
        upper: int = -1,
        below: Mapping[str, Owner] | None = None,
        *,
        kept: Ownership = Ownership.SUPERVISED,
        apart: bool = False,
        container: bool = False,
    ) -> None:
        # With a full map chroot(2) is the kernel's, and so rare are device nodes.
        self._callers = Callers(listener, apart=apart, chrooted=kept is Ownership.MAPPED)
        self._upper = upper
        self._kept = kept
        self._known = [initial]
        self._numbers = {initial: 0}
        self._room = _MAX_KNOWN
        self._below = dict(below or {})
        self._links: dict[int, tuple[str, Owner]] = {}
        self._container = container
        self._joined = False
        if container:  # then 0 are the runtime's own
            self._known.append(initial)
            self._numbers = {initial: _PAYLOAD}
        else:
            self._find_links()
        os.umask(0)  # modes are computed from the callers' masks

    def fileno(self) -> int:
        """The listener, readable when a call waits."""
        return self._callers.fileno()

    def answer(self) -> None:
        """Receive one call and answer it; nothing happens when its caller is gone."""
        call = self._callers.receive()
        if call is None:
            return
        try:
            if self._container and not self._is_of_the_payload(call):
                value: _Answer = _BY_KERNEL
            else:
                value = self._handlers[call.number](call)
        except _ByKernel:
            self._callers.leave(call)
        except OSError as error:
            self._callers.answer(call, error=error.errno or errno.EIO)
        else:
            if value == _BY_KERNEL:
                self._callers.leave(call)
            elif value is not None:
                self._callers.answer(call, value)

    def owners(self) -> dict[str, Owner]:
        """The owners of links and FIFOs in the upper directory, by their paths now."""
        found: dict[str, Owner] = {}
        moved: dict[int, Owner] = {}
        for inode, (path, owner) in self._links.items():
            if _inode_of_link(f"/{path}") != inode:
                moved[inode] = owner
            elif self._upper < 0 or _exists(self._upper, os.fsencode(path)):
                found[path] = owner
        if moved and self._upper >= 0:
            for directory, below, names, _ in os.fwalk(".", dir_fd=self._upper):
                for name in (*below, *names):  # a link to a directory is among the former
                    path = os.path.normpath(os.path.join(directory, name))
                    now = _inode_of_link(f"/{path}")
                    if now is not None and now in moved:
                        found[path] = moved[now]
        return found

    @cached_property
    def _executing(self) -> tuple[int | None, ...]:
        machine = syscalls.machine()
        return tuple(allowed_calls.number(name, machine) for name in ("execve", "execveat"))

    @cached_property
    def _handlers(self) -> dict[int, Callable[[Call], _Answer]]:
        """What answers the calls, by number; most steps make none where only devices need it."""
        at = AT_FDCWD
        nofollow = AT_SYMLINK_NOFOLLOW
        handlers: dict[str, Callable[[Call], _Answer]] = {
            "chown": lambda c: self._chown(c, at, c.args[0], c.args[1:3], 0),
            "lchown": lambda c: self._chown(c, at, c.args[0], c.args[1:3], nofollow),
            "fchown": self._fchown,
            "fchownat": lambda c: self._chown(c, c.args[0], c.args[1], c.args[2:4], c.args[4]),
            "mknod": lambda c: self._mknod(c, at, *c.args[:3]),
            "mknodat": lambda c: self._mknod(c, *c.args[:4]),
            "mkdir": lambda c: self._mkdir(c, at, *c.args[:2]),
            "mkdirat": lambda c: self._mkdir(c, *c.args[:3]),
            "symlink": lambda c: self._symlink(c, c.args[0], at, c.args[1]),
            "symlinkat": lambda c: self._symlink(c, *c.args[:3]),
            "creat": lambda c: self._create(
                c, at, c.args[0], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, c.args[1]
            ),
            "open": lambda c: self._create(c, at, *c.args[:3]),
            "openat": lambda c: self._create(c, *c.args[:4]),
            "openat2": self._openat2,
            "execve": lambda c: self._execute(c, at, c.args[0], 0),
            "execveat": lambda c: self._execute(c, c.args[0], c.args[1], c.args[4]),
            "chroot": self._chroot,
            "stat": lambda c: self._stat(c, at, c.args[0], c.args[1], 0),
            "lstat": lambda c: self._stat(c, at, c.args[0], c.args[1], nofollow),
            "fstat": lambda c: self._stat(c, c.args[0], 0, c.args[1], AT_EMPTY_PATH),
            "newfstatat": lambda c: self._stat(c, *c.args[:4]),
            "statx": self._statx,
            "setuid": lambda c: self._users(c, lambda i, p: i.set(_id(c.args[0]), p)),
            "setgid": lambda c: self._groups(c, lambda i, p: i.set(_id(c.args[0]), p)),
            "setreuid": lambda c: self._users(
                c, lambda i, p: i.set_two(_id(c.args[0]), _id(c.args[1]), p)
            ),
            "setregid": lambda c: self._groups(
                c, lambda i, p: i.set_two(_id(c.args[0]), _id(c.args[1]), p)
            ),
            "setresuid": lambda c: self._users(c, lambda i, p: i.set_three(*_three_ids(c), p)),
            "setresgid": lambda c: self._groups(c, lambda i, p: i.set_three(*_three_ids(c), p)),
            "setfsuid": self._setfsuid,
            "setfsgid": self._setfsgid,
            "setgroups": self._setgroups,
            "getuid": lambda c: self._credentials(c).users.real,
            "geteuid": lambda c: self._credentials(c).users.effective,
            "getgid": lambda c: self._credentials(c).groups.real,
            "getegid": lambda c: self._credentials(c).groups.effective,
            "getresuid": lambda c: self._three(c, self._credentials(c).users),
            "getresgid": lambda c: self._three(c, self._credentials(c).groups),
            "getgroups": self._getgroups,
        }
        machine = syscalls.machine()
        numbered = ((allowed_calls.number(name, machine), name) for name in handlers)
        return {number: handlers[name] for number, name in numbered if number is not None}

    def _is_of_the_payload(self, call: Call) -> bool:
        if self._kept is Ownership.SUPERVISED:
            number, most = resource.prlimit(call.pid, RLIMIT_LOCKS)
            if number:
                return True
            if call.number not in self._executing or not self._callers.contained(call):
                return False
            try:
                resource.prlimit(call.pid, RLIMIT_LOCKS, (_PAYLOAD, most))
            except ValueError as error:
                raise failure(errno.EPERM) from error
        elif not self._callers.contained(call):
            return False
        if not self._joined:
            try:
                self._callers.join(call)
            except OSError as error:
                self._callers.check(call)
                raise SetupFailed(f"the container's mounts cannot be joined: {error}") from error
            self._joined = True
            self._find_links()
        return True

    def _find_links(self) -> None:
        self._links = dict(_found(self._below))

    # Credentials

    def _credentials(self, call: Call) -> Credentials:
        number, _ = resource.prlimit(call.pid, RLIMIT_LOCKS)
        return self._known[number] if 0 < number < len(self._known) else self._known[0]

    def _become(self, call: Call, new: Credentials) -> int:
        number = self._numbers.get(new)
        if number is None:
            self._room -= 1 + len(new.supplementary)
            if self._room < 0:
                raise failure(errno.ENOMEM)
            number = self._numbers[new] = len(self._known)
            self._known.append(new)
        _, most = resource.prlimit(call.pid, RLIMIT_LOCKS)
        with suppress(ValueError):  # a host that limits even this: the caller stays who it is
            resource.prlimit(call.pid, RLIMIT_LOCKS, (number, most))
        return 0

    def _users(self, call: Call, change: Callable[[Ids, bool], Ids]) -> int:
        old = self._credentials(call)
        users = change(old.users, old.privileged)
        return self._become(call, Credentials(users, old.groups, old.supplementary))

    def _groups(self, call: Call, change: Callable[[Ids, bool], Ids]) -> int:
        old = self._credentials(call)
        groups = change(old.groups, old.privileged)
        return self._become(call, Credentials(old.users, groups, old.supplementary))

    def _setfsuid(self, call: Call) -> int:
        before = self._credentials(call).users.files
        self._users(call, lambda ids, allowed: ids.set_files(_id(call.args[0]), allowed))
        return before

    def _setfsgid(self, call: Call) -> int:
        before = self._credentials(call).groups.files
        self._groups(call, lambda ids, allowed: ids.set_files(_id(call.args[0]), allowed))
        return before

    def _setgroups(self, call: Call) -> int:
        count = _id(call.args[0])
        if count > _MAX_GROUPS:
            raise failure(errno.EINVAL)
        content = self._callers.read(call, call.args[1], 4 * count) if count else b""
        groups = struct.unpack(f"={count}I", content)
        return self._become(call, self._credentials(call).set_groups(groups))

    def _getgroups(self, call: Call) -> int:
        groups = self._credentials(call).supplementary
        room = _signed(call.args[0])
        if room and room < len(groups):
            raise failure(errno.EINVAL)
        if room:
            self._callers.write(call, call.args[1], struct.pack(f"={len(groups)}I", *groups))
        return len(groups)

    def _three(self, call: Call, ids: Ids) -> int:
        for address, id in zip(call.args, (ids.real, ids.effective, ids.saved), strict=False):
            self._callers.write(call, address, struct.pack("=I", id))
        return 0

    def _execute(self, call: Call, directory: int, address: int, flags: int) -> int:
        users, groups = None, None
        path = self._callers.text(call, address)
        try:
            found = os.stat(self._callers.location(call, directory, path)).st_mode
            if self._callers.chrooted or (stat.S_ISREG(found) and found & _SET_IDS):
                file = self._callers.open(call, directory, path, flags)
                try:
                    users, groups = _set_ids(file)
                finally:
                    os.close(file)
        except OSError as error:
            raise _ByKernel from error
        old = self._credentials(call)
        new = old.executed(users, groups)
        if new != old:
            self._become(call, new)
        raise _ByKernel

    def _chroot(self, call: Call) -> int:
        self._callers.chrooted = True
        raise _ByKernel

    # Owners

    def _chown(
        self, call: Call, directory: int, address: int, owner: Sequence[int], flags: int
    ) -> int:
        uid, gid = _id(owner[0]), _id(owner[1])
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
        uid, gid = _id(call.args[1]), _id(call.args[2])
        if uid in _ROOT_OR_KEEP and gid in _ROOT_OR_KEEP:
            self._leave(call, call.args[0], b"", AT_EMPTY_PATH)
        file = self._callers.descriptor(call, call.args[0])
        try:
            return self._give(call, file, uid, gid)
        finally:
            os.close(file)

    def _leave(self, call: Call, directory: int, path: bytes, flags: int) -> None:
        """Raise _ByKernel where the privileged give to root what nothing says is another's."""
        if self._credentials(call).privileged and not self._has_record(
            call, directory, path, flags
        ):
            raise _ByKernel

    def _give(self, call: Call, file: int, uid: int, gid: int) -> int:
        status = os.fstat(file)
        before = self._owner(file, status)
        if not self._credentials(call).may_give(before, uid, gid):
            raise failure(errno.EPERM)
        # The kernel's part: errors, copy-up, set-id bits and capabilities that go (chown(2)).
        os.chown(handle(file), -1 if uid == KEEP else 0, -1 if gid == KEEP else 0)
        after = (before[0] if uid == KEEP else uid, before[1] if gid == KEEP else gid)
        if after != before or _is_special(status):
            self._set_owner(file, status, after)
        return 0

    def _owner(self, file: int, status: os.stat_result) -> Owner:
        if _is_special(status):
            if not self._is_ours(status):
                return ROOT
            known = self._links.get(status.st_ino)
            return ROOT if known is None else known[1]
        return ownership.recorded(handle(file)) or (status.st_uid, status.st_gid)

    def _set_owner(self, file: int, status: os.stat_result, owner: Owner) -> None:
        if _is_special(status):
            if self._is_ours(status):
                path = os.readlink(handle(file)).removeprefix("/")
                self._links[status.st_ino] = (path, owner)
        elif owner == ROOT and _node(handle(file)) is None:
            ownership.forget(handle(file))
        else:
            try:
                ownership.record(handle(file), owner)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM) or self._is_ours(status):
                    raise  # elsewhere (a tmpfs before Linux 6.6, a socket) nobody asks for owners

    def _is_ours(self, status: os.stat_result) -> bool:
        """Whether a file is in the root's overlay, so that a layer may hold it."""
        return status.st_dev == self._callers.device

    def _has_record(self, call: Call, directory: int, path: bytes, flags: int) -> bool:
        """Whether the owner of a file may be another than the kernel says; of what cannot be found
        the kernel says why."""
        location = self._callers.location(call, directory, path)
        follow = not path or not flags & AT_SYMLINK_NOFOLLOW
        try:
            os.getxattr(location, ownership.OWNER, follow_symlinks=follow)
            return True
        except OSError as error:
            if self._callers.chrooted or error.errno != errno.ENODATA:
                return self._callers.chrooted
        if not self._links:
            return False
        return _is_special(os.stat(location, follow_symlinks=follow))

    # Creating

    def _heir(self, call: Call, parent: int, name: bytes) -> Owner:
        """Whom `name` belongs to when the caller creates it in the directory `parent`. Raises
        OSError where it may not, _ByKernel where the kernel does right: 0:0."""
        credentials = self._credentials(call)
        uid, gid = credentials.owner
        status = os.fstat(parent)
        if credentials.privileged and (uid, gid) == ROOT and not status.st_mode & stat.S_ISGID:
            raise _ByKernel
        owner = self._owner(parent, status)
        if not credentials.may_add(owner, status.st_mode):
            reason = errno.EEXIST if _exists(parent, name) else errno.EACCES
            raise failure(reason)
        heir = (uid, owner[1] if status.st_mode & stat.S_ISGID else gid)
        if heir == ROOT:
            raise _ByKernel
        return heir

    def _created(self, parent: int, name: bytes, owner: Owner) -> None:
        file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            self._set_owner(file, os.fstat(file), owner)
        finally:
            os.close(file)

    def _plain(self, call: Call, directory: int, path: bytes) -> None:
        """Raise _ByKernel where root creates something in a directory that passes on no group."""
        credentials = self._credentials(call)
        if credentials.owner != ROOT or not credentials.privileged or self._callers.chrooted:
            return
        above, slash, _ = path.rstrip(b"/").rpartition(b"/")
        try:
            status = os.stat(self._callers.location(call, directory, above or slash))
        except OSError as error:
            raise _ByKernel from error
        if not status.st_mode & stat.S_ISGID:
            raise _ByKernel

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
        if not self._links:
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
        except _ByKernel:
            if not self._links:
                raise
            return ROOT  # its inode may be that of a removed link

    def _mknod(self, call: Call, directory: int, address: int, mode: int, device: int) -> int:
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
            except _ByKernel:
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
            return self._credentials(call).privileged
        return bool(int(self._callers.field(call, b"CapEff"), 16) >> _CAP_MKNOD & 1)

    def _create(self, call: Call, directory: int, address: int, flags: int, mode: int) -> _Answer:
        if flags & os.O_PATH:  # then nothing is created, whatever else is asked for
            raise _ByKernel
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
                raise _ByKernel
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
                self._set_owner(file, os.fstat(file), owner)
            finally:
                os.close(file)
        finally:
            os.close(parent)
        raise _ByKernel

    def _leads_to_a_file(self, parent: int, name: bytes, flags: int) -> bool:
        """Whether nothing is created by opening `name`: it is there, or is a link to what is. A
        dangling link counts only where we and the caller see the same behind it."""
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if not stat.S_ISLNK(status.st_mode) or flags & os.O_NOFOLLOW or self._callers.chrooted:
            return True
        return _exists(parent, name, follow=True)

    def _hand_over(self, call: Call, file: int, owner: Owner, flags: int) -> _Answer:
        """Answer with a new descriptor, in the caller, of what is open as `file`."""
        try:
            self._set_owner(file, os.fstat(file), owner)
            return self._callers.add(call, file, flags)
        finally:
            os.close(file)

    def _openat2(self, call: Call) -> _Answer:
        directory, address, how, size = call.args[:4]
        if size < 24:
            raise _ByKernel
        flags, mode, resolve = struct.unpack("=QQQ", self._callers.read(call, how, 24))
        if not flags & CREATES or resolve:
            raise _ByKernel
        return self._create(call, directory, address, flags, mode)

    # Telling

    def _stat(self, call: Call, directory: int, address: int, buffer: int, flags: int) -> _Answer:
        path = self._callers.text(call, address) if address else b""
        if not self._has_record(call, directory, path, flags):
            return _BY_KERNEL
        file, owner, node = self._recorded(call, directory, path, flags)
        try:
            content = syscalls.stat_bytes(file)
        finally:
            os.close(file)
        mode_at, owner_at, device_at = _STAT_LAYOUT[syscalls.machine()]
        struct.pack_into("=II", content, owner_at, *owner)
        if node is not None:
            block, numbers = node
            (mode,) = struct.unpack_from("=I", content, mode_at)
            kind = stat.S_IFBLK if block else stat.S_IFCHR
            struct.pack_into("=I", content, mode_at, kind | stat.S_IMODE(mode))
            struct.pack_into("=Q", content, device_at, os.makedev(*numbers))
        self._callers.write(call, buffer, bytes(content))
        return 0

    def _statx(self, call: Call) -> _Answer:
        directory, address, flags, mask, buffer = call.args[:5]
        path = self._callers.text(call, address) if address else b""
        if not self._has_record(call, directory, path, flags):
            return _BY_KERNEL
        file, owner, node = self._recorded(call, directory, path, flags)
        try:
            content = syscalls.statx_bytes(file, flags & _AT_STATX_SYNC, mask & 0xFFFFFFFF)
        finally:
            os.close(file)
        struct.pack_into("=II", content, 20, *owner)
        if node is not None:
            block, numbers = node
            (mode,) = struct.unpack_from("=H", content, 28)
            kind = stat.S_IFBLK if block else stat.S_IFCHR
            struct.pack_into("=H", content, 28, kind | stat.S_IMODE(mode))
            struct.pack_into("=II", content, 128, *numbers)
        self._callers.write(call, buffer, bytes(content))
        return 0

    def _recorded(
        self, call: Call, directory: int, path: bytes, flags: int
    ) -> tuple[int, Owner, tuple[bool, tuple[int, int]] | None]:
        """A file, its owner and the device it is. Raises _ByKernel where the kernel knows best."""
        try:
            file = self._callers.open(call, directory, path, flags)
        except OSError as error:
            raise _ByKernel from error
        try:
            status = os.fstat(file)
            owner, node = self._owner(file, status), None
            if stat.S_ISREG(status.st_mode) and not status.st_size:
                node = _node(handle(file))
            if owner == (status.st_uid, status.st_gid) and node is None:
                raise _ByKernel
            return file, owner, node
        except BaseException:
            os.close(file)
            raise

    # Paths

    def _parent(self, call: Call, directory: int, path: bytes) -> tuple[int, bytes]:
        """The directory a new name is to be made in, and the name."""
        above, slash, name = path.rstrip(b"/").rpartition(b"/")
        if name in (b"", b".", b".."):
            raise _ByKernel
        try:
            if not slash:
                return self._callers.descriptor(call, directory), name
            flags = os.O_DIRECTORY
            return self._callers.open(call, directory, above or b"/", 0, flags), name
        except OSError as error:
            raise _ByKernel from error  # for the kernel to say what is wrong


_AT_STATX_SYNC = 0x6000
_STAT_LAYOUT = {"x86_64": (24, 28, 40), "aarch64": (16, 24, 32)}
"""Where st_mode, st_uid (st_gid follows) and st_rdev are in struct stat."""


def _is_special(status: os.stat_result) -> bool:
    """Whether a file can have no user attributes."""
    return stat.S_IFMT(status.st_mode) not in (stat.S_IFREG, stat.S_IFDIR)


def _exists(parent: int, name: bytes, *, follow: bool = False) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=follow)
    except OSError:
        return False
    return True


def _inode_of_link(path: str) -> int | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_ino if _is_special(status) else None


def _found(owners: Mapping[str, Owner]) -> Iterator[tuple[int, tuple[str, Owner]]]:
    """The links and FIFOs among `owners` that are there, by inode."""
    for path, owner in owners.items():
        inode = _inode_of_link(f"/{path}")
        if inode is not None:
            yield inode, (path, owner)


def _node(path: str) -> tuple[bool, tuple[int, int]] | None:
    try:
        return ownership.decode_node(os.getxattr(path, ownership.NODE))
    except OSError:
        return None


def _set_ids(file: int) -> tuple[int | None, int | None]:
    """The user and group whose ids executing `file` gives (execve(2)): none for scripts."""
    status = os.fstat(file)
    mode = status.st_mode
    if not mode & _SET_IDS or not stat.S_ISREG(mode):
        return None, None
    with open(handle(file), "rb", buffering=0) as stream:
        if stream.read(2) == b"#!":
            return None, None
    uid, gid = ownership.recorded(handle(file)) or (status.st_uid, status.st_gid)
    group = mode & stat.S_ISGID and mode & stat.S_IXGRP
    return uid if mode & stat.S_ISUID else None, gid if group else None


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value & 0x80000000 else value


def _id(value: int) -> int:
    return value & 0xFFFFFFFF


def _three_ids(call: Call) -> tuple[int, int, int]:
    return _id(call.args[0]), _id(call.args[1]), _id(call.args[2])


def kept_here(*, single: bool) -> Ownership:
    """How steps keep owners in this user namespace, `single` for one of one id (see `available`)."""
    if not single:
        return Ownership.MAPPED
    return Ownership.SUPERVISED if available() else Ownership.IGNORED


def available() -> bool:
    """Whether processes can be supervised here: a listener can be made, and a namespace's first
    process has a /proc of its own to look at the others. Asked in a child, inside the user
    namespace that the sandboxes will be in."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    status = 1
    try:
        syscalls.unshare(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS)
        grandchild = os.fork()
        if grandchild:
            status = os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1])
        else:
            FileSystem("proc", "/proc").execute()
            syscalls.seccomp_listener(program(syscalls.machine(), Ownership.MAPPED))
            _, most = resource.getrlimit(RLIMIT_LOCKS)
            status = int(0 <= most < _MAX_KNOWN)  # no room for credentials
    except (OSError, KeyError):
        status = 1
    finally:
        os._exit(status)
