"""A context's files without those that ignore rules hide (rules G4, G5, G7)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from assembler.dockerfile.ignore import IgnoreRules
from assembler.layer.changeset import Entry, Kind
from assembler.layer.tree import Tree


class FilteredTree:
    """`files` without what `rules` hide. An excluded directory is there when something below it
    was included again."""

    def __init__(self, files: Tree, rules: IgnoreRules | None) -> None:
        self._files = files
        self._rules = rules
        self._holds: dict[str, bool] = {"": True}

    def lookup(self, path: str) -> Entry | None:
        """See `Tree.lookup`."""
        entry = self._files.lookup(path)
        return None if entry is None or not self._shows(entry) else entry

    def children(self, path: str) -> Iterable[Entry]:
        """See `Tree.children`."""
        found = self._files.children(path)
        if self._rules is None:
            return found
        return [entry for entry in found if self._shows(entry)]

    def _shows(self, entry: Entry) -> bool:
        rules = self._rules
        if rules is None or not entry.path or rules.match(entry.path) is None:
            return True
        if entry.kind is not Kind.DIRECTORY or not rules.may_reinclude_below(entry.path):
            return False
        known = self._holds.get(entry.path)
        return self._search(rules, entry.path) if known is None else known

    def _search(self, rules: IgnoreRules, directory: str) -> bool:
        """Whether something below an excluded directory is included. Each directory is searched
        once, whatever the depth."""
        levels = [(directory, iter(self._files.children(directory)))]
        while levels:
            path, entries = levels[-1]
            below = self._undecided(rules, entries)
            if below is None:
                self._holds[path] = False
                levels.pop()
            elif rules.match(below) is None or self._holds.get(below):
                self._holds.update((path, True) for path, _ in levels)
                return True
            else:
                levels.append((below, iter(self._files.children(below))))
        return False

    def _undecided(self, rules: IgnoreRules, entries: Iterator[Entry]) -> str | None:
        """The next path that is included or may hold something that is."""
        for entry in entries:
            path = entry.path
            if rules.match(path) is None:
                return path
            again = entry.kind is Kind.DIRECTORY and rules.may_reinclude_below(path)
            if again and self._holds.get(path) is not False:
                return path
        return None


def hidden_by(files: Tree, rules: IgnoreRules | None, path: str) -> str | None:
    """The rule that hides `path`, which is in `files`; None when none does or it is not there."""
    rule = None if rules is None else rules.match(path)
    return None if rule is None or files.lookup(path) is None else str(rule)
