"""Processes that wait for the answer to a system call, and what they mean by its arguments.

Messages and ioctls are those of seccomp_unotify(2). A caller may die, and its number be another's,
at any time: before anything is done with what was read, `Callers.check` asks whether the call still
waits.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import NamedTuple

from assembler.linux import syscalls

AT_FDCWD = 0xFFFFFF9C
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000

_RECV, _SEND, _ID_VALID, _ADDFD, _SET_FLAGS = (
    0xC0502100, 0xC0182101, 0x40082102, 0x40182103, 0x40082104,
)  # fmt: skip
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")
_ADD = struct.Struct("=QIIII")
_FLAG_CONTINUE = 1
_SYNC_WAKE_UP = 1
_PAGE = 4096
_MAX_PATH = 4096
_SHORT = 256  # bytes: most paths
_OWN = (
    (b"/proc/self/", b"%d/"),
    (b"/proc/thread-self/", b"%d/"),
    (b"/dev/fd/", b"%d/fd/"),
)
_PERHAPS_OWN = tuple(prefix for prefix, _ in _OWN)


class Call(NamedTuple):
    """A call that waits: its id, the caller's thread, the number of the call and its arguments."""

    id: int
    pid: int
    number: int
    args: Sequence[int]


class ByKernel(Exception):
    """The call is to be carried out by the kernel as it is."""


BY_KERNEL = -1
Answer = int | None
"""What the call returns; BY_KERNEL as the exception, for what is asked most; None where the caller
was answered, or is gone."""
Answering = Callable[[Call], Answer]
"""Answers a call. Raises ByKernel, and OSError with the number that the caller is to see."""


class Elsewhere(OSError):
    """A path that leads through a link of /proc to an open file, a pipe perhaps: no layer's."""


