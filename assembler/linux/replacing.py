"""Files that appear whole or not at all, and leave nothing behind when their writer is killed.

They are written without a name (open(2), O_TMPFILE), and get it when they are on disk. Where the
file system has no such files, under a name beside it.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_NAMED_ONLY = frozenset((errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT))
_WHOLE = os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_STANDARD = {
    path: number
    for number, name in ((1, "stdout"), (2, "stderr"))
    for path in (f"/dev/{name}", f"/dev/fd/{number}", f"/proc/self/fd/{number}")
}
_IN_PLACE = frozenset((errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS))
"""What is said to who may not replace a file that he may perhaps write to."""
_STALE = 3600.0  # seconds, after which nobody is writing a file any more


def unnamed() -> str:
    """A name that nothing has."""
    return os.urandom(16).hex()


def put(path: str, content: bytes) -> None:
    """Have `content` at `path`, whole or not at all, in place of what was there; nothing is synced. A
    process that dies on the way leaves a name that begins with a dot beside it. Raises OSError."""
    beside = os.path.join(os.path.dirname(path), f".{unnamed()}")
    descriptor = os.open(beside, _WRITE, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        os.rename(beside, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(beside)
        raise


def sweep(directory: str) -> None:
    """Remove what processes that died long ago in `put` left in `directory`, as far as this one may.
    Raises OSError for the directory itself."""
    latest = time.time() - _STALE
    with os.scandir(directory) as names:
        for one in names:
            if one.name.startswith("."):
                with suppress(OSError):
                    if one.stat(follow_symlinks=False).st_mtime < latest:
                        os.unlink(one.path)


@contextmanager
def replacing(path: str, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write, which is at `path` once the block ends well, in place of what was there; on
    disk, its name too. `mode` is subject to the umask. Raises OSError."""
    directory, name = os.path.split(os.path.abspath(path))
    beside = f".{os.fsdecode(os.fsencode(name)[:100])}.{unnamed()}"
    parent = os.open(directory, _DIRECTORY)
    try:
        with _named(path):
            descriptor, named = _opened(parent, beside, mode)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(descriptor)
                if not named:
                    # a link cannot replace: the name beside it lives from here to the rename
                    os.link(f"/proc/self/fd/{descriptor}", beside, dst_dir_fd=parent)
                    named = True
            with _named(path):
                os.rename(beside, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            if named:
                with suppress(FileNotFoundError):
                    os.unlink(beside, dir_fd=parent)
            raise
        sync(parent)
    finally:
        os.close(parent)


def written(path: str, content: bytes) -> None:
    """Have `content` in the file at `path`: as `replacing` does, or in place where that is another's:
    a device, a pipe, a file that is mounted there, one in a directory that cannot be written.
    Raises OSError."""
    standard = _STANDARD.get(path)
    try:
        if standard is None and _replaceable(path):
            with replacing(path) as stream:
                stream.write(content)
            return
    except OSError as error:
        if error.errno not in _IN_PLACE or not os.path.isfile(path):
            raise
    with _named(path):
        # opened anew, a file that is stdout would be written to from its beginning
        opened = os.dup(standard) if standard is not None else os.open(path, _WHOLE)
        with os.fdopen(opened, "wb") as stream:
            os.set_blocking(opened, True)  # that of a pipe without a reader would be waited for
            stream.write(content)


def _replaceable(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return True


@contextmanager
def _named(path: str) -> Iterator[None]:
    """An error in the block is about `path`: neither "." nor a name beside it means anything to a user."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = path, None
        raise


def _opened(parent: int, beside: str, mode: int) -> tuple[int, bool]:
    """A descriptor to write to, and whether the file has the name `beside`."""
    try:
        return os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, mode, dir_fd=parent), False
    except OSError as error:
        if error.errno not in _NAMED_ONLY:
            raise
    return os.open(beside, _WRITE, mode, dir_fd=parent), True


def sync(directory: int) -> None:
    """fsync(2) of the directory open as `directory`, so that a rename in it survives a power cut."""
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that cannot, keep nothing anyway
            raise
