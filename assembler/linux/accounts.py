"""Users and groups by the files of a root (passwd(5), group(5))."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from assembler.linux import syscalls
from assembler.linux.job import SetupFailed

_MAX_ACCOUNTS = 16 << 20


class Account(NamedTuple):
    """Whom a step runs as. The primary group is among the supplementary ones, as BuildKit has it:
    else a process may leave it, and what keeps that group out would let it in."""

    uid: int
    gid: int
    groups: list[int]
    home: str


def account(user: str, root: str = "/") -> Account:
    """Whom `name|uid[:group|gid]` means by the files of `root`.

    Raises SetupFailed for a name that they do not have.
    """
    name, _, group = user.partition(":")
    name = name or "0"
    accounts, groups = _rows(root, "etc/passwd", 7), _rows(root, "etc/group", 4)
    found = None
    for row in accounts:
        if row[0] == name or (name.isdigit() and row[2] == name):
            found = row
            break
    if found is None and not name.isdigit():
        raise SetupFailed(f"unable to find user {name}: no matching entries in passwd file")
    uid = int(found[2]) if found else int(name)
    gid = int(found[3]) if found else 0
    home = (found[5] if found else "") or "/"
    if group:
        gid = _group(group, groups)
        return Account(uid, gid, [gid], home)
    known = found[0] if found else name
    more = [int(row[2]) for row in groups if known in row[3].split(",")]
    return Account(uid, gid, sorted({gid, *more}), home)


def _group(group: str, groups: list[list[str]]) -> int:
    for row in groups:
        if row[0] == group:
            return int(row[2])
    if group.isdigit():
        return int(group)
    raise SetupFailed(f"unable to find group {group}: no matching entries in group file")


def _rows(root: str, path: str, columns: int) -> list[list[str]]:
    """The well-formed rows of an account file; never blocks, never reads a device, and follows
    links inside `root` only."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK
        confined = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
        descriptor = syscalls.openat2(top, path, flags, resolve=confined)
    except OSError:
        return []
    finally:
        os.close(top)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return []
        content = b""
        while len(content) < _MAX_ACCOUNTS and (piece := os.read(descriptor, 1 << 16)):
            content += piece
    finally:
        os.close(descriptor)
    text = content[:_MAX_ACCOUNTS].decode("utf-8", "surrogateescape")
    rows = [line.split(":") for line in text.splitlines()]
    return [row for row in rows if len(row) >= columns and row[2].isdigit()]
