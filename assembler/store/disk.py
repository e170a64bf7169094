"""The disk below the store: when bytes are on it (ASSEMBLE_FSYNC), and what is wrong with it."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from enum import Enum

from assembler.errors import (
    AssemblerError,
    LayerError,
    NoSpace,
    StoreError,
    StoreUnusable,
    UsageError,
    causes,
)
from assembler.expressions import expression

PRUNE = "`assemble prune` frees what no image needs; ASSEMBLE_STORE may name another file system"
_UNMAPPED = 65534  # whom a user namespace shows in place of users that it does not have
_OCTAL = expression(r"\\([0-7]{3})")  # how the kernel writes spaces in the names of mount points
_CANNOT = frozenset((errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP))
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG))


class Fsync(Enum):
    """When a blob is on disk: before it has its name; before something durable names it; some day."""

    FULL = "full"
    BATCH = "batch"
    OFF = "off"

    @classmethod
    def named(cls, text: str) -> Fsync:
        """The policy that ASSEMBLE_FSYNC says. Raises UsageError."""
        try:
            return cls(text)
        except ValueError:
            raise UsageError(
                f"ASSEMBLE_FSYNC={text}: unknown",
                hint=f"one of {', '.join(one.value for one in cls)}",
            ) from None


class Disk:
    """fsync(2) as `policy` has it. A file system that cannot is told once, to `notice`."""

    def __init__(
        self, policy: Fsync = Fsync.FULL, notice: Callable[[str], None] = lambda text: None
    ) -> None:
        self.policy = policy
        self._notice = notice
        self._told = policy is Fsync.OFF

    def start(self, descriptor: int, offset: int, size: int) -> None:
        """Have `size` bytes from `offset` be written meanwhile: an fsync then waits for the rest."""
        if self.policy is not Fsync.OFF and not self._told:
            from assembler.linux import syscalls

            try:
                syscalls.start_writeout(descriptor, offset, size)
            except OSError as error:
                if error.errno not in (*_CANNOT, errno.ESPIPE):
                    raise

    def sync(self, descriptor: int) -> None:
        """fsync(2), unless the policy is to leave it to the kernel."""
        if self.policy is Fsync.OFF:
            return
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            if not self._told:
                self._told = True
                mount = mount_point(f"/proc/self/fd/{descriptor}")
                self._notice(f"the file system {mount} has no fsync: a power cut may lose blobs")

    def sync_directory(self, path: str) -> None:
        """The same of a directory: a rename in it then survives a power cut."""
        if self.policy is not Fsync.OFF:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self.sync(descriptor)
            finally:
                os.close(descriptor)

    def sync_file_system(self, path: str) -> None:
        """syncfs(2) of the file system that the directory `path` is on. Raises OSError."""
        from assembler.linux import syscalls

        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syscalls.sync_file_system(descriptor)
        finally:
            os.close(descriptor)


def mount_point(path: str) -> str:
    """Where the file system is mounted that `path`, or what exists of it, is on."""
    path = os.path.realpath(path)
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
            mounts = {_OCTAL.sub(_character, line.split(" ", 5)[4]) for line in stream}
    except OSError:
        mounts = {"/"}
    while path != "/" and path not in mounts:
        path = os.path.dirname(path)
    return path


def _character(octal: re.Match[str]) -> str:
    return chr(int(octal[1], 8))


def is_exhausted(error: OSError) -> bool:
    """Whether `error` says that nothing more can be written: space, inodes, quota, a limit."""
    return error.errno in _FULL


def shortage(error: BaseException | None, directory: str) -> StoreError | None:
    """What `error` is about if something could not be written in the end, in the store at
    `directory` where it does not say; None if that is not so, or if it is said already."""
    said = isinstance(error, NoSpace) and error.file_system
    if said or not isinstance(error, OSError | StoreError | LayerError):
        return None
    system = (one for one in causes(error) if isinstance(one, OSError))
    cause = next(filter(is_exhausted, system), None)
    if cause is None:
        return None
    place = cause.filename if isinstance(cause.filename, str) else ""
    found = translated(cause, place if os.path.isabs(place) else directory)
    if isinstance(error, AssemblerError):
        found.message = f"{error.message}: {found.message}"
    return found


def translated(error: OSError, directory: str, needed: int = 0, hint: str = PRUNE) -> StoreError:
    """`error` of a write below `directory` as the store's own. Where nothing more can be written:
    NoSpace, with the file system, its free bytes and the `needed` ones, if they are known."""
    if not is_exhausted(error):
        return StoreError(f"{error.filename or directory}: {error.strerror}", directory)
    shortage = NoSpace(*_said(error, directory, needed), hint=hint)
    shortage.file_system = mount_point(directory)
    if error.errno == errno.EROFS:
        shortage.hint = "ASSEMBLE_STORE, or the output, may name another file system"
    elif error.errno == errno.EFBIG:
        shortage.hint = "allow larger files for this command (ulimit -f)"
    return shortage


def _said(error: OSError, directory: str, needed: int) -> tuple[str, str]:
    mount = mount_point(directory)
    place = f"the file system of {directory} (mounted at {mount})"
    if error.errno == errno.EROFS:
        return f"{place} is read-only", directory
    found = os.statvfs(mount)
    what = f"no space left on {place}"
    if error.errno == errno.EFBIG:
        what = f"a file has reached the largest size that there is on {place}"
        import resource

        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if limit != resource.RLIM_INFINITY:
            what = f"a file has reached the limit of {limit} bytes on {place}"
    elif error.errno == errno.EDQUOT:
        what = f"the disk quota is used up on {place}"
    elif found.f_files and not found.f_favail:
        what = f"no inodes left on {place}"
    asked = f"{needed} bytes needed, " if needed else ""
    return f"{what}: {asked}{found.f_bavail * found.f_frsize} bytes free", directory


def is_refused(error: OSError) -> bool:
    """Whether `error` says that this user may not, or that nobody can write there."""
    return error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


def unusable(error: OSError, store: str) -> StoreError:
    """`error` of what every command does in the store at `store`, which says whose that is."""
    if is_exhausted(error):
        return translated(error, store)
    owner = _owner(store)
    if not owner or not is_refused(error):
        message = f"the store {store} cannot be used: {error.strerror}"
        return StoreUnusable(message, store, hint="set ASSEMBLE_STORE to a directory you can write")
    name = os.path.basename(error.filename) if isinstance(error.filename, str) else store
    return StoreUnusable(
        f"the store {store} belongs to {owner}, and this user may not use it: {name}:"
        f" {error.strerror}",
        store,
        hint=f"set ASSEMBLE_STORE to a directory of your own, or run this as {owner}",
    )


def refusal(error: BaseException, store: str) -> StoreError | None:
    """What `error` is about if this user may not use the store at `store`, which is another's, wherever
    that was met; None if that is not so."""
    cause = next((one for one in causes(error) if isinstance(one, PermissionError)), None)
    if cause is None or not isinstance(cause.filename, str) or isinstance(error, StoreUnusable):
        return None
    inside = os.path.commonpath((store, os.path.abspath(cause.filename))) == store
    return unusable(cause, store) if inside and _owner(store) else None


def _owner(path: str) -> str:
    """The user that `path` belongs to, empty for this one, and where that cannot be told."""
    try:
        uid = os.stat(path).st_uid
    except OSError:
        return ""
    if uid == os.geteuid():
        return ""
    if uid == _UNMAPPED:
        return "another user"
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def is_private(path: str) -> bool:
    """Whether `path` is a directory, no link, that belongs to this user, and only it may write."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    ours = found.st_uid == os.geteuid() and not found.st_mode & 0o022
    return stat.S_ISDIR(found.st_mode) and ours
