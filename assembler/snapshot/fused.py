"""Layer directories for fuse-overlayfs, where the kernel refuses overlays (rootless-runtime 5c).

Published directories are those of `OverlaySnapshotter`: fuse-overlayfs reads overlay form, and what
it writes becomes overlay form before it is published.

It takes names of one file below for one file, and copies up only one of them, whichever was written
to. The kernel lets go of the others: so a layer with such names gets another one above it, in which
each further name is a file of its own. A step does not see then that they were linked.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from assembler.layer import overlay
from assembler.layer.changeset import Entry, Kind
from assembler.layer.realise import realise
from assembler.layer.tree import DirectoryTree, MergedTree, Tree
from assembler.linux import fuse
from assembler.linux.claims import claim
from assembler.linux.paths import open_root
from assembler.runtime.base import Root
from assembler.snapshot.overlay import OverlaySnapshotter

_PRIVATE = ("user.fuseoverlayfs.", "trusted.overlay.")
_ORIGIN = "user.fuseoverlayfs.origin"
_OPAQUE = ("user.fuseoverlayfs.opaque", "trusted.overlay.opaque")
_OPAQUE_FILE = ".wh..wh..opq"
_STEPS_OWN = "user.overlay."
_ESCAPED = "user.overlay.overlay."
_TICK = 4_000_000  # nanoseconds by which times of one change differ


class FuseSnapshotter(OverlaySnapshotter):
    """Like `OverlaySnapshotter`, its roots served by the program fuse-overlayfs."""

    name = "fuse-overlayfs"

    def __init__(self, directory: str, *, recorded: bool = False) -> None:
        super().__init__(directory, recorded=recorded)
        self._program = shutil.which(fuse.PROGRAM) or fuse.PROGRAM
        self._unlinked: set[str] = set()

    @classmethod
    def shortfall(cls, directory: str) -> tuple[str, str]:
        """Why fuse-overlayfs cannot be used over layers in `directory`, and the one thing to do about
        it; empty texts when it can."""
        os.makedirs(directory, mode=0o700, exist_ok=True)
        with claim(directory, ".") as claimed:
            return fuse.shortfall(os.path.join(claimed.path, "trial"))

    @contextmanager
    def prepare(self, id: str, lowers: Sequence[str]) -> Iterator[Root]:
        """See `snapshot.base.Snapshotter.prepare`."""
        with super().prepare(id, lowers) as root:
            started = os.stat(root.work).st_ctime_ns
            apart = [one for path in root.lowers for one in self._apart(path)]
            yield replace(root, lowers=tuple(apart), program=self._program)
            converted(root.upper, MergedTree([DirectoryTree(path) for path in lowers]), started)

    def _apart(self, path: str) -> tuple[str, ...]:
        """The layer directory `path`, and above it the one with its further names, if it has any."""
        if path in self._unlinked:
            return (path,)
        id = hashlib.sha256(f"names/1:{self._id(path)}".encode()).hexdigest()
        if self.find(id) is None:
            tree = DirectoryTree(path)
            entries = [entry for name in _further_names(path) if (entry := tree.lookup(name))]
            if not entries:
                self._unlinked.add(path)
                return (path,)
            with self.create(id) as directory:
                realise(entries, directory, lower=tree.lookup)
        return self._found(id), path


def _further_names(directory: str) -> Iterator[str]:
    """The paths below `directory` that name a file which an earlier one names."""
    seen: set[int] = set()
    pending = [("", directory)]
    while pending:
        path, location = pending.pop()
        for below, item, whiteout in overlay.listing(path, location):
            status = item.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                pending.append((below, item.path))
            elif status.st_nlink > 1 and not whiteout:
                if status.st_ino in seen:
                    yield below
                seen.add(status.st_ino)


def converted(upper: str, below: Tree, started: int) -> None:
    """Bring the upper directory that fuse-overlayfs filled over `below`, from the time `started` on,
    into overlay form. Raises OSError.

    What only a guess tells: a file moved away and back looks like one copied up, so that its
    directory is not said to have changed.
    """
    files = False
    linked: dict[int, str] = {}  # cleaned once, and last: every name has yet to be looked at
    pending = [_Directory.read("", upper, below)]
    while pending:
        directory = pending.pop()
        mtime = directory.mtime(below, started)
        files |= directory.convert()
        status = directory.status
        os.utime(directory.location, ns=(status.st_atime_ns, mtime))
        for item in directory.items:
            if _is_mark(item.name):
                continue
            found = item.stat(follow_symlinks=False)
            path = f"{directory.path}/{item.name}".lstrip("/")
            if stat.S_ISLNK(found.st_mode) and found.st_mtime_ns >= started:
                _date_link(item, below.lookup(path))
            elif stat.S_ISDIR(found.st_mode):
                pending.append(_Directory.read(path, item.path, below))
            elif stat.S_ISREG(found.st_mode):
                if found.st_nlink > 1:
                    linked[found.st_ino] = item.path
                else:
                    _clean(item.path)
    for location in linked.values():
        _clean(location)
    if files:
        _mark(upper, overlay.AS_FILES)


@dataclass(frozen=True, slots=True)
class _Directory:
    """A directory of the upper one as fuse-overlayfs left it. `lower` is what it was made from."""

    path: str
    location: str
    status: os.stat_result
    opaque: bool
    items: tuple[os.DirEntry[str], ...]
    lower: Entry | None

    @classmethod
    def read(cls, path: str, location: str, below: Tree) -> _Directory:
        with os.scandir(location) as found:
            items = tuple(found)
        opaque = _is_opaque(location)
        lower = None if opaque else below.lookup(path)
        if lower is not None and lower.kind is not Kind.DIRECTORY:
            lower = None
        return cls(path, location, os.stat(location), opaque, items, lower)

    def mtime(self, below: Tree, started: int) -> int:
        """Its time of modification by what the step did. Copying a file up gives its directory a new
        one, which the kernel's overlay puts back."""
        found = self.status.st_mtime_ns
        if self.lower is None or found < started or not self.items:
            return found
        copied = 0
        for item in self.items:
            if not self._is_copy(item, below):
                return found
            copied = max(copied, item.stat(follow_symlinks=False).st_ctime_ns)
        return self.lower.mtime if found <= copied + _TICK else found

    def _is_copy(self, item: os.DirEntry[str], below: Tree) -> bool:
        """Whether it only is here because something about it changed that its name does not tell."""
        if _is_mark(item.name):
            return False
        status = item.stat(follow_symlinks=False)
        path = f"{self.path}/{item.name}".lstrip("/")
        if stat.S_ISREG(status.st_mode):
            origin = _attribute(item.path, _ORIGIN).rstrip(b"\0").removeprefix(b"./")
            return origin == os.fsencode(path)
        lower = below.lookup(path)
        if stat.S_ISDIR(status.st_mode):
            is_directory = lower is not None and lower.kind is Kind.DIRECTORY
            return is_directory and not _is_opaque(item.path)
        made = overlay.describe(path, item.path, status, {})
        return (
            lower is not None
            and made is not None
            and (made.kind, made.link, made.device) == (lower.kind, lower.link, lower.device)
        )

    def convert(self) -> bool:
        """Turn its whiteouts and marks into those of overlay form; whether a whiteout is a file."""
        files = False
        directory = open_root(self.location)
        try:
            for item in self.items:
                if _is_mark(item.name):
                    files |= _convert_mark(directory, item)
            _clean(self.location)
            if self.opaque:
                overlay.mark(directory, overlay.OPAQUE)
        finally:
            os.close(directory)
        return files


