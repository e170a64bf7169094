"""Overlay form: how a directory on disk says what a changeset says (rootless-runtime.md 2, 2b).

A whiteout is a character device 0:0, an opaque directory has an xattr. On a file system that is an
overlay itself nobody can make such a device: there the whiteout of `x` is an empty file `.wh.x`, and
the layer's root says so by the mark AS_FILES. fuse-overlayfs, the only overlay whose upper directory
can be on one, takes both for whiteouts.

Names below `user.overlay.` belong to the kernel's overlay, which hides them from processes; a
file's own attribute of such a name is stored with the prefix doubled, as the kernel does. Names
below `user.assemble.` are records of owners and devices that the file system cannot have
(`linux.ownership`); they are no attributes of the image either.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping

from assembler.errors import HostError
from assembler.layer.changeset import Entry, Kind, PathBytes
from assembler.linux import ownership
from assembler.linux.ownership import Owner
from assembler.values import value

OPAQUE = "user.overlay.opaque"
IMPLIED = "user.overlay.assemble"
"""Ours: the directory is only there because something below it is; no entry names it."""

AS_FILES = "user.overlay.assemble.whiteouts"
"""Ours, of a layer's root: whiteouts of this layer may be files."""

_WHITEOUT = ".wh."
_REFUSED = frozenset((errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP))

_PRIVATE = "user.overlay."
_ESCAPED = "user.overlay.overlay."
_CAPABILITY = "security.capability"

_SPECIAL = {
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
}

Xattrs = tuple[tuple[str, bytes], ...]


@value
class Attributes:
    """The extended attributes of a directory or file: those an image keeps, and overlay's marks."""

    kept: Xattrs = ()
    opaque: bool = False
    implied: bool = False
    owner: Owner | None = None
    """Whom the file belongs to, where that is recorded."""
    node: tuple[bool, tuple[int, int]] | None = None
    """The device node that the file stands for: whether of a block device, and its numbers."""


_NONE = Attributes()


def is_whiteout(status: os.stat_result) -> bool:
    """Whether a file in overlay form hides what is below (its mode and link count mean nothing)."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def hides(status: os.stat_result) -> bool:
    """Whether nothing shows at a file's path: it is a whiteout, or a socket. No layer holds a
    socket (rule Z5), but what it took the place of is gone."""
    return is_whiteout(status) or stat.S_ISSOCK(status.st_mode)


def as_files(directory: str) -> bool:
    """Whether whiteouts of the layer directory `directory` may be files."""
    try:
        return AS_FILES in os.listxattr(directory)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOENT):
            return False
        raise


def hidden(name: str, files: bool) -> str:
    """The name that the file `name` hides where whiteouts may be `files`, empty for none."""
    return name.removeprefix(_WHITEOUT) if files and name.startswith(_WHITEOUT) else ""


def whiteout_file(path: str) -> str:
    """The path of the file that hides what is at `path`."""
    directory, slash, name = path.rpartition("/")
    return f"{directory}{slash}{_WHITEOUT}{name}"


def make_whiteout(directory: int, name: str) -> bool:
    """Hide `name`, which the directory open as `directory` does not have; whether it took a file.
    Raises OSError."""
    try:
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory)
        return False
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(_WHITEOUT + name, flags, 0o600, dir_fd=directory))
    return True


def listing(
    path: str, location: str, files: bool = False
) -> Iterator[tuple[str, os.DirEntry[str], bool]]:
    """What the directory at `location`, which is `path` of a layer, has: for each name its path, the
    item, and whether it is a whiteout. Sorted by name, a whiteout by the name it hides."""
    with os.scandir(location) as found:
        items = [(hidden(item.name, files) or item.name, item) for item in found]
    prefix = f"{path}/" if path else ""
    for name, item in sorted(items, key=lambda one: one[0]):
        whiteout = name != item.name or is_whiteout(item.stat(follow_symlinks=False))
        yield prefix + name, item, whiteout


def attributes(path: str | int) -> Attributes:
    """The attributes of the regular file or directory at `path` (links are not followed), or open.

    Kept are `user.*` and `security.capability` (rule Z4); the rest belongs to the host.
    """
    try:
        names = os.listxattr(path, follow_symlinks=isinstance(path, int))
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return _NONE
        raise
    if not names:
        return _NONE
    kept: list[tuple[str, bytes]] = []
    owner, node = None, None
    for name in names:
        if name.startswith(ownership.PRIVATE):
            if name.startswith(ownership.ESCAPED):
                unescaped = ownership.PRIVATE + name[len(ownership.ESCAPED) :]
                kept.append((unescaped, _value(path, name)))
            elif name == ownership.OWNER:
                owner = ownership.decode(_value(path, name))
            elif name == ownership.NODE:
                node = ownership.decode_node(_value(path, name))
        elif name.startswith(_ESCAPED):
            kept.append((_PRIVATE + name[len(_ESCAPED) :], _value(path, name)))
        elif name == _CAPABILITY or (name.startswith("user.") and not name.startswith(_PRIVATE)):
            kept.append((name, _value(path, name)))
    opaque = OPAQUE in names and _value(path, OPAQUE) == b"y"
    return Attributes(tuple(sorted(kept)), opaque, IMPLIED in names, owner, node)


def _value(path: str | int, name: str) -> bytes:
    return os.getxattr(path, name, follow_symlinks=isinstance(path, int))


def stored_name(name: str) -> str | None:
    """The name under which an image's attribute is stored on disk, None when it is not kept."""
    if name.startswith(_PRIVATE):
        return _ESCAPED + name[len(_PRIVATE) :]
    if name.startswith(ownership.PRIVATE):
        return ownership.ESCAPED + name[len(ownership.PRIVATE) :]
    return name if name.startswith("user.") or name == _CAPABILITY else None


