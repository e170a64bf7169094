"""Finding here-documents on a logical line (rules H2, H5)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from assembler.dockerfile.words import WHITESPACE
from assembler.expressions import expression
from assembler.values import value

_OPENING = expression(r"([0-9]*)<<(-?+)\s*([^<]+)", re.DOTALL)
_PIECE = expression(
    rf"""\\.?|'[^']*'|"(?:[^"\\]++|\\.)*+"|\$\{{[^}}]*\}}|<<-?[{WHITESPACE}]*|[{WHITESPACE}]+"""
    rf"""|(?P<unclosed>['"]|\$\{{)|[^\\'"$<{WHITESPACE}]+|.""",
    re.DOTALL,
)
_LARGEST_DESCRIPTOR = 1 << 20


@value
class Opening:
    """A word `[digits]<<[-]NAME`, at `start` to `end` of the line it was found on."""

    name: str
    expand: bool
    strip_tabs: bool
    descriptor: int
    start: int
    end: int


class _Unbalanced(Exception):
    """A quote or brace is never closed; then the line opens no here-document."""


def openings(text: str) -> tuple[Opening, ...]:
    """The here-documents that `text` opens, in order. Backslash escapes, whatever the directive."""
    if "<<" not in text:
        return ()
    try:
        found = [_opening(text, start, end) for start, end in _words(text)]
    except _Unbalanced:
        return ()
    return tuple(opening for opening in found if opening)


def _opening(text: str, start: int, end: int) -> Opening | None:
    match = _OPENING.fullmatch(text, start, end)
    if match is None:
        return None
    name, quoted = _unquoted(match[3])
    if not name:
        return None
    digits = match[1][-8:]
    descriptor = int(digits) if digits else 0
    if descriptor > _LARGEST_DESCRIPTOR or len(match[1]) > len(digits):
        return None
    return Opening(name, not quoted, match[2] == "-", descriptor, start, end)


def _words(text: str) -> Iterator[tuple[int, int]]:
    """Where the shell words of `text` are. Blanks after `<<` belong to the word."""
    start = None
    for position, piece in _pieces(text):
        if piece[0] not in WHITESPACE:
            start = position if start is None else start
        elif start is not None:
            yield start, position
            start = None
    if start is not None:
        yield start, len(text)


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """The smallest pieces of words, and the blanks between words, and where they start."""
    last_close = text.rfind("))")
    position = 0
    while match := _PIECE.match(text, position):
        if match["unclosed"]:
            raise _Unbalanced
        start, position = position, match.end()
        if match[0] == "$" and position <= last_close and text.startswith("((", position):
            # a shift in arithmetic (`$((1 << 4))`) opens nothing
            position = text.index("))", position) + 2
        yield start, text[start:position]


def _unquoted(word: str) -> tuple[str, bool]:
    """`word` without quotes and escapes, and whether any part of it was quoted."""
    out: list[str] = []
    quoted = False
    for _, piece in _pieces(word):
        if piece[0] == "'":
            quoted = True
            piece = piece[1:-1]
        elif piece[0] == '"':
            quoted = True
            piece = re.sub(r'\\(["$\\])', r"\1", piece[1:-1])
        elif piece[0] == "\\":
            piece = piece[1:]
        out.append(piece)
    return "".join(out), quoted
