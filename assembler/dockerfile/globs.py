"""One pattern of an ignore file: `*`, `?`, `[set]`, `\\x` and `**` (rules G3, G4)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from assembler.values import field, value

_STAR, _ANY, _DIRECTORIES, _REST = "*", "?", "**/", "**"
_EMPTY = frozenset({_STAR, _DIRECTORIES, _REST})
_CROSSING = frozenset({_DIRECTORIES, _REST})
_MOST_LOOSE = 1


class BadGlob(ValueError):
    """A pattern that breaks the syntax; the text says how."""


@value
class _Token:
    """One element. `kind` is a wildcard, or `literal` or `set` with a regular expression."""

    kind: str
    regex: str = ""
    char: str = ""


@value
class Glob:
    """A parsed pattern. At most one of `literal` (the path), `any_name` (its last component),
    `ending` and `regex` is set, where there is a quick way to match."""

    pattern: str
    literal: str | None
    any_name: str | None
    ending: str | None
    regex: str
    _tokens: tuple[_Token, ...] = field(repr=False)
    _patterns: list[re.Pattern[str]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    @classmethod
    def parse(cls, pattern: str) -> Glob:
        """Raises `BadGlob`. The pattern is clean: no `.` or `..` inside, no slash at the ends."""
        tokens = _tokens(pattern)
        text = _literal(tokens)
        if text is not None:
            return cls(pattern, text, None, None, "", tokens)
        name = _literal(tokens[1:]) if tokens[0].kind == _DIRECTORIES else None
        if name is not None and "/" not in name and pattern.startswith("**/"):
            return cls(pattern, None, name, None, "", tokens)
        ending = _ending(pattern, tokens)
        if ending is not None:
            return cls(pattern, None, None, ending, "", tokens)
        return cls(pattern, None, None, None, _regex(tokens), tokens)

    def matches(self, path: str) -> bool:
        """Whether the pattern matches all of `path`."""
        if self.literal is not None:
            return path == self.literal
        if self.any_name is not None:
            return path.rpartition("/")[2] == self.any_name
        if self.ending is not None:
            return path.endswith(self.ending)
        if self.regex:
            return self._compiled().fullmatch(path) is not None
        return self.follows(path)

    def _compiled(self) -> re.Pattern[str]:
        if not self._patterns:
            self._patterns.append(re.compile(self.regex, re.DOTALL))
        return self._patterns[0]

    def runs(self) -> list[str]:
        """Texts that every matching path holds."""
        runs = [""]
        for token in self._tokens:
            if token.kind == "literal":
                runs[-1] += token.char
            else:
                runs.append("")
        return runs

    def follows(self, path: str) -> bool:
        """What `matches` says, by following every way through the pattern at once."""
        states = self._closed({0})
        for char in path:
            states = self._closed({to for state in states for to in self._step(state, char)})
            if not states:
                return False
        return len(self._tokens) in states

    def _closed(self, states: set[int]) -> set[int]:
        """`states` and those reached from them without a character.

        State `i` stands before token `i`; `~i` is inside the `**/` there, waiting for a slash.
        """
        for state in sorted(states):
            while 0 <= state < len(self._tokens) and self._tokens[state].kind in _EMPTY:
                state += 1
                states.add(state)
        return states

    def _step(self, state: int, char: str) -> tuple[int, ...]:
        number = state if state >= 0 else ~state
        if number == len(self._tokens):
            return ()
        token = self._tokens[number]
        if token.kind == _DIRECTORIES:
            return (~number, number + 1) if char == "/" else (~number,)
        if token.kind == _REST:
            return (number,)
        if token.kind == _STAR:
            return () if char == "/" else (number,)
        return (number + 1,) if re.match(token.regex, char, re.DOTALL) else ()


def _tokens(pattern: str) -> tuple[_Token, ...]:
    tokens: list[_Token] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "*" and pattern.startswith("*", position):
            position += 2 if pattern.startswith("/", position + 1) else 1
            tokens.append(_Token(_DIRECTORIES if position < len(pattern) else _REST))
        elif char == "*":
            tokens.append(_Token(_STAR))
        elif char == "?":
            tokens.append(_Token(_ANY, "[^/]"))
        elif char == "[":
            regex, position = _set(pattern, position)
            tokens.append(_Token("set", regex))
        else:
            if char == "\\":
                char, position = _escaped(pattern, position)
            tokens.append(_Token("literal", re.escape(char), char))
    return tuple(tokens)


def _escaped(pattern: str, position: int) -> tuple[str, int]:
    if position == len(pattern):
        raise BadGlob("nothing follows the last backslash")
    return pattern[position], position + 1


def _set(pattern: str, position: int) -> tuple[str, int]:
    """The regular expression of `[a-z]`, whose bracket is before `position`, and its end.

    No set matches a slash.
    """
    negated = pattern.startswith("^", position)
    position += negated
    ranges: list[str] = []
    while not (ranges and pattern.startswith("]", position)):
        low, position = _member(pattern, position)
        high = low
        if pattern.startswith("-", position):
            high, position = _member(pattern, position + 1)
        if low > high:
            raise BadGlob(f"the range {low}-{high} is backwards")
        ranges.append(f"{re.escape(low)}-{re.escape(high)}")
    text = "".join(ranges)
    return (f"[^/{text}]" if negated else f"(?!/)[{text}]"), position + 1


def _member(pattern: str, position: int) -> tuple[str, int]:
    char = pattern[position : position + 1]
    if not char:
        raise BadGlob("a [ is not closed")
    if char in "-]":
        raise BadGlob(f"{char} stands where a set needs a character")
    return _escaped(pattern, position + 1) if char == "\\" else (char, position + 1)


def _literal(tokens: Sequence[_Token]) -> str | None:
    """The text of tokens that are all literal characters, else None."""
    if all(token.kind == "literal" for token in tokens):
        return "".join(token.char for token in tokens)
    return None


def _ending(pattern: str, tokens: Sequence[_Token]) -> str | None:
    """What a path must end in, for `**`, `**.log` and `**/*.log`.

    As in moby, `**` before plain text is whatever ends in it, before other text any directories.
    """
    plain = not any(mark in pattern for mark in "]\\")
    if plain and pattern.startswith("**") and not pattern.startswith("**/"):
        text = _literal(tokens[1:])
        if text is not None:
            return text
    if [token.kind for token in tokens[:2]] == [_DIRECTORIES, _STAR]:
        text = _literal(tokens[2:])
        return text if text is not None and "/" not in text else None
    return None


def _regex(tokens: Sequence[_Token]) -> str:
    """A regular expression that never backtracks far; empty where there is none.

    A `*` is atomic: with no slash in what follows, up to the next `*` or the component's end, the
    nearest place (the only one, for the last) is the best. So is a `**/` before whole components
    and another `**`.
    """
    out: list[str] = []
    loose = 0
    *earlier, last = _parts(tokens)
    for crossing, part in earlier:
        components = _components(part)
        text = "/".join(map(_component, components))
        if any(token.kind == _STAR for token in components[-1]):
            return ""  # `*` then `**`: where the first ends is not known
        if not crossing or not part:
            out.append(text)  # of two `**` in a row one is enough
        elif components[-1]:
            loose += 1
            out.append(f"(?:.*/)?{text}")
        else:
            out.append(f"(?>(?:.*?/)??{text})")
    crossing, part = last
    text = "/".join(map(_component, _components(part)))
    out.append({_REST: ".*", _DIRECTORIES: "(?:.*/)?"}.get(crossing, "") + text)
    return "".join(out) if loose <= _MOST_LOOSE else ""


def _parts(tokens: Sequence[_Token]) -> Iterator[tuple[str, list[_Token]]]:
    """What stands before the first `**` and after each, with that `**`'s kind."""
    crossing, part = "", list[_Token]()
    for token in tokens:
        if token.kind in _CROSSING:
            yield crossing, part
            crossing, part = token.kind, []
        else:
            part.append(token)
    yield crossing, part


def _components(tokens: Sequence[_Token]) -> list[list[_Token]]:
    found: list[list[_Token]] = [[]]
    for token in tokens:
        if token.char == "/":
            found.append([])
        else:
            found[-1].append(token)
    return found


def _component(tokens: Sequence[_Token]) -> str:
    pieces = [""]
    for token in tokens:
        if token.kind == _STAR:
            pieces.append("")
        else:
            pieces[-1] += token.regex
    if len(pieces) == 1:
        return pieces[0]
    first, *middle, last = pieces
    nearest = "".join(f"(?>[^/]*?{piece})" for piece in middle)
    return f"{first}{nearest}(?>[^/]*{last}(?=/|\\Z))"


def components(path: str) -> list[str]:
    """The components of a path cleaned as Go's `path.Clean` does, a leading slash dropped."""
    rooted = path.startswith("/")
    out: list[str] = []
    for part in path.split("/"):
        if part == ".." and out and out[-1] != "..":
            out.pop()
        elif part == ".." and rooted:
            continue
        elif part not in ("", "."):
            out.append(part)
    return out
