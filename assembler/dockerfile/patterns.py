"""The wildcards of `${v#p}`, `${v%p}` and `${v/p/r}` (rules V6 to V8).

A pattern is cut at its `*`s into pieces of fixed length. Taking each piece at its earliest place,
and the last at its latest where the longest match is wanted, finds the match in linear time; a
regular expression of several `.*` would not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from assembler.expressions import expression
from assembler.values import value

_REFERENCE = expression(r"\$(?:\$|\{(\w+)\}|(\w+))")
_MOST_COMPARISONS = 1 << 28


class BadPattern(ValueError):
    """An escape the pattern language does not have, or a pattern that is far too long."""


@value
class _Piece:
    """Characters between two `*`; None stands for any one character."""

    items: tuple[str | None, ...]

    def is_at(self, value: str, start: int) -> bool:
        """Whether `value` has the piece at `start`."""
        if None not in self.items:
            return value.startswith(self._literal(), start)
        return self._fits(value, start) and self._regex().match(value, start) is not None

    def end(self, value: str, start: int) -> int | None:
        """The end of the first place at or after `start`."""
        if None not in self.items:
            found = value.find(self._literal(), start)
            return found + len(self.items) if found >= 0 else None
        match = self._regex().search(value, start) if self._fits(value, start) else None
        return match.end() if match else None

    def last_end(self, value: str, start: int) -> int | None:
        """The end of the last place at or after `start`."""
        found = _Piece(self.items[::-1]).end(value[start:][::-1], 0)
        return len(value) - found + len(self.items) if found is not None else None

    def _literal(self) -> str:
        return "".join(item or "" for item in self.items)

    def _fits(self, value: str, start: int) -> bool:
        """Whether there is room. Raises `BadPattern` where looking would take very long."""
        room = len(value) - start
        if room * len(self.items) > _MOST_COMPARISONS:
            raise BadPattern("it is too long for a value this long")
        return room >= len(self.items)

    def _regex(self) -> re.Pattern[str]:
        text = "".join("." if item is None else re.escape(item) for item in self.items)
        return re.compile(text, re.DOTALL)


@value
class Pattern:
    """A parsed pattern, to be compared with values."""

    pieces: tuple[_Piece, ...]

    def prefix_end(self, value: str, longest: bool) -> int | None:
        """Where the shortest or longest matching prefix of `value` ends; None when none does."""
        first, *rest = self.pieces
        return _end(rest, value, len(first.items), longest) if first.is_at(value, 0) else None

    def matches(self, value: str) -> Iterator[tuple[int, int]]:
        """Leftmost longest matches from left to right. Empty ones never touch the one before."""
        first, *rest = self.pieces
        position, before = 0, -1
        while position <= len(value):
            start = first.end(value, position)
            end = _end(rest, value, start, longest=True) if start is not None else None
            if start is None or end is None:
                return
            start -= len(first.items)
            if end > start or start != before:
                yield start, end
                before = end
            position = end if end > start else end + 1


def _end(rest: Sequence[_Piece], value: str, position: int, longest: bool) -> int | None:
    """The end of a match whose first piece ends at `position`, of which `rest` is still to come."""
    for index, piece in enumerate(rest):
        last = longest and index == len(rest) - 1
        found = piece.last_end(value, position) if last else piece.end(value, position)
        if found is None:
            return None
        position = found
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
    return Pattern(tuple(_Piece(tuple(piece)) for piece in pieces))


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
    """`replacement` with Go's references resolved: of the groups there is only `$0`."""

    def value(reference: re.Match[str]) -> str:
        if reference[0] == "$$":
            return "$"
        name = reference[1] or reference[2]
        size = next((at for at, char in enumerate(name) if not in_name(char)), len(name))
        if size == 0 or (reference[1] and size < len(name)):
            return reference[0]
        return (match if name[:size] == "0" else "") + name[size:]

    return _REFERENCE.sub(value, replacement) if "$" in replacement else replacement


def in_name(char: str) -> bool:
    """Whether `char` can be part of a variable's name: a letter, decimal digit or `_` (rule V2).

    `\\w` would also take digits like `²`.
    """
    return char.isalpha() or char.isdecimal() or char == "_"
