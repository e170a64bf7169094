"""What COPY and ADD take out of a tree (rules C4-C8, C23, C24)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from assembler.dockerfile.globs import BadGlob, Glob
from assembler.dockerfile.ignore import IgnoreRules
from assembler.errors import CopySourceMissing, StepError
from assembler.expressions import expression
from assembler.layer.changeset import Entry, Kind
from assembler.layer.tree import Tree, join, resolve
from assembler.plan.steps import Copy, GitSource, InlineFile, UrlSource
from assembler.source import Span
from assembler.values import NamedTuple, field, mutable, replace, value

_WILDCARD = expression(r"(?:\\.|[^\\*?\[])*[*?\[]", re.DOTALL)
_SPECIAL = expression(r"([*?\[\\])")
_ESCAPE = expression(r"\\(.)", re.DOTALL)
_MOST = 50_000  # entries that are held
_STARS = expression(r"(\\.|\[\^?(?:\\.|[^\]\\])*\]?)|\*+", re.DOTALL)


class Below(NamedTuple):
    """What is below a selected directory, at `path` relative to it.

    `implied` directories are not selected themselves; something below them is.
    """

    path: str
    entry: Entry
    implied: bool = False


@value
class Selected:
    """One source, or one match of a wildcard: `entry` is what it is after following links.

    `name` is what a file is called at the destination. `only` says which of a directory's content
    is taken (--parents), all of it where it is None.
    """

    entry: Entry
    name: str
    tree: Tree = field(repr=False)
    """Where the entry is, for what is below it."""
    unpack: bool = False
    """Whether an archive is extracted."""
    only: Inclusion | None = None
    listed: tuple[Below, ...] | None = field(default=None, compare=False, repr=False)
    """What is taken of a directory, where that was looked at once and for all."""


@value
class Inclusion:
    """The pattern of --parents, in the language of ignore files: what it matches is taken whole.

    `heads` are the components before the first that has a `**`; each stands for one component.
    """

    heads: tuple[Glob, ...]
    whole: Glob
    deep: bool

    @classmethod
    def parse(cls, parts: list[str]) -> Inclusion | None:
        """The pattern of these components, None when there are none. Raises BadGlob."""
        if not parts:
            return None
        deep = next((n for n, part in enumerate(parts) if "**" in part), len(parts))
        heads = tuple(map(Glob.parse, parts[:deep]))
        return cls(heads, Glob.parse("/".join(parts)), deep < len(parts))

    def literal(self, depth: int) -> str | None:
        """The only name that can match in a directory `depth` levels down, if there is only one."""
        return self.heads[depth].literal if depth < len(self.heads) else None

    def matches(self, path: str, name: str, depth: int) -> bool:
        """Whether the pattern matches `path`, `depth` levels down, whose parents may match."""
        if depth < len(self.heads):
            last = depth == len(self.heads) - 1 and not self.deep
            return last and self.heads[depth].matches(name)
        return self.deep and self.whole.matches(path)

    def may_match_below(self, name: str, depth: int) -> bool:
        """Whether something below the directory `name`, `depth` levels down, can match."""
        if depth >= len(self.heads):
            return self.deep
        return self.heads[depth].matches(name)


@mutable
class _Level:
    """A directory that is being walked: what is left of it, and whether it is taken whole.

    `waiting` is the directory itself, not selected, until something below it is.
    """

    left: Iterator[Entry]
    path: str
    whole: bool
    waiting: Entry | None = None


@value
class Selection:
    """Everything one COPY selects."""

    items: tuple[Selected, ...]
    exclude: IgnoreRules | None = None
    inline: tuple[InlineFile, ...] = ()

    @property
    def is_file(self) -> bool:
        """Whether the selection is one thing that is no directory."""
        return len(self.items) == 1 and self.items[0].entry.kind is not Kind.DIRECTORY

    def listed(self, item: Selected) -> Selected:
        """`item` of this selection as it is now, whatever becomes of its tree."""
        if item.entry.kind is not Kind.DIRECTORY or item.listed is not None:
            return item
        return replace(item, listed=tuple(self.below(item)))

    def held(self, item: Selected) -> Selected:
        """The same, of a tree that does not change, where that is not too much for memory."""
        if item.entry.kind is not Kind.DIRECTORY or item.listed is not None:
            return item
        found = tuple(islice(self.below(item), _MOST + 1))
        return item if len(found) > _MOST else replace(item, listed=found)

    def entries(self) -> Iterator[Entry]:
        """Every entry that is selected."""
        for item in self.items:
            yield item.entry
            for below in self.below(item):
                yield below.entry

    def below(self, item: Selected) -> Iterator[Below]:
        """What is taken of a selected directory, parents first, without what --exclude names
        (rule C23). Trees of any depth work."""
        if item.entry.kind is not Kind.DIRECTORY:
            return
        if item.listed is not None:
            yield from item.listed
            return
        levels = [self._level(item, item.entry, "", 0, item.only is None)]
        while levels:
            level = levels[-1]
            entry = next(level.left, None)
            if entry is None:
                levels.pop()
                continue
            name = entry.name
            path = join(level.path, name)
            depth = len(levels) - 1
            only = item.only
            whole = level.whole or (only is not None and only.matches(path, name, depth))
            excluded = self.exclude is not None and self.exclude.match(path) is not None
            if not whole:
                entry = _through_link(item, entry, name, depth)
            if whole and not excluded:
                yield from _announced(levels)
                yield Below(path, entry)
                if entry.kind is Kind.DIRECTORY:
                    levels.append(self._level(item, entry, path, depth + 1, True))
            elif entry.kind is Kind.DIRECTORY and self._enters(
                path, excluded, whole or only is None or only.may_match_below(name, depth)
            ):
                below = self._level(item, entry, path, depth + 1, whole)
                below.waiting = entry
                levels.append(below)

    def _enters(self, path: str, excluded: bool, possible: bool) -> bool:
        if not possible:
            return False
        return not excluded or (self.exclude is not None and self.exclude.may_reinclude_below(path))

    def _level(
        self, item: Selected, directory: Entry, path: str, depth: int, whole: bool
    ) -> _Level:
        name = None if whole or item.only is None else item.only.literal(depth)
        entries: Iterable[Entry]
        if name is None:
            entries = item.tree.children(directory.path)
        else:
            entry = item.tree.lookup(join(directory.path, name))
            entries = () if entry is None else (entry,)
        return _Level(iter(entries), path, whole)


def _through_link(item: Selected, entry: Entry, name: str, depth: int) -> Entry:
    """The directory behind a link that is named as a parent, so that the path as written is what
    --parents makes; links that wildcards meet are not followed (rule C5)."""
    if entry.kind is not Kind.SYMLINK or item.only is None or item.only.literal(depth) is None:
        return entry
    if not item.only.may_match_below(name, depth):
        return entry
    return item.tree.lookup(resolve(item.tree, entry.path)) or entry


def _announced(levels: list[_Level]) -> Iterator[Below]:
    """The directories that were waiting for something below them."""
    first = len(levels)
    while first and levels[first - 1].waiting is not None:
        first -= 1
    for level in levels[first:]:
        if level.waiting is not None:
            yield Below(level.path, level.waiting, implied=True)
            level.waiting = None


Open = Callable[[UrlSource | GitSource], tuple[Entry, Tree]]
"""The file or directory that is elsewhere, and the tree it is in."""


def literally(path: str) -> str:
    """The source that means `path` itself, whatever characters are in it."""
    return _SPECIAL.sub(r"\\\1", path)


def nowhere(source: UrlSource | GitSource) -> tuple[Entry, Tree]:
    """For copies that fetch nothing."""
    raise StepError(f"{source} cannot be fetched here")


def select(
    copy: Copy,
    tree: Tree,
    *,
    place: str = "",
    ignored: Callable[[str], str | None] = lambda path: None,
    fetch: Open = nowhere,
) -> Selection:
    """What `copy` takes out of `tree`, and of what `fetch` opens.

    `place` is what the tree is called in errors, `ignored` tells the ignore rule that hides
    a path, None where none does. Raises CopySourceMissing for a plain path that is not there,
    StepError for a bad pattern; both at the source's place in the Dockerfile.
    """
    items: list[Selected] = []
    for source in copy.sources:
        if not isinstance(source, str):
            entry, its_tree = fetch(source)
            unpack = isinstance(source, UrlSource) and source.unpack
            items.append(Selected(entry, entry.name, its_tree, unpack))
            continue
        finder = _Finder(copy, source, tree, place, ignored)
        try:
            items += finder.parents() if copy.parents else finder.sources()
        except BadGlob as error:
            message = f'syntax error in pattern "{source}": {error}'
            raise StepError(message, finder.span) from error
        except StepError as error:
            error.place_at(finder.span)
            raise
    exclude = IgnoreRules.from_patterns(copy.exclude) if copy.exclude else None
    return Selection(tuple(items), exclude, copy.inline)


@value
class _Finder:
    """Finds what one source, as written, means."""

    copy: Copy
    text: str
    tree: Tree
    place: str
    ignored: Callable[[str], str | None]

    @property
    def span(self) -> Span:
        """The source's place in the Dockerfile."""
        return self.copy.place_of(self.text)

    def sources(self) -> Iterator[Selected]:
        """Without --parents: the file or directory, or every match."""
        for name, entry in self._found(_clean(self.text)):
            yield Selected(entry, name, self.tree, self.copy.unpack)

    def parents(self) -> Iterator[Selected]:
        """With --parents: the directory that paths are kept relative to (rule C24)."""
        head, pivot, tail = self.text.partition("/./")
        above, below = (_clean(head), _clean(tail)) if pivot else ([], _clean(self.text))
        if not any(map(_is_wild, above + below)):
            parts = self._as_written(above + below)
            if not self._exists(parts):
                raise self._missing("/".join(parts))
            above, below = parts[: len(above)], parts[len(above) :]
            below = [literally(part) for part in below]
        only = Inclusion.parse(below)
        for _, entry in self._found(above):
            if entry.kind is Kind.DIRECTORY:
                yield Selected(entry, "", self.tree, self.copy.unpack, only)

    def _found(self, parts: list[str]) -> Iterator[tuple[str, Entry]]:
        """(name, what it is after following links) of a path or of every match of a pattern."""
        wild = next((n for n, part in enumerate(parts) if _is_wild(part)), None)
        if wild is None:
            parts = self._as_written(parts)
            path = "/".join(parts)
            entry = self.tree.lookup(resolve(self.tree, path))
            if entry is None:
                raise self._missing(path)
            yield (parts[-1] if parts else ""), entry
            return
        prefix = "/".join(self._as_written(parts[:wild]))
        directory = self.tree.lookup(resolve(self.tree, prefix))
        if directory is None:
            raise self._missing(prefix)
        if directory.kind is not Kind.DIRECTORY:
            return
        for match in _wildcard_matches(self.tree, directory, parts[wild:]):
            entry = match
            if match.kind is Kind.SYMLINK:
                behind = self.tree.lookup(resolve(self.tree, match.path))
                if behind is None:
                    raise self._missing(match.path)
                entry = behind
            yield match.name, entry

    def _as_written(self, parts: list[str]) -> list[str]:
        """Components without wildcards: `\\x` is x, unless there is a name with the backslash."""
        if not any("\\" in part for part in parts) or self._exists(parts):
            return parts
        return [_ESCAPE.sub(r"\1", part) for part in parts]

    def _exists(self, parts: list[str]) -> bool:
        path = resolve(self.tree, "/".join(parts), follow_last=False)
        return self.tree.lookup(path) is not None

    def _missing(self, path: str) -> CopySourceMissing:
        """The error for `path`, with the reason it is not there, else the nearest that is."""
        real = resolve(self.tree, path)
        rule = self.ignored(real)
        hint = f"the ignore rule {rule} hides it" if rule else ""
        if self._exists(path.split("/")):
            hint = f"/{path} is a link to /{real}, which is not there" + (hint and f": {hint}")
        elif not hint:
            from assembler.engine.nearby import nearest_path

            close = nearest_path(self.tree, path)
            slash = "/" if self.text.startswith("/") else ""
            hint = f"did you mean {slash}{close}?" if close else ""
        where = self.place and f" in {self.place}"
        return CopySourceMissing(
            "failed to compute cache key: failed to calculate checksum of ref: "
            f'"/{path}": not found{where}',
            self.span,
            hint=hint,
        )


