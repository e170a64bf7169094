"""Owners and device nodes that this user namespace cannot express, kept beside the files.

A file or directory has the extended attribute `user.assemble.owner`, b"UID:GID". A device node is
an empty file with `user.assemble.mknod`, b"c MAJOR:MINOR" or b"b MAJOR:MINOR", and, where owners are
recorded, always an owner. Both follow renames, overlay's copy-up, and copies that keep attributes.
An image's own attributes of such names are stored with `user.assemble.` doubled, as overlay does
with its own.

Symbolic links and FIFOs cannot have such attributes (xattr(7)). Their owners are in a table by
path, the file `owners` beside a layer's tree, where a layer has one. A layer that was unpacked has
all of them in it, so that the topmost table that names a path is right; one that a step wrote may
lack what belongs to 0:0, but not where a lower table names the path.

    LAYER/tree/     the layer directory
    LAYER/owners    b"UID:GID PATH\\0" for each link and FIFO
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping, Sequence

Owner = tuple[int, int]

ROOT: Owner = (0, 0)
OWNER = "user.assemble.owner"
NODE = "user.assemble.mknod"
PRIVATE = "user.assemble."
ESCAPED = "user.assemble.assemble."

TREE = "tree"
TABLE = "owners"
_INEXPRESSIBLE = frozenset((errno.EPERM, errno.EINVAL))


def encode(owner: Owner) -> bytes:
    """The value of OWNER."""
    return b"%d:%d" % owner


def decode(value: bytes) -> Owner | None:
    """The owner in a value of OWNER; None where it is none, since a RUN may write anything."""
    uid, _, gid = value.partition(b":")
    if not (_is_id(uid) and _is_id(gid)):
        return None
    return int(uid), int(gid)


def encode_node(block: bool, device: tuple[int, int]) -> bytes:
    """The value of NODE."""
    return b"%c %d:%d" % (b"b" if block else b"c", *device)


def decode_node(value: bytes) -> tuple[bool, tuple[int, int]] | None:
    """Whether it is a block device, and its numbers, by a value of NODE; None where it is none."""
    kind, _, numbers = value.partition(b" ")
    device = decode(numbers)
    if kind not in (b"b", b"c") or device is None or (kind == b"c" and device == (0, 0)):
        return None
    return kind == b"b", device


def _is_id(text: bytes) -> bool:
    return text.isdigit() and len(text) <= 10 and int(text) < 1 << 32


def recorded(path: str) -> Owner | None:
    """The owner that the file at `path` (links are followed) is recorded to have, if any."""
    try:
        return decode(os.getxattr(path, OWNER))
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP, errno.EPERM):
            return None
        raise


def record(target: str | int, owner: Owner) -> None:
    """Record the owner of the file or directory at `target` (links are followed)."""
    os.setxattr(target, OWNER, encode(owner))


def forget(target: str | int) -> None:
    """Let the file at `target` belong to whom the kernel says."""
    try:
        os.removexattr(target, OWNER)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise


def give(target: str | int, owner: Owner) -> None:
    """Make `owner` the owner of a file or directory of ours: by chown(2), or in a record where the
    id map has no such id. A tmpfs before Linux 6.6 keeps no records, but no layer either. Raises
    OSError."""
    try:
        os.chown(target, *owner)
    except OSError as error:
        if error.errno not in _INEXPRESSIBLE:
            raise
        try:
            record(target, owner)
        except OSError as refused:
            if refused.errno != errno.ENOTSUP:
                raise


def has_table(tree: str) -> bool:
    """Whether owners are recorded for the layer directory `tree`."""
    return os.path.basename(tree) == TREE and os.path.exists(_table(tree))


def read_table(tree: str) -> dict[str, Owner]:
    """The owners of links and FIFOs in the layer directory `tree`; empty where it has no table."""
    if os.path.basename(tree) != TREE:
        return {}
    try:
        with open(_table(tree), "rb") as stream:
            rows = stream.read().split(b"\0")[:-1]
    except FileNotFoundError:
        return {}
    found: dict[str, Owner] = {}
    for row in rows:
        owner, _, path = row.partition(b" ")
        decoded = decode(owner)
        if decoded is not None:
            found[os.fsdecode(path)] = decoded
    return found


def write_table(tree: str, owners: Mapping[str, Owner]) -> None:
    """Write the table of the layer directory `tree`, which has one from now on."""
    with open(_table(tree), "wb") as stream:
        stream.write(rows(owners))


def carry(upper: str, lowers: Sequence[str]) -> None:
    """Add to the table of `upper`, an overlay's upper directory, the links and FIFOs that were copied
    up from `lowers`, TOPMOST FIRST, and belong to whom they did there."""
    known = read_table(upper)
    before = len(known)
    hidden: set[str] = set()
    for lower in lowers:
        for path, owner in read_table(lower).items():
            if path not in known and path not in hidden and _same_special(upper, lower, path):
                known[path] = owner
            hidden.add(path)
    if len(known) > before:
        write_table(upper, known)


def read_tables(lowers: Sequence[str]) -> dict[str, Owner]:
    """The tables of `lowers`, TOPMOST FIRST, as one, without what belongs to 0:0."""
    merged: dict[str, Owner] = {}
    for lower in reversed(lowers):
        merged |= read_table(lower)
    return {path: owner for path, owner in merged.items() if owner != ROOT}


def _same_special(upper: str, lower: str, path: str) -> bool:
    above, below = os.path.join(upper, path), os.path.join(lower, path)
    try:
        kinds = {stat.S_IFMT(os.lstat(one).st_mode) for one in (above, below)}
        if kinds == {stat.S_IFLNK}:
            return os.readlink(above) == os.readlink(below)
        return kinds == {stat.S_IFIFO}
    except OSError:
        return False


def rows(owners: Mapping[str, Owner]) -> bytes:
    """The content of a table."""
    return b"".join(
        b"%s %s\0" % (encode(owner), os.fsencode(path)) for path, owner in sorted(owners.items())
    )


def _table(tree: str) -> str:
    return os.path.join(os.path.dirname(tree), TABLE)