def shown(entry: Entry) -> Entry:
    """`entry` as the directory of its layer shows it: with the attributes that are kept (rule Z4),
    and a link with the mode that every link has."""
    if entry.kind is Kind.SYMLINK:
        return entry._replace(mode=0o777, xattrs=())
    if not entry.xattrs:
        return entry
    has_any = entry.kind in (Kind.FILE, Kind.DIRECTORY)
    names = (one for one in entry.xattrs if has_any and stored_name(one[0]) is not None)
    return entry._replace(xattrs=tuple(names))


def mark(directory: int, name: str) -> None:
    """Put the mark OPAQUE or IMPLIED on the directory open as `directory`. Raises HostError."""
    try:
        os.setxattr(directory, name, b"y")
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        raise HostError(
            "the file system of the store has no user extended attributes",
            "xattr",
            hint="keep the store on ext4, xfs, btrfs, or tmpfs of Linux 6.6 or newer",
        ) from error


def is_opaque(directory: str) -> bool:
    """Whether the directory at `directory` is marked OPAQUE."""
    try:
        return os.getxattr(directory, OPAQUE) == b"y"
    except OSError:
        return False


def showing(directories: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the layer directories `directories`, TOPMOST FIRST, that show: none below one whose
    root is opaque, a mark that the kernel does not look for there."""
    for number, directory in enumerate(directories, 1):
        if is_opaque(directory):
            return directories[:number]
    return directories


def unmark(directory: int, name: str) -> None:
    """Take the mark `name` from the directory open as `directory`, if it has it. Raises OSError."""
    try:
        os.removexattr(directory, name)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise


def describe(
    path: str,
    location: str,
    status: os.stat_result,
    owners: Mapping[str, Owner],
    found: Attributes | None = None,
) -> Entry | None:
    """The entry `path` for the file at `location`; None for a socket, which no layer holds.

    `owners` are those of the layer's links and FIFOs. `found` spares reading attributes again.
    """
    kind = stat.S_IFMT(status.st_mode)
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        found = found or attributes(location)
        uid, gid = found.owner or (status.st_uid, status.st_gid)
    else:
        found = _NONE
        uid, gid = owners.get(path) or (status.st_uid, status.st_gid)
    mode, mtime = stat.S_IMODE(status.st_mode), status.st_mtime_ns
    if kind == stat.S_IFREG and found.node is not None:
        block, device = found.node
        special = Kind.BLOCK if block else Kind.CHARACTER
        return Entry(path, special, mode, uid, gid, mtime, xattrs=found.kept, device=device)
    if kind == stat.S_IFREG:
        return Entry(
            path, Kind.FILE, mode, uid, gid, mtime, status.st_size,
            xattrs=found.kept, source=PathBytes(location),
            inode=(status.st_dev, status.st_ino) if status.st_nlink > 1 else None,
        )  # fmt: skip
    if kind == stat.S_IFDIR:
        return Entry(path, Kind.DIRECTORY, mode, uid, gid, mtime, xattrs=found.kept)
    if kind not in _SPECIAL:
        return None
    special = _SPECIAL[kind]
    link = os.readlink(location) if special is Kind.SYMLINK else ""
    device = (0, 0)
    if special in (Kind.CHARACTER, Kind.BLOCK):
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
    return Entry(path, special, mode, uid, gid, mtime, link=link, device=device)


class HardLinks:
    """Names of one inode: the first is the file, the others link to it (rule Z3)."""

    def __init__(self) -> None:
        self._first: dict[tuple[int, int], str] = {}

    def link(self, entry: Entry, status: os.stat_result) -> Entry:
        """`entry`, or the hard link it is where its inode was seen before."""
        if status.st_nlink < 2:
            return entry
        first = self._first.setdefault((status.st_dev, status.st_ino), entry.path)
        if first == entry.path:
            return entry
        return Entry(
            entry.path, Kind.HARDLINK, entry.mode, entry.uid, entry.gid, entry.mtime, link=first
        )
