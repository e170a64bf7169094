"""System calls that the standard library lacks, one to one. Raises OSError; the only ctypes here.

Numbers above 424 are the same on every architecture (the kernel's unified table).
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from typing import Any

CLONE_NEWNS = 0x20000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 4096, 8192, 16384, 1 << 18
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8

MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
FSCONFIG_CMD_CREATE = 6
MOVE_MOUNT_F_EMPTY_PATH = 4
_OPEN_TREE_CLONE = 1

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

SECCOMP_NEW_LISTENER, SECCOMP_WAIT_KILLABLE_RECV = 1 << 3, 1 << 5

IN_CLOSE_WRITE, IN_MOVE_SELF = 8, 0x800
_IN_ONLYDIR, _IN_DONT_FOLLOW = 0x01000000, 0x02000000

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2

_RT_SIGACTION = {"x86_64": 13, "aarch64": 134}
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_CAPSET = {"x86_64": 126, "aarch64": 91}
_NEWFSTATAT = {"x86_64": 262, "aarch64": 79}
_STATX = {"x86_64": 332, "aarch64": 291}
_STAT_SIZE = {"x86_64": 144, "aarch64": 128}
_STATX_BTIME, _AT_SYMLINK_NOFOLLOW = 0x800, 0x100
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 428, 429, 430, 431, 432
_CLONE3, _CLOSE_RANGE, _OPENAT2, _MOUNT_SETATTR = 435, 436, 437, 442
_CLONE_INTO_CGROUP = 1 << 33
_SYNC_FILE_RANGE_WRITE = 2

_libc: Any = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_unreleased: Any = ctypes.PyDLL(None, use_errno=True)
"""The same, called without releasing the interpreter's lock, as fork(2) has to be."""
_unreleased.syscall.restype = ctypes.c_long


def _check(result: int, what: str = "") -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what or None)
    return result


def _bytes(text: str | bytes | None) -> bytes | None:
    return os.fsencode(text) if isinstance(text, str) else text


def machine() -> str:
    """`x86_64` or `aarch64`: the architecture whose tables are used."""
    return os.uname().machine


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags))


def heed(number: int) -> None:
    """Let the signal `number` have its default effect, by rt_sigaction(2): the C library refuses to
    for 32 and 33, which it has a use for in processes with threads. Raises OSError."""
    default = bytes(32)  # struct sigaction of the kernel: handler, flags, restorer, mask
    _check(_libc.syscall(_RT_SIGACTION[machine()], number, default, None, 8))


def fork() -> int:
    """fork(2), for a process of one thread whose child starts no other. Raises OSError.

    os.fork() has every module that asked for it (os.register_at_fork: threading, logging, random)
    make locks and seeds anew in the child, which copies two hundred pages and doubles the time.
    """
    return _check(_unreleased.fork())


def fork_into(group: int) -> int:
    """os.fork(), the child being born in the cgroup (version 2) whose directory is open as
    `group`: clone3(2), Linux 5.7. Only for a process of one thread. Raises OSError."""
    arguments = struct.pack("=11Q", _CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, *(0,) * 5, group)
    buffer = ctypes.create_string_buffer(arguments, len(arguments))
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    pid = _unreleased.syscall(_CLONE3, buffer, len(arguments))
    error = ctypes.get_errno()
    if pid == 0:
        python.PyOS_AfterFork_Child()
    else:
        python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, os.strerror(error))
    return int(pid)


def setns(descriptor: int, flags: int = 0) -> None:
    """setns(2)."""
    _check(_libc.setns(descriptor, flags))


def mount(
    source: str | None, target: str, kind: str | None, flags: int = 0, options: str | None = None
) -> None:
    """mount(2)."""
    _check(
        _libc.mount(
            _bytes(source), _bytes(target), _bytes(kind), ctypes.c_ulong(flags), _bytes(options)
        ),
        target,
    )


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(_bytes(target), flags), target)


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    _check(_libc.syscall(_PIVOT_ROOT[machine()], _bytes(new), _bytes(old)), new)


def openat2(dir_fd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2); the descriptor."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    found = _libc.syscall(_OPENAT2, dir_fd, _bytes(path), how, len(how))
    return found if found >= 0 else _check(found, os.fsdecode(path))


def mount_setattr(path: str, attributes: int) -> None:
    """mount_setattr(2), recursively, on a path."""
    buffer = struct.pack("=QQQQ", attributes, 0, 0, 0)
    _check(
        _libc.syscall(_MOUNT_SETATTR, AT_FDCWD, _bytes(path), AT_RECURSIVE, buffer, len(buffer)),
        path,
    )


def fsopen(kind: str) -> int:
    """fsopen(2) with FSOPEN_CLOEXEC."""
    return _check(_libc.syscall(_FSOPEN, _bytes(kind), 1), kind)


def fsconfig(
    descriptor: int, command: int, key: str | None = None, value: str | None = None
) -> None:
    """fsconfig(2)."""
    _check(_libc.syscall(_FSCONFIG, descriptor, command, _bytes(key), _bytes(value), 0), key or "")


def fsmount(descriptor: int) -> int:
    """fsmount(2) with FSMOUNT_CLOEXEC."""
    return _check(_libc.syscall(_FSMOUNT, descriptor, 1, 0))


