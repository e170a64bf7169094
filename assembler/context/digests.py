"""The digests of a context's files: those are read that nobody knows.

What was found is remembered in a stat cache, except of files that may be others later and look the
same (see `_lasts`).
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from marshal import dumps, loads

from assembler.context.base import ContentOf, Digests
from assembler.context.files import (
    PLAIN,
    ContextBytes,
    Identity,
    changed,
    entry_as_seen,
    identity,
    unreadable,
)
from assembler.context.listing import FORMAT, Files, Listing, seen_of
from assembler.context.stat_cache import Directory, Group, StatCache, packed, stat_key
from assembler.layer.changeset import Entry
from assembler.layer.summary import Summary, groups, plain_file, record
from assembler.layer.tree import join
from assembler.linux.beneath import Openings

_CHUNK = 1 << 20
_MANY = 2_000  # files that are worth remembering, or
_MUCH = 64 << 20  # bytes of them
_RACY = 2_000_000_000  # ns: a file this young may change again and look the same, as git's index
_SECOND = 1_000_000_000


@contextmanager
def digests_of(cache: StatCache, check: Callable[[], None], given: Digests) -> Iterator[ContentOf]:
    """The digests of files, one by one, which `cache` remembers; see `base.Summarised.contents`."""
    with Openings() as near:
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
                was = stat_key(*seen_of(found)[1:])
                read, size = read + 1, size + found.st_size
            else:
                descriptor = source.descriptor(near)
                try:
                    source.check(descriptor)
                    found = os.fstat(descriptor)
                    was = stat_key(*seen_of(found)[1:])
                    digest = known.get(was)
                    if digest is None:
                        digest = _hashed(descriptor, source.path, source.seen, check)
                        read, size = read + 1, size + found.st_size
                finally:
                    os.close(descriptor)
            if _lasts(found.st_mtime_ns, found.st_ctime_ns, young):
                files[was] = digest
            return digest

        yield content
        if read and (len(files) >= _MANY or size >= _MUCH):
            cache.save((), {b"files": Directory(b"", 0, packed(files))}, {})


def _lasts(mtime: int, ctime: int, young: int) -> bool:
    """Whether what has these times, in ns, looks different when it is changed: it is older than `young`,
    and its ctime is from a clock. In images of file systems (squashfs, ISO 9660) it is a whole second
    that somebody chose, and may be that of the next one at the same place."""
    return max(mtime, ctime) < young and ctime % _SECOND != 0


def summary_of(
    listing: Listing, cache: StatCache, check: Callable[[], None], known: Digests
) -> Summary:
    """What is below a directory. Raises ContextChanged, StepError."""
    with Openings() as near:
        reading = _Reading(listing, cache, check, known, near)
        parts = [
            part if isinstance(part, bytes) else reading.described(part) for part in listing.parts
        ]
    digest = hashlib.sha256(b"".join(parts)).digest()
    if reading.news and (listing.files >= _MANY or reading.size >= _MUCH):
        cache.save(listing.kept, listing.found | reading.found, listing.verdicts)
    cut = len(listing.top) + 1 if listing.top else 0
    links = groups([path[cut:] for path in paths] for paths in listing.links.values())
    return Summary(digest, links)


class _Reading:
    """Reads the files of a listing that are not `known`; lives only inside `summary_of`."""

    def __init__(
        self,
        listing: Listing,
        cache: StatCache,
        check: Callable[[], None],
        known: Digests,
        near: Openings,
    ) -> None:
        self.listing = listing
        self.cache = cache
        self.check = check
        self.known = known
        self.near = near
        self.young = listing.began - _RACY
        self.shared: dict[tuple[tuple[int, int], Identity], bytes] = {}
        self.found: dict[bytes, Directory] = {}
        self.size = 0
        self.news = listing.news

    def described(self, files: Files) -> bytes:
        """The digest of the files of a directory: those are read that have changed since they were,
        and are not `known`."""
        path, noted = files.path, self.listing.seen
        names, stats = loads(noted.listings[path])
        details, links = noted.details[path], noted.links.get(path, {})
        before = self.cache.group(files.inode)
        group: Group = {}
        hasher = hashlib.sha256()
        settled, read = True, False
        contents: dict[str, bytes] = {}
        for name, (mode, inode, size, mtime, ctime) in sorted(zip(names, stats, strict=True)):
            if mode & FORMAT == stat.S_IFDIR:
                continue
            self.check()
            seen, more = (inode, size, mtime), details.get(name, PLAIN)
            below, shared = join(path, name), links.get(name)
            lasts = _lasts(mtime, ctime, self.young)
            content, source = b"", None
            if mode & FORMAT == stat.S_IFREG:
                source = ContextBytes(self.listing.root, below, seen)
                was = stat_key(inode, size, mtime, ctime)
                found = self.known.get(source) or before.get(was)
                content = found or self.content(source, shared)
                contents[name] = content
                if was not in before:
                    self.size += size
                    read = read or lasts
                if lasts:
                    group[was] = content
            if source is not None and more is PLAIN:
                hasher.update(plain_file(name, mode & 0o7777, content))
            else:
                entry = entry_as_seen(self.listing.root, below, mode, seen, more, shared)
                if entry is None:
                    continue
                hasher.update(record(name, entry, content))
            settled = settled and lasts
        noted.contents[path] = dumps(contents, 2)
        digest = hasher.digest()
        part = digest + bytes((files.flags,)) if settled else b""
        self.found[files.key] = Directory(part, files.inode, packed(group))
        self.news = self.news or read or settled
        return digest

    def content(self, source: ContextBytes, shared: tuple[int, int] | None) -> bytes:
        """The digest of a file's bytes, which are read once, whatever its names."""
        if shared is None:
            return self.read(source)
        what = (shared, source.seen)
        found = self.shared.get(what)
        if found is None:
            others = (source._replace(path=path) for path in self.listing.links[shared])
            found = next((self.known[other] for other in others if other in self.known), None)
            found = self.shared[what] = found or self.read(source)
        return found

    def read(self, source: ContextBytes) -> bytes:
        """The digest of the bytes of the file that was seen."""
        descriptor = source.descriptor(self.near)
        try:
            source.check(descriptor)
            return _hashed(descriptor, source.path, source.seen, self.check)
        finally:
            os.close(descriptor)


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
