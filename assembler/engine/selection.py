"""What COPY and ADD take out of a tree (rules C4-C8, C23, C24)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from assembler.dockerfile.globs import BadGlob, Glob
from assembler.dockerfile.ignore import IgnoreRules
from assembler.dockerfile.suggest import nearest
from assembler.errors import CopySourceMissing, StepError
from assembler.layer.changeset import Entry, Kind
from assembler.layer.tree import Tree, join, resolve
from assembler.plan.steps import Copy, GitSource, InlineFile, UrlSource

_WILD = frozenset("*?[\\")


@dataclass(frozen=True, slots=True)
class Selected:
    """One source, or one match of a wildcard: `entry` is what it is after following links.

    `name` is what it is called at the destination. `parents` are directories to be made above it
    (--parents): destination paths with the source directories' metadata.
    """

    entry: Entry
    name: str
    tree: Tree = field(repr=False)
    """Where the entry is, for what is below it."""
    unpack: bool = False
    """Whether an archive is extracted."""
    parents: tuple[tuple[str, Entry], ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """Everything one COPY selects."""

    items: tuple[Selected, ...]
    exclude: IgnoreRules | None = None
    inline: tuple[InlineFile, ...] = ()

    @property
    def is_file(self) -> bool:
        """Whether the selection is one thing that is no directory."""
        return len(self.items) == 1 and self.items[0].entry.kind is not Kind.DIRECTORY

    def below(self, item: Selected) -> Iterator[tuple[str, Entry]]:
        """What is below a selected directory: (path relative to it, entry), parents first,
        without what --exclude names (rule C23)."""
        if item.entry.kind is Kind.DIRECTORY:
            yield from self._walk(item.tree, item.entry.path, "")

    def _walk(self, tree: Tree, directory: str, relative: str) -> Iterator[tuple[str, Entry]]:
        for entry in tree.children(directory):
            path = join(relative, entry.name)
            excluded = self.exclude is not None and self.exclude.match(path) is not None
            is_directory = entry.kind is Kind.DIRECTORY
            if not excluded:
                yield path, entry
                if is_directory:
                    yield from self._walk(tree, entry.path, path)
            elif is_directory and self.exclude and self.exclude.may_reinclude_below(path):
                found = list(self._walk(tree, entry.path, path))
                if found:
                    yield path, entry
                    yield from found


Open = Callable[[UrlSource | GitSource], tuple[Entry, Tree]]
"""The file or directory that is elsewhere, and the tree it is in."""


def nowhere(source: UrlSource | GitSource) -> tuple[Entry, Tree]:
    """For copies that fetch nothing."""
    raise StepError(f"{source} cannot be fetched here")


def select(
    copy: Copy,
    tree: Tree,
    *,
    ignored: Callable[[str], str | None] = lambda path: None,
    fetch: Open = nowhere,
) -> Selection:
    """What `copy` takes out of `tree`, and of what `fetch` opens. `ignored` tells the ignore rule
    that hides a path.

    Raises CopySourceMissing for a plain path that is not there, StepError for a bad pattern.
    """
    items: list[Selected] = []
    for source in copy.sources:
        if isinstance(source, str):
            items += _one_source(copy, source, tree, ignored)
            continue
        entry, its_tree = fetch(source)
        unpack = isinstance(source, UrlSource) and source.unpack
        items.append(Selected(entry, entry.name, its_tree, unpack))
    exclude = IgnoreRules.from_patterns(copy.exclude) if copy.exclude else None
    return Selection(tuple(items), exclude, copy.inline)


def _one_source(
    copy: Copy, text: str, tree: Tree, ignored: Callable[[str], str | None]
) -> list[Selected]:
    pivot, path = _pivot(text) if copy.parents else (0, text)
    parts = _clean(path)
    wild = next((n for n, part in enumerate(parts) if _WILD & set(part)), None)
    if wild is None:
        paths = ["/".join(parts)]
        if tree.lookup(resolve(tree, paths[0])) is None:
            raise _missing(copy, text, paths[0], tree, ignored)
    else:
        prefix = resolve(tree, "/".join(parts[:wild]))
        try:
            paths = list(_matches(tree, prefix, parts[wild:], copy.parents))
        except BadGlob as error:
            raise StepError(f"{text}: {error}", copy.span.blame(text)) from error
    return [_selected(copy, path, tree, pivot) for path in paths]


def _selected(copy: Copy, path: str, tree: Tree, pivot: int) -> Selected:
    entry = tree.lookup(resolve(tree, path))
    if entry is None:
        raise CopySourceMissing(f'"/{path}": not found (a link to nothing)', copy.span)
    name = path.rpartition("/")[2]
    if not copy.parents:
        return Selected(entry, name, tree, copy.unpack)
    parts = path.split("/") if path else []
    kept = parts[min(pivot, len(parts)) :]
    above = []
    for depth in range(1, len(kept)):
        source = tree.lookup(resolve(tree, "/".join(parts[: len(parts) - len(kept) + depth])))
        if source is not None:
            above.append(("/".join(kept[:depth]), source))
    return Selected(entry, "/".join(kept), tree, copy.unpack, tuple(above))


def _pivot(text: str) -> tuple[int, str]:
    """How many components stand before the first `/./` (rule C24), and the path without it."""
    head, found, _ = text.partition("/./")
    if text.startswith("./") or not found:
        return 0, text
    return len(_clean(head)), text


def _clean(path: str) -> list[str]:
    """Components of `path` against a virtual root: `..` cannot climb out (rule C4)."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return parts


def _matches(tree: Tree, directory: str, parts: list[str], deep: bool) -> Iterator[str]:
    """Paths below `directory` that match `parts`, in lexical order (rule C5)."""
    part, rest = parts[0], parts[1:]
    if deep and part == "**":
        if rest:
            yield from _matches(tree, directory, rest, deep)
        for entry in tree.children(directory):
            if entry.kind is Kind.DIRECTORY:
                yield from _matches(tree, entry.path, parts, deep)
            elif not rest:
                yield entry.path
        return
    glob = Glob.parse(part.replace("**", "*"))
    for entry in tree.children(directory):
        if not glob.matches(entry.name):
            continue
        if not rest:
            yield entry.path
        elif entry.kind is Kind.DIRECTORY:
            yield from _matches(tree, entry.path, rest, deep)


def _missing(
    copy: Copy, text: str, path: str, tree: Tree, ignored: Callable[[str], str | None]
) -> CopySourceMissing:
    rule = ignored(path)
    if rule is not None:
        hint = f"the ignore rule {rule} hides it"
    else:
        directory, _, name = path.rpartition("/")
        above = tree.lookup(resolve(tree, directory))
        known = (
            [entry.name for entry in tree.children(above.path)]
            if above is not None and above.kind is Kind.DIRECTORY
            else []
        )
        close = nearest(name, known)
        hint = f"did you mean {join(directory, close)}?" if close else ""
    return CopySourceMissing(
        f'failed to compute cache key: failed to calculate checksum of ref: "/{path}": not found',
        copy.span.blame(text),
        hint=hint,
    )
