"""The step cache of one store: SQLite, derived data only. It may be deleted at any time.

Everything in it names something the store verifies again, so a wrong row costs a rebuild, never a
wrong image. A database that cannot be read is moved aside and started anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from assembler.cache.base import Record
from assembler.errors import StoreError
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Layer

if TYPE_CHECKING:
    from assembler.context.download import Download

Result = TypeVar("Result")

_PATIENCE = 30.0  # seconds
SCHEMA = 3
_TABLES = """
CREATE TABLE IF NOT EXISTS steps(
    key TEXT PRIMARY KEY, identity TEXT NOT NULL, created TEXT NOT NULL, inputs TEXT NOT NULL,
    used REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS layers(
    identity TEXT NOT NULL, variant TEXT NOT NULL, media_type TEXT NOT NULL, digest TEXT NOT NULL,
    size INTEGER NOT NULL, diff_id TEXT NOT NULL, PRIMARY KEY(identity, variant)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS annotations(
    digest TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images(
    key TEXT PRIMARY KEY, media_type TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS downloads(
    url TEXT PRIMARY KEY, digest TEXT NOT NULL, size INTEGER NOT NULL, etag TEXT NOT NULL,
    modified TEXT NOT NULL) WITHOUT ROWID;
"""


class LocalCache:
    """The database at `path`. Use it with `with`; threads share it, processes too. `check` is
    called while another process writes, and may raise."""

    def __init__(self, path: str, check: Callable[[], None] = lambda: None) -> None:
        self._path = path
        self._check = check
        self._lock = threading.Lock()
        self.notice = ""
        try:
            self._database = self._patiently(lambda: _open(path))
        except sqlite3.DatabaseError as error:
            self.notice = (
                f"the cache {path} could not be read ({error}); starting with an empty one"
            )
            _set_aside(path)
            self._database = _open(path)

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
        row = self._one("SELECT identity, created, inputs FROM steps WHERE key = ?", str(key))
        if row is None:
            return None
        try:
            return Record(Digest.parse(row[0]), row[1], inputs=row[2])
        except ValueError:
            return None  # not a row of ours; the step runs again and replaces it

    def record(self, key: Digest, record: Record) -> None:
        """See `cache.base.Cache.record`."""
        self._write(
            "INSERT OR REPLACE INTO steps VALUES(?, ?, ?, ?, ?)",
            (str(key), str(record.identity), record.created, record.inputs, time.time()),
        )

    def packed(self, identity: Digest, variant: str) -> Layer | None:
        """The blob that the changeset `identity` was packed in under `variant`, None if never."""
        row = self._one(
            "SELECT media_type, layers.digest, size, diff_id, document FROM layers"
            " LEFT JOIN annotations ON annotations.digest = layers.digest"
            " WHERE identity = ? AND variant = ?",
            str(identity),
            variant,
        )
        if row is None:
            return None
        try:
            annotations = json.loads(row[4] or "{}")
            descriptor = Descriptor(row[0], Digest.parse(row[1]), int(row[2]), annotations)
            return Layer(descriptor, Digest.parse(row[3]))
        except ValueError:
            return None

    def record_packed(self, identity: Digest, variant: str, layer: Layer) -> None:
        """Remember a packed form."""
        descriptor = layer.descriptor
        if descriptor.annotations:  # first: a layer is never found without them
            self._write(
                "INSERT OR REPLACE INTO annotations VALUES(?, ?)",
                (str(descriptor.digest), json.dumps(dict(descriptor.annotations))),
            )
        self._write(
            "INSERT OR REPLACE INTO layers VALUES(?, ?, ?, ?, ?, ?)",
            (
                str(identity),
                variant,
                descriptor.media_type,
                str(descriptor.digest),
                descriptor.size,
                str(layer.diff_id),
            ),
        )

    def recall(self, key: Digest) -> Descriptor | None:
        """The manifest that was assembled for `key`, None if none was."""
        row = self._one("SELECT media_type, digest, size FROM images WHERE key = ?", str(key))
        if row is None:
            return None
        try:
            return Descriptor(row[0], Digest.parse(row[1]), int(row[2]))
        except ValueError:
            return None

    def remember(self, key: Digest, descriptor: Descriptor) -> None:
        """Remember an assembled manifest."""
        self._write(
            "INSERT OR REPLACE INTO images VALUES(?, ?, ?, ?)",
            (str(key), descriptor.media_type, str(descriptor.digest), descriptor.size),
        )

    def downloaded(self, url: str) -> Download | None:
        """See `context.download.Downloads.downloaded`."""
        from assembler.context.download import Download

        row = self._one("SELECT digest, size, etag, modified FROM downloads WHERE url = ?", url)
        try:
            return Download(Digest.parse(row[0]), int(row[1]), row[2], row[3]) if row else None
        except ValueError:
            return None

    def record_download(self, url: str, download: Download) -> None:
        """See `context.download.Downloads.record_download`."""
        self._write(
            "INSERT OR REPLACE INTO downloads VALUES(?, ?, ?, ?, ?)",
            (url, str(download.digest), download.size, download.etag, download.modified),
        )

    def _one(self, query: str, *values: str) -> tuple[str, ...] | None:
        with self._lock:
            row: tuple[str, ...] | None = self._database.execute(query, values).fetchone()
            return row

    def _write(self, query: str, values: tuple[object, ...]) -> None:
        def write() -> None:
            with self._database:
                self._database.execute(query, values)

        with self._lock:
            self._patiently(write)

    def _patiently(self, work: Callable[[], Result]) -> Result:
        """What `work` gives, called again while another process has the database locked: SQLite's
        own waiting would see no cancellation. Raises StoreError when that takes too long."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return work()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                if time.monotonic() > deadline:
                    raise StoreError(
                        f"another process has had the cache {self._path} locked for"
                        f" {_PATIENCE:.0f} s",
                        self._path,
                        hint="is a build stopped (Ctrl-Z)? Continue it, or end it",
                    ) from error
            self._check()


def _open(path: str) -> sqlite3.Connection:
    # Autocommit is off: `with connection` is one transaction. The busy timeout is the time between
    # two looks of `_patiently` at another process' lock; WAL lets readers go on meanwhile.
    database = sqlite3.connect(path, timeout=0.1, check_same_thread=False)
    try:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise sqlite3.DatabaseError(f"written by a newer version, schema {version}")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        if version < SCHEMA:
            database.executescript(_TABLES + f"PRAGMA user_version = {SCHEMA};")
        database.execute("SELECT count(*) FROM steps LIMIT 1").fetchone()
    except BaseException:
        database.close()
        raise
    return database


def _set_aside(path: str) -> None:
    number = 1
    while os.path.exists(f"{path}.bak-{number}"):
        number += 1
    os.rename(path, f"{path}.bak-{number}")
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + suffix)
