"""A changeset to a layer directory, for a step that needs a file system."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable

from assembler.cancellation import nothing
from assembler.layer.changeset import Entry
from assembler.layer.directory import LayerDirectory, Lower, nowhere
from assembler.layer.reading import Reading
from assembler.linux.beneath import Openings

_PIECE, _KERNEL_PIECE = 1 << 20, 16 << 20
_SPARSE = 1 << 16  # bytes from which on it is worth asking for holes
_NOT_HERE = frozenset(
    (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF)
)


def realise(
    changeset: Iterable[Entry],
    into: str,
    *,
    lower: Lower = nowhere,
    check: Callable[[], None] = nothing,
) -> None:
    """Fill the existing, empty directory `into` with `changeset`.

    `lower` tells what is below, as for `apply.unpack`: without it, directories that the changeset
    does not name, the root too, become 0755. `check` is called for each entry and few MiB. Raises
    ContextChanged where a source has other bytes than its entry says, and what `LayerDirectory`
    raises; `into` is to be thrown away then.
    """

    def fill(descriptor: int, entry: Entry) -> None:
        fill_from_source(descriptor, entry, check, near)

    with Openings() as near, LayerDirectory(into, lower) as directory:
        for entry in changeset:
            check()
            directory.place(entry, fill)
        directory.finish()


def fill_from_source(
    descriptor: int,
    entry: Entry,
    check: Callable[[], None] = nothing,
    near: Openings | None = None,
) -> None:
    """Copy the bytes of `entry.source`, by the kernel where both are files (it may share blocks).
    `check` is called for each few MiB; `near` is as for `Reading`."""
    if not entry.size and entry.source is None:
        return
    with Reading(entry, near) as source:
        left = entry.size
        if source.descriptor >= 0:
            left -= _copy_in_kernel(source, descriptor, left, check)
        buffer = memoryview(bytearray(min(_PIECE, left + 1)))
        while left:
            check()
            count = source.readinto(buffer[:left])
            if not count:
                raise source.changed("shorter")
            left -= count
            piece = buffer[:count]
            while piece:
                piece = piece[os.write(descriptor, piece) :]
        if source.readinto(buffer[:1]):
            raise source.changed("longer")


def _copy_in_kernel(source: Reading, target: int, size: int, check: Callable[[], None]) -> int:
    """How many of `size` bytes copy_file_range(2) copied; 0 where it does not work. Blocks are shared
    where the file system can; what is a hole stays one."""
    copied = 0
    ends_in_hole = False
    while copied < size:
        check()
        hole, data = 0, size - copied
        if size >= _SPARSE:
            hole, data = _extents(source.descriptor, source.offset, data)
        if hole:
            os.lseek(target, hole, os.SEEK_CUR)
            source.skip(hole)
            copied += hole
        ends_in_hole = data == 0
        if not data:
            break
        piece = min(data, _KERNEL_PIECE)
        try:
            count = os.copy_file_range(source.descriptor, target, piece, source.offset)
        except OSError as error:
            if error.errno in _NOT_HERE:
                break
            raise
        if not count:
            break
        copied += count
        source.skip(count)
    if ends_in_hole:
        os.ftruncate(target, os.lseek(target, 0, os.SEEK_CUR))
    return copied


def _extents(descriptor: int, offset: int, size: int) -> tuple[int, int]:
    """How many of the `size` bytes at `offset` of a file are a hole, and how many that are none come
    then."""
    try:
        data = os.lseek(descriptor, offset, os.SEEK_DATA)
        end = os.lseek(descriptor, data, os.SEEK_HOLE)
    except OSError as error:
        if error.errno != errno.ENXIO:
            return 0, size
        return max(0, min(size, os.fstat(descriptor).st_size - offset)), 0
    return min(size, data - offset), max(0, min(size, end - offset) - (data - offset))
