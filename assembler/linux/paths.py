"""Paths below a root that cannot be escaped, and trees removed without following a link.

Every function takes a directory's descriptor and a relative path. Links inside the tree resolve as
if the tree were the root (`openat2(2)`, RESOLVE_IN_ROOT); no function follows a link in the last
component unless it says so.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from assembler.errors import HostError

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_REMOVAL_DEPTH = 64
_LONGEST = 4000  # bytes of a path that the kernel takes at once, less than PATH_MAX


def open_root(path: str) -> int:
    """A descriptor of the directory at `path`; links in `path` are the caller's and are followed."""
    return os.open(path, _DIRECTORY)


def open_in_root(root: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` with `root` as the root of every link and `..` in it (openat2(2)).

    Raises OSError as open(2) would, HostError where the kernel has no openat2 (before 5.6).
    """
    return _open(root, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def open_beneath(root: int, path: str, flags: int) -> int:
    """Open `path` below `root` through directories only: a link anywhere in it is an error (ELOOP).

    `path` may be longer than PATH_MAX. Raises what `open_in_root` raises.
    """
    if flags & os.O_DIRECTORY and "/" not in path and path != "..":
        return os.open(path or ".", flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
    from assembler.linux import syscalls  # which few commands need that find all in the cache

    resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    if len(path) < _LONGEST // 4:  # whatever its characters are as bytes
        return _open(root, path, flags, 0, resolve)
    directory = root
    try:
        rest = os.fsencode(path)
        while len(rest) > _LONGEST:
            end = rest.rindex(b"/", 0, _LONGEST)
            deeper = _open(directory, rest[:end], os.O_PATH | os.O_DIRECTORY, 0, resolve)
            if directory != root:
                os.close(directory)
            directory, rest = deeper, rest[end + 1 :]
        return _open(directory, rest, flags, 0, resolve)
    finally:
        if directory != root:
            os.close(directory)


def _open(root: int, path: str | bytes, flags: int, mode: int, resolve: int) -> int:
    from assembler.linux import syscalls

    while True:
        try:
            return syscalls.openat2(root, path or b".", flags | os.O_CLOEXEC, mode, resolve)
        except OSError as error:
            if error.errno == errno.ENOSYS:
                raise HostError(
                    "this kernel cannot confine paths to a directory (openat2)",
                    "openat2",
                    hint="use Linux 5.6 or newer, or allow openat2 in the seccomp profile",
                ) from error
            if error.errno != errno.EAGAIN:  # a rename somewhere raced with `..`
                raise


def open_directory(root: int, path: str) -> int:
    """A descriptor of the directory at `path` below `root`, links followed inside the root."""
    return open_in_root(root, path, _DIRECTORY)


def make_directories(root: int, path: str, mode: int = 0o755) -> int:
    """A descriptor of the directory at `path` below `root`, made with its parents where missing.

    Links in existing components are followed inside the root. Raises OSError: ENOTDIR where a
    component is something else, ENOENT where one is a link that leads nowhere.
    """
    missing: list[str] = []
    found = path
    while True:
        try:
            directory = open_directory(root, found)
            break
        except FileNotFoundError:
            if not found:
                raise  # the root itself has been removed
            found, _, name = found.rpartition("/")
            missing.append(name)
    while missing:
        name = missing.pop()
        found = f"{found}/{name}" if found else name
        try:
            try:
                os.mkdir(name, mode, dir_fd=directory)
            except FileExistsError:  # a link that leads nowhere, or another process was first
                below = open_directory(root, found)
            else:
                below = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        finally:
            os.close(directory)
        directory = below
    return directory


def remove_tree(path: str) -> None:
    """Remove `path` and everything below it; nothing happens when there is nothing.

    Links are removed, never followed. Directories that their owner closed (mode 000) are opened
    first. Trees of any depth and any number of entries work with a bounded number of descriptors.
    Raises OSError, for one when something else keeps adding files.
    """
    parent, name = os.path.split(os.path.abspath(path))
    try:
        descriptor = open_root(parent)
    except FileNotFoundError:
        return
    try:
        remove_at(descriptor, name)
    finally:
        os.close(descriptor)


def remove_at(parent: int, name: str) -> None:
    """`remove_tree` of the entry `name` of the directory open as `parent`."""
    try:
        os.unlink(name, dir_fd=parent)
        return
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError) as error:
        try:
            top = open_closed(parent, name)
        except NotADirectoryError:
            raise error from None
        except FileNotFoundError:
            return
    try:
        deferred: list[str] = []
        _clear(top, 0, top, deferred)
        while deferred:
            _remove_directory(top, deferred.pop(), 0, top, deferred)
    finally:
        os.close(top)
    _forced(os.rmdir, name, parent)


def _clear(directory: int, depth: int, top: int, deferred: list[str]) -> None:
    with os.scandir(directory) as found:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
    for name, is_directory in entries:
        if not is_directory:
            _forced(os.unlink, name, directory)
        elif depth >= _REMOVAL_DEPTH:
            deferred.append(_hoist(directory, name, top, len(deferred)))
        else:
            _remove_directory(directory, name, depth, top, deferred)


def _remove_directory(parent: int, name: str, depth: int, top: int, deferred: list[str]) -> None:
    """Remove a directory, what lies too deep in it being moved to `top` and put into `deferred`."""
    try:
        child = open_closed(parent, name)
    except FileNotFoundError:  # two that were empty got one name
        return
    try:
        _clear(child, depth + 1, top, deferred)
    finally:
        os.close(child)
    _forced(os.rmdir, name, parent)


def _hoist(directory: int, name: str, top: int, number: int) -> str:
    """Move a directory that lies too deep up to `top`; returns its name there, of `number` unless
    that is taken."""
    while True:
        target = f"deep-{number}"
        try:
            _forced(
                lambda old, dir_fd, new=target: os.rename(
                    old, new, src_dir_fd=dir_fd, dst_dir_fd=top
                ),
                name,
                directory,
            )
            return target
        except (FileExistsError, NotADirectoryError):
            number += 1
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            number += 1


def open_closed(parent: int, name: str) -> int:
    """Open a directory that may have mode 000; its mode is changed where that is needed."""
    flags = _DIRECTORY | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=parent)
    except PermissionError:
        handle = os.open(
            name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent
        )
        try:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        finally:
            os.close(handle)
        return os.open(name, flags, dir_fd=parent)


def _forced(remove: Callable[..., None], name: str, directory: int) -> None:
    """Apply `remove` to an entry, after making its directory writable where that is needed."""
    try:
        remove(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except PermissionError:
        os.fchmod(directory, 0o700)
        remove(name, dir_fd=directory)