def open_tree(path: str) -> int:
    """open_tree(2) with OPEN_TREE_CLONE: a detached copy of the mount at `path`."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    return _check(_libc.syscall(_OPEN_TREE, AT_FDCWD, _bytes(path), flags), path)


def move_mount(descriptor: int, target: str) -> None:
    """move_mount(2) of a detached mount onto `target`."""
    _check(
        _libc.syscall(
            _MOVE_MOUNT, descriptor, b"", AT_FDCWD, _bytes(target), MOVE_MOUNT_F_EMPTY_PATH
        ),
        target,
    )


def inotify_init() -> int:
    """inotify_init1(2); the descriptor."""
    return _check(_libc.inotify_init1(os.O_CLOEXEC))


def inotify_add_watch(descriptor: int, path: str, mask: int) -> int:
    """inotify_add_watch(2) of the directory `path`; the watch."""
    flags = mask | _IN_ONLYDIR | _IN_DONT_FOLLOW
    return _check(_libc.inotify_add_watch(descriptor, _bytes(path), ctypes.c_uint(flags)), path)


def start_writeout(descriptor: int, offset: int, size: int) -> None:
    """sync_file_range(2): begin to write `size` bytes from `offset` to disk, wait for nothing."""
    where = (ctypes.c_int64(offset), ctypes.c_int64(size))
    _check(_libc.sync_file_range(descriptor, *where, ctypes.c_uint(_SYNC_FILE_RANGE_WRITE)))


def sync_file_system(descriptor: int) -> None:
    """syncfs(2): write everything that belongs to the file system of `descriptor`, and wait."""
    _check(_libc.syncfs(descriptor))


def close_range(first: int) -> None:
    """close_range(2) from `first` to the end."""
    _check(_libc.syscall(_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(0xFFFFFFFF), 0))


def prctl(option: int, value: int, more: int = 0) -> None:
    """prctl(2) with up to two arguments."""
    _check(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(more), 0, 0))


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2), version 3, of this thread."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)
    words = [
        (value >> shift) & 0xFFFFFFFF
        for shift in (0, 32)
        for value in (effective, permitted, inheritable)
    ]
    _check(_libc.syscall(_CAPSET[machine()], header, struct.pack("=6I", *words)))


def seccomp_filter(program: bytes) -> None:
    """seccomp(2), SECCOMP_SET_MODE_FILTER with the BPF in `program`."""
    _seccomp(program, 0)


def seccomp_listener(program: bytes) -> int:
    """seccomp(2) with SECCOMP_FILTER_FLAG_NEW_LISTENER: a descriptor (close-on-exec) from which
    another process receives the calls that the filter passes on.

    With WAIT_KILLABLE_RECV (Linux 5.19), or a caller that a signal interrupts would ask again for
    what has been done.
    """
    try:
        return _seccomp(program, SECCOMP_NEW_LISTENER | SECCOMP_WAIT_KILLABLE_RECV)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return _seccomp(program, SECCOMP_NEW_LISTENER)


def _seccomp(program: bytes, flags: int) -> int:
    code = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    return _check(_libc.syscall(_SECCOMP[machine()], 1, flags, fprog))


def stat_bytes(descriptor: int) -> bytearray:
    """`struct stat` of the file open as `descriptor` as this architecture lays it out."""
    buffer = bytearray(_STAT_SIZE[machine()])
    view = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    flags = AT_EMPTY_PATH
    _check(_libc.syscall(_NEWFSTATAT[machine()], descriptor, b"", view, flags))
    return buffer


def statx_bytes(descriptor: int, flags: int, mask: int) -> bytearray:
    """`struct statx` of the file open as `descriptor`."""
    buffer = bytearray(256)
    view = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    words = (ctypes.c_uint(flags | AT_EMPTY_PATH), ctypes.c_uint(mask))
    _check(_libc.syscall(_STATX[machine()], descriptor, b"", *words, view))
    return buffer


class ProcessMemory:
    """Reads at most `size` bytes at once of other processes' memory: process_vm_readv(2), its
    buffers made only once."""

    def __init__(self, size: int) -> None:
        buffer = ctypes.create_string_buffer(size)
        self._remote = (ctypes.c_size_t * 2)()
        self._address = ctypes.addressof(buffer)
        local = (ctypes.c_size_t * 2)(self._address, size)
        self._kept = (buffer, local)
        self._arguments = (ctypes.addressof(local), 1, ctypes.addressof(self._remote), 1, 0)
        self._read = _libc.process_vm_readv
        self._read.argtypes = (ctypes.c_int, *(ctypes.c_void_p, ctypes.c_ulong) * 2, ctypes.c_ulong)
        self._read.restype = ctypes.c_ssize_t

    def read(self, pid: int, address: int, size: int) -> bytes:
        """`size` bytes at `address` of the process `pid`, fewer where its memory ends."""
        self._remote[0], self._remote[1] = address, size
        count = _check(self._read(pid, *self._arguments))
        return ctypes.string_at(self._address, count)


def name_process(name: str) -> None:
    """Make `name` this process' command line, which /proc shows to everybody, instead of the words
    that it was started with (proc(5), arg_start and arg_end of stat)."""
    with open("/proc/self/stat", "rb") as stream:
        fields = stream.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    ctypes.memmove(start, name.encode()[: end - start].ljust(end - start, b"\0"), end - start)


def file_system_type(path: str) -> int:
    """f_type of statfs(2): the file system's magic number."""
    buffer = ctypes.create_string_buffer(256)
    _check(_libc.statfs(_bytes(path), buffer), path)
    return int(struct.unpack_from("l", buffer)[0])


def birth_time(path: str) -> int:
    """When the file at `path` (no link is followed) was made, in nanoseconds since the epoch, by
    statx(2); 0 where the file system does not keep it."""
    buffer = ctypes.create_string_buffer(256)
    _check(
        _libc.syscall(
            _STATX[machine()], AT_FDCWD, _bytes(path), _AT_SYMLINK_NOFOLLOW, _STATX_BTIME, buffer
        ),
        path,
    )
    mask = struct.unpack_from("=I", buffer)[0]
    if not mask & _STATX_BTIME:
        return 0
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, 80)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)
