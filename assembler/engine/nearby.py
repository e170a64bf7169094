"""The path that was probably meant by one that is not there (rule C6)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from assembler.dockerfile.suggest import nearest
from assembler.errors import StepError
from assembler.layer.changeset import Entry, Kind
from assembler.layer.tree import Tree, resolve

_MOST_NAMES = 10_000
_MOST_DIRECTORIES = 1_000
_MOST_COMPONENTS = 50


def nearest_path(tree: Tree, path: str) -> str:
    """The path in `tree` nearest to `path`, which is not in it; empty when none is near.

    Tried in this order: other letters or another case in any of its components; the same name in a
    directory above or directly below the last directory that is there; the path without its first
    components.
    """
    parts = path.split("/")
    if len(parts) > _MOST_COMPONENTS:
        return ""
    corrected = _corrected(tree, parts)
    if corrected:
        return corrected
    known = next(n for n in range(len(parts) - 1, -1, -1) if _directory(tree, parts[:n]))
    return next(_elsewhere(tree, parts, known), "")


def _elsewhere(tree: Tree, parts: list[str], known: int) -> Iterator[str]:
    """Where else the end of the path is, when `known` of its components are a directory."""
    rest = parts[known:]
    for above in range(known - 1, -1, -1):
        for wanted in (rest, rest[-1:]):
            if _entry(tree, [*parts[:above], *wanted]) is not None:
                yield "/".join([*parts[:above], *wanted])
    directory = _directory(tree, parts[:known])
    if directory is not None:
        for below in islice(tree.children(directory.path), _MOST_DIRECTORIES):
            if below.kind is Kind.DIRECTORY and _entry(tree, [below.path, *rest]) is not None:
                yield "/".join([*parts[:known], below.name, *rest])
    for start in range(1, len(parts)):
        if _entry(tree, parts[start:]) is not None:
            yield "/".join(parts[start:])


def _corrected(tree: Tree, parts: list[str]) -> str:
    """The path with its mistyped components replaced; empty when one has no likely reading."""
    found: list[str] = []
    for number, part in enumerate(parts):
        if _entry(tree, [*found, part]) is not None:
            found.append(part)
            continue
        directory = _directory(tree, found)
        if directory is None:
            return ""
        last = number == len(parts) - 1
        names = [
            entry.name
            for entry in islice(tree.children(directory.path), _MOST_NAMES)
            if last or entry.kind in (Kind.DIRECTORY, Kind.SYMLINK)
        ]
        close = _alike(part, names)
        if not close:
            return ""
        found.append(close)
    return "/".join(found)


def _alike(word: str, names: list[str]) -> str:
    """The name that differs only in case, else the nearest that shares a letter with `word`."""
    folded = word.casefold()
    same = next((name for name in names if name.casefold() == folded), "")
    return same or nearest(word, (name for name in names if set(name) & set(word)))


def _entry(tree: Tree, parts: list[str]) -> Entry | None:
    try:
        return tree.lookup(resolve(tree, "/".join(parts)))
    except StepError:  # links in a circle are not what was meant
        return None


def _directory(tree: Tree, parts: list[str]) -> Entry | None:
    entry = _entry(tree, parts)
    return entry if entry is not None and entry.kind is Kind.DIRECTORY else None
