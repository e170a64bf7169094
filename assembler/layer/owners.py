"""Owners by name, from a tree's own account files (rules C17, K1)."""

from __future__ import annotations

from assembler.errors import StepError
from assembler.layer.changeset import Kind
from assembler.layer.tree import Tree, resolve

MAX_ACCOUNTS = 16 << 20  # bytes of an account file (reliability T8)


def owner(tree: Tree, text: str) -> tuple[int, int]:
    """(uid, gid) of `user[:group]`, names or numbers (rule C17).

    A lone number is the group too; a lone name has its primary group. Raises StepError for a name
    that the tree's files do not hold.
    """
    user, colon, group = text.partition(":")
    uid, primary = _user(tree, user)
    return uid, _group(tree, group) if colon and group else primary


def _user(tree: Tree, user: str) -> tuple[int, int]:
    if not user:
        return 0, 0
    if user.isdigit():
        return int(user), int(user)
    for row in _rows(tree, "etc/passwd", 4):
        if row[0] == user and row[3].isdigit():
            return int(row[2]), int(row[3])
    raise StepError(
        f"unknown user {user}: the stage's /etc/passwd does not name it",
        hint="add the user in an earlier RUN, or use numbers",
    )


def _group(tree: Tree, group: str) -> int:
    if group.isdigit():
        return int(group)
    for row in _rows(tree, "etc/group", 3):
        if row[0] == group:
            return int(row[2])
    raise StepError(
        f"unknown group {group}: the stage's /etc/group does not name it",
        hint="add the group in an earlier RUN, or use numbers",
    )


def _rows(tree: Tree, path: str, columns: int) -> list[list[str]]:
    entry = tree.lookup(resolve(tree, path))
    if entry is None or entry.kind is not Kind.FILE or entry.source is None:
        return []
    with entry.source.open() as stream:
        text = stream.read(MAX_ACCOUNTS).decode("utf-8", "surrogateescape")
    rows = [line.split(":") for line in text.splitlines()]
    return [row for row in rows if len(row) >= columns and row[2].isdigit()]
