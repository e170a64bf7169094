"""Physical lines to logical ones: directives, comments, continuations, here-document bodies
(rules P, D, L and H)."""

from __future__ import annotations

from collections.abc import Sequence

from assembler.dockerfile.heredocs import Opening
from assembler.dockerfile.instructions import Heredoc
from assembler.dockerfile.lint import CheckOptions
from assembler.dockerfile.words import WHITESPACE
from assembler.errors import SyntaxProblem
from assembler.expressions import expression
from assembler.source import Source, Span
from assembler.values import value

_LONGEST_LINE = 65535
_DIRECTIVE = expression(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(\S.*)")
_KEYS = frozenset({"syntax", "escape", "check"})


@value
class Directives:
    """What the first lines say; `lines` of them are directives (or a `#!` line)."""

    escape: str = "\\"
    syntax: str = ""
    check: str = ""
    lines: int = 0


@value
class LogicalLine:
    """An instruction's text with continuations joined, its doc comments (rule L6), and the
    numbers of the blank lines inside it (rule L4)."""

    text: str
    span: Span
    comment: tuple[str, ...] = ()
    blanks: tuple[int, ...] = ()


class Lexer:
    """Reads a source from the top. Errors are `SyntaxProblem`s at the physical lines.

    With `at`, the text is a trigger: it has no directives, `escape` is given from outside, and
    everything is blamed on `at`.
    """

    def __init__(self, source: Source, *, escape: str = "\\", at: Span | None = None) -> None:
        self._source = source
        self._at = at
        self._lines = source.text.removeprefix("\ufeff").split("\n")
        if not self._lines[-1]:
            self._lines.pop()
        self._next = 0
        self.directives = self._read_directives() if at is None else Directives(escape)
        self._escape = self.directives.escape

    def span(self, start: int, end: int) -> Span:
        """The place of these physical lines, counted from 1."""
        return self._at or Span(self._source, start, end)

    def next(self) -> LogicalLine | None:
        """The next instruction's line; None at the end of the source."""
        comments: list[str] = []
        while self._next < len(self._lines):
            start = self._next + 1
            line = self._take().lstrip(WHITESPACE)
            if line.startswith("#"):
                self._note(comments, line, start)
                continue
            text, blanks = self._join(line)
            text = text.strip(WHITESPACE)
            if text:
                return LogicalLine(text, self.span(start, self._next), tuple(comments), blanks)
        return None

    def bodies(
        self, line: LogicalLine, openings: Sequence[Opening]
    ) -> tuple[tuple[Heredoc, ...], Span]:
        """The here-documents that follow `line`, and the place of it all (rules H3, H4)."""
        start = line.span.start
        heredocs = tuple(self._body(opening, start) for opening in openings)
        return heredocs, self.span(start, self._next)

    def _body(self, opening: Opening, start: int) -> Heredoc:
        body: list[str] = []
        while self._next < len(self._lines):
            raw = self._lines[self._next]
            line = self._take()
            if (line.lstrip("\t") if opening.strip_tabs else line) == opening.name:
                return Heredoc(
                    opening.name,
                    "".join(body),
                    opening.expand,
                    opening.strip_tabs,
                    opening.descriptor,
                )
            body.append(raw + "\n")
        span = self.span(start, self._next).blame(opening.name)
        raise SyntaxProblem("unterminated heredoc", span, hint=f"no line is just {opening.name}")

    def _take(self) -> str:
        """The next physical line, without line end."""
        line = self._lines[self._next]
        self._next += 1
        if len(line) * 4 > _LONGEST_LINE and _size(line) > _LONGEST_LINE:
            raise SyntaxProblem(
                f"dockerfile line greater than max allowed size of {_LONGEST_LINE}",
                self.span(self._next, self._next),
            )
        return line.rstrip("\r")

    def _join(self, line: str) -> tuple[str, tuple[int, ...]]:
        """`line` with its continuations, and the numbers of blank lines among them."""
        text, continues = self._without_escape(line)
        pieces, blanks = [text], list[int]()
        while continues and self._next < len(self._lines):
            line = self._take()
            bare = line.lstrip(WHITESPACE)
            if bare.startswith("#"):
                continue
            if not bare:
                blanks.append(self._next)
                continue
            text, continues = self._without_escape(line)
            pieces.append(text)
        return "".join(pieces), tuple(blanks)

    def _without_escape(self, line: str) -> tuple[str, bool]:
        """Rule L3: the line without its trailing escape, and whether it had one."""
        bare = line.rstrip(" \t")
        if bare.endswith(self._escape) and bare[-2:-1] != self._escape:
            return bare[:-1], True
        return line, False

    def _note(self, comments: list[str], line: str, number: int) -> None:
        if self._at is None and number <= self.directives.lines:
            return
        text = line[1:].strip(WHITESPACE)
        if text:
            comments.append(text)
        else:
            comments.clear()

    def _read_directives(self) -> Directives:
        """Rules D1 to D7. After a `#!` line, `escape` is a comment between the others (rule P7)."""
        found: dict[str, str] = {}
        shebang = bool(self._lines) and self._lines[0].startswith("#!")
        number = 1 if shebang else 0
        for line in self._lines[number:]:
            match = _DIRECTIVE.fullmatch(line.strip(WHITESPACE))
            key = match[1].lower() if match else ""
            if match is None or key not in _KEYS:
                break
            number += 1
            if shebang and key == "escape":
                continue
            span = Span(self._source, number, number)
            if key in found:
                raise SyntaxProblem(f"only one {key} parser directive can be used", span.blame(key))
            _validate(key, match[2], span)
            found[key] = match[2]
        escape = found.get("escape", "\\")
        return Directives(escape, found.get("syntax", ""), found.get("check", ""), number)


def _size(line: str) -> int:
    """The bytes of `line` in the file, where those that are no UTF-8 are single ones."""
    single = sum("\udc80" <= char <= "\udcff" for char in line)
    return len(line.encode("utf-8", "surrogatepass")) - 2 * single


def _validate(key: str, value: str, span: Span) -> None:
    if key == "escape" and value not in ("\\", "`"):
        message = f"invalid escape token '{value}' does not match ` or \\"
        raise SyntaxProblem(message, span.blame(value))
    if key == "check":
        try:
            CheckOptions.parse(value)
        except ValueError as error:
            raise SyntaxProblem(str(error), span.blame(value)) from None
