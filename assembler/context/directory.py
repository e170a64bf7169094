"""A directory as build context: read in place, ignore rules applied, never left.

Every file is opened below the context's root without following a link, and must be the file that
was seen when the context was walked (reliability B2).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from operator import attrgetter

from assembler.context.files import GONE, entry_of, open_beneath, open_directory, unreadable
from assembler.context.filtered import FilteredTree, hidden_by
from assembler.context.walk import Walk
from assembler.dockerfile.ignore import IgnoreRules
from assembler.errors import UsageError
from assembler.layer.changeset import Entry
from assembler.layer.tree import Tree, join
from assembler.source import Source

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


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
        self._tree = _ContextTree(FilteredTree(self._files, rules), walk)

    def tree(self) -> Tree:
        """The files as they are now, or as they were when a summary of them was asked for; entries
        belong to 0:0 (rule C16)."""
        return self._tree

    def ignored(self, path: str) -> str | None:
        """See `context.base.Context.ignored`."""
        return hidden_by(self._files, self.rules, path)


class _ContextTree:
    """What ignore rules show of a directory. See `Tree`, `context.base.Summarised`."""

    def __init__(self, shown: FilteredTree, walk: Walk) -> None:
        self.lookup = shown.lookup
        self.children = shown.children
        self.unread = walk.unread
        self.summary = walk.summary
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
            named = isinstance(error.filename, str)
            below = join(path, error.filename) if named else path
            raise unreadable(below, error) from error

    def _listed(self, path: str) -> list[Entry]:
        directory = open_directory(self._root, path)
        try:
            with os.scandir(directory) as names:
                items = sorted(names, key=attrgetter("name"))
            above = f"{path}/" if path else ""
            seen = [
                entry_of(self._root, above + one.name, directory, one.stat(follow_symlinks=False))
                for one in items
            ]
            return [entry for entry in seen if entry is not None]
        finally:
            os.close(directory)


def find_ignore_file(context: str, dockerfile: str) -> Source | None:
    """The ignore file of a build (rule G1), None when there is none.

    `<Dockerfile>.dockerignore` beside the Dockerfile, else `.dockerignore`, else
    `.containerignore` in the context. Raises UsageError for one that is a link.
    """
    candidates = [f"{dockerfile}.dockerignore"] if dockerfile else []
    candidates += [os.path.join(context, name) for name in (".dockerignore", ".containerignore")]
    for path in candidates:
        if os.path.islink(path):
            raise UsageError(f"{path} is a symbolic link", hint="an ignore file must be a file")
        if os.path.isfile(path):
            with open(path, "rb") as stream:
                content = stream.read()
            return Source(os.path.basename(path), content.decode("utf-8", "surrogateescape"))
    return None