class Callers:
    """The callers behind the descriptor `listener`, seen from the first process of their pid
    namespace, which has the same root and a /proc of that namespace. For callers in a container
    `join` makes it so.

    `apart` says that callers may have mounts or a root of their own from the start, `chrooted` that
    chroot(2) is not told. Methods raise OSError with the number that the caller is to see.
    """

    def __init__(self, listener: int, *, apart: bool = False, chrooted: bool = False) -> None:
        self._listener = listener
        self._apart = apart
        self.chrooted = apart or chrooted
        """Whether a caller's root may be another than ours."""
        self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._here = self._outside = _identity(os.fstat(self._root))
        self._buffer = bytearray(_NOTIFICATION.size)
        with suppress(OSError):  # Linux 6.6: without it an answer takes a little longer
            fcntl.ioctl(listener, _SET_FLAGS, _SYNC_WAKE_UP)

    @cached_property
    def _memory(self) -> syscalls.ProcessMemory:
        return syscalls.ProcessMemory(_SHORT)

    @property
    def device(self) -> int:
        """The device number of the root's file system."""
        return self._here[0]

    def fileno(self) -> int:
        """The listener, readable when a call waits."""
        return self._listener

    def contained(self, call: Call) -> bool:
        """Whether the caller's root is another than ours was in the beginning."""
        return self._root_of(call) != self._outside

    def join(self, call: Call) -> None:
        """Take a copy of the caller's mounts, and so its root, for this process. /proc stays that
        of our pid namespace, by whose numbers callers are known: the container may have its own."""
        context = syscalls.fsopen("proc")
        try:
            syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE)
            proc = syscalls.fsmount(context)
        finally:
            os.close(context)
        try:
            theirs = os.open(f"{call.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
            try:
                syscalls.setns(theirs, syscalls.CLONE_NEWNS)
            finally:
                os.close(theirs)
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
            syscalls.move_mount(proc, "/proc")
        finally:
            os.close(proc)
        os.close(self._root)
        self._root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._here = _identity(os.fstat(self._root))

    def receive(self) -> Call | None:
        """The next call; None when its caller was gone before it was told."""
        buffer = self._buffer
        buffer[:] = bytes(len(buffer))  # the kernel wants it zeroed
        try:
            fcntl.ioctl(self._listener, _RECV, buffer)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        id, pid, _, number, _, _, *args = _NOTIFICATION.unpack(buffer)
        return Call(id, pid, number, args)

    def answer(self, call: Call, value: int = 0, error: int = 0) -> None:
        """Let the call return `value`, or fail with the number `error`."""
        self._send(_SEND, _RESPONSE.pack(call.id, value, -error, 0))

    def leave(self, call: Call) -> None:
        """Let the kernel carry the call out as it is."""
        self._send(_SEND, _RESPONSE.pack(call.id, 0, 0, _FLAG_CONTINUE))

    def add(self, call: Call, file: int, flags: int) -> int | None:
        """A new descriptor, in the caller, of what is open as `file`; None when it is gone."""
        message = _ADD.pack(call.id, 0, file, 0, flags & os.O_CLOEXEC)
        return self._send(_ADDFD, message)

    def check(self, call: Call) -> None:
        """Raise OSError unless the caller still waits: else what was read may be another's."""
        fcntl.ioctl(self._listener, _ID_VALID, struct.pack("=Q", call.id))

    def _send(self, request: int, message: bytes) -> int | None:
        try:
            number: int = fcntl.ioctl(self._listener, request, bytearray(message))
            return number
        except OSError as error:
            if error.errno != errno.ENOENT:  # the caller was killed meanwhile
                raise
            return None

    # Memory

    def text(self, call: Call, address: int) -> bytes:
        """The string at `address`. `check`, or what opens a file, must come before its use."""
        room = _PAGE - address % _PAGE
        try:  # in half the time of the other way, where the kernel lets us
            short = self._memory.read(call.pid, address, min(_SHORT, room))
        except OSError:
            short = b""
        end = short.find(b"\0")
        if end >= 0:
            return short[:end]
        memory = self._open_memory(call, os.O_RDONLY)
        try:
            found = bytearray()
            while len(found) < _MAX_PATH:  # a page at a time: what is behind may not be there
                start = address + len(found)
                piece = _peek(memory, start, _PAGE - start % _PAGE)
                end = piece.find(b"\0")
                if end >= 0:
                    return bytes(found + piece[:end])
                found += piece
        finally:
            os.close(memory)
        raise failure(errno.ENAMETOOLONG)

    def read(self, call: Call, address: int, size: int) -> bytes:
        """`size` bytes at `address`, of the caller for certain."""
        memory = self._open_memory(call, os.O_RDONLY)
        try:
            content = _peek(memory, address, size)
        finally:
            os.close(memory)
        if len(content) < size:
            raise failure(errno.EFAULT)
        self.check(call)
        return content

    def write(self, call: Call, address: int, content: bytes) -> None:
        """Put `content` at `address`."""
        memory = self._open_memory(call, os.O_WRONLY)
        try:
            self.check(call)
            if os.pwrite(memory, content, address) < len(content):
                raise failure(errno.EFAULT)
        except (OSError, OverflowError) as error:
            raise failure(errno.EFAULT) from error
        finally:
            os.close(memory)

    def _open_memory(self, call: Call, flags: int) -> int:
        return os.open(f"{call.pid}/mem", flags | os.O_CLOEXEC, dir_fd=self._proc)

    # Files

    def location(self, call: Call, directory: int, path: bytes) -> bytes:
        """The path by which we find what the caller means by `path`, roughly: other roots are not
        seen to, nor links to /proc/self. Good enough to see that there is nothing to do."""
        if path.startswith(b"/"):
            own = _in_own_proc(path, call.pid)
            return path if own is None else b"/proc/" + own
        number = directory & 0xFFFFFFFF
        base = b"cwd" if number == AT_FDCWD else b"fd/%d" % number
        return b"/proc/%d/%s" % (call.pid, base + b"/" + path if path else base)

    def open(self, call: Call, directory: int, path: bytes, flags: int, more: int = 0) -> int:
        """A descriptor (O_PATH, and `more`) of what the caller means by `path`, relative to its
        descriptor `directory`; `flags` are those of fchownat(2). Raises Elsewhere, too."""
        if not path:
            if not flags & AT_EMPTY_PATH:
                raise failure(errno.ENOENT)
            return self.descriptor(call, directory)
        self.check(call)
        mode = os.O_PATH | more | (os.O_NOFOLLOW if flags & AT_SYMLINK_NOFOLLOW else 0)
        own = _in_own_proc(path, call.pid)
        if self.chrooted and (self._apart or not self._same_root(call)):
            return self._open_in_other_root(call, directory, path, mode)
        if own is not None:
            return os.open(own, mode | os.O_CLOEXEC, dir_fd=self._proc)
        base = self._root if path.startswith(b"/") else self.descriptor(call, directory)
        try:
            return syscalls.openat2(base, path, mode, resolve=syscalls.RESOLVE_NO_MAGICLINKS)
        except OSError as error:
            if error.errno == errno.ELOOP:
                os.close(syscalls.openat2(base, path, mode))
                raise Elsewhere(errno.ELOOP, os.strerror(errno.ELOOP)) from error
            raise
        finally:
            if base != self._root:
                os.close(base)

    def descriptor(self, call: Call, number: int) -> int:
        """A descriptor (O_PATH) of what is open in the caller as `number`."""
        self.check(call)
        number &= 0xFFFFFFFF
        link = f"{call.pid}/cwd" if number == AT_FDCWD else f"{call.pid}/fd/{number}"
        try:
            return os.open(link, os.O_PATH | os.O_CLOEXEC, dir_fd=self._proc)
        except FileNotFoundError as error:
            raise failure(errno.EBADF) from error

    def umask(self, call: Call) -> int:
        """The caller's file mode creation mask."""
        return int(self.field(call, b"Umask"), 8)

    def field(self, call: Call, name: bytes) -> bytes:
        """A field of the caller's /proc/PID/status (proc_pid_status(5))."""
        status = os.open(f"{call.pid}/status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        with os.fdopen(status, "rb") as stream:
            for line in stream:
                found, _, value = line.partition(b":")
                if found == name:
                    return value.strip()
        raise failure(errno.ESRCH)

    def _same_root(self, call: Call) -> bool:
        return self._root_of(call) == self._here

    def _root_of(self, call: Call) -> tuple[int, int]:
        return _identity(os.stat(f"{call.pid}/root", dir_fd=self._proc))

    def _open_in_other_root(self, call: Call, directory: int, path: bytes, mode: int) -> int:
        """After chroot(2): by the text of the base's path, below the caller's root."""
        root = os.open(f"{call.pid}/root", os.O_PATH | os.O_CLOEXEC, dir_fd=self._proc)
        try:
            if not path.startswith(b"/"):
                base = self.descriptor(call, directory)
                try:
                    above = os.fsencode(os.readlink(handle(root))).rstrip(b"/")
                    below = os.fsencode(os.readlink(handle(base)))
                finally:
                    os.close(base)
                path = below.removeprefix(above) + b"/" + path
            return syscalls.openat2(root, path, mode, resolve=syscalls.RESOLVE_IN_ROOT)
        finally:
            os.close(root)


def unsigned(value: int) -> int:
    """An argument as unsigned int, which ids, counts and modes are."""
    return value & 0xFFFFFFFF


def failure(number: int) -> OSError:
    """The error of the number `number`."""
    return OSError(number, os.strerror(number))


def handle(file: int) -> str:
    """A path of what is open here as `file`, for calls that take no O_PATH descriptor."""
    return f"/proc/self/fd/{file}"


def _peek(memory: int, address: int, size: int) -> bytes:
    try:
        content = os.pread(memory, size, address)
    except (OSError, OverflowError) as error:
        raise failure(errno.EFAULT) from error
    if not content:
        raise failure(errno.EFAULT)
    return content


def _in_own_proc(path: bytes, pid: int) -> bytes | None:
    """What `path` is below /proc where it names the caller as `self`: for us that would be us."""
    if not path.startswith(_PERHAPS_OWN):
        return None
    for prefix, below in _OWN:
        if path.startswith(prefix):
            return below % pid + path[len(prefix) :]
    return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
