"""A tree of files as build context: an archive, a repository, a fetched file."""

from __future__ import annotations

from collections.abc import Iterable

from assembler.context.base import MAX_TEXT
from assembler.context.filtered import FilteredTree, hidden_by
from assembler.dockerfile.ignore import IgnoreRules
from assembler.errors import UsageError
from assembler.layer.changeset import Entry, Kind
from assembler.layer.tree import ChangesetTree, Tree, resolve
from assembler.source import Source
from assembler.values import mutable, value

_KINDS = frozenset({Kind.DIRECTORY, Kind.FILE, Kind.SYMLINK, Kind.FIFO})


@mutable
class TreeContext:
    """The files of `files` that `rules` let through, owned by 0:0 (rule C16).

    `epoch` is when the whole was made, in seconds since the epoch; None when that is not known.
    """

    name: str
    files: Tree
    rules: IgnoreRules | None = None
    epoch: int | None = None

    def tree(self) -> Tree:
        """See `context.base.Context.tree`."""
        return FilteredTree(_ContextFiles(self.files), self.rules)

    def ignored(self, path: str) -> str | None:
        """See `context.base.Context.ignored`."""
        return hidden_by(self.files, self.rules, path)


@value
class _ContextFiles:
    """`files` as those of a context: owned by 0:0, of kinds that contexts hold."""

    files: Tree

    def lookup(self, path: str) -> Entry | None:
        entry = self.files.lookup(path)
        return None if entry is None or entry.kind not in _KINDS else _arrived(entry)

    def children(self, path: str) -> Iterable[Entry]:
        return [_arrived(entry) for entry in self.files.children(path) if entry.kind in _KINDS]


def _arrived(entry: Entry) -> Entry:
    kept = tuple((name, value) for name, value in entry.xattrs if name.startswith("user."))
    return entry._replace(uid=0, gid=0, xattrs=kept)


def whole(changeset: Iterable[Entry]) -> ChangesetTree:
    """The tree of an archive's files, directories it does not name among them."""
    entries = list(changeset)
    named = {entry.path for entry in entries}
    missing: dict[str, Entry] = {}
    for entry in entries:
        above = entry.parent
        while above and above not in named and above not in missing:
            missing[above] = Entry(above, Kind.DIRECTORY, mode=0o755)
            above = above.rpartition("/")[0]
    return ChangesetTree((*missing.values(), *entries))


def text_of(tree: Tree, path: str, name: str = "") -> Source | None:
    """The text file at `path` of a tree as a source called `name`, None when there is none.

    Raises UsageError for one larger than MAX_TEXT.
    """
    entry = tree.lookup(resolve(tree, path))
    if entry is None or entry.source is None:
        return None
    with entry.source.open() as stream:
        content = stream.read(MAX_TEXT + 1)
    if len(content) > MAX_TEXT:
        raise UsageError(f"{path}: larger than {MAX_TEXT} bytes")
    return Source(name or path, content.decode("utf-8", "surrogateescape"))


def ignore_rules(tree: Tree, dockerfile: str) -> IgnoreRules | None:
    """The ignore rules a tree brings along, None when it has none (rule G1). `dockerfile` is the
    Dockerfile's path in the tree, empty when that is elsewhere."""
    own = (f"{dockerfile}.dockerignore",) if dockerfile else ()
    for path in (*own, ".dockerignore", ".containerignore"):
        source = text_of(tree, path)
        if source is not None:
            return IgnoreRules.parse(source)
    return None
