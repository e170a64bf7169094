"""The files of a build's target in a directory (`-o type=local`, rules O1, T2).

An image may be hostile, and so may be what an earlier one left in the directory. Every name is made
relative to a descriptor of its parent, and parents are entered name by name without following a
link, so nothing outside is written (decision 10). Each file is written where nobody sees it and gets
its name when it is whole: whoever is stopped on the way leaves old files and new ones, and no half
one. Nothing is synced, as by cp(1): after a power cut the build makes them again.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from assembler.cancellation import nothing
from assembler.errors import BadArchive, HostError, StoreError
from assembler.layer.changeset import Entry, Kind
from assembler.layer.reading import Reading
from assembler.layer.realise import fill_from_source
from assembler.layer.tree import Tree, everything
from assembler.linux import paths
from assembler.linux.beneath import Openings
from assembler.linux.replacing import unnamed
from assembler.output.base import Check
from assembler.output.layout import existing
from assembler.output.tarball import timed
from assembler.store.disk import is_exhausted, translated

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_UNNAMED = os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_UNNAMED = frozenset((errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT))
_BY_NAME = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_MAX_OPEN = 128
_COMPARED = 1 << 20  # bytes of a file up to which it is looked whether it is there already
_ROOM = "make room there, or name a directory on another file system"
_USABLE = 0o700


class Directory:
    """Writes files into the directory at `path`, over what it holds: what is not replaced stays, or is
    removed where only files of the target are to be there. They belong to the caller, with their modes,
    links and times; with an `epoch` (seconds) that is when everything was changed. The directory itself
    stays as it is, and is made with mode 0700.

    Make it before a user namespace is entered: capabilities of files are for a caller who is root.
    """

    def __init__(
        self, path: str, epoch: int | None = None, *, only: bool = False, split: bool = False
    ) -> None:
        self.split = split
        self._path = path
        self._epoch = epoch
        self._only = only
        self._privileged = os.geteuid() == 0
        self.name = f"exporting to directory {path}"

    def write(self, tree: Tree, check: Check = nothing) -> None:
        """See `output.base.FilesOutput.write`. Raises HostError for a device node that cannot be
        made."""
        try:
            os.makedirs(self._path, 0o700, exist_ok=True)
            root = paths.open_root(self._path)
        except OSError as error:
            raise translated(error, existing(self._path)) from error
        with _Writing(self._path, root, self._privileged, self._only, check) as writing:
            for entry in everything(tree):
                check()
                if entry.path:
                    writing.place(timed(entry, self._epoch))
            writing.finish()


class _Level:
    """A directory that is being filled: `descriptor` is -1 while it is not open; `merged`, whether it
    was there before; `names` are of what the target has in it."""

    __slots__ = ("descriptor", "entry", "merged", "names")

    def __init__(self, entry: Entry, descriptor: int, merged: bool) -> None:
        self.entry = entry
        self.descriptor = descriptor
        self.merged = merged
        self.names: set[str] = set()


class _Writing:
    """Makes entries that come as a walk meets them. A directory gets its attributes when the walk
    leaves it."""

    def __init__(self, path: str, root: int, privileged: bool, only: bool, check: Check) -> None:
        self._path = path
        self._root = root
        self._privileged = privileged
        self._only = only
        self._check = check
        self._near = Openings()
        self._owner = os.geteuid(), os.getegid()
        self._levels: list[_Level] = []  # those of a walk: each is in the one before it
        self._has_unnamed = True
        self._names: set[str] = set()  # what the target has in its root

    def __enter__(self) -> _Writing:
        return self

    def __exit__(self, *_: object) -> None:
        for level in self._levels:
            if level.descriptor >= 0:
                os.close(level.descriptor)
        self._near.close()
        os.close(self._root)

    def place(self, entry: Entry) -> None:
        """Make `entry`, in place of what has its name."""
        try:
            self._leave(entry.parent)
            above = self._levels[-1].entry.path if self._levels else ""
            if above != entry.parent or entry.name in ("", ".", ".."):  # no tree says so
                raise BadArchive(f"{entry.path!r} is in no directory", entry.path)
            if self._only:
                (self._levels[-1].names if self._levels else self._names).add(entry.name)
            self._place(entry)
        except OSError as error:
            raise self._failure(entry, error) from error

    def finish(self) -> None:
        """Leave all directories."""
        entry = self._levels[-1].entry if self._levels else Entry("", Kind.DIRECTORY)
        try:
            self._leave("")
            if self._only:
                self._remove_others(self._root, self._names)
        except OSError as error:
            raise self._failure(entry, error) from error

    def _failure(self, entry: Entry, error: OSError) -> Exception:
        if is_exhausted(error):
            return translated(error, self._path, hint=_ROOM)
        return StoreError(
            f"{entry.path[:200]!r} cannot be written to {self._path}: {error.strerror}", self._path
        )

    # Directories

    def _leave(self, path: str) -> None:
        """Give those directories their attributes in which nothing of `path` is."""
        while self._levels:
            level = self._levels[-1]
            if level.entry.path == path or path.startswith(f"{level.entry.path}/"):
                return
            descriptor = self._descriptor(level)
            if self._only and level.merged:
                self._remove_others(descriptor, level.names)
            self._attributes(descriptor, level.entry)
            os.close(descriptor)
            self._levels.pop()

    def _remove_others(self, directory: int, names: set[str]) -> None:
        for name in os.listdir(directory):
            if name not in names:
                self._check()
                paths.remove_at(directory, name)

    def _parent(self) -> int:
        return self._descriptor(self._levels[-1]) if self._levels else self._root

    def _descriptor(self, level: _Level) -> int:
        if level.descriptor < 0:
            level.descriptor = paths.open_beneath(self._root, level.entry.path, _OPEN)
        return level.descriptor

    def _enter(self, entry: Entry) -> None:
        parent, name = self._parent(), entry.name
        merged = False
        try:
            os.mkdir(name, _USABLE, dir_fd=parent)
        except FileExistsError:
            merged = stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
            if not merged:
                beside = _beside()
                os.mkdir(beside, _USABLE, dir_fd=parent)
                try:
                    self._name(beside, entry)
                except BaseException:
                    os.rmdir(beside, dir_fd=parent)
                    raise
        descriptor = paths.open_closed(parent, name)
        self._levels.append(_Level(entry, descriptor, merged))
        if len(self._levels) > _MAX_OPEN:
            far = self._levels[-_MAX_OPEN - 1]
            if far.descriptor >= 0:
                os.close(far.descriptor)
                far.descriptor = -1
        if os.fstat(descriptor).st_mode & _USABLE != _USABLE:  # of an earlier build
            os.fchmod(descriptor, _USABLE)

    # What is in them

    def _place(self, entry: Entry) -> None:
        kind = entry.kind
        if kind is Kind.DIRECTORY:
            self._enter(entry)
        elif kind is Kind.FILE:
            self._write(entry)
        elif kind is Kind.HARDLINK:
            self._link(entry)
        elif kind is Kind.SYMLINK:
            self._make_link(entry)
        else:
            self._make_special(entry)

    def _write(self, entry: Entry) -> None:
        parent = self._parent()
        merged = self._levels[-1].merged if self._levels else True
        if merged and entry.size <= _COMPARED and self._is_there(parent, entry):
            return
        beside = ""
        descriptor = self._unnamed(parent)
        if descriptor < 0:
            beside = _beside()
            descriptor = os.open(beside, _CREATE, 0o600, dir_fd=parent)
        try:
            try:
                fill_from_source(descriptor, entry, self._check, self._near)
                self._attributes(descriptor, entry)
                if not beside:
                    file = f"/proc/self/fd/{descriptor}"
                    try:
                        os.link(file, entry.name, dst_dir_fd=parent)
                        return
                    except FileExistsError:
                        os.link(file, name := _beside(), dst_dir_fd=parent)
                        beside = name
            finally:
                os.close(descriptor)
            self._name(beside, entry)
        except BaseException:
            self._remove(parent, beside)
            raise

    def _is_there(self, parent: int, entry: Entry) -> bool:
        """Whether there is a file of this content and no other name, which has got its attributes then.
        On ext4, what takes the place of a file is written to disk with its name: an output that is
        written over the last one would wait for each file in turn."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(entry.name, flags, dir_fd=parent)
        except OSError:
            return False
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                return False
            if (status.st_size, status.st_uid, status.st_gid) != (entry.size, *self._owner):
                return False
            if entry.xattrs or _has_attributes(descriptor):
                return False
            with Reading(entry, self._near) as source:
                if not _same(descriptor, source, entry.size):
                    return False
            self._attributes(descriptor, entry)
        finally:
            os.close(descriptor)
        return True

    def _unnamed(self, parent: int) -> int:
        """A file without a name in the directory open as `parent`; -1 where there can be none."""
        if self._has_unnamed:
            try:
                return os.open(".", _UNNAMED, 0o600, dir_fd=parent)
            except OSError as error:
                if error.errno not in _NO_UNNAMED:
                    raise
                self._has_unnamed = False
        return -1

    def _link(self, entry: Entry) -> None:
        above, _, target = entry.link.rpartition("/")
        parent, directory = self._parent(), paths.open_beneath(self._root, above, _BY_NAME)

        def link(name: str) -> None:
            os.link(target, name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)

        try:
            try:
                link(entry.name)
                return
            except FileExistsError:
                link(beside := _beside())
        finally:
            os.close(directory)
        try:
            self._name(beside, entry)
        finally:
            self._remove(parent, beside)  # rename(2) of one name of a file to another does nothing

    def _make_link(self, entry: Entry) -> None:
        parent, name = self._parent(), entry.name
        try:
            os.symlink(entry.link, name, dir_fd=parent)
        except FileExistsError:
            if not self._is_linked(parent, entry):
                self._make_special(entry)
                return
        self._finish_special(entry, name, parent)

    def _is_linked(self, parent: int, entry: Entry) -> bool:
        """Whether the link is there already, and the caller's."""
        try:
            status = os.stat(entry.name, dir_fd=parent, follow_symlinks=False)
            same = os.readlink(entry.name, dir_fd=parent) == entry.link
        except OSError:
            return False
        return same and (status.st_uid, status.st_gid) == self._owner

    def _make_special(self, entry: Entry) -> None:
        parent, beside = self._parent(), _beside()
        try:
            if entry.kind is Kind.SYMLINK:
                os.symlink(entry.link, beside, dir_fd=parent)
            elif entry.kind is Kind.FIFO:
                os.mkfifo(beside, 0o600, dir_fd=parent)
            else:
                self._make_device(entry, beside, parent)
            self._finish_special(entry, beside, parent)
            self._name(beside, entry)
        except BaseException:
            self._remove(parent, beside)
            raise

    def _finish_special(self, entry: Entry, name: str, parent: int) -> None:
        os.chown(name, *self._owner, dir_fd=parent, follow_symlinks=False)
        if entry.kind is not Kind.SYMLINK:  # it has a name that nobody knows
            os.chmod(name, entry.mode, dir_fd=parent)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def _make_device(self, entry: Entry, name: str, parent: int) -> None:
        kind = stat.S_IFBLK if entry.kind is Kind.BLOCK else stat.S_IFCHR
        try:
            os.mknod(name, kind | 0o600, os.makedev(*entry.device), dir_fd=parent)
        except PermissionError as error:
            raise HostError(
                f"{entry.path!r} is a device node, which cannot be made in {self._path} here",
                "mknod",
                hint="-o type=tar,dest=FILE can hold it; or export a stage without it",
            ) from error

    def _attributes(self, descriptor: int, entry: Entry) -> None:
        """Give what is open all that `entry` says but for its owner: that is the caller."""
        status = os.fstat(descriptor)
        if (status.st_uid, status.st_gid) != self._owner:  # inode(7): S_ISGID above it
            os.fchown(descriptor, *self._owner)
        for name, content in entry.xattrs:
            if name.startswith("user.") or self._privileged:
                with suppress(OSError):  # what the file system has no room for is left out
                    os.setxattr(descriptor, name, content)
        os.fchmod(descriptor, entry.mode)
        os.utime(descriptor, ns=(entry.mtime, entry.mtime))

    def _name(self, beside: str, entry: Entry) -> None:
        """Give what is called `beside` its name, in place of what has it."""
        parent, name = self._parent(), entry.name
        try:
            os.rename(beside, name, src_dir_fd=parent, dst_dir_fd=parent)
        except (IsADirectoryError, NotADirectoryError):
            paths.remove_at(parent, name)
            os.rename(beside, name, src_dir_fd=parent, dst_dir_fd=parent)

    def _remove(self, parent: int, beside: str) -> None:
        if beside:
            with suppress(FileNotFoundError):
                os.unlink(beside, dir_fd=parent)


def _has_attributes(descriptor: int) -> bool:
    """Whether a file has attributes that an image can give it."""
    try:
        names = os.listxattr(descriptor)
    except OSError:  # the file system has none
        return False
    return any(name.startswith(("user.", "security.capability")) for name in names)


def _same(descriptor: int, source: Reading, size: int) -> bool:
    """Whether the file open as `descriptor` begins with the `size` bytes of `source`, which has no
    more."""
    ours, theirs = memoryview(bytearray(size + 1)), memoryview(bytearray(size))
    for view, read in (
        (theirs, lambda rest: os.readv(descriptor, (rest,))),
        (ours, source.readinto),
    ):
        at = 0
        while at < len(view) and (count := read(view[at:])):
            at += count
        if at != size:
            return False
    return ours[:size] == theirs


def _beside() -> str:
    return f".{unnamed()}"
