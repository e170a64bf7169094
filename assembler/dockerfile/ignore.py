"""The .dockerignore language (rules G2 to G5), also that of COPY --exclude (rule C23).

Rules apply in order and the last that matches a path or one of its parents decides. So a path's
verdict is the larger of its parent's and the number of the last rule that matches the path itself;
parents are remembered, and most rules are found by name or ending instead of being tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from assembler.dockerfile.globs import BadGlob, Glob, components
from assembler.dockerfile.words import WHITESPACE
from assembler.errors import DockerfileError
from assembler.source import Source, Span
from assembler.values import field, mutable, value

_REMEMBERED = 200_000
_FEW = 32
_GRAM = 4


@value
class Rule:
    """One line of an ignore file. `text` is as written, `pattern` cleaned, without the `!`."""

    file: str
    line: int
    text: str
    pattern: str
    negated: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.text}"


@value
class IgnoreRules:
    """The rules of a file, in order. Paths are relative to the context, slash-separated, clean."""

    rules: tuple[Rule, ...]
    _index: _Index = field(repr=False, compare=False)
    _again: _Below = field(repr=False, compare=False)
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
        negated = [(n, rule.pattern) for n, rule in enumerate(rules) if rule.negated]
        return cls(tuple(rules), _Index.of(globs), _Below.of(negated))

    def match(self, path: str) -> Rule | None:
        """The rule that excludes `path`; None when it is included."""
        verdict = self._verdict(path)
        rule = self.rules[verdict] if verdict >= 0 else None
        return None if rule is None or rule.negated else rule

    def may_reinclude_below(self, directory: str) -> bool:
        """False when no path below `directory`, an excluded one, can be included again.

        Then a walk need not enter it.
        """
        parents = directory.split("/") if directory else []
        return self._again.possible(parents, self._verdict(directory))

    def _verdict(self, path: str) -> int:
        """The number of the last rule that matches `path` or a parent; -1 for none."""
        if not path or path == "." or not self.rules:
            return -1
        parent = path.rpartition("/")[0]
        verdict = self._index.last_match(path)
        return max(self._parent_verdict(parent), verdict) if parent else verdict

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


@value
class _Index:
    """Rule numbers by the cheapest way to find whether they match. Lists have later rules first.

    With many rules, one that needs a regular expression is only tried on paths that hold a few
    characters in a row that it cannot do without: the rarest among the rules.
    """

    exact: Mapping[str, int]
    names: Mapping[str, int]
    endings: Mapping[str, int]
    ending_sizes: tuple[int, ...]
    by_gram: Mapping[int, Mapping[str, list[tuple[int, Glob]]]]
    others: list[tuple[int, Glob]]

    @classmethod
    def of(cls, globs: list[Glob]) -> _Index:
        exact: dict[str, int] = {}
        names: dict[str, int] = {}
        endings: dict[str, int] = {}
        wild: dict[str, tuple[int, Glob]] = {}
        for number, glob in enumerate(globs):
            if glob.literal is not None:
                exact[glob.literal] = number
            elif glob.any_name is not None:
                names[glob.any_name] = number
            elif glob.ending is not None:
                endings[glob.ending] = number
            else:
                wild[glob.pattern] = (number, glob)
        last_first = sorted(wild.values(), key=lambda item: -item[0])
        by_gram, others = _by_gram(last_first) if len(wild) > _FEW else ({}, last_first)
        sizes = tuple(sorted({len(ending) for ending in endings}))
        return cls(exact, names, endings, sizes, by_gram, others)

    def last_match(self, path: str) -> int:
        """The number of the last rule that matches this very path; -1 for none."""
        best = self.exact.get(path, -1)
        if self.names:
            best = max(best, self.names.get(path.rpartition("/")[2], -1))
        for size in self.ending_sizes:
            if size > len(path):
                break
            best = max(best, self.endings.get(path[len(path) - size :], -1))
        best = _last(self.others, path, best)
        for size, rules in self.by_gram.items():
            for gram in rules.keys() & _grams(path, size):
                best = _last(rules[gram], path, best)
        return best


def _last(rules: list[tuple[int, Glob]], path: str, best: int) -> int:
    """The number of the first of `rules` that matches; `best` when it is later, or none does."""
    for number, glob in rules:
        if number <= best:
            return best
        if glob.matches(path):
            return number
    return best


def _by_gram(
    rules: list[tuple[int, Glob]],
) -> tuple[dict[int, dict[str, list[tuple[int, Glob]]]], list[tuple[int, Glob]]]:
    """The rules by the length and text of their rarest gram, and those without one."""
    needed = [
        {gram for run in glob.runs() if run for gram in _grams(run, min(_GRAM, len(run)))}
        for _, glob in rules
    ]
    counts = Counter(gram for grams in needed for gram in grams)
    found: dict[int, dict[str, list[tuple[int, Glob]]]] = {}
    others: list[tuple[int, Glob]] = []
    for rule, grams in zip(rules, needed, strict=True):
        if grams:
            gram = min(grams, key=lambda gram: (counts[gram], gram))
            found.setdefault(len(gram), {}).setdefault(gram, []).append(rule)
        else:
            others.append(rule)
    return found, others


def _grams(text: str, size: int) -> set[str]:
    return {text[start : start + size] for start in range(len(text) - size + 1)}


@mutable
class _Below:
    """What negated rules can match below a directory. Numbers are those of the last such rule:
    `last` where a component is still to come, `anything` where no more is known."""

    last: int = -1
    anything: int = -1
    names: dict[str, _Below] = field(default_factory=dict)
    globs: dict[str, tuple[Glob, _Below]] = field(default_factory=dict)

    @classmethod
    def of(cls, rules: Iterable[tuple[int, str]]) -> _Below:
        """From numbers and patterns, in order."""
        root = cls()
        for number, pattern in rules:
            here: _Below | None = root
            for part in pattern.split("/"):
                here = here._enter(part, number) if here else None
        return root

    def _enter(self, part: str, number: int) -> _Below | None:
        """Below `part`; None when a rule so written can match anything from here on."""
        wild = "*" in part or "?" in part
        crowded = wild and part not in self.globs and len(self.globs) >= _FEW
        if crowded or any(mark in part for mark in ("**", "[", "\\")):
            self.anything = number
            return None
        self.last = number
        if not wild:
            return self.names.setdefault(part, _Below())
        return self.globs.setdefault(part, (Glob.parse(part), _Below()))[1]

    def possible(self, parents: list[str], verdict: int) -> bool:
        """Whether a rule after number `verdict` can match below the directory `parents`."""
        places = [self]
        for parent in parents:
            if any(place.anything > verdict for place in places):
                return True
            places = [below for place in places for below in place._below(parent)]
        return any(max(place.last, place.anything) > verdict for place in places)

    def _below(self, name: str) -> Iterator[_Below]:
        if name in self.names:
            yield self.names[name]
        for glob, below in self.globs.values():
            if glob.matches(name):
                yield below
