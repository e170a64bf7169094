"""A walk of a directory context that looks at each file once and reads those that nobody knows.

First all directories are listed, then the files described. In between, who packs them may read them:
the digests of what was packed are as good as those of what is read here.

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
from itertools import compress
from marshal import dumps, loads
from operator import attrgetter, methodcaller

from assembler.context.base import NOTHING, ContentOf, Digests
from assembler.context.files import (
    KINDS,
    PLAIN,
    ContextBytes,
    Details,
    Identity,
    changed,
    details_of,
    entry_as_seen,
    identity,
    open_directory,
    unreadable,
)
from assembler.context.stat_cache import KEY, LINKED, PARENT, Directory, Group, StatCache, stat_key
from assembler.dockerfile.ignore import IgnoreRules
from assembler.layer.changeset import Entry
from assembler.layer.summary import EMPTY, END, Summary, groups, plain_directory, plain_file, record
from assembler.layer.tree import join
from assembler.linux.beneath import Openings
from assembler.values import NamedTuple, mutable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME, _STAT = attrgetter("name"), methodcaller("stat", follow_symlinks=False)
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


class _Files(NamedTuple):
    """The files of a directory that nobody has described yet. `key` is its listing's, `inode` the
    directory's own; `flags` are those of its part."""

    path: str
    key: bytes
    inode: int
    flags: int


Part = bytes | _Files
"""The digest of a directory's files, or what it is made of."""


@mutable
class _Level:
    """A directory in which others are being walked, those `below` still to come."""

    path: str
    descriptor: int
    part: Part
    below: Below
    counts: bool
    start: int
    """Where what is said of it begins."""
    holds: bool
    """Whether something is in it."""


class _Seen(NamedTuple):
    """What was seen in directories, by their paths: names and stats, marshalled; the names of
    files that have others, with what those share; and, where the files had to be described, the
    details of those that have any, and the digests of their bytes."""

    listings: dict[str, bytes]
    links: dict[str, dict[str, tuple[int, int]]]
    details: dict[str, dict[str, Details]]
    contents: dict[str, dict[str, bytes]]


