"""Users and groups by the files of a root (passwd(5), group(5))."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from assembler.linux import syscalls
from assembler.linux.job import SetupFailed

_MAX_ACCOUNTS = 16 << 20
_MAX_ID = (1 << 32) - 2
_LONGEST = 20  # digits of a number that is looked at


class Account(NamedTuple):
    """Whom a step runs as. The primary group is among the supplementary ones, as BuildKit has it:
    else a process may leave it, and what keeps that group out would let it in."""

    uid: int
    gid: int
    groups: list[int]
    home: str


def account(user: str, root: str = "/") -> Account:
    """Whom `name|uid[:group|gid]` means by the files of `root`; a number is never a name. Beside a
    number or another root, root is 0 whatever they say, as BuildKit has it.

    Raises SetupFailed for a name that they do not have, and for a number that is no id.
    """
    name, _, group = user.partition(":")
    name = name or "0"
    if group and all(part == "root" or _is_number(part) for part in (name, group)):
        name, group = ("0" if part == "root" else part for part in (name, group))
    uid = _number(name)
    found = None
    for row in _rows(root, "etc/passwd", 4):
        if _is_number(row[3]) and (row[0] == name if uid is None else int(row[2]) == uid):
            found = row
            break
    if uid is None:
        if found is None:
            raise SetupFailed(f"unable to find user {name}: no matching entries in passwd file")
        uid = _id(found[2])
    gid = _id(found[3]) if found else 0
    home = (found[5] if found and len(found) > 5 else "") or "/"
    if group:
        gid = _group(group, root)
        return Account(uid, gid, [gid], home)
    more: set[int] = set()
    if found:
        named = (row for row in _rows(root, "etc/group", 4) if found[0] in row[3].split(","))
        more = {_id(row[2]) for row in named}
    return Account(uid, gid, sorted({gid, *more}), home)


def _group(group: str, root: str) -> int:
    gid = _number(group)
    if gid is not None:
        return gid
    for row in _rows(root, "etc/group", 3):
        if row[0] == group:
            return _id(row[2])
    raise SetupFailed(f"unable to find group {group}: no matching entries in group file")


def _number(text: str) -> int | None:
    """The id that `text` is, None for a name. Raises SetupFailed for a number that is none."""
    return _id(text) if _is_number(text) else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _id(digits: str) -> int:
    if len(digits) > _LONGEST or int(digits) > _MAX_ID:
        raise SetupFailed(f"{digits[:_LONGEST]} is no user or group id: the largest is {_MAX_ID}")
    return int(digits)


def _rows(root: str, path: str, columns: int) -> Iterator[list[str]]:
    """The well-formed rows of an account file, one at a time, since all of them may be large; never
    blocks, never reads a device, and follows links inside `root` only."""
    for line in io.BytesIO(_content(root, path)):
        row = line.decode("utf-8", "surrogateescape").strip().split(":")
        if len(row) >= columns and _is_number(row[2]) and len(row[2]) <= _LONGEST:
            yield row


def _content(root: str, path: str) -> bytearray:
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    content = bytearray()
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK
        confined = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
        descriptor = syscalls.openat2(top, path, flags, resolve=confined)
    except OSError:
        return content
    finally:
        os.close(top)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            while len(content) < _MAX_ACCOUNTS and (piece := os.read(descriptor, 1 << 16)):
                content += piece
    finally:
        os.close(descriptor)
    return content[:_MAX_ACCOUNTS]
