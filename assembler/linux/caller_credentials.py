"""The credentials of supervised processes: told, changed, inherited, and those of set-id programs.

Those of a process are a number in its RLIMIT_LOCKS, which means nothing to Linux since 2.4.25 but is
inherited by fork(2), kept by execve(2), and can be read and set from outside.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
import struct
from collections.abc import Callable
from contextlib import suppress

from assembler.linux import ownership
from assembler.linux.callers import (
    AT_FDCWD,
    Answering,
    ByKernel,
    Call,
    Callers,
    failure,
    handle,
    unsigned,
)
from assembler.linux.credentials import Credentials, Ids
from assembler.linux.owner_filter import RLIMIT_LOCKS

MOST_KNOWN = 1 << 20
"""Credentials, and groups in them: no step has us hold more."""
_MAX_GROUPS = 65536
_PAYLOAD = 1  # the number of the first credentials in a container
_SET_IDS = stat.S_ISUID | stat.S_ISGID


class CallerCredentials:
    """Who the callers are. `initial` are the credentials of a process that has not changed them;
    with `container`, of one that has been enrolled."""

    def __init__(self, callers: Callers, initial: Credentials, *, container: bool) -> None:
        self._callers = callers
        self._known = [initial]
        self._numbers = {initial: 0}
        self._room = MOST_KNOWN
        if container:  # then 0 are the runtime's own
            self._known.append(initial)
            self._numbers = {initial: _PAYLOAD}

    def of(self, call: Call) -> Credentials:
        """Those of the caller."""
        number, _ = resource.prlimit(call.pid, RLIMIT_LOCKS)
        return self._known[number] if 0 < number < len(self._known) else self._known[0]

    def enrolled(self, call: Call) -> bool:
        """Whether the caller is of a container's payload."""
        return resource.prlimit(call.pid, RLIMIT_LOCKS)[0] != 0

    def enrol(self, call: Call) -> None:
        """Make the caller, and what comes of it, a container's payload. Raises OSError."""
        _, most = resource.prlimit(call.pid, RLIMIT_LOCKS)
        try:
            resource.prlimit(call.pid, RLIMIT_LOCKS, (_PAYLOAD, most))
        except ValueError as error:
            raise failure(errno.EPERM) from error

    def answers(self) -> dict[str, Answering]:
        """What answers set*id(2), get*id(2), execve(2) and their families, by name."""
        return {
            "setuid": lambda c: self._users(c, lambda i, p: i.set(unsigned(c.args[0]), p)),
            "setgid": lambda c: self._groups(c, lambda i, p: i.set(unsigned(c.args[0]), p)),
            "setreuid": lambda c: self._users(c, lambda i, p: i.set_two(*_two_ids(c), p)),
            "setregid": lambda c: self._groups(c, lambda i, p: i.set_two(*_two_ids(c), p)),
            "setresuid": lambda c: self._users(c, lambda i, p: i.set_three(*_three_ids(c), p)),
            "setresgid": lambda c: self._groups(c, lambda i, p: i.set_three(*_three_ids(c), p)),
            "setfsuid": self._setfsuid,
            "setfsgid": self._setfsgid,
            "setgroups": self._setgroups,
            "getuid": lambda c: self.of(c).users.real,
            "geteuid": lambda c: self.of(c).users.effective,
            "getgid": lambda c: self.of(c).groups.real,
            "getegid": lambda c: self.of(c).groups.effective,
            "getresuid": lambda c: self._three(c, self.of(c).users),
            "getresgid": lambda c: self._three(c, self.of(c).groups),
            "getgroups": self._getgroups,
            "execve": lambda c: self._execute(c, AT_FDCWD, c.args[0], 0),
            "execveat": lambda c: self._execute(c, c.args[0], c.args[1], c.args[4]),
        }

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
        old = self.of(call)
        users = change(old.users, old.privileged)
        return self._become(call, Credentials(users, old.groups, old.supplementary))

    def _groups(self, call: Call, change: Callable[[Ids, bool], Ids]) -> int:
        old = self.of(call)
        groups = change(old.groups, old.privileged)
        return self._become(call, Credentials(old.users, groups, old.supplementary))

    def _setfsuid(self, call: Call) -> int:
        before = self.of(call).users.files
        self._users(call, lambda ids, allowed: ids.set_files(unsigned(call.args[0]), allowed))
        return before

    def _setfsgid(self, call: Call) -> int:
        before = self.of(call).groups.files
        self._groups(call, lambda ids, allowed: ids.set_files(unsigned(call.args[0]), allowed))
        return before

    def _setgroups(self, call: Call) -> int:
        count = unsigned(call.args[0])
        if count > _MAX_GROUPS:
            raise failure(errno.EINVAL)
        content = self._callers.read(call, call.args[1], 4 * count) if count else b""
        groups = struct.unpack(f"={count}I", content)
        return self._become(call, self.of(call).set_groups(groups))

    def _getgroups(self, call: Call) -> int:
        groups = self.of(call).supplementary
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
            raise ByKernel from error
        old = self.of(call)
        new = old.executed(users, groups)
        if new != old:
            self._become(call, new)
        raise ByKernel


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


def _two_ids(call: Call) -> tuple[int, int]:
    return unsigned(call.args[0]), unsigned(call.args[1])


def _three_ids(call: Call) -> tuple[int, int, int]:
    return unsigned(call.args[0]), unsigned(call.args[1]), unsigned(call.args[2])


def _signed(value: int) -> int:
    value = unsigned(value)
    return value - (1 << 32) if value & 0x80000000 else value
