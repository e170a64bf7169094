"""The ids a process believes it has, where the kernel knows only one: credentials(7) as values.

The rules are those of setuid(2) and its family. A process is privileged when its effective user is
0, as under Docker's capabilities, of which CAP_SETUID and CAP_SETGID follow the effective user.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, replace

KEEP = 0xFFFFFFFF  # (uid_t) -1


@dataclass(frozen=True, slots=True)
class Ids:
    """The real, effective, saved and file-system id of a process, of users or of groups."""

    real: int
    effective: int
    saved: int
    files: int

    @classmethod
    def all(cls, id: int) -> Ids:
        """Every id the same."""
        return cls(id, id, id, id)

    def set(self, id: int, privileged: bool) -> Ids:
        """setuid(2), setgid(2)."""
        _be_ids(id)
        if privileged:
            return Ids.all(id)
        _permit(id in (self.real, self.saved))
        return replace(self, effective=id, files=id)

    def set_two(self, real: int, effective: int, privileged: bool) -> Ids:
        """setreuid(2), setregid(2)."""
        _permit(privileged or real in (KEEP, self.real, self.effective))
        _permit(privileged or effective in (KEEP, self.real, self.effective, self.saved))
        new_real = self.real if real == KEEP else real
        new = self.effective if effective == KEEP else effective
        follows = real != KEEP or (effective != KEEP and effective != self.real)
        return Ids(new_real, new, new if follows else self.saved, new)

    def set_three(self, real: int, effective: int, saved: int, privileged: bool) -> Ids:
        """setresuid(2), setresgid(2)."""
        mine = (KEEP, self.real, self.effective, self.saved)
        _permit(privileged or all(id in mine for id in (real, effective, saved)))
        new = self.effective if effective == KEEP else effective
        return Ids(
            self.real if real == KEEP else real,
            new,
            self.saved if saved == KEEP else saved,
            new,
        )

    def set_files(self, id: int, privileged: bool) -> Ids:
        """setfsuid(2), setfsgid(2): what may not be is silently not done."""
        if privileged or id in (self.real, self.effective, self.saved, self.files):
            return self if id == KEEP else replace(self, files=id)
        return self

    def executed(self, id: int | None) -> Ids:
        """After execve(2) of a program that sets the id `id`, None for one that sets none."""
        new = self.effective if id is None else id
        return Ids(self.real, new, new, new)


def _permit(allowed: bool) -> None:
    if not allowed:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def _be_ids(*ids: int) -> None:
    if KEEP in ids:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


@dataclass(frozen=True, slots=True)
class Credentials:
    """Users, groups, and supplementary groups. Methods raise OSError as the calls do."""

    users: Ids
    groups: Ids
    supplementary: tuple[int, ...] = ()

    @classmethod
    def of(cls, uid: int, gid: int, supplementary: tuple[int, ...] = ()) -> Credentials:
        """Those of a process that was started as `uid` and `gid`."""
        return cls(Ids.all(uid), Ids.all(gid), supplementary)

    @property
    def privileged(self) -> bool:
        """Whether the process may take other ids and give files away."""
        return self.users.effective == 0

    @property
    def owner(self) -> tuple[int, int]:
        """The owner of files it creates."""
        return self.users.files, self.groups.files

    def set_groups(self, groups: tuple[int, ...]) -> Credentials:
        """setgroups(2)."""
        _permit(self.privileged)
        _be_ids(*groups)
        return replace(self, supplementary=groups)

    def executed(self, uid: int | None, gid: int | None) -> Credentials:
        """After execve(2) of a program with the owner `uid` and set-user-id bit, or likewise."""
        return replace(self, users=self.users.executed(uid), groups=self.groups.executed(gid))

    def may_give(self, owner: tuple[int, int], uid: int, gid: int) -> bool:
        """Whether it may make a file of `owner` belong to `uid` and `gid`, which may be KEEP
        (chown(2))."""
        if self.privileged:
            return True
        mine = owner[0] == self.users.files
        in_group = gid in (owner[1], self.groups.files, *self.supplementary)
        return (uid == KEEP or (mine and uid == owner[0])) and (gid == KEEP or (mine and in_group))

    def may_add(self, owner: tuple[int, int], mode: int) -> bool:
        """Whether it may create files in a directory of `owner` with the permission bits `mode`
        (path_resolution(7))."""
        if self.privileged:
            return True
        if owner[0] == self.users.files:
            return mode & 0o300 == 0o300
        if owner[1] == self.groups.files or owner[1] in self.supplementary:
            return mode & 0o030 == 0o030
        return mode & 0o003 == 0o003
