"""All that is below a directory of a context, each file looked at once and none read.

Directories are entered by name from the open one above them, never through a link (reliability B2).
What ignore rules hide is not looked at, and not entered unless a later rule may show something in it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable
from itertools import compress
from marshal import dumps, loads
from operator import attrgetter, methodcaller

from assembler.context.files import KINDS, Details, changed, details_of, open_directory, unreadable
from assembler.context.stat_cache import KEY, LINKED, PARENT, Directory, StatCache, stat_key
from assembler.dockerfile.ignore import IgnoreRules
from assembler.layer.summary import EMPTY, END, plain_directory
from assembler.layer.tree import join
from assembler.values import NamedTuple, mutable

FORMAT = 0o170000
"""What of a mode says which kind of file it is."""
seen_of: Callable[[os.stat_result], tuple[int, ...]] = attrgetter(
    "st_mode", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns"
)
"""What is kept of a file's stat."""
_NAME, _STAT = attrgetter("name"), methodcaller("stat", follow_symlinks=False)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEPTH = 64  # levels that are kept open: deeper ones are found from the root

_HIDDEN, _SHOWN, _PERHAPS = 0, 1, 2
"""What ignore rules say of a name; _PERHAPS is a directory in which something may be shown."""


_Below = list[tuple[str, int, bool]]
"""Directories to enter, the last one first: name, mode, and whether one counts, which is: is there
whatever is in it."""


class Files(NamedTuple):
    """The files of a directory that nobody has described yet. `key` is its listing's, `inode` the
    directory's own; `flags` are those of its part."""

    path: str
    key: bytes
    inode: int
    flags: int


Part = bytes | Files
"""The digest of a directory's files, or what it is made of."""


@mutable
class _Level:
    """A directory in which others are being walked, those `below` still to come."""

    path: str
    descriptor: int
    part: Part
    below: _Below
    counts: bool
    start: int
    """Where what is said of it begins."""
    holds: bool
    """Whether something is in it."""


class Seen(NamedTuple):
    """What was seen in directories, by their paths: names and stats, marshalled; the names of
    files that have others, with what those share; and, where the files had to be described, the
    details of those that have any, and, marshalled, the digests of their bytes by their names."""

    listings: dict[str, bytes]
    links: dict[str, dict[str, tuple[int, int]]]
    details: dict[str, dict[str, Details]]
    contents: dict[str, bytes]


