"""The owners of files as supervised processes see them: in records (`ownership`), those of links and
FIFOs in a table.

Of links there is no attribute that could be copied: theirs, and those of FIFOs, are kept by inode, so
that they survive renames, but not a copy that does not read them, nor that the kernel forgets the
inode of a lower layer's link it copied up.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping

from assembler.linux import ownership
from assembler.linux.callers import AT_SYMLINK_NOFOLLOW, Call, Callers, handle
from assembler.linux.ownership import ROOT, Owner


class FileOwners:
    """The owners of files in the root of `callers`.

    `upper` is a descriptor of the overlay's upper directory, -1 for none. `below` are the owners of
    the links and FIFOs of lower layers; `find_links` has to find them first.
    """

    def __init__(self, callers: Callers, upper: int, below: Mapping[str, Owner]) -> None:
        self._callers = callers
        self._upper = upper
        self._below = dict(below)
        self._links: dict[int, tuple[str, Owner]] = {}

    def find_links(self) -> None:
        """Find the links and FIFOs of lower layers in the root that the callers have now."""
        self._links = dict(_found(self._below))

    @property
    def any_link(self) -> bool:
        """Whether a link or FIFO may belong to anybody but 0:0."""
        return bool(self._links)

    def of(self, file: int, status: os.stat_result) -> Owner:
        """The owner of what is open as `file`."""
        if is_special(status):
            if not self._is_ours(status):
                return ROOT
            known = self._links.get(status.st_ino)
            return ROOT if known is None else known[1]
        return ownership.recorded(handle(file)) or (status.st_uid, status.st_gid)

    def set(self, file: int, status: os.stat_result, owner: Owner) -> None:
        """Make `owner` that of what is open as `file`. Raises OSError."""
        if is_special(status):
            if self._is_ours(status):
                path = os.readlink(handle(file)).removeprefix("/")
                self._links[status.st_ino] = (path, owner)
        elif owner == ROOT and node(handle(file)) is None:
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

    def perhaps_recorded(self, call: Call, directory: int, path: bytes, flags: int) -> bool:
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
        return is_special(os.stat(location, follow_symlinks=follow))

    def of_links(self) -> dict[str, Owner]:
        """The owners of links and FIFOs in the upper directory, by their paths now."""
        found: dict[str, Owner] = {}
        moved: dict[int, Owner] = {}
        for inode, (path, owner) in self._links.items():
            if _inode_of_link(f"/{path}") != inode:
                moved[inode] = owner
            elif self._upper < 0 or exists(self._upper, os.fsencode(path)):
                found[path] = owner
        if moved and self._upper >= 0:
            for directory, below, names, _ in os.fwalk(".", dir_fd=self._upper):
                for name in (*below, *names):  # a link to a directory is among the former
                    path = os.path.normpath(os.path.join(directory, name))
                    now = _inode_of_link(f"/{path}")
                    if now is not None and now in moved:
                        found[path] = moved[now]
        return found


def is_special(status: os.stat_result) -> bool:
    """Whether a file can have no user attributes."""
    return stat.S_IFMT(status.st_mode) not in (stat.S_IFREG, stat.S_IFDIR)


def exists(parent: int, name: bytes, *, follow: bool = False) -> bool:
    """Whether there is something named `name` in the directory open as `parent`."""
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=follow)
    except OSError:
        return False
    return True


def node(path: str) -> tuple[bool, tuple[int, int]] | None:
    """The device that the file at `path` is recorded to be; see `ownership.decode_node`."""
    try:
        return ownership.decode_node(os.getxattr(path, ownership.NODE))
    except OSError:
        return None


def _found(owners: Mapping[str, Owner]) -> Iterator[tuple[int, tuple[str, Owner]]]:
    """The links and FIFOs among `owners` that are there, by inode."""
    for path, owner in owners.items():
        inode = _inode_of_link(f"/{path}")
        if inode is not None:
            yield inode, (path, owner)


def _inode_of_link(path: str) -> int | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_ino if is_special(status) else None
