"""Text with a name, and places in it. Everything that can be blamed carries a `Span`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_WHOLE_USER = re.compile(r"(?i)\b(https?://)[^/\s?#]*@")
_PASSWORD = re.compile(r"(?i)\b((?:ssh|git)://[^/\s?#:@]*:)[^/\s?#]*@")


@dataclass(frozen=True, slots=True)
class Source:
    """A text and the name users know it by (`Dockerfile`, `-`, a trigger's image)."""

    name: str
    text: str = field(repr=False)

    def lines(self) -> list[str]:
        """The physical lines without their line ends."""
        return [line.rstrip("\r") for line in self.text.split("\n")]


@dataclass(frozen=True, slots=True)
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


def excerpt(span: Span, around: int = 3) -> str:
    """The lines of `span` marked `>>>`, with `around` lines before and after.

    A caret line follows the line that holds the span's word.
    """
    lines = span.source.lines()
    first = max(1, span.start - around)
    last = min(len(lines), span.end + around)
    width = len(str(last))
    out = [f"{span.source.name}:{span.start}", "-" * 20]
    blamed, word = False, redacted(span.word)
    for number in range(first, last + 1):
        text = redacted(lines[number - 1])
        inside = span.start <= number <= span.end
        out.append(f" {number:>{width}} | {'>>>' if inside else '   '} {printable(text)}")
        if inside and word and not blamed and word in text:
            blamed = True
            before = len(printable(text[: text.index(word)]))
            out.append(f" {'':>{width}} |     {' ' * before}{'^' * max(1, len(printable(word)))}")
    out.append("-" * 20)
    return "\n".join(out)


def printable(text: str) -> str:
    """`text` with tabs as blanks and control characters escaped, safe for a terminal."""
    return "".join(
        " " if char == "\t" else char if char.isprintable() else ascii(char)[1:-1] for char in text
    )


def redacted(text: str) -> str:
    """`text` without the passwords of its URLs, as BuildKit shows them. What stands before the @
    of an http URL is a token even where it is one word; before that of ssh it is a name."""
    text = _WHOLE_USER.sub(r"\1xxxxx:xxxxx@", text)
    return _PASSWORD.sub(r"\1xxxxx@", text)