def _is_wild(part: str) -> bool:
    return not part.isalnum() and _WILDCARD.match(part) is not None


def _clean(path: str) -> list[str]:
    """Components of `path` against a virtual root: `..` cannot climb out (rule C4)."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return parts


def _wildcard_matches(tree: Tree, directory: Entry, parts: list[str]) -> Iterator[Entry]:
    """Entries below `directory` that match `parts`, one component each, in lexical order (C5)."""
    globs = [Glob.parse(_single_stars(part)) for part in parts]
    levels = [_candidates(tree, directory, globs[0])]
    while levels:
        entry = next(levels[-1], None)
        if entry is None:
            levels.pop()
        elif len(levels) == len(globs):
            yield entry
        elif entry.kind is Kind.DIRECTORY:
            levels.append(_candidates(tree, entry, globs[len(levels)]))


def _candidates(tree: Tree, directory: Entry, glob: Glob) -> Iterator[Entry]:
    if glob.literal is not None:
        entry = tree.lookup(join(directory.path, glob.literal))
        return iter(() if entry is None else (entry,))
    return (entry for entry in tree.children(directory.path) if glob.matches(entry.name))


def _single_stars(part: str) -> str:
    """`part` with `*` for each run of stars, which mean no more than one here."""
    return _STARS.sub(lambda match: match[1] or "*", part)
