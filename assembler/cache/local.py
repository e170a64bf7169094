"""The step cache of one store: SQLite, derived data only. It may be deleted at any time.

A row that was damaged is none (`cache.rows`), which costs a step, never a wrong image. A database that
cannot be read is moved aside and started anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from assembler.cache.base import Record
from assembler.cache.rows import SCHEMA, TABLES, Row, insertion, layer_row, seal, step_row
from assembler.cache.told import Told
from assembler.cache.variants import same_tar
from assembler.errors import StoreError
from assembler.linux.claims import held
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Layer

if TYPE_CHECKING:
    from assembler.context.download import Download

Result = TypeVar("Result")

_PATIENCE = 30.0  # seconds
_WRITE_VERSION, _LATEST_FORMAT = 18, 2  # the byte of a database's header, and what it may be
_UNWRITABLE = frozenset({
    sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOLFS,
})  # fmt: skip
_DAMAGED = frozenset({
    sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT,
    # tables that are not ours: no such column, a value that must be given
    sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT,
})  # fmt: skip


class _Newer(sqlite3.DatabaseError):
    """Written by a version that knows more than this one."""


class _Garbled(sqlite3.DatabaseError):
    """Damage of which SQLite's own words cannot be told."""


class LocalCache:
    """The database at `path`. Use it with `with`; threads share it, processes too. `check` is
    called while another process writes, and may raise; `tell` is given a line about what was lost.

    A database that is damaged, at once or later, is set aside, and an empty one takes its place.
    One that cannot be written is only read, or does without a file: no build fails for its sake.
    """

    def __init__(
        self,
        path: str,
        check: Callable[[], None] = lambda: None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._path = path
        self._check = check
        self._tell = tell
        self._lock = threading.Lock()
        self._writable = True
        self._told = Told()
        self._file = _identity(path)
        try:
            self._database = self._opened()
        except sqlite3.DatabaseError as error:
            self._database = self._instead(error)

    def _opened(self) -> sqlite3.Connection:
        database = self._patiently(lambda: _open(self._path))
        self._file = _identity(self._path)
        return database

    def _instead(self, error: sqlite3.DatabaseError) -> sqlite3.Connection:
        """What is used where the database gives `error`."""
        damaged = isinstance(error, _Newer | _Garbled) or _code(error) in _DAMAGED
        damaged = damaged or os.path.isdir(self._path)
        damaged = damaged or (_code(error) == sqlite3.SQLITE_READONLY and _is_of_later(self._path))
        if _code(error) in _UNWRITABLE and not damaged:
            return self._unwritable(error)
        aside = False
        try:
            with held(os.path.dirname(self._path)):
                if damaged and _identity(self._path) == self._file:  # else another has mended it
                    set_aside(self._path)
                    aside = True
                try:
                    database = self._opened()
                except sqlite3.DatabaseError:
                    set_aside(self._path)
                    aside = True
                    database = self._opened()
        except (OSError, sqlite3.DatabaseError) as worse:
            return self._unwritable(worse)
        if aside:
            self._notify(f"could not be read ({error}); starting with an empty one")
        return database

    def _unwritable(self, error: Exception) -> sqlite3.Connection:
        self._writable = False
        self._notify(f"cannot be written ({error}); this build is not remembered")
        try:
            return _open_read_only(self._path, SCHEMA)
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            database = sqlite3.connect(":memory:", check_same_thread=False)
            database.executescript(TABLES)
            self._writable = True
            return database

    def _notify(self, what: str) -> None:
        self._tell(f"the cache {self._path} {what}")

    def __enter__(self) -> LocalCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()

    def lookup(self, key: Digest) -> Record | None:
        """See `cache.base.Cache.lookup`."""
        row = self._row("steps", "key = ?", str(key))
        return None if row is None else Record(Digest.parse(row[1]), *row[2:])

    def record(self, key: Digest, record: Record) -> None:
        """See `cache.base.Cache.record`."""
        self.change([insertion("steps", *step_row(key, record))])

    def packed(self, identity: Digest, variant: str) -> Layer | None:
        """The blob that the changeset `identity` was packed in under `variant`, None if never."""
        row = self._row("layers", "identity = ? AND variant = ?", str(identity), variant)
        if row is None:
            return None
        _, _, media_type, digest, size, diff_id, annotations = row
        descriptor = Descriptor(media_type, Digest.parse(digest), size, json.loads(annotations))
        return Layer(descriptor, Digest.parse(diff_id))

    def otherwise(self, identity: Digest, variant: str) -> tuple[Layer, str] | None:
        """See `engine.services.PackedLayers.otherwise`."""
        rows = self.select("layers", "identity = ?", str(identity))
        with self._lock:
            variants = dict.fromkeys(
                (*(row[1] for row in rows), *self._told.variants(str(identity)))
            )
        for other in variants:
            if same_tar(other, variant):
                found = self.packed(identity, other)
                if found is not None:
                    return found, other
        return None

    def record_packed(self, identity: Digest, variant: str, layer: Layer) -> None:
        """Remember a packed form. What else is said to be in the same blob, by a cache from elsewhere,
        is not: one digest is one tar."""
        blob = str(layer.descriptor.digest)
        lies = "DELETE FROM layers WHERE digest = ? AND diff_id <> ?"
        row = layer_row(identity, variant, layer)
        self.change([(lies, (blob, str(layer.diff_id))), insertion("layers", *row)])

    def recall(self, key: Digest) -> Descriptor | None:
        """The manifest that was assembled for `key`, None if none was."""
        row = self._row("images", "key = ?", str(key))
        return None if row is None else Descriptor(row[1], Digest.parse(row[2]), row[3])

    def remember(self, key: Digest, descriptor: Descriptor) -> None:
        """Remember an assembled manifest."""
        digest = str(descriptor.digest)
        row = (str(key), descriptor.media_type, digest, descriptor.size)
        self.change([insertion("images", *row)])

    def downloaded(self, url: str) -> Download | None:
        """See `context.download.Downloads.downloaded`."""
        from assembler.context.download import Download

        row = self._row("downloads", "url = ?", url)
        return None if row is None else Download(Digest.parse(row[1]), *row[2:])

    def record_download(self, url: str, download: Download) -> None:
        """See `context.download.Downloads.record_download`."""
        row = (url, str(download.digest), download.size, download.etag, download.modified)
        self.change([insertion("downloads", *row)])

    def titles(self) -> dict[str, str]:
        """What records of steps and packed layers are for, by hex of the identity or the blob."""
        with self._lock:
            steps = self._rows("SELECT identity, inputs FROM steps", each=_titled)
            layers = self._rows("SELECT identity, digest FROM layers")
        found = {identity: title for identity, title in steps if title}
        for identity, digest in layers:
            if _hex(identity) in found:
                found[_hex(digest)] = found[_hex(identity)]
        return found

    def forget(
        self, gone: Callable[[Digest], bool], steps: Callable[[Digest], bool], *, lazy: bool = False
    ) -> None:
        """Forget what points to blobs that are `gone`, and of results that are in no blob those
        that `steps` says of. Layers that a shared cache has stay, unless `lazy`. Raises StoreError."""

        def forget() -> None:
            execute = self._database.execute
            execute("BEGIN IMMEDIATE")  # what is recorded meanwhile is not what was looked at
            if lazy:
                execute("DELETE FROM origins")
            elsewhere = {row[0] for row in execute("SELECT DISTINCT digest FROM origins")}
            for table in ("layers", "images", "downloads"):
                rows = execute(f"SELECT DISTINCT digest FROM {table}").fetchall()
                lost = [row for row in rows if row[0] not in elsewhere and _of(gone, row[0])]
                self._delete(table, "digest", lost)
            execute("DELETE FROM origins WHERE digest NOT IN (SELECT digest FROM layers)")
            rows = execute(
                "SELECT DISTINCT identity FROM steps"
                " WHERE identity NOT IN (SELECT identity FROM layers)"
            ).fetchall()
            self._delete("steps", "identity", [row for row in rows if _of(steps, row[0])])

        with self._lock:
            if self._writable:
                self._told = Told()
                self._transaction(forget)

    def _delete(self, table: str, column: str, lost: Sequence[tuple[str, ...]]) -> None:
        """Delete the rows that have one of `lost` in a column without an index, in one pass."""
        if lost:
            execute = self._database.execute
            execute("CREATE TEMP TABLE IF NOT EXISTS lost(value TEXT PRIMARY KEY) WITHOUT ROWID")
            execute("DELETE FROM lost")
            self._database.executemany("INSERT INTO lost VALUES(?)", lost)
            execute(f"DELETE FROM {table} WHERE {column} IN (SELECT value FROM lost)")

    def select(self, table: str, where: str = "true", *values: str) -> list[Row]:
        """The rows of `table` that are `where`, as they were inserted."""
        with self._lock:
            rows = self._rows(f"SELECT * FROM {table} WHERE {where}", values)
            found = [row[:-1] for row in rows if row[-1] == seal(table, row[:-1])]
            self._told.read(table, found)
        return found

    def change(self, statements: Sequence[tuple[str, Row]]) -> None:
        """Execute all of `statements`, or none. Raises StoreError."""

        with self._lock:
            if self._writable:
                self._told.changed(statements)
                self._transaction(partial(self._execute, statements))

    def _execute(self, statements: Iterable[tuple[str, Row]]) -> None:
        for statement, values in statements:
            self._database.execute(statement, values)

    def _row(self, table: str, where: str, *values: str) -> Row | None:
        """The row whose first columns are `values`. SQLite finds it by the order of rows: where that is
        damaged, it may give the one of another key, which is whole, or not find any more what it has
        found before."""
        rows = self.select(table, where, *values)
        found = next((row for row in rows if row[: len(values)] == values), None)
        return self._told.row(table, values) if found is None else found

    def _rows(
        self, query: str, values: Sequence[str] = (), each: Callable[[Row], Row] = tuple
    ) -> list[Row]:
        """What `query` gives, of each row what `each` makes of it; where the database is damaged, of
        what was told before. The lock is held."""

        def read() -> list[Row]:
            return list(map(each, self._database.execute(query, values)))

        try:
            return self._patiently(read)
        except sqlite3.DatabaseError as error:
            self._lose(error)
        with contextlib.suppress(sqlite3.DatabaseError):
            return self._patiently(read)
        return []

    def _transaction(self, work: Callable[[], object]) -> None:
        """Do `work` as a whole, or not at all. The lock is held."""
        try:
            self._patiently(partial(self._whole, work))
        except sqlite3.DatabaseError as error:
            self._lose(error)

    def _whole(self, work: Callable[[], object]) -> None:
        with self._database:
            work()

    def _lose(self, error: sqlite3.DatabaseError) -> None:
        """Go on without the database that gave `error`, but with what this process knows of it."""
        self._database.close()
        self._database = self._instead(error)
        if self._writable:
            with contextlib.suppress(sqlite3.DatabaseError):
                again = partial(self._execute, list(self._told.statements()))
                self._patiently(partial(self._whole, again))
        else:
            self._told = Told()  # what was read is there

    def _patiently(self, work: Callable[[], Result]) -> Result:
        """What `work` gives, called again while another process has the database locked: SQLite's
        own waiting would see no cancellation. Raises StoreError when that takes too long."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return work()
            except UnicodeDecodeError as error:  # what SQLite says of damage quotes it
                raise _Garbled("what it holds is no text") from error
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_BUSY:
                    raise
                if time.monotonic() > deadline:
                    raise StoreError(
                        f"another process has had the cache {self._path} locked for"
                        f" {_PATIENCE:.0f} s",
                        self._path,
                        hint="is a build stopped (Ctrl-Z)? Continue it, or end it",
                    ) from error
            self._check()


def _decoded(content: bytes) -> str:
    """A text of the database, which damage may have made anything of."""
    return content.decode("utf-8", "replace")


def _titled(row: Row) -> Row:
    """The hex of an identity, and what the document of its inputs calls the step; empty for none."""
    identity, inputs = row
    try:
        return _hex(identity), str(json.loads(inputs)["step"])
    except (ValueError, KeyError, TypeError):
        return _hex(identity), ""


def _hex(digest: object) -> str:
    return str(digest).rpartition(":")[2]


def _of(wanted: Callable[[Digest], bool], found: object) -> bool:
    """Whether `wanted` says yes to the digest that was found; what is no digest may go."""
    try:
        return wanted(Digest.parse(str(found)))
    except ValueError:
        return True


def _code(error: sqlite3.DatabaseError) -> int:
    """SQLite's primary code, 0 for an error of our own."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _is_of_later(path: str) -> bool:
    """Whether the header of the database at `path` says that only a later SQLite may write it (database
    file format, 1.3.3): a damaged byte, which would keep it as it is for ever."""
    try:
        with open(path, "rb") as stream:
            header = stream.read(_WRITE_VERSION + 1)
    except OSError:
        return False
    return len(header) > _WRITE_VERSION and header[_WRITE_VERSION] > _LATEST_FORMAT


def _identity(path: str) -> tuple[int, int] | None:
    """What tells the file at `path` from the next one there, None for none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _open_read_only(path: str, schema: int | None = None) -> sqlite3.Connection:
    """The database at `path`. Raises DatabaseError for none, and one of another `schema`."""
    from urllib.parse import quote

    # what is on a file system that cannot be written does not change
    mode = "mode=ro" if os.access(os.path.dirname(path), os.W_OK) else "mode=ro&immutable=1"
    database = sqlite3.connect(
        f"file:{quote(path)}?{mode}", uri=True, timeout=0.1, check_same_thread=False
    )
    database.text_factory = _decoded
    try:
        database.execute("SELECT count(*) FROM steps LIMIT 1").fetchone()
        found = database.execute("PRAGMA user_version").fetchone()[0]
        if schema not in (None, found):
            raise sqlite3.DatabaseError(f"of schema {found}, not {schema}")
    except BaseException:
        database.close()
        raise
    return database


def _open(path: str) -> sqlite3.Connection:
    # Autocommit is off: `with connection` is one transaction. The busy timeout is the time between
    # two looks of `_patiently` at another process' lock; WAL lets readers go on meanwhile.
    database = sqlite3.connect(path, timeout=0.1, check_same_thread=False)
    database.text_factory = _decoded
    try:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise _Newer(f"written by a newer version, schema {version}")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        if version < SCHEMA:
            _create(database)
        database.execute("SELECT count(*) FROM steps LIMIT 1").fetchone()
    except BaseException:
        database.close()
        raise
    return database


def _create(database: sqlite3.Connection) -> None:
    """Make the tables, all at once, unless another process has. What an older version knew is
    dropped: its keys and rows are not these."""
    database.execute("BEGIN IMMEDIATE")
    with database:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version < SCHEMA:
            names = "SELECT name FROM sqlite_master WHERE type = 'table'"
            for (name,) in database.execute(names).fetchall():
                database.execute(f'DROP TABLE "{name}"')
            for statement in TABLES.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {SCHEMA}")


def damage(path: str) -> str:
    """What is wrong with the database at `path`, empty for nothing or where there is none. It is
    only read."""
    if not os.path.exists(path):
        return ""
    try:
        with contextlib.closing(_open_read_only(path)) as database:
            found = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
            version = database.execute("PRAGMA user_version").fetchone()[0]
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        return f"it cannot be read: {error}"
    if version > SCHEMA:
        return f"it was written by a newer version, schema {version}"
    return "" if found == "ok" else str(found)


def set_aside(path: str) -> None:
    """Rename the database at `path` to `.bak-<n>`, with what belongs to it."""
    number = 1
    while os.path.lexists(f"{path}.bak-{number}"):
        number += 1
    for suffix in ("-wal", "-shm"):  # first: beside a file of that name, others make their own
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + suffix)
    os.rename(path, f"{path}.bak-{number}")