class Walk:
    """Summaries of the directories below a context's root, each found once, and what was seen on
    the way. `records` is the directory of the stat caches, empty for none."""

    def __init__(self, root: str, rules: IgnoreRules | None, records: str) -> None:
        self._root = root
        self._rules = rules
        self._records = records
        self._lock = threading.Lock()
        self._known: dict[str, Summary] = {}
        self._passes: dict[str, _Pass] = {}
        self._seen = _Seen({}, {}, {}, {})

    def unread(self, path: str, check: Callable[[], None]) -> bool:
        """See `context.base.Summarised`."""
        with self._lock:
            if path in self._known:
                return False
            with self._listed(path, check) as going:
                return going.unread

    def summary(self, path: str, check: Callable[[], None], known: Digests = NOTHING) -> Summary:
        """See `context.base.Summarised`."""
        with self._lock:
            found = self._known.get(path)
            if found is None:
                with self._listed(path, check) as going:
                    found = self._known[path] = going.summary(known)
                del self._passes[path]
            return found

    @contextmanager
    def _listed(self, path: str, check: Callable[[], None]) -> Iterator[_Pass]:
        """The walk below `path`, its listing done."""
        said = _rules_key(self._rules)
        with self._cache(path, said) as cache:
            going = self._passes.get(path)
            if going is None:
                going = _Pass(self._root, path, self._rules, said, self._seen)
                going.look(cache, check)
                self._passes[path] = going
            going.cache, going.check = cache, check
            yield going

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
                digests = self._seen.contents.get(at)
                if digests is None and entries:
                    names, stats = loads(self._seen.listings[at])
                    known = cache.group(inode)
                    both = zip(names, stats, strict=True)
                    digests = {name: known.get(stat_key(*seen[1:]), b"") for name, seen in both}
                for entry in entries or ():
                    yield entry, (digests or {}).get(entry.name, b"")
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
        return {name: seen[1] for name, seen in both if seen[0] & _FORMAT == stat.S_IFDIR}

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
                    if _SEEN(os.lstat(name, dir_fd=descriptor)) != seen:
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
                digest = given.get(source)
                if digest is not None:
                    found = source.look(near)
                    was = stat_key(*_SEEN(found)[1:])
                    read, size = read + 1, size + found.st_size
                else:
                    descriptor = source.descriptor(near)
                    try:
                        source.check(descriptor)
                        found = os.fstat(descriptor)
                        was = stat_key(*_SEEN(found)[1:])
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
    """One walk below the directory at `top`; lives only inside `Walk`, which gives it the open stat
    cache and the `check` of who waits for it."""

    cache: StatCache
    check: Callable[[], None]

    def __init__(
        self, root: str, top: str, rules: IgnoreRules | None, said: bytes, seen: _Seen
    ) -> None:
        self.root = root
        self.top = top
        self.rules = rules
        self.said = said
        self.seen = seen
        self.young = time.time_ns() - _RACY
        self.links: dict[tuple[int, int], list[str]] = {}
        self.shared: dict[tuple[tuple[int, int], Identity], bytes] = {}
        self.text: list[Part] = []
        self.kept: list[bytes] = []
        self.found: dict[bytes, Directory] = {}
        self.verdicts: dict[bytes, bytes] = {}
        self.files = self.size = 0
        self.news = False
        self.unread = False

    def look(self, cache: StatCache, check: Callable[[], None]) -> None:
        """Look at all that is below the directory. Raises ContextChanged, StepError."""
        self.cache, self.check = cache, check
        levels: list[_Level] = []
        try:
            descriptor = open_directory(self.root, self.top)
            part, below = self.entered(descriptor, self.top)
            levels.append(_Level(self.top, descriptor, part, below, True, 0, True))
            while levels:
                self.walk(levels, self.text)
        finally:
            for level in levels:
                self.shut(level)

    def summary(self, known: Digests) -> Summary:
        """What is below the directory. Raises ContextChanged, StepError."""
        with Openings() as near:
            parts = [
                part if isinstance(part, bytes) else self.described(part, known, near)
                for part in self.text
            ]
        digest = hashlib.sha256(b"".join(parts)).digest()
        if self.news and (self.files >= _MANY or self.size >= _MUCH):
            self.cache.save(self.kept, self.found, self.verdicts)
        cut = len(self.top) + 1 if self.top else 0
        links = groups([path[cut:] for path in paths] for paths in self.links.values())
        return Summary(digest, links)

    def walk(self, levels: list[_Level], text: list[Part]) -> None:
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

    def entered(self, descriptor: int, path: str) -> tuple[Part, Below]:
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

    def looked_at(self, descriptor: int, path: str) -> tuple[Part, Below]:
        """What `entered` gives. Raises OSError as well."""
        with os.scandir(descriptor) as found:
            items = list(found)
        perhaps: frozenset[str] = frozenset()
        if self.rules is not None:
            items, perhaps = self.shown(self.rules, path, items)
        names, stats = list(map(_NAME, items)), list(map(_STAT, items))
        content = dumps((names, list(map(_SEEN, stats))), 2)
        before = self.seen.listings.setdefault(path, content)
        if before is not content and not _same(before, content):
            raise changed(path)  # another walk of this build saw it otherwise
        if not items:
            return EMPTY, []
        self.files += len(items)
        key = hashlib.sha256(content).digest()[:KEY]
        part: Part
        known = self.cache.parts.get(key)
        if known is None:
            part, flags = self.undescribed(descriptor, path, names, stats, key)
        else:
            self.kept.append(key)
            part, flags = known[:32], known[32]
        if flags & LINKED:
            self.seen.links[path] = self.linked(path, names, stats)
        if not flags & PARENT:
            return part, []
        both = zip(names, stats, strict=True)
        below = [
            (name, one.st_mode & 0o7777, name not in perhaps)
            for name, one in both
            if one.st_mode & _FORMAT == stat.S_IFDIR
        ]
        below.sort(reverse=True)
        return part, below

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

    def undescribed(
        self,
        descriptor: int,
        path: str,
        names: list[str],
        stats: list[os.stat_result],
        key: bytes,
    ) -> tuple[Part, int]:
        """The part of a directory that is not known, and its flags: what is seen while it is open."""
        inode = os.fstat(descriptor).st_ino
        known = self.cache.group(inode)
        details: dict[str, Details] = {}
        flags, holds = 0, False
        for name, found in zip(names, stats, strict=True):
            mode = found.st_mode
            form = mode & _FORMAT
            if form == stat.S_IFDIR:
                flags |= PARENT
                continue
            holds = holds or form in KINDS
            if mode & 0o111 or form == stat.S_IFLNK:
                more = details_of(name, descriptor, mode)
                if any(more):
                    details[name] = more
            if form == stat.S_IFREG:
                self.unread = self.unread or stat_key(*_SEEN(found)[1:]) not in known
                if found.st_nlink > 1:
                    flags |= LINKED
        if not holds:
            self.found[key] = Directory(EMPTY + bytes((flags,)), inode, {})
            return EMPTY, flags
        self.seen.details[path] = details
        return _Files(path, key, inode, flags), flags

    def described(self, files: _Files, known: Digests, near: Openings) -> bytes:
        """The digest of the files of a directory: those are read that have changed since they were,
        and are not `known`."""
        path = files.path
        names, stats = loads(self.seen.listings[path])
        details, links = self.seen.details[path], self.seen.links.get(path, {})
        before = self.cache.group(files.inode)
        group: Group = {}
        hasher = hashlib.sha256()
        settled, read = True, False
        contents = self.seen.contents[path] = {}
        for name, (mode, inode, size, mtime, ctime) in sorted(zip(names, stats, strict=True)):
            if mode & _FORMAT == stat.S_IFDIR:
                continue
            self.check()
            seen, more = (inode, size, mtime), details.get(name, PLAIN)
            below, shared = join(path, name), links.get(name)
            young = max(mtime, ctime) >= self.young
            content, source = b"", None
            if mode & _FORMAT == stat.S_IFREG:
                source = ContextBytes(self.root, below, seen)
                was = stat_key(inode, size, mtime, ctime)
                found = known.get(source) or before.get(was)
                content = found or self.content(source, shared, known, near)
                contents[name] = content
                if was not in before:
                    self.size += size
                    read = read or not young
                if not young:
                    group[was] = content
            if source is not None and more is PLAIN:
                hasher.update(plain_file(name, mode & 0o7777, content))
            else:
                entry = entry_as_seen(self.root, below, mode, seen, more, shared)
                if entry is None:
                    continue
                hasher.update(record(name, entry, content))
            settled = settled and not young
        digest = hasher.digest()
        part = digest + bytes((files.flags,)) if settled else b""
        self.found[files.key] = Directory(part, files.inode, group)
        self.news = self.news or read or settled
        return digest

    def content(
        self,
        source: ContextBytes,
        shared: tuple[int, int] | None,
        known: Digests,
        near: Openings,
    ) -> bytes:
        """The digest of a file's bytes, which are read once, whatever its names."""
        if shared is None:
            return self.read(source, near)
        what = (shared, source.seen)
        found = self.shared.get(what)
        if found is None:
            others = (source._replace(path=path) for path in self.links[shared])
            found = next((known[other] for other in others if other in known), None)
            found = self.shared[what] = found or self.read(source, near)
        return found

    def read(self, source: ContextBytes, near: Openings) -> bytes:
        """The digest of the bytes of the file that was seen."""
        descriptor = source.descriptor(near)
        try:
            source.check(descriptor)
            return _hashed(descriptor, source.path, source.seen, self.check)
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
    stays that; StepError where it cannot be read."""
    _, size, _ = seen
    most = min(size, _CHUNK) + 1
    try:
        data = os.read(descriptor, most)
        hasher, total = hashlib.sha256(data), len(data)
        while total != size or size >= _CHUNK:  # a small file was read at once
            data = os.read(descriptor, _CHUNK)
            if not data:
                break
            hasher.update(data)
            total += len(data)
            check()
    except OSError as error:
        raise unreadable(path, error) from error
    if total != size or identity(os.fstat(descriptor)) != seen:
        raise changed(path)
    return hasher.digest()


def _same(one: bytes, other: bytes) -> bool:
    """Whether two listings say the same, in whatever order."""
    (names, stats), (others, theirs) = loads(one), loads(other)
    return dict(zip(names, stats, strict=True)) == dict(zip(others, theirs, strict=True))


def _verdict(rules: IgnoreRules, path: str, names: list[str]) -> bytes:
    """What rules say of each name in the directory at `path`; empty where they show all."""

    def one(name: str) -> int:
        below = join(path, name)
        if rules.match(below) is None:
            return _SHOWN
        return _PERHAPS if rules.may_reinclude_below(below) else _HIDDEN

    verdict = bytes(map(one, names))
    return b"" if verdict.count(_SHOWN) == len(verdict) else verdict
