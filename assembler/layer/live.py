"""A directory that others may be writing to, as the entries of a layer.

Each file is what it was at one moment, or is left out. Everything is reached by its name in a
directory that is open: whoever puts a link in the place of a directory leads nobody anywhere.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Generator, Iterator, Set
from typing import BinaryIO, NamedTuple

from assembler.cancellation import nothing
from assembler.errors import ContextChanged
from assembler.layer.changeset import Entry, Kind
from assembler.layer.limits import DEFAULT_LIMITS
from assembler.layer.overlay import attributes
from assembler.linux.beneath import Openings
from assembler.oci.digest import Digest
from assembler.values import value

KINDS = frozenset((Kind.DIRECTORY, Kind.FILE, Kind.HARDLINK, Kind.SYMLINK))
"""What is taken; sockets, pipes and devices mean nothing elsewhere."""

_DEPTH = 256  # of directories, each of which is open while files below it are read
_TOLD = 100
_WHOLE = 1 << 20  # bytes of a file that is read before it is written
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@value
class Survey:
    """What a look at names and statuses says: `size` are the bytes of the files, `entries` how many
    things there are; `state` is another after any change, of a time too. `changed` is the newest
    of the times at which something changed, in nanoseconds."""

    state: Digest
    size: int
    entries: int
    changed: int


class _Found(NamedTuple):
    """`name` in the directory open as `parent`; `directory` is a descriptor where it is one."""

    path: str
    parent: int
    name: str
    directory: int = -1


class LiveTree:
    """The files below `directory`, but for those at the paths `without`. `check` is called for each
    and may raise. `left_out` says, by path, what could not be had, and why: of the first hundred of
    the `lacking` ones."""

    def __init__(
        self, directory: str, check: Callable[[], None] = nothing, without: Set[str] = frozenset()
    ) -> None:
        self._top = directory
        self._check = check
        self._without = without
        self._links: dict[tuple[int, int], str] = {}
        self.left_out: dict[str, str] = {}
        self.lacking = 0
        for path in without:
            self._leave_out(path, "it kept changing")
        self.reading = ""
        """The path of the file that is being read; what changes meanwhile has no place in `without`
        yet."""

    def survey(self) -> Survey:
        """Look at everything; no file is opened. Raises OSError for the directory itself."""
        state = hashlib.sha256()
        size = entries = changed = 0
        seen: set[tuple[int, int]] = set()
        for path, parent, name, directory in self._walk():
            try:
                if directory >= 0:
                    status = os.fstat(directory)
                else:
                    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            except OSError:
                continue  # gone
            kind = stat.S_IFMT(status.st_mode)
            if kind not in (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK):
                continue
            entries += 1
            changed = max(changed, status.st_ctime_ns)
            if kind == stat.S_IFREG:
                inode = (status.st_dev, status.st_ino)
                if status.st_nlink < 2 or inode not in seen:
                    size += status.st_size
                if status.st_nlink > 1:
                    seen.add(inode)
            numbers = (
                status.st_mode, status.st_uid, status.st_gid, status.st_ino,
                0 if directory >= 0 else status.st_size, status.st_mtime_ns, status.st_ctime_ns,
            )  # fmt: skip
            state.update(f"{path}\0{numbers}\0".encode("utf-8", "surrogateescape"))
        return Survey(Digest("sha256", state.hexdigest()), size, entries, changed)

    def entries(self) -> Generator[Entry, None, None]:
        """Everything, in canonical order; the bytes of an entry are to be read before the next one
        is asked for. Raises ContextChanged where a file changed after some of it was given out:
        `reading` is its path. Raises OSError for the directory itself."""
        for path, parent, name, directory in self._walk():
            if directory >= 0:
                yield _directory(path, directory)
                continue
            try:
                yield from self._entry(path, parent, name)
            except FileNotFoundError:
                self._leave_out(path, "it vanished")
            except OSError as error:
                self._leave_out(path, error.strerror or str(error))

    def _entry(self, path: str, parent: int, name: str) -> Iterator[Entry]:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            link = os.readlink(name, dir_fd=parent)
            owner = (status.st_uid, status.st_gid)
            yield Entry(path, Kind.SYMLINK, 0o777, *owner, status.st_mtime_ns, link=link)
        elif stat.S_ISREG(status.st_mode):
            descriptor = os.open(name, _FILE, dir_fd=parent)
            try:
                yield from self._file(path, descriptor)
            finally:
                os.close(descriptor)

    def _file(self, path: str, descriptor: int) -> Iterator[Entry]:
        status = os.fstat(descriptor)
        found = attributes(descriptor)
        if not stat.S_ISREG(status.st_mode) or found.node is not None:
            return
        uid, gid = found.owner or (status.st_uid, status.st_gid)
        mode, mtime = stat.S_IMODE(status.st_mode), status.st_mtime_ns
        inode = (status.st_dev, status.st_ino)
        first = self._links.get(inode) if status.st_nlink > 1 else None
        if first is not None:
            yield Entry(path, Kind.HARDLINK, mode, uid, gid, mtime, link=first)
            return
        entry = Entry(
            path, Kind.FILE, mode, uid, gid, mtime, status.st_size, xattrs=found.kept,
            source=_Open(descriptor),
        )  # fmt: skip
        if status.st_size <= _WHOLE:
            content = os.read(descriptor, status.st_size + 1)
            if len(content) != status.st_size or _changed(descriptor, status):
                self._leave_out(path, "it changed while it was read")
                return
            yield entry._replace(source=_Held(content))
        else:
            self.reading = path
            yield entry
            if _changed(descriptor, status):
                raise ContextChanged(f"{path!r} changed while it was read")
            self.reading = ""
        if status.st_nlink > 1:
            self._links[inode] = path

    def _walk(self) -> Iterator[_Found]:
        top = os.open(self._top, _DIRECTORY)
        pending = [("", top, self._listing("", top))]
        try:
            yield _Found("", -1, "", top)
            while pending:
                self._check()
                above, parent, names = pending[-1]
                item = next(names, None)
                if item is None:
                    os.close(pending.pop()[1])
                    continue
                path = f"{above}/{item.name}" if above else item.name
                if path in self._without:
                    continue
                if len(pending) > _DEPTH or len(os.fsencode(path)) > DEFAULT_LIMITS.name:
                    self._leave_out(path, "it lies too deep")
                    continue
                directory = -1
                try:
                    if item.is_dir(follow_symlinks=False):
                        directory = os.open(item.name, _DIRECTORY, dir_fd=parent)
                except OSError as error:
                    self._leave_out(path, error.strerror or str(error))
                    continue
                if directory >= 0:
                    pending.append((path, directory, self._listing(path, directory)))
                yield _Found(path, parent, item.name, directory)
        finally:
            for _, directory, _ in pending:
                os.close(directory)

    def _listing(self, path: str, directory: int) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(directory) as found:
                return iter(sorted(found, key=lambda item: item.name))
        except OSError as error:
            self._leave_out(path, error.strerror or str(error))
            return iter(())

    def _leave_out(self, path: str, reason: str) -> None:
        self.lacking += 1
        if len(self.left_out) < _TOLD:
            self.left_out[path] = reason


def _directory(path: str, descriptor: int) -> Entry:
    status, found = os.fstat(descriptor), attributes(descriptor)
    owner = found.owner or (status.st_uid, status.st_gid)
    mode = stat.S_IMODE(status.st_mode)
    return Entry(path, Kind.DIRECTORY, mode, *owner, status.st_mtime_ns, xattrs=found.kept)


def _changed(descriptor: int, before: os.stat_result) -> bool:
    now = os.fstat(descriptor)
    return (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns)


@value
class _Held:
    """Bytes that were read."""

    content: bytes

    def open(self) -> BinaryIO:
        """The bytes as a stream."""
        import io

        return io.BytesIO(self.content)

    def fill(self, near: Openings, view: memoryview) -> int:
        """See `changeset.FileSource`."""
        size = len(self.content)
        view[:size] = self.content
        return size


@value
class _Open:
    """A file that is open, and stays so while its entry is the latest."""

    file: int

    def open(self) -> BinaryIO:
        """The file as a stream of its own."""
        return os.fdopen(os.dup(self.file), "rb", buffering=0)
