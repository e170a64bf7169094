"""A layer directory being filled: entries in any order become overlay form on disk.

Every name is made relative to a descriptor of its parent, and the parent is found by a walk in
which links lead nowhere but into the root (decision 10; reliability.md T1 to T9). The walk looks at
this directory first and then at the layers below it, because a layer's tar may name files under a
link, or in a directory, that only a lower layer holds.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from assembler.errors import BadArchive, LayerError, NoSpace
from assembler.layer import overlay
from assembler.layer.attributes import Attributes
from assembler.layer.changeset import Entry, Kind
from assembler.layer.following import Following
from assembler.linux import ownership, paths
from assembler.linux.ownership import Owner

Lower = Callable[[str], Entry | None]
"""What the layers below have at a path (no link is followed), None for nothing."""

Fill = Callable[[int, Entry], None]
"""Writes an entry's bytes to a descriptor."""

_MAX_OPEN = 128
_NO_DIRECTORY = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP))
_REMEMBERED = 32 << 20  # bytes, about, of directories whose attributes are still to come
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def nowhere(path: str) -> Entry | None:
    """The layers below a bottom layer."""
    return None


class LayerDirectory(Following):
    """Fills the existing, empty directory `into`; use it by `with`, and call `finish` at the end.

    Device nodes that the kernel does not let us make are recorded (`linux.ownership`), and so are
    owners where `into` has a table of them. Methods raise BadArchive for entries that cannot be,
    OwnershipLost for owners that cannot be and are not recorded, NoSpace, and LayerError for the
    rest.
    """

    def __init__(self, into: str, lower: Lower = nowhere) -> None:
        self._lower = lower
        recorded = ownership.has_table(into)
        self._owner = os.geteuid(), os.getegid()
        self._attributes = Attributes(recorded)
        super().__init__()
        self._open: dict[str, int] = {}
        self._directories: dict[str, tuple[Entry, bool]] = {}
        self._into = into
        self._size = 0
        self._settled = False
        self._cleared = False
        """Whether something was replaced: what is known of paths below it may be out of date."""
        self._touched: dict[str, int] = {}
        """The times of directories that were given their attributes, and then opened again."""
        self.implied = 0
        """How many directories were made that no entry had named."""
        self._hidden: set[str] = set()
        """The paths that files hide, being whiteouts (`overlay.AS_FILES`)."""
        self._followed: set[str] = set()
        """The links of layers below through which names were followed."""
        self._recorded: dict[str, Owner] | None = {} if recorded else None
        self._root = paths.open_root(into)

    def place(self, entry: Entry, fill: Fill) -> None:
        """Make `entry`. A later entry for the same path replaces an earlier one (T9)."""
        try:
            self._place(entry, fill)
        except OSError as error:
            raise _failure(entry, error) from error

    def finish(self) -> None:
        """Give directories their owners, modes and times, deepest first."""
        if self._recorded is not None:
            try:
                ownership.write_table(self._into, self._owners_of_specials(self._recorded))
            except OSError as error:
                raise _failure(Entry("", Kind.DIRECTORY), error) from error
        if "" not in self._directories:
            self._directories[""] = (self._below("", self._lower("")), True)
        self._finish_directories()

    def _finish_directories(self) -> None:
        for path in sorted(self._directories, reverse=True):
            entry, implied = self._directories[path]
            try:
                descriptor = self._descriptor(path)
                if implied:
                    overlay.mark(descriptor, overlay.IMPLIED)
                elif self._settled:
                    overlay.unmark(descriptor, overlay.IMPLIED)
                status = os.fstat(descriptor)
                self._attributes.set(descriptor, entry, (status.st_uid, status.st_gid))
            except OSError as error:
                if not (self._cleared and error.errno in _NO_DIRECTORY):
                    raise _failure(entry, error) from error
        for path, mtime in list(self._touched.items()):
            if path in self._directories:
                continue
            try:
                os.utime(self._descriptor(path), ns=(mtime, mtime))
            except OSError as error:
                if not (self._cleared and error.errno in _NO_DIRECTORY):
                    raise _failure(Entry(path, Kind.DIRECTORY), error) from error

    def _owners_of_specials(self, recorded: dict[str, Owner]) -> dict[str, Owner]:
        if not self._cleared:
            return recorded
        return {path: owner for path, owner in recorded.items() if self._is_special(path)}

    def _is_special(self, path: str) -> bool:
        above, _, name = path.rpartition("/")
        try:
            status = self._status(above, name)
        except OSError as error:
            if error.errno not in _NO_DIRECTORY:
                raise
            return False
        return status is not None and stat.S_IFMT(status.st_mode) in (stat.S_IFLNK, stat.S_IFIFO)

    def _settle(self) -> None:
        """Finish the directories that there are, and forget them: a layer may have millions."""
        root = self._directories.pop("", None)
        self._finish_directories()
        self._forget()
        self._directories.clear()
        self._touched.clear()
        if root is not None:
            self._directories[""] = root
        self._size = 0
        self._settled = True

    def __enter__(self) -> LayerDirectory:
        status = os.fstat(self._root)
        if status.st_mode & stat.S_ISGID:  # would be inherited by everything below
            os.fchmod(self._root, 0o700)
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()
        os.close(self._root)

    def _place(self, entry: Entry, fill: Fill) -> None:
        kind = entry.kind
        if not entry.path:
            self._place_root(entry)
            return
        if kind is Kind.OPAQUE:
            self._make_opaque(self._resolve(entry.path))
            return
        above, _, name = entry.path.rpartition("/")
        above = self._resolve(above)
        path = f"{above}/{name}" if above else name
        if path in self._followed:  # and is there no more
            self._known.clear()
        if kind is Kind.DIRECTORY:
            self._make_directory(above, name, path, entry, implied=False)
            self._known[entry.path] = path
        elif kind is Kind.WHITEOUT:
            self._make_whiteout(above, name, path)
        elif kind is Kind.HARDLINK:
            self._make_link(above, name, path, entry, fill)
        else:
            try:
                self._make(above, name, path, entry, fill)
            except FileExistsError:
                self._clear(above, name, path)
                self._make(above, name, path, entry, fill)

    def _place_root(self, entry: Entry) -> None:
        if entry.kind is Kind.OPAQUE:
            self._make_opaque("")
        elif entry.kind is Kind.DIRECTORY:
            self._directories[""] = (entry, False)
        else:
            raise BadArchive("an entry would replace the root directory")

    # Finding directories

    def _step(self, above: str, name: str, links: int) -> str:
        path = f"{above}/{name}" if above else name
        status = self._status(above, name)
        if status is None:
            below = self._shown_below(path)
            if below is not None and below.kind is Kind.SYMLINK:
                self._followed.add(path)
                return self._follow(above, below.link, links + 1)
            self._make_directory(above, name, path, self._below(path, below), implied=True)
        elif stat.S_ISLNK(status.st_mode):
            target = os.readlink(name, dir_fd=self._descriptor(above))
            return self._follow(above, target, links + 1)
        elif overlay.is_whiteout(status):
            self._make_directory(above, name, path, self._below(path, None), implied=True)
        elif not stat.S_ISDIR(status.st_mode):
            raise BadArchive(f"{path!r} is no directory, but something is to be below it", path)
        return path

    def _below(self, path: str, found: Entry | None) -> Entry:
        """The attributes of a directory that no entry names: those it has below, if it has any."""
        if found is not None and found.kind is Kind.DIRECTORY:
            return found
        return Entry(path, Kind.DIRECTORY, 0o755, *self._owner)

    def _shown_below(self, path: str) -> Entry | None:
        """What the layers below have at the real path `path`, unless this layer hides it."""
        return None if path in self._hidden or self._covered(path) else self._lower(path)

    def _status(self, above: str, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self._descriptor(above), follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _descriptor(self, path: str) -> int:
        """A descriptor of a real directory, valid until a few more were asked for."""
        if not path:
            return self._root
        found = self._open.pop(path, None)
        if found is None:
            above, _, name = path.rpartition("/")
            parent = self._open.get(above) if above else self._root
            if parent is None:
                found = paths.open_beneath(self._root, path, _OPEN)
            else:  # one name below a real directory: no link can be on the way
                found = os.open(name, _OPEN, dir_fd=parent)
            if len(self._open) >= _MAX_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            if self._settled and path not in self._directories:
                self._touched.setdefault(path, os.fstat(found).st_mtime_ns)
        self._open[path] = found
        return found

    def _forget(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
        self._known.clear()

    # Making entries

    def _make_directory(
        self, above: str, name: str, path: str, entry: Entry, *, implied: bool
    ) -> None:
        parent = self._descriptor(above)
        replaced = False
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            status = self._status(above, name)
            if status is None or not stat.S_ISDIR(status.st_mode):
                below = self._shown_below(path)
                replaced = status is not None and overlay.is_whiteout(status)
                replaced |= below is not None and below.kind is Kind.DIRECTORY
                self._clear(above, name, path)
                os.mkdir(name, 0o700, dir_fd=self._descriptor(above))
        self._directories[path] = (entry, implied)
        self.implied += implied
        if self._shown(above, name, path) or replaced:
            self._make_opaque(path)  # what was here hid what is below; the directory goes on so
        self._size += 500 + 2 * len(path)
        if self._size > _REMEMBERED:
            self._settle()

    def _make_opaque(self, path: str) -> None:
        overlay.mark(self._descriptor(path), overlay.OPAQUE)
        self.opaque.add(path)
        if self._followed:
            self._known.clear()

    def _make_whiteout(self, above: str, name: str, path: str) -> None:
        status = self._status(above, name)
        if status is None:
            if overlay.make_whiteout(self._descriptor(above), name):
                overlay.mark(self._root, overlay.AS_FILES)
                self._hidden.add(path)
        elif stat.S_ISDIR(status.st_mode):  # of this layer: only what is below it is gone
            self._make_opaque(path)

    def _shown(self, above: str, name: str, path: str) -> bool:
        """Take away the file that hides `path`, if one does; whether one did."""
        if path not in self._hidden:
            return False
        self._hidden.remove(path)
        os.unlink(overlay.whiteout_file(name), dir_fd=self._descriptor(above))
        return True

    def _make_link(self, above: str, name: str, path: str, entry: Entry, fill: Fill) -> None:
        target_above, _, target_name = entry.link.rpartition("/")
        target_above = self._resolve(target_above)
        target = f"{target_above}/{target_name}" if target_above else target_name
        status = self._status(target_above, target_name) if target_name else None
        if f"{target}/".startswith(f"{path}/"):
            raise BadArchive(f"{entry.path!r} is a hard link to what it replaces", entry.path)
        if status is None or overlay.is_whiteout(status):
            below = self._shown_below(target) if target and status is None else None
            if below is None or below.kind in (Kind.DIRECTORY, Kind.WHITEOUT, Kind.OPAQUE):
                raise BadArchive(
                    f"{entry.path!r} is a hard link to {entry.link!r}, which is not there",
                    entry.path,
                )
            self._place(below._replace(path=entry.path), fill)
            return
        if stat.S_ISDIR(status.st_mode):
            raise BadArchive(f"{entry.path!r} is a hard link to a directory", entry.path)
        self._shown(above, name, path)
        for last in (False, True):
            try:
                os.link(
                    target_name,
                    name,
                    src_dir_fd=self._descriptor(target_above),
                    dst_dir_fd=self._descriptor(above),
                    follow_symlinks=False,
                )
                if self._recorded is not None and target in self._recorded:
                    self._recorded[path] = self._recorded[target]
                return
            except FileExistsError:
                if last:
                    raise
                self._clear(above, name, path)

    def _make(self, above: str, name: str, path: str, entry: Entry, fill: Fill) -> None:
        self._shown(above, name, path)
        parent = self._descriptor(above)
        kind = entry.kind
        if kind is Kind.FILE:
            self._make_file(name, parent, entry, lambda file: fill(file, entry))
            return
        if kind is Kind.SYMLINK:
            os.symlink(entry.link, name, dir_fd=parent)
        elif kind is Kind.FIFO:
            os.mkfifo(name, 0o600, dir_fd=parent)
        elif not self._make_device(name, parent, entry):
            return
        if self._recorded is not None and kind in (Kind.SYMLINK, Kind.FIFO):
            self._recorded[path] = (entry.uid, entry.gid)
        else:
            self._attributes.give(name, parent, entry, self._owner_in(parent))
        if kind is not Kind.SYMLINK:
            os.chmod(name, entry.mode, dir_fd=parent)
        times = (entry.mtime, entry.mtime)
        os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)

    def _make_file(self, name: str, parent: int, entry: Entry, fill: Callable[[int], None]) -> None:
        descriptor = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            fill(descriptor)
            self._attributes.set(descriptor, entry, self._owner_in(parent))
        finally:
            os.close(descriptor)

    def _owner_in(self, parent: int) -> Owner:
        """Whom something new in the directory open as `parent` belongs to. One that was given its
        attributes may hand down its group (inode(7), S_ISGID)."""
        if self._settled:
            status = os.fstat(parent)
            if status.st_mode & stat.S_ISGID:
                return self._owner[0], status.st_gid
        return self._owner

    def _make_device(self, name: str, parent: int, entry: Entry) -> bool:
        """Make the node, if the kernel lets us; else an empty file that stands for it, complete."""
        if entry.device == (0, 0) and entry.kind is Kind.CHARACTER:
            raise BadArchive(f"{entry.path!r}: no layer can hold a device 0:0", entry.path)
        kind = stat.S_IFBLK if entry.kind is Kind.BLOCK else stat.S_IFCHR
        try:
            os.mknod(name, kind | 0o600, os.makedev(*entry.device), dir_fd=parent)
        except FileExistsError:
            raise
        except PermissionError:
            self._make_file(name, parent, entry, self._stand_for(entry))
            return False
        return True

    def _stand_for(self, entry: Entry) -> Callable[[int], None]:
        """Records on an empty file which device node it is."""

        def fill(descriptor: int) -> None:
            value = ownership.encode_node(entry.kind is Kind.BLOCK, entry.device)
            os.setxattr(descriptor, ownership.NODE, value)
            if self._recorded is not None:
                ownership.record(descriptor, (entry.uid, entry.gid))

        return fill

    def _clear(self, above: str, name: str, path: str) -> None:
        """Remove what is in the way of an entry that replaces it."""
        status = self._status(above, name)
        if status is None:
            return
        self._cleared = True
        self._directories.pop(path, None)
        self._touched.pop(path, None)
        if self._hidden and stat.S_ISDIR(status.st_mode):
            self._hidden -= {one for one in self._hidden if one.startswith(f"{path}/")}
        if stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
            self._forget()  # paths may have led through it
        paths.remove_at(self._descriptor(above), name)


def _failure(entry: Entry, error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(
            f"no space left for {entry.path!r}", entry.path, hint="make room, or assemble prune"
        )
    reason = error.strerror or str(error)
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR):
        return BadArchive(f"{entry.path[:200]!r} cannot be made: {reason}", entry.path)
    return LayerError(f"{entry.path[:200]!r} cannot be made: {reason}", entry.path)
