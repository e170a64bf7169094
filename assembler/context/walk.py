"""A walk of a directory context that looks at each file once and reads those it does not know.

Directories are entered by name from the open one above them, never through a link (reliability B2).
What ignore rules hide is not looked at, and not entered unless a later rule may show something in it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress
from marshal import dumps, loads
from operator import attrgetter
from typing import NamedTuple

from assembler.context.base import ContentOf
from assembler.context.files import (
    ContextBytes,
    Identity,
    changed,
    entry_as_seen,
    entry_of,
    identity,
    open_directory,
    unreadable,
)
from assembler.context.stat_cache import KEY, LINKED, PARENT, Directory, Group, StatCache, stat_key
from assembler.dockerfile.ignore import IgnoreRules
from assembler.layer.changeset import Entry, Kind
from assembler.layer.summary import EMPTY, END, Summary, groups, plain_directory, record
from assembler.layer.tree import join
from assembler.linux.beneath import Openings

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SEEN = attrgetter("st_mode", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
_FORMAT = 0o170000  # what of a mode says which kind of file it is
_CHUNK = 1 << 20
_DEPTH = 64  # levels that are kept open: deeper ones are found from the root
_MANY = 2_000  # files that are worth remembering, or
_MUCH = 64 << 20  # bytes of them
_RACY = 2_000_000_000  # ns: a file this young may change again and look the same, as git's index

_HIDDEN, _SHOWN, _PERHAPS = 0, 1, 2
"""What ignore rules say of a name; _PERHAPS is a directory in which something may be shown."""


Below = list[tuple[str, int, bool]]
"""Directories to enter, the last one first: name, mode, and whether one counts, which is: is there
whatever is in it."""


@dataclass(slots=True)
class _Level:
    """A directory in which others are being walked, those `below` still to come."""

    path: str
    descriptor: int
    part: bytes
    below: Below
    counts: bool
    start: int
    """Where what is said of it begins."""
    holds: bool
    """Whether something is in it."""


class _Seen(NamedTuple):
    """What was seen in directories, by their paths: names and stats, marshalled; and the names of
    files that have others, with what those share."""

    listings: dict[str, bytes]
    links: dict[str, dict[str, tuple[int, int]]]


class Walk:
    """Summaries of the directories below a context's root, each found once, and what was seen on
    the way. `records` is the directory of the stat caches, empty for none."""

    def __init__(self, root: str, rules: IgnoreRules | None, records: str) -> None:
        self._root = root
        self._rules = rules
        self._records = records
        self._lock = threading.Lock()
        self._known: dict[str, Summary] = {}
        self._seen = _Seen({}, {})

    def summary(self, path: str, check: Callable[[], None]) -> Summary:
        """See `context.base.Summarised`."""
        with self._lock:
            found = self._known.get(path)
            if found is None:
                said = _rules_key(self._rules)
                with self._cache(path, said) as cache:
                    going = _Pass(self._root, self._rules, said, cache, self._seen, check)
                    found = self._known[path] = going.summary(path)
            return found

    def entries(self, path: str) -> list[Entry] | None:
        """The entries of the directory at `path` as they were seen, sorted by name, without some of
        what ignore rules hide; None where it was not walked. Raises OSError, ContextChanged."""
        content = self._seen.listings.get(path)
        if content is None:
            return None
        names, stats = loads(content)
        links = self._seen.links.get(path, {})
        found = []
        descriptor = open_directory(self._root, path)
        try:
            for name, seen in sorted(zip(names, stats, strict=True)):
                mode, *was = seen
                below = join(path, name)
                shared = links.get(name)
                entry = entry_as_seen(self._root, below, descriptor, mode, (*was[:3],), shared)
                if entry is None:
                    continue
                read = entry.link or entry.xattrs  # is that of what was seen?
                if read and _SEEN(os.lstat(name, dir_fd=descriptor)) != seen:
                    raise changed(below)
                found.append(entry)
        finally:
            os.close(descriptor)
        return found

    @contextmanager
    def contents(self, selection: str, check: Callable[[], None]) -> Iterator[ContentOf]:
        """See `context.base.Summarised`."""
        said = selection.encode("utf-8", "surrogateescape")
        with self._cache("", b"files\0" + said) as cache, Openings() as near:
            known, files = cache.group(0), Group()
            young = time.time_ns() - _RACY
            read = size = 0

            def content(entry: Entry) -> bytes:
                nonlocal read, size
                source = entry.source
                if not isinstance(source, ContextBytes):
                    return b""
                check()
                descriptor = source.descriptor(near)
                try:
                    source.check(descriptor)
                    found = os.fstat(descriptor)
                    was = stat_key(found)
                    digest = known.get(was)
                    if digest is None:
                        digest = _hashed(descriptor, source.path, source.seen, check)
                        read, size = read + 1, size + found.st_size
                finally:
                    os.close(descriptor)
                if max(found.st_mtime_ns, found.st_ctime_ns) < young:
                    files[was] = digest
                return digest

            yield content
            if read and (len(files) >= _MANY or size >= _MUCH):
                cache.save((), {b"files": Directory(b"", 0, files)}, {})

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


class _Pass:
    """One walk below one directory; lives only inside `Walk.summary`."""

    def __init__(
        self,
        root: str,
        rules: IgnoreRules | None,
        said: bytes,
        cache: StatCache,
        seen: _Seen,
        check: Callable[[], None],
    ) -> None:
        self.root = root
        self.rules = rules
        self.said = said
        self.cache = cache
        self.seen = seen
        self.young = time.time_ns() - _RACY
        self.check = check
        self.links: dict[tuple[int, int], list[str]] = {}
        self.kept: list[bytes] = []
        self.found: dict[bytes, Directory] = {}
        self.verdicts: dict[bytes, bytes] = {}
        self.files = self.size = 0
        self.news = False

    def summary(self, top: str) -> Summary:
        """What is below the directory at `top`. Raises ContextChanged, StepError."""
        text: list[bytes] = []
        levels: list[_Level] = []
        try:
            descriptor = open_directory(self.root, top)
            part, below = self.entered(descriptor, top)
            levels.append(_Level(top, descriptor, part, below, True, 0, True))
            while levels:
                self.walk(levels, text)
        finally:
            for level in levels:
                self.shut(level)
        if self.news and (self.files >= _MANY or self.size >= _MUCH):
            self.cache.save(self.kept, self.found, self.verdicts)
        cut = len(top) + 1 if top else 0
        links = groups([path[cut:] for path in paths] for paths in self.links.values())
        return Summary(hashlib.sha256(b"".join(text)).digest(), links)

    def walk(self, levels: list[_Level], text: list[bytes]) -> None:
        """Go on in the last of `levels`, down to the next that has others below it or to its end."""
        level = levels[-1]
        while level.below:
            name, mode, counts = level.below.pop()
            path = join(level.path, name)
            descriptor = self.opened(level, name, path)
            part, below = self.entered(descriptor, path)
            if below:
                start, holds = len(text), part != EMPTY
                levels.append(_Level(path, descriptor, part, below, counts, start, holds))
                text.append(plain_directory(name, mode))
                if len(levels) > _DEPTH:
                    self.shut(levels[-1])
                return
            os.close(descriptor)
            if counts or part != EMPTY:
                text += (plain_directory(name, mode), END, part)
                level.holds = True
        levels.pop()
        self.shut(level)
        if not level.counts and not level.holds:
            del text[level.start :]
            return
        text += (END, level.part)
        if levels:
            levels[-1].holds = True

    def opened(self, above: _Level, name: str, path: str) -> int:
        """A descriptor of the directory `name` in `above`, which is at `path`."""
        if above.descriptor < 0:
            return open_directory(self.root, path)
        try:
            return os.open(name, _DIRECTORY, dir_fd=above.descriptor)
        except OSError as error:
            raise unreadable(path, error) from error

    def shut(self, level: _Level) -> None:
        """Close a directory; it may be closed already."""
        if level.descriptor >= 0:
            os.close(level.descriptor)
            level.descriptor = -1

    def entered(self, descriptor: int, path: str) -> tuple[bytes, Below]:
        """The part of the directory at `path`, and what is below it. It is closed if that fails."""
        try:
            self.check()
            return self.looked_at(descriptor, path)
        except OSError as error:
            os.close(descriptor)
            named = isinstance(error.filename, str)
            raise unreadable(join(path, error.filename) if named else path, error) from error
        except BaseException:
            os.close(descriptor)
            raise

    def looked_at(self, descriptor: int, path: str) -> tuple[bytes, Below]:
        """What `entered` gives. Raises OSError as well."""
        with os.scandir(descriptor) as found:
            items = list(found)
        perhaps: frozenset[str] = frozenset()
        if self.rules is not None:
            items, perhaps = self.shown(self.rules, path, items)
        names = [item.name for item in items]
        stats = [item.stat(follow_symlinks=False) for item in items]
        content = self.seen.listings[path] = dumps((names, list(map(_SEEN, stats))), 2)
        if not items:
            return EMPTY, []
        self.files += len(items)
        key = hashlib.sha256(content).digest()[:KEY]
        part = self.cache.parts.get(key)
        if part is None:
            part = self.described(descriptor, path, names, stats, key)
        else:
            self.kept.append(key)
        flags = part[32]
        if flags & LINKED:
            self.seen.links[path] = self.linked(path, names, stats)
        if not flags & PARENT:
            return part[:32], []
        both = zip(names, stats, strict=True)
        below = [
            (name, one.st_mode & 0o7777, name not in perhaps)
            for name, one in both
            if one.st_mode & _FORMAT == stat.S_IFDIR
        ]
        below.sort(reverse=True)
        return part[:32], below

    def shown(
        self, rules: IgnoreRules, path: str, items: list[os.DirEntry[str]]
    ) -> tuple[list[os.DirEntry[str]], frozenset[str]]:
        """What the rules do not hide, and the names of directories that they do hide, but perhaps
        not everything in them (rule G5)."""
        names = [item.name for item in items]
        key = hashlib.sha256(self.said + dumps((path, names), 2)).digest()[:KEY]
        verdict = self.cache.verdicts.get(key)
        if verdict is None:
            verdict = _verdict(rules, path, names)
            self.news = True
        self.verdicts[key] = verdict
        if not verdict:
            return items, frozenset()
        items = list(compress(items, verdict))
        if _PERHAPS not in verdict:
            return items, frozenset()
        doubtful = {name for name, one in zip(names, verdict, strict=True) if one == _PERHAPS}
        items = [
            item
            for item in items
            if item.name not in doubtful or item.is_dir(follow_symlinks=False)
        ]
        return items, frozenset(doubtful)

    def described(
        self,
        descriptor: int,
        path: str,
        names: list[str],
        stats: list[os.stat_result],
        key: bytes,
    ) -> bytes:
        """The part of a directory that is not known: its files are described, and those are read
        that have changed since they were."""
        inode = os.fstat(descriptor).st_ino
        known = self.cache.group(inode)
        files: Group = {}
        hasher = hashlib.sha256()
        flags, settled, read = 0, True, False
        for name, found in sorted(zip(names, stats, strict=True)):
            if stat.S_ISDIR(found.st_mode):
                flags |= PARENT
                continue
            self.check()
            below = join(path, name)
            content = b""
            entry = entry_of(self.root, below, descriptor, found)
            if entry is None:
                continue
            young = max(found.st_mtime_ns, found.st_ctime_ns) >= self.young
            if entry.kind is Kind.FILE:
                was = stat_key(found)
                before = known.get(was)
                content = self.content(descriptor, below, found) if before is None else before
                if not young:
                    files[was] = content
                    read = read or before is None
            hasher.update(record(name, entry, content))
            settled = settled and not young
            if entry.inode is not None:
                flags |= LINKED
        part = hasher.digest() + bytes((flags,))
        self.found[key] = Directory(part if settled else b"", inode, files)
        self.news = self.news or read or (settled and part[:32] != EMPTY)
        return part

    def content(self, directory: int, path: str, found: os.stat_result) -> bytes:
        """The digest of the bytes of the file that was `found`."""
        descriptor = os.open(path.rpartition("/")[2], _FILE, dir_fd=directory)
        try:
            was = identity(found)
            if identity(os.fstat(descriptor)) != was:
                raise changed(path)
            self.size += found.st_size
            return _hashed(descriptor, path, was, self.check)
        finally:
            os.close(descriptor)

    def linked(
        self, path: str, names: list[str], stats: list[os.stat_result]
    ) -> dict[str, tuple[int, int]]:
        """The files of a directory that have other names, with what those share."""
        links = {}
        for name, found in zip(names, stats, strict=True):
            if found.st_nlink > 1 and stat.S_ISREG(found.st_mode):
                shared = links[name] = (found.st_dev, found.st_ino)
                self.links.setdefault(shared, []).append(join(path, name))
        return links


def _hashed(descriptor: int, path: str, seen: Identity, check: Callable[[], None]) -> bytes:
    """The digest of a file's bytes. Raises ContextChanged unless it is the one that was seen, and
    stays that."""
    _, size, _ = seen
    most = min(size, _CHUNK) + 1
    data = os.read(descriptor, most)
    hasher, total = hashlib.sha256(data), len(data)
    while total != size or size >= _CHUNK:  # a small file was read at once
        data = os.read(descriptor, _CHUNK)
        if not data:
            break
        hasher.update(data)
        total += len(data)
        check()
    if total != size or identity(os.fstat(descriptor)) != seen:
        raise changed(path)
    return hasher.digest()


def _verdict(rules: IgnoreRules, path: str, names: list[str]) -> bytes:
    """What rules say of each name in the directory at `path`; empty where they show all."""

    def one(name: str) -> int:
        below = join(path, name)
        if rules.match(below) is None:
            return _SHOWN
        return _PERHAPS if rules.may_reinclude_below(below) else _HIDDEN

    verdict = bytes(map(one, names))
    return b"" if verdict.count(_SHOWN) == len(verdict) else verdict
