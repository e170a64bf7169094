"""The .dockerignore language (rules G2 to G5), also that of COPY --exclude (rule C23).

Rules apply in order and the last that matches a path or one of its parents decides. So a path's
verdict is the larger of its parent's and the number of the last rule that matches the path itself;
parents are remembered, and most rules are found by name or ending instead of being tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from assembler.dockerfile.globs import BadGlob, Glob, components
from assembler.dockerfile.words import WHITESPACE
from assembler.errors import DockerfileError
from assembler.source import Source, Span

_REMEMBERED = 200_000


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of an ignore file. `text` is as written, `pattern` cleaned, without the `!`."""

    file: str
    line: int
    text: str
    pattern: str
    negated: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.text}"


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The rules of a file, in order. Paths are relative to the context, slash-separated, clean."""

    rules: tuple[Rule, ...]
    _globs: tuple[Glob, ...] = field(repr=False, compare=False)
    _index: _Index = field(repr=False, compare=False)
    _verdicts: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def parse(cls, source: Source) -> IgnoreRules:
        """The rules of an ignore file. Raises `DockerfileError` with the line of a bad pattern."""
        lines = source.text.removeprefix("\ufeff").split("\n")
        numbered = enumerate(lines, start=1)
        return cls._of(source, [(n, text) for n, text in numbered if not text.startswith("#")])

    @classmethod
    def from_patterns(cls, patterns: Iterable[str], name: str = "--exclude") -> IgnoreRules:
        """The rules that patterns given one by one make; `#` is no comment there.

        Raises `DockerfileError`.
        """
        texts = list(patterns)
        return cls._of(Source(name, "\n".join(texts)), list(enumerate(texts, start=1)))

    @classmethod
    def _of(cls, source: Source, lines: list[tuple[int, str]]) -> IgnoreRules:
        rules: list[Rule] = []
        globs: list[Glob] = []
        for number, text in lines:
            rule = _rule(source, number, text.strip(WHITESPACE))
            if rule is None:
                continue
            try:
                globs.append(Glob.parse(rule.pattern))
            except BadGlob as bad:
                span = Span(source, number, number, rule.pattern)
                message = f'syntax error in pattern "{rule.text}": {bad}'
                raise DockerfileError(message, span) from None
            rules.append(rule)
        return cls(tuple(rules), tuple(globs), _Index.of(globs))

    def match(self, path: str) -> Rule | None:
        """The rule that excludes `path`; None when it is included."""
        verdict = self._verdict(path)
        rule = self.rules[verdict] if verdict >= 0 else None
        return None if rule is None or rule.negated else rule

    def may_reinclude_below(self, directory: str) -> bool:
        """False when no path below `directory`, an excluded one, can be included again.

        Then a walk need not enter it.
        """
        verdict = self._verdict(directory)
        parents = directory.split("/") if directory else []
        later = zip(self.rules[verdict + 1 :], self._globs[verdict + 1 :], strict=True)
        return any(rule.negated and glob.may_match_below(parents) for rule, glob in later)

    def _verdict(self, path: str) -> int:
        """The number of the last rule that matches `path` or a parent; -1 for none."""
        if not path or path == "." or not self.rules:
            return -1
        parent = path.rpartition("/")[0]
        return (
            max(self._parent_verdict(parent), self._index.last_match(path))
            if parent
            else (self._index.last_match(path))
        )

    def _parent_verdict(self, directory: str) -> int:
        known = self._verdicts.get(directory)
        if known is not None:
            return known
        if len(self._verdicts) > _REMEMBERED:
            self._verdicts.clear()
        unknown: list[str] = []
        while directory and known is None:
            unknown.append(directory)
            directory = directory.rpartition("/")[0]
            known = self._verdicts.get(directory)
        verdict = -1 if known is None else known
        for prefix in reversed(unknown):
            verdict = max(verdict, self._index.last_match(prefix))
            self._verdicts[prefix] = verdict
        return verdict


def _rule(source: Source, number: int, text: str) -> Rule | None:
    """Rule G2; None for a line that says nothing."""
    if not text:
        return None
    negated = text.startswith("!")
    pattern = text[1:].strip(WHITESPACE) if negated else text
    if not pattern:
        span = Span(source, number, number, text)
        raise DockerfileError('illegal exclusion pattern: "!"', span)
    return Rule(source.name, number, text, "/".join(components(pattern)) or ".", negated)


@dataclass(frozen=True, slots=True)
class _Index:
    """Rule numbers by the cheapest way to find whether they match. Later rules come first."""

    exact: dict[str, int]
    names: dict[str, int]
    endings: tuple[str, ...]
    by_ending: tuple[tuple[str, int], ...]
    regex: re.Pattern[str] | None
    in_regex: tuple[int, ...]
    others: tuple[tuple[Glob, int], ...]

    @classmethod
    def of(cls, globs: list[Glob]) -> _Index:
        exact: dict[str, int] = {}
        names: dict[str, int] = {}
        endings: dict[str, int] = {}
        in_regex: list[int] = []
        others: list[tuple[Glob, int]] = []
        for number, glob in enumerate(globs):
            if glob.literal is not None:
                exact[glob.literal] = number
            elif glob.any_name is not None:
                names[glob.any_name] = number
            elif glob.ending is not None:
                endings[glob.ending] = number
            elif glob.regex:
                in_regex.insert(0, number)
            else:
                others.insert(0, (glob, number))
        regex = "|".join(f"({globs[number].regex})" for number in in_regex)
        by_ending = sorted(endings.items(), key=lambda item: -item[1])
        return cls(
            exact,
            names,
            tuple(endings),
            tuple(by_ending),
            re.compile(f"(?:{regex})\\Z", re.DOTALL) if regex else None,
            tuple(in_regex),
            tuple(others),
        )

    def last_match(self, path: str) -> int:
        """The number of the last rule that matches this very path; -1 for none."""
        best = self.exact.get(path, -1)
        if self.names:
            best = max(best, self.names.get(path.rpartition("/")[2], -1))
        if self.endings and path.endswith(self.endings):
            best = max(best, next(n for ending, n in self.by_ending if path.endswith(ending)))
        if self.regex and (match := self.regex.match(path)):
            best = max(best, self.in_regex[(match.lastindex or 1) - 1])
        for glob, number in self.others:
            if number <= best:
                break
            if glob.matches(path):
                return number
        return best
