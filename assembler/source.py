"""Text with a name, and places in it. Everything that can be blamed carries a `Span`."""

from __future__ import annotations

import re

from assembler.expressions import expression
from assembler.values import field, value

_WHOLE_USER = expression(r"(?i)\b(https?://)[^/\s?#]*@")
_PASSWORD = expression(r"(?i)\b((?:ssh|git)://[^/\s?#:@]*:)[^/\s?#]*@")
_MOST_LINES = 20
"""More lines of one instruction than these are not all shown."""


@value
class Source:
    """A text and the name users know it by (`Dockerfile`, `-`, a trigger's image)."""

    name: str
    text: str = field(repr=False)

    _lines: tuple[str, ...] | None = field(default=None, init=False, repr=False, compare=False)

    def lines(self) -> tuple[str, ...]:
        """The physical lines without their line ends."""
        if self._lines is None:  # split once: a large file may have thousands of remarks
            lines = tuple(line.rstrip("\r") for line in self.text.split("\n"))
            object.__setattr__(self, "_lines", lines)
            return lines
        return self._lines


@value
class Span:
    """Lines `start` to `end` of a source, both counted from 1, both included.

    `word` is the text on those lines that is to blame, where there is one.
    """

    source: Source
    start: int
    end: int
    word: str = ""

    def __str__(self) -> str:
        return f"{self.source.name}:{self.start}"

    def blame(self, word: str) -> Span:
        """The same lines, with `word` to blame."""
        return Span(self.source, self.start, self.end, word)

    def place(self) -> Place | None:
        """Where the word is in the redacted lines: where it stands alone, else where it is part of
        something longer. None without a word, or when no line holds it as it is."""
        word = redacted(self.word)
        if not word:
            return None
        lines = map(redacted, self.source.lines()[self.start - 1 : self.end])
        part: Place | None = None
        alone = re.compile(rf"(?<![\w.-]){re.escape(word)}(?![\w.-])")
        for number, line in enumerate(lines, start=self.start):
            if word not in line:
                continue
            if match := alone.search(line):
                return Place(number, match.start(), match.end())
            start = line.index(word)
            part = part or Place(number, start, start + len(word))
        return part


@value
class Place:
    """Characters `start` to `end` of a line; lines are counted from 1, characters from 0."""

    line: int
    start: int
    end: int


def excerpt(span: Span, around: int = 3, columns: int = 160) -> str:
    """The lines of `span` marked `>>>`, with `around` lines before and after, for a terminal of
    `columns` columns.

    A caret line follows the line that holds the span's word. Of very many lines only the first,
    the last and the one to blame are shown; of a very long line the part with the word.
    """
    lines = span.source.lines()
    last = len(lines)
    if last > span.end and not lines[-1]:
        last -= 1  # what follows the last line end is no line
    blamed = span.place()
    shown = _shown(span, around, last, blamed)
    width = max(3, len(str(shown[-1] if shown else 0)))
    room = max(20, columns - width - 9)
    out = [f"{span.source.name}:{span.start}", "-" * 20]
    before = shown[0] if shown else 0
    for number in shown:
        if number > before + 1:
            out.append(f" {'':>{width}} | >>> … {number - before - 1} more lines")
        before = number
        inside = span.start <= number <= span.end
        here = blamed if blamed is not None and blamed.line == number else None
        text, caret = _cut(redacted(lines[number - 1]), here, room)
        out.append(f" {number:>{width}} | {'>>>' if inside else '   '} {text}".rstrip())
        if caret:
            out.append(f" {'':>{width}} |     {caret}")
    out.append("-" * 20)
    return "\n".join(out)


def _shown(span: Span, around: int, last: int, blamed: Place | None) -> list[int]:
    """The numbers of the lines that an excerpt shows."""
    first, end = max(1, span.start - around), min(last, span.end + around)
    if span.end - span.start < _MOST_LINES:
        return list(range(first, end + 1))
    head = range(first, span.start + _MOST_LINES // 2)
    tail = range(min(last, span.end) - _MOST_LINES // 2 + 1, end + 1)
    middle = range(blamed.line - 1, blamed.line + 2) if blamed is not None else ()
    return sorted({*head, *middle, *tail})


def _cut(line: str, blamed: Place | None, room: int) -> tuple[str, str]:
    """The part of `line` that fits into `room` columns, and the carets below it."""
    cells = [printable(char) for char in line]
    widths = [columns_of(cell) for cell in cells]
    start, end = 0, len(cells)
    if sum(widths) > room:
        if blamed is not None and sum(widths[: blamed.end]) > room:
            start, budget = blamed.start, room // 3
            while start and widths[start - 1] <= budget:
                start -= 1
                budget -= widths[start]
        end, budget = start, room - 2
        while end < len(cells) and widths[end] <= budget:
            budget -= widths[end]
            end += 1
    left, right = "…" if start else "", "…" if end < len(cells) else ""
    text = f"{left}{''.join(cells[start:end])}{right}"
    if blamed is None:
        return text, ""
    offset = len(left) + sum(widths[start : blamed.start])
    return text, " " * offset + "^" * max(1, sum(widths[blamed.start : min(blamed.end, end)]))


def columns_of(text: str) -> int:
    """How many columns a terminal gives to `text` (UAX #11)."""
    if text.isascii():
        return len(text)
    import unicodedata

    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.category(char) in ("Mn", "Me") for char in text)


def printable(text: str) -> str:
    """`text` with tabs as blanks and control characters escaped, safe for a terminal."""
    if text.isprintable():
        return text
    return "".join(
        " " if char == "\t" else char if char.isprintable() else ascii(char)[1:-1] for char in text
    )


def redacted(text: str) -> str:
    """`text` without the passwords of its URLs, as BuildKit shows them. What stands before the @
    of an http URL is a token even where it is one word; before that of ssh it is a name."""
    if "@" not in text:
        return text
    text = _WHOLE_USER.sub(r"\1xxxxx:xxxxx@", text)
    return _PASSWORD.sub(r"\1xxxxx@", text)
