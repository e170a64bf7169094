"""A walk of a directory context that looks at each file once and reads those that nobody knows.

First all directories are listed, then the files described. In between, who packs them may read them:
the digests of what was packed are as good as those of what is read here.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from marshal import loads

from assembler.context.base import NOTHING, ContentOf, Digests
from assembler.context.digests import digests_of, summary_of
from assembler.context.files import (
    PLAIN,
    Details,
    changed,
    details_of,
    entry_as_seen,
    open_directory,
    unreadable,
)
from assembler.context.listing import FORMAT, Listing, Seen, seen_of
from assembler.context.stat_cache import StatCache, stat_key
from assembler.dockerfile.ignore import IgnoreRules
from assembler.layer.changeset import Entry
from assembler.layer.summary import Summary
from assembler.layer.tree import join


class Walk:
    """Summaries of the directories below a context's root, each found once, and what was seen on
    the way. `records` is the directory of the stat caches, empty for none."""

    def __init__(self, root: str, rules: IgnoreRules | None, records: str) -> None:
        self._root = root
        self._rules = rules
        self._records = records
        self._lock = threading.Lock()
        self._known: dict[str, Summary] = {}
        self._listings: dict[str, Listing] = {}
        self._seen = Seen({}, {}, {}, {})

    def unread(self, path: str, check: Callable[[], None]) -> bool:
        """See `context.base.Summarised`."""
        with self._lock:
            if path in self._known:
                return False
            with self._listed(path, check) as (listing, _):
                return listing.unread

    def summary(self, path: str, check: Callable[[], None], known: Digests = NOTHING) -> Summary:
        """See `context.base.Summarised`."""
        with self._lock:
            found = self._known.get(path)
            if found is None:
                with self._listed(path, check) as (listing, cache):
                    found = self._known[path] = summary_of(listing, cache, check, known)
                del self._listings[path]
            return found

    @contextmanager
    def _listed(self, path: str, check: Callable[[], None]) -> Iterator[tuple[Listing, StatCache]]:
        """All that is below `path`, and what is known of it."""
        said = _rules_key(self._rules)
        with self._cache(path, said) as cache:
            listing = self._listings.get(path)
            if listing is None:
                listing = Listing(self._root, path, self._rules, said, self._seen)
                listing.look(cache, check)
                self._listings[path] = listing
            yield listing, cache

    def entries(self, path: str) -> list[Entry] | None:
        """The entries of the directory at `path` as they were seen, sorted by name, without some of
        what ignore rules hide; None where it was not walked. Raises OSError, ContextChanged."""
        content = self._seen.listings.get(path)
        if content is None:
            return None
        names, stats = loads(content)
        details = self._seen.details.get(path)
        if details is None:
            details = self._details(path, names, stats)
        links = self._seen.links.get(path, {})
        found = []
        for name, (mode, inode, size, mtime, _) in sorted(zip(names, stats, strict=True)):
            seen, more = (inode, size, mtime), details.get(name, PLAIN)
            below, shared = join(path, name), links.get(name)
            entry = entry_as_seen(self._root, below, mode, seen, more, shared)
            if entry is not None:
                found.append(entry)
        return found

    def listed(self, path: str, check: Callable[[], None]) -> Iterator[tuple[Entry, bytes]]:
        """See `context.base.Summarised`."""
        with self._cache(path, _rules_key(self._rules)) as cache:
            pending = [(path, self._inode(path))]
            while pending:
                check()
                at, inode = pending.pop()
                entries = self.entries(at)
                content = self._seen.contents.get(at)
                digests: dict[str, bytes] = {} if content is None else loads(content)
                if content is None and entries:
                    names, stats = loads(self._seen.listings[at])
                    known = cache.group(inode)
                    both = zip(names, stats, strict=True)
                    digests = {name: known.get(stat_key(*seen[1:]), b"") for name, seen in both}
                for entry in entries or ():
                    yield entry, digests.get(entry.name, b"")
                below = self._inodes(at)
                pending += [(join(at, name), below[name]) for name in sorted(below, reverse=True)]

    def _inode(self, path: str) -> int:
        descriptor = open_directory(self._root, path)
        try:
            return os.fstat(descriptor).st_ino
        finally:
            os.close(descriptor)

    def _inodes(self, path: str) -> dict[str, int]:
        """The inodes of directories in the directory at `path`."""
        if path not in self._seen.listings:
            return {}
        both = zip(*loads(self._seen.listings[path]), strict=True)
        return {name: seen[1] for name, seen in both if seen[0] & FORMAT == stat.S_IFDIR}

    def _details(
        self, path: str, names: list[str], stats: list[tuple[int, ...]]
    ) -> dict[str, Details]:
        """The details of files of which no more than that they did not change is known."""
        details = {}
        descriptor = open_directory(self._root, path)
        try:
            for name, seen in zip(names, stats, strict=True):
                more = details_of(name, descriptor, seen[0])
                if any(more):
                    if seen_of(os.lstat(name, dir_fd=descriptor)) != seen:
                        raise changed(join(path, name))
                    details[name] = more
        finally:
            os.close(descriptor)
        return details

    @contextmanager
    def contents(
        self, selection: str, check: Callable[[], None], given: Digests = NOTHING
    ) -> Iterator[ContentOf]:
        """See `context.base.Summarised`."""
        said = selection.encode("utf-8", "surrogateescape")
        with (
            self._cache("", b"files\0" + said) as cache,
            digests_of(cache, check, given) as content,
        ):
            yield content

    def _cache(self, path: str, said: bytes) -> StatCache:
        if not self._records:
            return StatCache()
        try:
            root = os.stat(self._root)
        except OSError as error:
            raise unreadable("", error) from error
        where = f"{root.st_dev} {root.st_ino} {self._root}".encode("utf-8", "surrogateescape")
        what = said + path.encode("utf-8", "surrogateescape")
        context, selection = (hashlib.sha256(one).hexdigest()[:32] for one in (where, what))
        return StatCache(self._records, context, selection)


def _rules_key(rules: IgnoreRules | None) -> bytes:
    """What no other rules have."""
    if rules is None:
        return b""
    text = "\n".join(f"{'!' * rule.negated}{rule.pattern}" for rule in rules.rules)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
