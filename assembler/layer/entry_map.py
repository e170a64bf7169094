"""Entries by path, more of them than memory should hold: beyond some they are in a file.

Whoever places the members of an archive must know what is at each path by then. As entries in memory
a million of them take 700 MB; here the latest are, and the others are in an SQLite table in the
order of a walk, of which a few MiB are in memory.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from assembler.layer.changeset import Changeset, Entry, Kind, walk_order
from assembler.layer.spill import Sources, Spill, key_of
from assembler.layer.tree import ChangesetTree, LayerTree, own_inode
from assembler.values import NamedTuple

_KINDS = tuple(Kind)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_MOST = 60_000  # entries that are held as such
_MOST_ABOVE = 16 << 20  # bytes, about, of the paths of directories that they are in
_CHUNK = 1_000
_LAST = b"\0\xff"  # behind all that is in a directory
_EVERYTHING = (-1, b"\xff")  # to SQLite, a number is less than all bytes
_TABLES = """
    CREATE TABLE entries (key BLOB PRIMARY KEY, told BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE names (inode BLOB PRIMARY KEY, key BLOB NOT NULL) WITHOUT ROWID;
"""


class EntryMap:
    """The entry at each path. Those that are names of one file share an `inode`.

    They are in the order of a walk, or with `listing` in that of directories, each listed before
    those in it. More than `most` go into a file without a name in the directory `spool`; without one
    all stay in memory. Methods raise NoSpace where it is full.
    """

    def __init__(self, spool: str, most: int = 0, *, listing: bool = False) -> None:
        self._spool = spool
        self._most = most or _MOST
        self._order = _LISTING if listing else _WALK
        self._latest: dict[str, Entry] = {}
        self._above: set[str] = set()
        """The directories that the latest are in, to the top."""
        self._size = 0
        self._table: _Table | None = None

    def get(self, path: str) -> Entry | None:
        """What is at `path`."""
        found = self._latest.get(path)
        if found is None and self._table is not None:
            return self._table.get(path)
        return found

    def __contains__(self, path: str) -> bool:
        return path in self._latest or (self._table is not None and self.get(path) is not None)

    def put(self, entry: Entry) -> None:
        """Have `entry` at its path, whatever was there. What is below stays."""
        path = entry.path
        self._latest[path] = entry
        while path:
            path = path.rpartition("/")[0]
            if path in self._above:
                break
            self._above.add(path)
            self._size += len(path) + 100
        if self._spool and (len(self._latest) > self._most or self._size > _MOST_ABOVE):
            self._put_away()

    def remove(self, path: str) -> None:
        """Forget what is at `path`. What is below stays."""
        self._latest.pop(path, None)
        if self._table is not None:
            self._table.remove(path)

    def remove_below(self, path: str) -> bool:
        """Forget all below `path`; whether there was anything."""
        if path in self._above:
            self._put_away()
        return self._table is not None and self._table.remove_below(path)

    def below(self, path: str) -> Iterator[Entry]:
        """All that is below `path`. Nothing changes meanwhile."""
        self._put_away()
        return iter(()) if self._table is None else self._table.entries(path)

    def paths(self) -> Iterator[str]:
        """The paths in their order. Nothing changes meanwhile."""
        if self._table is None:
            return iter(sorted(self._latest, key=self._order.key))
        self._put_away()
        return self._table.paths()

    def entries(self) -> Iterator[Entry]:
        """The entries in their order. Nothing changes meanwhile."""
        if self._table is None:
            return (self._latest[path] for path in self.paths())
        self._put_away()
        return self._table.entries()

    def children(self) -> Callable[[str], Iterable[Entry]]:
        """What tells the entries of a directory, sorted by name. Nothing changes any more."""
        if self._table is not None:
            self._put_away()
            return self._table.children
        found: dict[str, list[Entry]] = {}
        for entry in self.entries():
            found.setdefault(entry.parent, []).append(entry)
        return lambda path: found.get(path, ())

    def changeset(self) -> Changeset:
        """The entries as a changeset, after which nothing changes; of a file's names the first carries
        it."""
        if self._table is None:
            first: dict[tuple[int, int] | None, str] = {}
            return tuple(
                _named(one, first.setdefault(one.inode, one.path)) if _shares(one) else one
                for one in self.entries()
            )
        self._put_away()
        return SpilledChangeset(self._table)

    def close(self) -> None:
        """Forget everything."""
        self._latest.clear()
        self._above.clear()
        if self._table is not None:
            self._table.close()
            self._table = None

    def _put_away(self) -> None:
        if self._latest:
            if self._table is None:
                self._table = _Table(self._spool, self._order)
            self._table.add(self._latest)
            self._latest.clear()
            self._above.clear()
            self._size = 0


class SpilledChangeset:
    """A changeset in the order of a walk that is in a file; also a `layer.tree.LayerTree`. Threads
    share it."""

    def __init__(self, table: _Table) -> None:
        self._table = table
        table.name_first()

    def __iter__(self) -> Iterator[Entry]:
        for entry in self._table.entries():
            yield _named(entry, self._table.first(entry.inode)) if _shares(entry) else entry

    def __len__(self) -> int:
        return self._table.count()

    def __contains__(self, entry: object) -> bool:
        return any(one == entry for one in self)

    def lookup(self, path: str) -> Entry | None:
        """See `Tree.lookup`."""
        found = self._table.get(path)
        if found is None and path == "":
            return Entry("", Kind.DIRECTORY, mode=0o755)
        return None if found is None else self._own(found)

    def children(self, path: str) -> Iterable[Entry]:
        """See `Tree.children`."""
        return map(self._own, self._table.children(path))

    def _own(self, entry: Entry) -> Entry:
        if entry.inode is None:
            return entry
        return entry._replace(inode=own_inode(self, entry.inode))

    def opaque(self, path: str) -> bool:
        """See `LayerTree.opaque`."""
        return False


def changeset_tree(changeset: Changeset) -> LayerTree:
    """`changeset` as a layer."""
    return changeset if isinstance(changeset, SpilledChangeset) else ChangesetTree(changeset)


def _shares(entry: Entry) -> bool:
    """Whether other names may be the same file."""
    return entry.inode is not None and entry.kind is not Kind.DIRECTORY


def _named(entry: Entry, first: str) -> Entry:
    """`entry`, a name of a file, as a changeset has it that has the name `first` before."""
    if entry.path == first:
        return entry
    return entry._replace(kind=Kind.HARDLINK, link=first, size=0, xattrs=(), source=None)


class _Table:
    """What is in the file. Threads share it."""

    def __init__(self, spool: str, order: _Order) -> None:
        self._order = order
        self._spill = Spill(spool, _TABLES)
        self._sources = Sources()
        self._linked = False

    def close(self) -> None:
        self._spill.close()

    def add(self, entries: dict[str, Entry]) -> None:
        """Have these at their paths."""
        key = self._order.key
        rows = sorted((_packed(key(path)), self._told(entry)) for path, entry in entries.items())
        self._spill.change("INSERT OR REPLACE INTO entries VALUES (?, ?)", rows)

    def get(self, path: str) -> Entry | None:
        """See `EntryMap`, as for the others."""
        rows = self._spill.rows("SELECT told FROM entries WHERE key = ?", self._key(path))
        return self._entry(path, rows[0][0]) if rows else None

    def remove(self, path: str) -> None:
        self._spill.change("DELETE FROM entries WHERE key = ?", [(self._key(path),)])

    def remove_below(self, path: str) -> bool:
        return (
            self._spill.change("DELETE FROM entries WHERE key > ? AND key < ?", [_below(path)]) > 0
        )

    def paths(self) -> Iterator[str]:
        for key, _ in self._between("key, 0", *_EVERYTHING):
            yield self._path(key)

    def entries(self, top: str | None = None) -> Iterator[Entry]:
        for key, told in self._between("key, told", *(_EVERYTHING if top is None else _below(top))):
            yield self._entry(self._path(key), told)

    def children(self, path: str) -> Iterator[Entry]:
        first, end = _below(path) if self._order is _WALK else _listed(path)
        start = first
        while rows := self._some("key, told", start, end):
            for key, told in rows:
                if b"\0" not in key[len(first) :]:
                    yield self._entry(self._path(key), told)
            name, below, _ = rows[-1][0][len(first) :].partition(b"\0")
            start = first + name + (below and _LAST)  # there may be much more in that directory

    def count(self) -> int:
        number: int = self._spill.rows("SELECT count(*) FROM entries")[0][0]
        return number

    def name_first(self) -> None:
        """Note the first name of each file that has several."""
        if self._linked:
            for entry in self.entries():
                if _shares(entry):
                    row = key_of(entry.inode), self._key(entry.path)
                    self._spill.change("INSERT OR IGNORE INTO names VALUES (?, ?)", [row])

    def first(self, inode: tuple[int, int] | None) -> str:
        """The first name of that file."""
        rows = self._spill.rows("SELECT key FROM names WHERE inode = ?", key_of(inode))
        return self._path(rows[0][0])

    def _between(self, columns: str, start: bytes | int, end: bytes) -> Iterator[Any]:
        while rows := self._some(columns, start, end):
            yield from rows
            start = rows[-1][0]

    def _some(self, columns: str, start: bytes | int, end: bytes) -> list[Any]:
        where = f"key > ? AND key < ? ORDER BY key LIMIT {_CHUNK}"
        return self._spill.rows(f"SELECT {columns} FROM entries WHERE {where}", start, end)

    def _key(self, path: str) -> bytes:
        return _packed(self._order.key(path))

    def _path(self, key: bytes) -> str:
        return self._order.path(key.decode("utf-8", "surrogatepass"))

    def _told(self, entry: Entry) -> bytes:
        _, kind, mode, uid, gid, mtime, size, link, device, xattrs, source, inode = entry
        if inode is not None:
            self._linked = True
        where = None if source is None else self._sources.told(source)
        rest = (uid, gid, mtime, size, link, device, xattrs, where, inode)
        return marshal.dumps((_NUMBERS[kind], mode, *rest))

    def _entry(self, path: str, told: bytes) -> Entry:
        number, *rest, where, inode = marshal.loads(told)
        source = None if where is None else self._sources.source(*where)
        return tuple.__new__(Entry, (path, _KINDS[number], *rest, source, inode))


class _Order(NamedTuple):
    """An order of paths: what sorts them, and how that becomes the path again. In both, all that is
    in a directory, at any depth, is between `_below`."""

    key: Callable[[str], str]
    path: Callable[[str], str]


def _listing(path: str) -> str:
    above, _, name = path.rpartition("/")
    return f"{walk_order(above)}\0\0{name}"


_WALK = _Order(walk_order, lambda key: key.replace("\0", "/"))
_LISTING = _Order(_listing, lambda key: key.replace("\0\0", "/").replace("\0", "/").lstrip("/"))


def _packed(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")  # sorts as text does


def _below(path: str) -> tuple[bytes, bytes]:
    """Between which keys all is that is below `path`."""
    key = _packed(walk_order(path))
    return (key + b"\0", key + _LAST) if key else (b"", _LAST[1:])


def _listed(path: str) -> tuple[bytes, bytes]:
    """Between which keys of a listing the entries of the directory at `path` are."""
    key = _packed(walk_order(path)) + b"\0"
    return key + b"\0", key + _LAST
