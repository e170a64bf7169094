"""A directory as build context: read in place, ignore rules applied, never left.

Every file is opened below the context's root without following a link, and must be the file that
was seen when the context was walked (reliability B2).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from operator import attrgetter

from assembler.context.base import MAX_TEXT
from assembler.context.files import GONE, entry_of, open_beneath, open_directory, unreadable
from assembler.context.filtered import FilteredTree, hidden_by
from assembler.context.walk import Walk
from assembler.dockerfile.ignore import IgnoreRules
from assembler.errors import StepError, UsageError
from assembler.layer.changeset import Entry, Kind
from assembler.layer.tree import Tree, join
from assembler.source import Source

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_INSIDE = _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = 64  # directories; those in them are found from the root
_NAME = attrgetter("name")


class DirectoryContext:
    """The files below `path` that `rules` let through. `records` is the directory in which what was
    found in files is remembered, empty for none."""

    def __init__(
        self, path: str, rules: IgnoreRules | None, name: str = "", records: str = ""
    ) -> None:
        self.name = name
        self.rules = rules
        self.epoch: int | None = None
        root = os.path.realpath(path)
        walk = Walk(root, rules, records)
        self._files = _Files(root, walk)
        self._tree = _ContextTree(self._files, rules, walk)

    def tree(self) -> Tree:
        """The files as they are now, or as they were when a summary of them was asked for; entries
        belong to 0:0 (rule C16)."""
        return self._tree

    def ignored(self, path: str) -> str | None:
        """See `context.base.Context.ignored`."""
        return hidden_by(self._files, self.rules, path)


class _ContextTree:
    """What ignore rules show of a directory. See `Tree`, `context.base.Summarised`."""

    def __init__(self, files: _Files, rules: IgnoreRules | None, walk: Walk) -> None:
        shown = FilteredTree(files, rules)
        self.below = files.below if rules is None else None
        self.lookup = shown.lookup
        self.children = shown.children
        self.unread = walk.unread
        self.summary = walk.summary
        self.listed = walk.listed
        self.contents = walk.contents


class _Files:
    """What is in a directory, found without following a link."""

    def __init__(self, root: str, walk: Walk) -> None:
        self._root = root
        self._walk = walk

    def lookup(self, path: str) -> Entry | None:
        above, _, name = path.rpartition("/")
        try:
            directory = open_beneath(self._root, above, _DIRECTORY)
            try:
                found = os.lstat(name or ".", dir_fd=directory)
                return entry_of(self._root, path, directory, found)
            finally:
                os.close(directory)
        except OSError as error:
            if error.errno in GONE:
                return None
            raise unreadable(path, error) from error

    def children(self, path: str) -> Iterable[Entry]:
        try:
            seen = self._walk.entries(path)
            return self._listed(path) if seen is None else seen
        except OSError as error:
            raise _unreadable(path, error) from error

    def below(self) -> Iterator[Entry]:
        """All of it without the root, each directory before what is in it, which is sorted by name.
        A directory is opened in the one above it, as long as few are open."""
        levels: list[tuple[int, Iterator[Entry]]] = []
        try:
            levels.append(self._entered(levels, "", ""))
            while levels:
                directory, entries = levels[-1]
                for entry in entries:
                    yield entry
                    if entry.kind is Kind.DIRECTORY:
                        levels.append(self._entered(levels, entry.path, entry.name))
                        break
                else:
                    levels.pop()
                    _close(directory)
        finally:
            for directory, _ in levels:
                _close(directory)

    def _entered(
        self, levels: list[tuple[int, Iterator[Entry]]], path: str, name: str
    ) -> tuple[int, Iterator[Entry]]:
        """The directory at `path`, -1 where it is not kept open, and what is in it."""
        try:
            seen = self._walk.entries(path)
            if seen is not None:
                return -1, iter(seen)
            if levels and levels[-1][0] >= 0:
                directory = os.open(name, _INSIDE, dir_fd=levels[-1][0])
            else:
                directory = open_directory(self._root, path)
            try:
                entries = self._entries(directory, path)
            except BaseException:
                os.close(directory)
                raise
        except OSError as error:
            raise _unreadable(path, error) from error
        if len(levels) < _OPEN:
            return directory, iter(entries)
        os.close(directory)
        return -1, iter(entries)

    def _listed(self, path: str) -> list[Entry]:
        directory = open_directory(self._root, path)
        try:
            return self._entries(directory, path)
        finally:
            os.close(directory)

    def _entries(self, directory: int, path: str) -> list[Entry]:
        """What is in the directory at `path`, open as `directory`. Raises OSError."""
        with os.scandir(directory) as names:
            items = sorted(names, key=_NAME)
        root, above, found = self._root, f"{path}/" if path else "", []
        for one in items:
            entry = entry_of(root, above + one.name, directory, one.stat(follow_symlinks=False))
            if entry is not None:
                found.append(entry)
        return found


def _unreadable(path: str, error: OSError) -> StepError:
    """The error for something in the directory at `path`, or for that."""
    return unreadable(
        join(path, error.filename) if isinstance(error.filename, str) else path, error
    )


def _close(directory: int) -> None:
    if directory >= 0:
        os.close(directory)


def find_ignore_file(context: str, dockerfile: str) -> Source | None:
    """The ignore file of a build (rule G1), None when there is none.

    `<Dockerfile>.dockerignore` beside the Dockerfile, else `.dockerignore`, else
    `.containerignore` in the context. Raises UsageError for one that is a link, or larger than
    MAX_TEXT.
    """
    candidates = [f"{dockerfile}.dockerignore"] if dockerfile else []
    candidates += [os.path.join(context, name) for name in (".dockerignore", ".containerignore")]
    for path in candidates:
        if os.path.islink(path):
            raise UsageError(f"{path} is a symbolic link", hint="an ignore file must be a file")
        if os.path.isfile(path):
            with open(path, "rb") as stream:
                content = stream.read(MAX_TEXT + 1)
            if len(content) > MAX_TEXT:
                raise UsageError(f"{path}: larger than {MAX_TEXT} bytes")
            return Source(os.path.basename(path), content.decode("utf-8", "surrogateescape"))
    return None
