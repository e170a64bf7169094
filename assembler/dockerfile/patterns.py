"""The wildcards of `${v#p}`, `${v%p}` and `${v/p/r}` (rules V6 to V8).

A pattern is cut at its `*`s into pieces of fixed length. Taking each piece at its earliest place,
and the last at its latest where the longest match is wanted, finds the match in linear time; a
regular expression of several `.*` would not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_REFERENCE = re.compile(r"\$(?:\$|\{(\w+)\}|(\w+))")


class BadPattern(ValueError):
    """An escape the pattern language does not have."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Characters between two `*`; None stands for any one character."""

    items: tuple[str | None, ...]
    regex: re.Pattern[str]

    @classmethod
    def of(cls, items: list[str | None]) -> _Piece:
        text = "".join("." if item is None else re.escape(item) for item in items)
        return cls(tuple(items), re.compile(text, re.DOTALL))

    def last_end(self, value: str, start: int) -> int | None:
        """The end of the last place at or after `start`."""
        if not self.items:
            return len(value)
        if None not in self.items:
            found = value.rfind("".join(item or "" for item in self.items), start)
            return found + len(self.items) if found >= 0 else None
        for begin in range(len(value) - len(self.items), start - 1, -1):
            if self.regex.match(value, begin):
                return begin + len(self.items)
        return None


@dataclass(frozen=True, slots=True)
class Pattern:
    """A parsed pattern, to be compared with values."""

    pieces: tuple[_Piece, ...]

    def prefix_end(self, value: str, longest: bool) -> int | None:
        """Where the shortest or longest matching prefix of `value` ends; None when none does."""
        first = self.pieces[0].regex.match(value)
        return self._rest(value, first.end(), longest) if first else None

    def matches(self, value: str) -> Iterator[tuple[int, int]]:
        """Leftmost longest matches from left to right. Empty ones never touch the one before."""
        position, before = 0, -1
        while position <= len(value):
            first = self.pieces[0].regex.search(value, position)
            end = self._rest(value, first.end(), longest=True) if first else None
            if first is None or end is None:
                return
            start = first.start()
            if end > start or start != before:
                yield start, end
                before = end
            position = end if end > start else end + 1

    def _rest(self, value: str, position: int, longest: bool) -> int | None:
        """The end of a match whose first piece ends at `position`."""
        rest = self.pieces[1:]
        for index, piece in enumerate(rest):
            if longest and index == len(rest) - 1:
                return piece.last_end(value, position)
            found = piece.regex.search(value, position)
            if found is None:
                return None
            position = found.end()
        return position


def parse(text: str, reverse: bool = False) -> Pattern:
    """The pattern `text`, or the one that matches reversed values. Raises `BadPattern`."""
    items = list(_items(text))
    if reverse:
        items.reverse()
    pieces: list[list[str | None]] = [[]]
    for item in items:
        if item == "*":
            pieces.append([])
        else:
            pieces[-1].append(item[-1] if item else None)
    return Pattern(tuple(_Piece.of(piece) for piece in pieces))


def _items(text: str) -> Iterator[str | None]:
    """`*` for any run, None for any one character, else a backslash and the literal character."""
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if char == "\\":
            char = text[position : position + 1]
            position += 1
            if char in ("}", "/"):
                # only there to keep `${…}` from ending; what it protects is ordinary
                yield "\\" + char
            elif char and char in "*?\\":
                yield "\\" + char
            else:
                raise BadPattern(f"invalid escape '\\{char}'")
        elif char == "*":
            yield "*"
        else:
            yield None if char == "?" else "\\" + char


def trim(value: str, pattern: str, *, suffix: bool, longest: bool) -> str:
    """`value` without the matching prefix or suffix. Raises `BadPattern`."""
    if suffix:
        end = parse(pattern, reverse=True).prefix_end(value[::-1], longest)
        return value[: len(value) - end] if end else value
    end = parse(pattern).prefix_end(value, longest)
    return value[end:] if end else value


def replace(value: str, pattern: str, replacement: str, *, every: bool, limit: int) -> str:
    """`value` with the first match replaced, or every match. Raises `BadPattern`.

    With `every`, `$0` in the replacement is the match, other `$name`s are nothing and `$$` is a
    dollar (rule V8). The result may be cut short once it is longer than `limit`.
    """
    out: list[str] = []
    done = size = 0
    for start, end in parse(pattern).matches(value):
        text = _referenced(replacement, value[start:end]) if every else replacement
        out += (value[done:start], text)
        size += start - done + len(text)
        done = end
        if size > limit or not every:
            break
    return "".join(out) + value[done:]


def _referenced(replacement: str, match: str) -> str:
    def value(reference: re.Match[str]) -> str:
        if reference[0] == "$$":
            return "$"
        return match if (reference[1] or reference[2]) == "0" else ""

    return _REFERENCE.sub(value, replacement) if "$" in replacement else replacement
