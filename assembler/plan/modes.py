"""`--chmod`: octal, or symbolic as BSD's chmod(1), which BuildKit follows, has it (rule C18)."""

from __future__ import annotations

import re
from collections.abc import Callable

from assembler.errors import BadFlag
from assembler.expressions import expression

Chmod = Callable[[int, bool], int]
"""The mode after the change, given the mode before and whether it is a directory's."""

_CLAUSE = expression(r"[ugoa]*(?:[+\-=](?:[ugo]|[rwxXst]*))+")
_ACTION = expression(r"([+\-=])([ugo](?![ugorwxXst])|[rwxXst]*)")
_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o0007, "a": 0o6777}
_PERMISSIONS = {"r": 0o444, "w": 0o222, "x": 0o111, "s": 0o6000, "t": 0o1000}
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_STICKY = 0o1000


def parse(text: str) -> Chmod:
    """What `text` does to modes. Raises BadFlag, without a place, for what it cannot mean."""
    if is_octal(text):
        fixed = int(text, 8)
        return lambda mode, directory: fixed
    clauses = text.split(",")
    if not all(map(_CLAUSE.fullmatch, clauses)):
        raise BadFlag(
            f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777",
            hint="" if text[:1].isdigit() else "or symbolic, as u=rwX,go=rX",
        )

    def change(mode: int, directory: bool) -> int:
        # X looks at the mode before all clauses
        searchable = directory or bool(mode & 0o111)
        for clause in clauses:
            who = 0
            for letter in clause[: len(clause) - len(clause.lstrip("ugoa"))]:
                who |= _WHO[letter]
            for operator, what in _ACTION.findall(clause):
                mode = _apply(mode, who, operator, what, searchable)
        return mode

    return change


def is_octal(text: str) -> bool:
    """Whether `text` sets whole modes."""
    return re.fullmatch(r"0*[0-7]{1,4}", text) is not None


def _apply(mode: int, who: int, operator: str, what: str, searchable: bool) -> int:
    everybody = who or _WHO["a"]
    if what in _SHIFTS:
        # g=u: read, write and search bits only; set-id bits stay as they are
        bits = mode >> _SHIFTS[what] & 7
        copied = (bits << 6 | bits << 3 | bits) & everybody
        if operator == "+":
            return mode | copied
        return mode & ~copied if operator == "-" else mode & ~(everybody & 0o777) | copied
    wanted = 0
    for letter in what:
        if letter == "X":
            wanted |= 0o111 if searchable or operator == "-" else 0
        else:
            wanted |= _PERMISSIONS[letter]
    # nobody in particular, or more than the others: only then t means something
    affected = everybody | (_STICKY if who != _WHO["o"] else 0)
    wanted &= affected
    if operator == "+":
        return mode | wanted
    if operator == "-":
        return mode & ~wanted
    return mode & ~(everybody | wanted) | wanted
