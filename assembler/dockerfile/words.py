"""Words of ENV, LABEL and ARG, and what `$` in them stands for (rules W1, V1 to V11, H8).

What a failure says is wrapped as `failed to process "WORD": …`; callers know the place.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from assembler.dockerfile import patterns
from assembler.errors import ExpansionFailed
from assembler.expressions import expression
from assembler.values import value

WHITESPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
"""Unicode's White_Space. `str.strip()` and `isspace()` would also take 0x1c to 0x1f."""

Lookup = Callable[[str], str | None]
"""The value of a variable; None when it is not set."""

_LIMIT = 1 << 20
_HEREDOC_LIMIT = 16 << 20
_DEEPEST = 50
_SPECIAL = "@*#?-$!0"
_MODIFIERS = frozenset({":-", ":+", ":?", "-", "+", "?", "#", "%"})
_QUOTES = {"'": "single-quote", '"': "double-quote"}
_PLAIN = {
    (escape, stop): expression(f"[^$'\"{re.escape(escape + stop)}]+")
    for escape in ("\\", "`")
    for stop in ("", "}", "/")
}
_PIECES = {
    escape: expression(
        rf"""'[^']*'?|"(?:[^"{e}]|{e}.)*(?:"|{e}?$)|{e}.|{e}$"""
        rf"""|(?P<blank>[{WHITESPACE}]+)|\$\$|[$}}]|[^$}}'"{e}{WHITESPACE}]+""",
        re.DOTALL,
    )
    for escape, e in (("\\", r"\\"), ("`", "`"))
}
_SHORT_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_SHORT_ESCAPES |= {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\v": "\\v"}


@value
class Expansion:
    """A word with its variables replaced, and the names that were used plainly but not set."""

    text: str
    unset: frozenset[str]


def quoted(text: str) -> str:
    """`text` in double quotes with Go's escapes, as error messages and history show strings."""
    return '"' + "".join(map(_quoted_char, text)) + '"'


def _quoted_char(char: str) -> str:
    if char in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    return (
        f"\\x{code:02x}" if code < 128 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


def split_words(text: str, escape: str) -> list[str]:
    """The words of `text`, quotes and escapes still in them (rule W1).

    Blanks inside an unquoted `${…}` do not split: cut there, it could never be expanded.
    """
    words: list[str] = []
    word: list[str] = []
    position = 0
    unclosed = False
    while match := _PIECES[escape].match(text, position):
        piece = match[0]
        if piece == "$" and not unclosed and text.startswith("{", match.end()):
            end = _past_braces(text, position, escape)
            unclosed = not end
            piece = text[position:end] if end else piece
        position += len(piece)
        if match.lastgroup == "blank":
            if word:
                words.append("".join(word))
            word = []
        elif piece[0] == '"' and position == len(text):
            word.append(_without_last_escape(piece, escape))
        elif piece != escape:
            word.append(piece)
    if word:
        words.append("".join(word))
    return words


def _past_braces(text: str, position: int, escape: str) -> int:
    """The end of the `${…}` at `position`; 0 when it is not closed."""
    depth = 0
    while match := _PIECES[escape].match(text, position):
        position = match.end()
        if match[0] == "$" and text.startswith("{", position):
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if not depth:
                return position
    return 0


def _without_last_escape(piece: str, escape: str) -> str:
    """An unclosed double quote may end in an escape that escapes nothing; it is dropped."""
    trailing = len(piece) - len(piece.rstrip(escape))
    return piece[:-1] if trailing % 2 else piece


def expand(word: str, lookup: Lookup, escape: str = "\\") -> Expansion:
    """`word` with quotes and escapes resolved and variables replaced (rules V1 to V9).

    Raises `ExpansionFailed` without a span.
    """
    reader = _Reader(word, lookup, escape)
    return Expansion(reader.read(), frozenset(reader.unset))


def expand_list(word: str, lookup: Lookup, escape: str = "\\") -> tuple[list[str], frozenset[str]]:
    """The words that `word` expands to, split at unquoted blanks (rule V11), and unset names.

    Raises `ExpansionFailed` without a span.
    """
    reader = _Reader(word, lookup, escape, splitting=True)
    reader.read()
    return reader.words(), frozenset(reader.unset)


def expand_heredoc(body: str, lookup: Lookup) -> Expansion:
    """A here-document's body: variables replaced, quotes left, every backslash taken away and the
    next character kept, whatever the escape directive says (rule H8).

    Raises `ExpansionFailed` without a span.
    """
    reader = _Reader(body, lookup, "\\", quotes=False)
    return Expansion(reader.read(), frozenset(reader.unset))


class _Problem(Exception):
    pass


class _Reader:
    """One pass over one word."""

    def __init__(
        self,
        text: str,
        lookup: Lookup,
        escape: str,
        *,
        quotes: bool = True,
        splitting: bool = False,
    ) -> None:
        self._text = text
        self._lookup = lookup
        self._escape = escape
        self._quotes = quotes
        self._limit = _LIMIT if quotes else _HEREDOC_LIMIT
        self._position = 0
        self._depth = 0
        self._pieces: list[tuple[str, bool]] | None = [] if splitting else None
        self.unset: set[str] = set()

    def read(self) -> str:
        """The whole text, expanded."""
        try:
            return self._until("", raw=False, pieces=self._pieces)
        except _Problem as problem:
            word = self._text if len(self._text) <= 400 else self._text[:400] + "…"
            raise ExpansionFailed(f"failed to process {quoted(word)}: {problem}") from None

    def words(self) -> list[str]:
        """What was read, split at blanks that were neither quoted nor escaped."""
        words, word = list[str](), list[str]()
        for text, splits in self._pieces or ():
            if not splits:
                word.append(text)
                continue
            for part in re.findall(f"[{WHITESPACE}]+|[^{WHITESPACE}]+", text):
                if part[0] in WHITESPACE:
                    words.append("".join(word))
                    word = []
                else:
                    word.append(part)
        return [text for text in (*words, "".join(word)) if text]

    def _peek(self) -> str:
        return self._text[self._position : self._position + 1]

    def _take(self) -> str:
        char = self._peek()
        self._position += 1
        return char

    def _until(self, stop: str, raw: bool, pieces: list[tuple[str, bool]] | None = None) -> str:
        """Everything up to `stop` (empty: the end), which is consumed. `raw` keeps escapes."""
        out: list[str] = []
        size = 0
        plain = _PLAIN[self._escape, stop]
        while char := self._peek():
            if char == stop:
                self._position += 1
                return "".join(out)
            splits = True
            if char == "$":
                piece = self._dollar()
            elif char in _QUOTES and self._quotes:
                piece = self._single() if char == "'" else self._double(raw)
                splits = False
            elif char == self._escape:
                self._position += 1
                escaped = self._take()
                piece = char + escaped if raw else escaped
                splits = False
            else:
                match = plain.match(self._text, self._position)
                piece = match[0] if match else char
                self._position += len(piece)
            out.append(piece)
            if pieces is not None:
                pieces.append((piece, splits))
            size = self._bounded(size + len(piece))
        if stop:
            raise _Problem(f"unexpected end of statement while looking for matching {stop}")
        return "".join(out)

    def _bounded(self, size: int) -> int:
        if size > self._limit + len(self._text):
            raise _Problem(f"the result is more than {self._limit} characters longer")
        return size

    def _single(self) -> str:
        end = self._text.find("'", self._position + 1)
        if end < 0:
            self._position = len(self._text)
            raise _unclosed("'")
        piece = self._text[self._position + 1 : end]
        self._position = end + 1
        return piece

    def _double(self, raw: bool) -> str:
        self._position += 1
        out: list[str] = []
        size = 0
        while char := self._peek():
            if char == '"':
                self._position += 1
                return "".join(out)
            if char == "$":
                piece = self._dollar()
            else:
                piece = self._take()
                if char == self._escape and self._peek() in ('"', "$", self._escape):
                    piece = char + self._take() if raw else self._take()
            out.append(piece)
            size = self._bounded(size + len(piece))
        raise _unclosed('"')

    def _dollar(self) -> str:
        self._position += 1
        if self._peek() != "{":
            name = self._name()
            return self._value(name) if name else "$"
        self._position += 1
        if not self._peek():
            raise _Problem("syntax error: missing '}'")
        if self._peek() in "{}:":
            raise _Problem("syntax error: bad substitution")
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _Problem(f"substitutions are nested more than {_DEEPEST} deep")
        value = self._braces(self._name())
        self._depth -= 1
        return value

    def _braces(self, name: str) -> str:
        """The rest of `${name…}`."""
        operator = self._take()
        if not operator:
            raise _Problem("syntax error: missing '}'")
        if operator == "}":
            return self._value(name)
        if operator == "/":
            return self._replaced(name)
        if operator == ":":
            operator += self._take()
        if operator not in _MODIFIERS:
            if operator[0] == ":" and operator not in (":#", ":%"):
                self._operand("}", raw=False)  # as in BuildKit, what is wrong there is said first
            raise _Problem(f"unsupported modifier ({operator}) in substitution")
        word = self._operand("}", raw=operator in "#%")
        value = self._find(name)
        if operator in "#%":
            return self._trimmed(value or "", operator, word)
        return _chosen(name, value, operator, word)

    def _operand(self, stop: str, raw: bool, missing: str = "missing '}'") -> str:
        try:
            return self._until(stop, raw)
        except _Problem:
            if self._peek():
                raise
            raise _Problem(f"syntax error: {missing}") from None

    def _trimmed(self, value: str, operator: str, pattern: str) -> str:
        longest = pattern.startswith(operator)
        pattern = pattern[1:] if longest else pattern
        try:
            return patterns.trim(value, pattern, suffix=operator == "%", longest=longest)
        except patterns.BadPattern as bad:
            raise _Problem(f"invalid pattern ({pattern}) in substitution: {bad}") from None

    def _replaced(self, name: str) -> str:
        every = self._peek() == "/"
        if every:
            self._position += 1
        pattern = self._operand("/", raw=True, missing="missing '/' in ${}")
        replacement = self._operand("}", raw=True)
        value = self._find(name) or ""
        try:
            return patterns.replace(value, pattern, replacement, every=every, limit=_LIMIT)
        except patterns.BadPattern as bad:
            raise _Problem(f"invalid pattern ({pattern}) in substitution: {bad}") from None

    def _name(self) -> str:
        """A variable's name at the position, consumed; empty when there is none (rule V2)."""
        start = self._position
        first = self._peek()
        if first.isdecimal():
            while self._peek().isdecimal():
                self._position += 1
        elif first and first in _SPECIAL:
            self._position += 1
        else:
            while (char := self._peek()) and patterns.in_name(char):
                self._position += 1
        return self._text[start : self._position]

    def _find(self, name: str) -> str | None:
        is_variable = name and not name[0].isdecimal() and name not in _SPECIAL
        return self._lookup(name) if is_variable else None

    def _value(self, name: str) -> str:
        value = self._find(name)
        if value is None:
            self.unset.add(name)
            return ""
        return value


def _unclosed(quote: str) -> _Problem:
    return _Problem(f"unexpected end of statement while looking for matching {_QUOTES[quote]}")


def _chosen(name: str, value: str | None, operator: str, word: str) -> str:
    """`${name:-word}` and its kin (rules V4, V5)."""
    missing = value is None or (operator[0] == ":" and not value)
    if operator[-1] == "+":
        return "" if missing else word
    if not missing:
        return value or ""
    if operator[-1] == "-":
        return word
    state = "unset" if value is None else "empty"
    raise _Problem(f"{name}: {word or f'is not allowed to be {state}'}")
