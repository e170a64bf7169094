"""Owners by name, from a tree's own account files (rules C17, K1)."""

from __future__ import annotations

from assembler.dockerfile.suggest import nearest
from assembler.errors import StepError
from assembler.layer.changeset import Kind
from assembler.layer.tree import Tree, resolve

MAX_ACCOUNTS = 16 << 20  # bytes of an account file (reliability T8)
_MAX_ID = (1 << 32) - 2


def owner(tree: Tree, text: str) -> tuple[int, int]:
    """(uid, gid) of `user[:group]`, names or numbers (rule C17).

    A lone number is the group too; a lone name, also `name:`, has its primary group; `:group` is
    user 0. `root` is 0 whatever the tree's files say. Raises StepError for a name that they do not
    hold, and for a number that is no id.
    """
    user, _, group = text.partition(":")
    uid, primary = _user(tree, user)
    return uid, _group(tree, group) if group else primary


def _user(tree: Tree, user: str) -> tuple[int, int]:
    number = 0 if not user else _number(user)
    if number is not None:
        return number, number
    rows = _rows(tree, "etc/passwd", 4)
    for row in rows:
        if row[0] == user and _is_number(row[3]):
            return int(row[2]), int(row[3])
    raise _unknown("user", user, "/etc/passwd", rows)


def _group(tree: Tree, group: str) -> int:
    number = _number(group)
    if number is not None:
        return number
    rows = _rows(tree, "etc/group", 3)
    for row in rows:
        if row[0] == group:
            return int(row[2])
    raise _unknown("group", group, "/etc/group", rows)


def _number(text: str) -> int | None:
    if text == "root":
        return 0
    if not _is_number(text):
        return None
    if len(text) > 20 or int(text) > _MAX_ID:
        raise StepError(f"{text} is no user or group id", hint=f"the largest is {_MAX_ID}")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _unknown(what: str, name: str, file: str, rows: list[list[str]]) -> StepError:
    close = nearest(name, (row[0] for row in rows))
    meant = f"did you mean {close}? Else " if close else ""
    return StepError(
        f"unknown {what} {name}: the stage's {file} does not name it",
        hint=f"{meant}add the {what} in an earlier RUN, or use numbers",
    )


def _rows(tree: Tree, path: str, columns: int) -> list[list[str]]:
    entry = tree.lookup(resolve(tree, path))
    if entry is None or entry.kind is not Kind.FILE or entry.source is None:
        return []
    with entry.source.open() as stream:
        text = stream.read(MAX_ACCOUNTS).decode("utf-8", "surrogateescape")
    rows = [line.strip().split(":") for line in text.split("\n")]
    return [row for row in rows if len(row) >= columns and _is_number(row[2])]