def _convert_mark(directory: int, item: os.DirEntry[str]) -> bool:
    """Turn a file `.wh.x` into a whiteout, if one can be made here; whether it stays a file."""
    name = overlay.hidden(item.name, True)
    os.unlink(item.name, dir_fd=directory)
    if not item.is_file(follow_symlinks=False) or name.startswith(".wh."):
        return False
    return not _exists(directory, name) and overlay.make_whiteout(directory, name)


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _date_link(item: os.DirEntry[str], lower: Entry | None) -> None:
    """Give a link that was copied up the time it had: fuse-overlayfs makes it anew. One that belongs
    to root may as well be the step's own, with the same text."""
    status = item.stat(follow_symlinks=False)
    if lower is None or lower.kind is not Kind.SYMLINK or (status.st_uid, status.st_gid) == (0, 0):
        return
    if os.readlink(item.path) == lower.link:
        times = (status.st_atime_ns, lower.mtime)
        os.utime(item.path, ns=times, follow_symlinks=False)


def _is_mark(name: str) -> bool:
    """Whether it is fuse-overlayfs' own file: it refuses such names to others."""
    return name.startswith(".wh.")


def _is_opaque(location: str) -> bool:
    if os.path.lexists(os.path.join(location, _OPAQUE_FILE)):
        return True
    return any(_attribute(location, name) == b"y" for name in _OPAQUE)


def _attribute(location: str, name: str) -> bytes:
    try:
        return os.getxattr(location, name, follow_symlinks=False)
    except OSError:
        return b""


def _clean(location: str) -> None:
    """Take fuse-overlayfs' attributes off, and store the step's own as the kernel's overlay does."""
    for name in os.listxattr(location, follow_symlinks=False):
        if name.startswith(_PRIVATE):
            os.removexattr(location, name, follow_symlinks=False)
        elif name.startswith(_STEPS_OWN):
            value = os.getxattr(location, name, follow_symlinks=False)
            os.removexattr(location, name, follow_symlinks=False)
            escaped = _ESCAPED + name.removeprefix(_STEPS_OWN)
            os.setxattr(location, escaped, value, follow_symlinks=False)


def _mark(directory: str, name: str) -> None:
    descriptor = open_root(directory)
    try:
        overlay.mark(descriptor, name)
    finally:
        os.close(descriptor)