class Listing:
    """What is below the directory at `top` of the context at `root`. `said` is what no other rules
    have; what was seen goes into `seen`."""

    def __init__(
        self, root: str, top: str, rules: IgnoreRules | None, said: bytes, seen: Seen
    ) -> None:
        self.root = root
        self.top = top
        self.seen = seen
        self.began = time.time_ns()
        self.parts: list[Part] = []
        """The records of all that is there, in their order."""
        self.links: dict[tuple[int, int], list[str]] = {}
        """The paths of files that have several, by what those share."""
        self.files = 0
        self.unread = False
        """Whether there are files whose bytes nobody knows."""
        self.kept: list[bytes] = []
        self.found: dict[bytes, Directory] = {}
        self.verdicts: dict[bytes, bytes] = {}
        """What the next stat cache is to hold; see `StatCache.save`."""
        self.news = False
        """Whether the last one does not hold it."""
        self._rules = rules
        self._said = said

    def look(self, cache: StatCache, check: Callable[[], None]) -> None:
        """Look at all that is below the directory. Raises ContextChanged, StepError."""
        self._cache, self._check = cache, check
        levels: list[_Level] = []
        try:
            descriptor = open_directory(self.root, self.top)
            part, below = self._entered(descriptor, self.top)
            levels.append(_Level(self.top, descriptor, part, below, True, 0, True))
            while levels:
                self._walk(levels, self.parts)
        finally:
            for level in levels:
                self._shut(level)

    def _walk(self, levels: list[_Level], text: list[Part]) -> None:
        """Go on in the last of `levels`, down to the next that has others below it or to its end."""
        level = levels[-1]
        while level.below:
            name, mode, counts = level.below.pop()
            path = join(level.path, name)
            descriptor = self._opened(level, name, path)
            part, below = self._entered(descriptor, path)
            if below:
                start, holds = len(text), part != EMPTY
                levels.append(_Level(path, descriptor, part, below, counts, start, holds))
                text.append(plain_directory(name, mode))
                if len(levels) > _DEPTH:
                    self._shut(levels[-1])
                return
            os.close(descriptor)
            if counts or part != EMPTY:
                text += (plain_directory(name, mode), END, part)
                level.holds = True
        levels.pop()
        self._shut(level)
        if not level.counts and not level.holds:
            del text[level.start :]
            return
        text += (END, level.part)
        if levels:
            levels[-1].holds = True

    def _opened(self, above: _Level, name: str, path: str) -> int:
        """A descriptor of the directory `name` in `above`, which is at `path`."""
        if above.descriptor < 0:
            return open_directory(self.root, path)
        try:
            return os.open(name, _DIRECTORY, dir_fd=above.descriptor)
        except OSError as error:
            raise unreadable(path, error) from error

    def _shut(self, level: _Level) -> None:
        """Close a directory; it may be closed already."""
        if level.descriptor >= 0:
            os.close(level.descriptor)
            level.descriptor = -1

    def _entered(self, descriptor: int, path: str) -> tuple[Part, _Below]:
        """The part of the directory at `path`, and what is below it. It is closed if that fails."""
        try:
            self._check()
            return self._looked_at(descriptor, path)
        except OSError as error:
            os.close(descriptor)
            named = isinstance(error.filename, str)
            raise unreadable(join(path, error.filename) if named else path, error) from error
        except BaseException:
            os.close(descriptor)
            raise

    def _looked_at(self, descriptor: int, path: str) -> tuple[Part, _Below]:
        """What `_entered` gives. Raises OSError as well."""
        with os.scandir(descriptor) as found:
            items = list(found)
        perhaps: frozenset[str] = frozenset()
        if self._rules is not None:
            items, perhaps = self._shown(self._rules, path, items)
        names, stats = list(map(_NAME, items)), list(map(_STAT, items))
        content = dumps((names, list(map(seen_of, stats))), 2)
        before = self.seen.listings.setdefault(path, content)
        if before is not content and not _same(before, content):
            raise changed(path)  # another walk of this build saw it otherwise
        if not items:
            return EMPTY, []
        self.files += len(items)
        key = hashlib.sha256(content).digest()[:KEY]
        part: Part
        known = self._cache.parts.get(key)
        if known is None:
            part, flags = self._undescribed(descriptor, path, names, stats, key)
        else:
            self.kept.append(key)
            part, flags = known[:32], known[32]
        if flags & LINKED:
            self.seen.links[path] = self._linked(path, names, stats)
        if not flags & PARENT:
            return part, []
        both = zip(names, stats, strict=True)
        below = [
            (name, one.st_mode & 0o7777, name not in perhaps)
            for name, one in both
            if one.st_mode & FORMAT == stat.S_IFDIR
        ]
        below.sort(reverse=True)
        return part, below

    def _shown(
        self, rules: IgnoreRules, path: str, items: list[os.DirEntry[str]]
    ) -> tuple[list[os.DirEntry[str]], frozenset[str]]:
        """What the rules do not hide, and the names of directories that they do hide, but perhaps
        not everything in them (rule G5)."""
        names = [item.name for item in items]
        key = hashlib.sha256(self._said + dumps((path, names), 2)).digest()[:KEY]
        verdict = self._cache.verdicts.get(key)
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

    def _undescribed(
        self,
        descriptor: int,
        path: str,
        names: list[str],
        stats: list[os.stat_result],
        key: bytes,
    ) -> tuple[Part, int]:
        """The part of a directory that is not known, and its flags: what is seen while it is open."""
        inode = os.fstat(descriptor).st_ino
        known = self._cache.group(inode)
        details: dict[str, Details] = {}
        flags, holds = 0, False
        for name, found in zip(names, stats, strict=True):
            mode = found.st_mode
            form = mode & FORMAT
            if form == stat.S_IFDIR:
                flags |= PARENT
                continue
            holds = holds or form in KINDS
            if mode & 0o111 or form == stat.S_IFLNK:
                more = details_of(name, descriptor, mode)
                if any(more):
                    details[name] = more
            if form == stat.S_IFREG:
                self.unread = self.unread or stat_key(*seen_of(found)[1:]) not in known
                if found.st_nlink > 1:
                    flags |= LINKED
        if not holds:
            self.found[key] = Directory(EMPTY + bytes((flags,)), inode, b"")
            return EMPTY, flags
        self.seen.details[path] = details
        return Files(path, key, inode, flags), flags

    def _linked(
        self, path: str, names: list[str], stats: list[os.stat_result]
    ) -> dict[str, tuple[int, int]]:
        """The files of a directory that have other names, with what those share."""
        links = {}
        for name, found in zip(names, stats, strict=True):
            if found.st_nlink > 1 and stat.S_ISREG(found.st_mode):
                shared = links[name] = (found.st_dev, found.st_ino)
                self.links.setdefault(shared, []).append(join(path, name))
        return links


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
