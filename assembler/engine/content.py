"""The content digest of a selection: names, kinds, modes, owners, links, bytes; never times (C21)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from assembler.cancellation import nothing
from assembler.context.base import NOTHING, ContentOf, Digests, Summarised
from assembler.engine.selection import Selected, Selection
from assembler.layer.changeset import Entry, Kind
from assembler.layer.summary import Summary, Summing, record
from assembler.oci.digest import Digest
from assembler.values import value

_CHUNK = 1 << 20


Seen = Callable[[str, Entry, bytes], None]
"""Takes a path in the tree, what is there, and the SHA-256 digest of a file's bytes, which may be
empty where that was not looked at."""


def digest(
    selection: Selection,
    check: Callable[[], None] = nothing,
    known: Digests = NOTHING,
    seen: Seen | None = None,
) -> Digest:
    """The digest of everything `selection` holds. Reads every selected file once, unless its tree
    knows what it holds, or the SHA-256 digest of its bytes is `known`. All that is selected is
    `seen`.

    Raises ContextChanged when a file has another size than when it was seen. `check` is called for
    each entry and MiB and may raise.
    """
    reader = _Reader(check, bytearray(_CHUNK), known)
    with ExitStack() as stack:
        opened: dict[int, ContentOf] = {}

        def content(item: Selected) -> ContentOf:
            tree = item.tree
            if not isinstance(tree, Summarised):
                return reader.content
            if id(tree) not in opened:
                contents = tree.contents(_named(selection), check, known)
                opened[id(tree)] = stack.enter_context(contents)
            return opened[id(tree)]

        def summary(item: Selected) -> Summary:
            whole = item.only is None and selection.exclude is None and item.listed is None
            if whole and isinstance(item.tree, Summarised):
                found = item.tree.summary(item.entry.path, check, known)
                if seen is not None:
                    for entry, bytes_digest in item.tree.listed(item.entry.path, check):
                        seen(entry.path, entry, bytes_digest)
                return found
            return _summed(selection, item, content(item), known, seen)

        return _digest(selection, content, summary, seen)


def _named(selection: Selection) -> str:
    """What tells selections of one context apart well enough to remember each."""
    excluded = () if selection.exclude is None else selection.exclude.rules
    words = [item.entry.path for item in selection.items]
    words += [f"{'!' * rule.negated}{rule.pattern}" for rule in excluded]
    return "\0".join(words)


def _digest(
    selection: Selection,
    content: Callable[[Selected], ContentOf],
    summary: Callable[[Selected], Summary],
    seen: Seen | None,
) -> Digest:
    hasher = hashlib.sha256(b"assemble/selection/5")
    for item in selection.items:
        if item.entry.kind is not Kind.DIRECTORY:
            bytes_digest = content(item)(item.entry)
            if seen is not None:
                seen(item.entry.path, item.entry, bytes_digest)
            kind = b"archive" if item.unpack else b"file"  # if it is one
            _frame(hasher, kind, record(item.name, item.entry, bytes_digest))
            continue
        # neither its name nor its own metadata reaches the destination (rules C8, C13)
        found = summary(item)
        _frame(hasher, b"directory", found.digest)
        for paths in found.links:
            _frame(hasher, b"link", "\0".join(paths).encode("utf-8", "surrogateescape"))
    for inline in selection.inline:
        _frame(hasher, b"inline", inline.name.encode("utf-8", "surrogateescape"))
        _frame(hasher, b"text", inline.content.encode("utf-8", "surrogateescape"))
    return Digest("sha256", hasher.hexdigest())


def _summed(
    selection: Selection, item: Selected, content: ContentOf, known: Digests, seen: Seen | None
) -> Summary:
    summing = Summing()
    linked: dict[tuple[int, int], bytes] = {}
    if known:  # by one of the names of a file, whichever that is
        for _, entry, _ in selection.below(item):
            if entry.inode is not None and entry.source is not None:
                found = known.get(entry.source)
                if found is not None:
                    linked[entry.inode] = found
    for path, entry, implied in selection.below(item):
        if entry.inode is None:
            bytes_digest = content(entry)
        else:
            if entry.inode not in linked:
                linked[entry.inode] = content(entry)
            bytes_digest = linked[entry.inode]
        summing.add(path, entry, bytes_digest, implied=implied)
        if seen is not None:
            seen(entry.path, entry, bytes_digest)
    return summing.result()


@value
class _Reader:
    """Hashes files through one buffer."""

    check: Callable[[], None]
    buffer: bytearray
    known: Digests

    def content(self, entry: Entry) -> bytes:
        self.check()
        if entry.source is None:
            return b""
        found = self.known.get(entry.source)
        if found is not None:
            return found
        from assembler.layer.reading import Reading

        hasher = hashlib.sha256()
        view = memoryview(self.buffer)
        total = 0
        with Reading(entry) as source:
            while count := source.readinto(view):
                hasher.update(view[:count])
                total += count
                self.check()
            if total != entry.size:
                raise source.changed("shorter" if total < entry.size else "longer")
        return hasher.digest()


def _frame(hasher: Any, kind: bytes, content: bytes) -> None:
    hasher.update(b"%s%d:" % (kind, len(content)))
    hasher.update(content)
