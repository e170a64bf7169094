"""Owners, modes, extended attributes and times, put on what was made for an entry.

The owner comes first, because chown(2) takes setuid bits and capabilities away; times come last.
"""

from __future__ import annotations

import errno
import os

from assembler.errors import LayerError, OwnershipLost
from assembler.layer import overlay
from assembler.layer.changeset import Entry
from assembler.linux import ownership
from assembler.linux.ownership import Owner
from assembler.values import value

_NO_ROOM = frozenset((errno.ENOSPC, errno.E2BIG, errno.ERANGE))
_LARGE = 1 << 10  # bytes of a value that some file systems have no room for beside the inode


@value
class Attributes:
    """How entries get their attributes: owners that a new file has not got by itself are `recorded`
    (see `linux.ownership`) or set. Methods raise OSError, OwnershipLost and LayerError."""

    recorded: bool

    def set(self, descriptor: int, entry: Entry, owner: Owner) -> None:
        """Give the file or directory open as `descriptor`, of `owner`, all that `entry` says."""
        if (entry.uid, entry.gid) != owner:
            self._give(descriptor, entry)
        os.fchmod(descriptor, entry.mode)
        for name, content in entry.xattrs:
            if (stored := overlay.stored_name(name)) is not None:
                _set_attribute(descriptor, stored, content, entry)
        os.utime(descriptor, ns=(entry.mtime, entry.mtime))

    def give(self, name: str, parent: int, entry: Entry, owner: Owner) -> None:
        """Set the owner of `name`, so far `owner`, in the directory open as `parent`, which is no file
        to open."""
        if (entry.uid, entry.gid) == owner:
            return
        try:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            raise _lost(entry, error) from error

    def _give(self, descriptor: int, entry: Entry) -> None:
        if self.recorded:
            ownership.record(descriptor, (entry.uid, entry.gid))
            return
        try:
            os.fchown(descriptor, entry.uid, entry.gid)
        except OSError as error:
            raise _lost(entry, error) from error


def _lost(entry: Entry, error: OSError) -> Exception:
    if error.errno not in (errno.EPERM, errno.EINVAL):
        return error
    return OwnershipLost(
        f"{entry.path or '/'!r} belongs to {entry.uid}:{entry.gid}, which this user namespace "
        "cannot express",
        entry.path,
        hint=f"give this user ranges of more than {max(entry.uid, entry.gid)} ids in /etc/subuid "
        "and /etc/subgid",
    )


def _set_attribute(descriptor: int, name: str, value: bytes, entry: Entry) -> None:
    try:
        os.setxattr(descriptor, name, value)
    except OSError as error:
        if error.errno in _NO_ROOM and len(value) >= _LARGE:
            raise LayerError(
                f"{entry.path!r} has an attribute {name} of {len(value)} bytes, which the file "
                "system of the store has no room for",
                entry.path,
                hint="keep the store on xfs or btrfs, which take up to 64 KiB",
            ) from error
        if error.errno not in (errno.EPERM, errno.ENOTSUP):
            raise
        raise LayerError(
            f"{entry.path!r} cannot be given its attribute {name} here: {error.strerror}",
            entry.path,
            hint="keep the store on a file system with extended attributes, and build in a user "
            "namespace with subordinate ids (see assemble doctor)",
        ) from error
