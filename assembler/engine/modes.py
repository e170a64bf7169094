"""`--chmod`: octal, or symbolic as chmod(1) has it (rule C18)."""

from __future__ import annotations

import re
from collections.abc import Callable

from assembler.errors import StepError

Chmod = Callable[[int, bool], int]
"""The mode after the change, given the mode before and whether it is a directory's."""

_CLAUSE = re.compile(r"([ugoa]*)((?:[+\-=][rwxXst]*|[+\-=][ugo])+)")
_ACTION = re.compile(r"([+\-=])([ugo]|[rwxXst]*)")
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}


def parse(text: str) -> Chmod:
    """What `text` does to modes. Raises StepError for what it cannot mean."""
    if re.fullmatch(r"[0-7]{1,5}", text) and int(text, 8) <= 0o7777:
        fixed = int(text, 8)
        return lambda mode, directory: fixed
    clauses = [_CLAUSE.fullmatch(clause) for clause in text.split(",")]
    if not all(clauses):
        raise StepError(
            f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
        )

    def change(mode: int, directory: bool) -> int:
        for clause in clauses:
            assert clause is not None
            who = clause.group(1).replace("a", "ugo") or "ugo"
            for operator, what in _ACTION.findall(clause.group(2)):
                mode = _apply(mode, who, operator, what, directory)
        return mode

    return change


def is_octal(text: str) -> bool:
    """Whether `text` sets whole modes."""
    return text.isdigit()


def _apply(mode: int, who: str, operator: str, what: str, directory: bool) -> int:
    for one in who:
        shift = _SHIFTS[one]
        bits, special = _wanted(mode, what, directory, one)
        if operator == "+":
            mode |= bits << shift | special
        elif operator == "-":
            mode &= ~(bits << shift | special)
        else:
            cleared = {"u": 0o4000, "g": 0o2000, "o": 0o1000}[one]
            mode = mode & ~(7 << shift | (0 if directory else cleared)) | bits << shift | special
    return mode


def _wanted(mode: int, what: str, directory: bool, who: str) -> tuple[int, int]:
    if what in _SHIFTS:
        return mode >> _SHIFTS[what] & 7, 0
    bits = sum(_BITS[letter] for letter in set(what) if letter in _BITS)
    if "X" in what and (directory or mode & 0o111):
        bits |= 1
    special = {"u": 0o4000, "g": 0o2000}.get(who, 0) if "s" in what else 0
    return bits, special | (0o1000 if "t" in what and who == "o" else 0)
