"""One logical line, cut into name, flags and arguments (rules I1 to I5)."""

from __future__ import annotations

import json

from assembler.dockerfile.flags import Allowed, Flags, check_flags, split_flags
from assembler.dockerfile.heredocs import Opening, openings
from assembler.dockerfile.instructions import Heredoc
from assembler.dockerfile.suggest import did_you_mean
from assembler.dockerfile.words import WHITESPACE
from assembler.errors import SyntaxProblem, UnknownInstruction
from assembler.expressions import expression
from assembler.source import Span
from assembler.values import field, replace, value

NAMES = tuple(
    "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL MAINTAINER ONBUILD RUN SHELL"
    " STOPSIGNAL USER VOLUME WORKDIR".split()
)

JSON_FORMS = frozenset({"ADD", "CMD", "COPY", "ENTRYPOINT", "RUN", "SHELL", "VOLUME"})
"""The instructions whose arguments may be a JSON array (rule I5); HEALTHCHECK's command may too."""

_BLANKS = expression(r"[\t\v\f\r ]+")
_WITH_HEREDOCS = frozenset({"RUN", "COPY", "ADD"})


@value
class Statement:
    """An instruction before its arguments are understood. `name` is in upper case, `rest` is the
    text after the flags, `line` the whole of it."""

    name: str
    word: str
    flags: tuple[str, ...]
    rest: str
    line: str
    span: Span
    escape: str
    comment: tuple[str, ...] = ()
    openings: tuple[Opening, ...] = ()
    heredocs: tuple[Heredoc, ...] = field(default=())

    def words(self) -> tuple[str, ...]:
        """`rest` cut at blanks, quotes meaning nothing (rule I6)."""
        return tuple(_BLANKS.split(self.rest)) if self.rest else ()

    def checked(self, allowed: Allowed | None = None) -> Flags:
        """The flags. Raises `BadFlag`."""
        return check_flags(self.flags, allowed or Allowed(), self.span)

    def json(self) -> tuple[str, ...] | None:
        """`rest` as a JSON array of strings, None when it is none. Raises `SyntaxProblem`."""
        return json_form(self.rest, self.span)

    def trigger(self) -> Statement:
        """The statement that an ONBUILD holds; its name may be none of `NAMES`."""
        word, flags, rest = _split(self.rest, self.escape)
        return replace(self, name=word.upper(), word=word, flags=flags, rest=rest, line=self.rest)

    def with_heredocs(self, heredocs: tuple[Heredoc, ...], span: Span) -> Statement:
        """The same with the bodies of its `openings`, at its full place."""
        return replace(self, heredocs=heredocs, span=span)

    def error(self, message: str, word: str = "", hint: str = "") -> SyntaxProblem:
        """A problem with this statement, blamed on `word` where there is one."""
        return SyntaxProblem(message, self.span.blame(word) if word else self.span, hint=hint)


def split_statement(line: str, span: Span, escape: str, comment: tuple[str, ...] = ()) -> Statement:
    """The statement on a logical line, bodies of here-documents still to come.

    Raises `UnknownInstruction`, and `SyntaxProblem` for a NUL byte.
    """
    refuse_nul(line, span)
    word, flags, rest = _split(line, escape)
    name = word.upper() if word.isascii() else ""
    if name not in NAMES:
        suggestion = did_you_mean(word, NAMES, ignore_case=True)
        message = f"unknown instruction: {word}{suggestion}"
        raise UnknownInstruction(
            f"dockerfile parse error on line {span.start}: {message}", span.blame(word)
        )
    found = _openings(name, rest, span, escape)
    return Statement(name, word, flags, rest, line, span, escape, comment, found)


def _split(line: str, escape: str) -> tuple[str, tuple[str, ...], str]:
    parts = _BLANKS.split(line.strip(WHITESPACE), maxsplit=1)
    if len(parts) == 1:
        return parts[0], (), ""
    flags, rest = split_flags(parts[1], escape)
    return parts[0], flags, rest.strip(WHITESPACE)


def _openings(name: str, rest: str, span: Span, escape: str) -> tuple[Opening, ...]:
    """Rules H1 and H11: which here-documents an instruction, or one in ONBUILD, opens."""
    if "<<" not in rest:
        return ()
    if name == "ONBUILD":
        inner, _, rest = _split(rest, escape)
        name = inner.upper()
    if name not in _WITH_HEREDOCS or json_form(rest, span) is not None:
        return ()
    return openings(rest)


def json_form(text: str, span: Span) -> tuple[str, ...] | None:
    """Rule I5: the strings of a JSON array, None when `text` is anything else.

    Raises `SyntaxProblem` for an array that holds other things than strings.
    """
    if not text.startswith("["):
        return None
    try:
        values = json.loads(
            text, parse_int=_number, parse_float=_number, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        return None
    strings = tuple(value for value in values if isinstance(value, str))
    if len(strings) != len(values):
        message = "when using JSON array syntax, arrays must be comprised of strings only"
        raise SyntaxProblem(message, span)
    refuse_nul("".join(strings), span)
    return tuple(map(_without_surrogates, strings))


def refuse_nul(text: str, span: Span) -> None:
    """Raise `SyntaxProblem` for a NUL byte: no path, argument or variable can hold one."""
    if "\0" in text:
        raise SyntaxProblem("an instruction cannot hold a NUL byte", span.blame("\0"))


def _number(text: str) -> None:
    """Numbers are only ever refused; how large they are does not matter."""


def _no_constant(text: str) -> None:
    raise ValueError(text)


def _without_surrogates(text: str) -> str:
    """A lone `\\ud800` becomes the replacement character: it could not be written anywhere."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
