"""Finding here-documents on a logical line (rules H2, H5)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from assembler.dockerfile.words import WHITESPACE

_OPENING = re.compile(r"([0-9]*)<<(-?+)\s*([^<]+)", re.DOTALL)
_LARGEST_DESCRIPTOR = 1 << 20


@dataclass(frozen=True, slots=True)
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
        words = _words(text)
    except _Unbalanced:
        return ()
    found = (_opening(text, start, end) for start, end in words)
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


def _words(text: str) -> list[tuple[int, int]]:
    """Where the shell words of `text` are. Blanks after `<<` belong to the word."""
    spans: list[tuple[int, int]] = []
    position = 0
    while position < len(text):
        if text[position] in WHITESPACE:
            position += 1
            continue
        start = position
        while position < len(text) and text[position] not in WHITESPACE:
            position = _past(text, position)
        spans.append((start, min(position, len(text))))
    return spans


def _past(text: str, position: int) -> int:
    """The end of the smallest piece of a word that starts at `position`."""
    char = text[position]
    if char == "\\":
        return position + 2
    if char == "'":
        return _after(text, "'", position + 1)
    if char == '"':
        return _past_quote(text, position)
    if text.startswith("$((", position):
        # a shift in arithmetic (`$((1 << 4))`) opens nothing
        close = text.find("))", position)
        return close + 2 if close >= 0 else position + 1
    if text.startswith("${", position):
        return _after(text, "}", position + 2)
    if text.startswith("<<", position):
        position += 2
        if text.startswith("-", position):
            position += 1
        while position < len(text) and text[position] in WHITESPACE:
            position += 1
        return position
    return position + 1


def _past_quote(text: str, position: int) -> int:
    position += 1
    while position < len(text):
        if text[position] == '"':
            return position + 1
        position += 2 if text[position] == "\\" else 1
    raise _Unbalanced


def _after(text: str, close: str, position: int) -> int:
    end = text.find(close, position)
    if end < 0:
        raise _Unbalanced
    return end + 1


def _unquoted(word: str) -> tuple[str, bool]:
    """`word` without quotes and escapes, and whether any part of it was quoted."""
    out: list[str] = []
    position, quoted = 0, False
    while position < len(word):
        end = min(_past(word, position), len(word))
        piece = word[position:end]
        position = end
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
