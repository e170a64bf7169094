"""Tables in a file without a name: for what may be more than memory should hold.

They are SQLite's, of which a few MiB are in memory and the rest is written when it does not fit.
"""

from __future__ import annotations

import marshal
import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from assembler.errors import NoSpace, StoreError
from assembler.layer.changeset import ByteSource
from assembler.layer.members import MemberBytes

if TYPE_CHECKING:
    import sqlite3

_CACHE = 8 << 10  # KiB that are in memory
_SETTINGS = f"""
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA cache_size = -{_CACHE};
"""
_TUPLE, _MEMBER, _OTHER = range(3)


class Spill:
    """A database with `tables` in the directory `spool`, in memory where that is empty. Threads share
    it. Methods raise NoSpace where the disk is full, StoreError for what else it does."""

    def __init__(self, spool: str, tables: str) -> None:
        import sqlite3

        self._spool = spool
        self._failure = sqlite3.DatabaseError
        self._full = sqlite3.SQLITE_FULL
        self._lock = threading.Lock()
        path = _new_file(spool) if spool else ":memory:"
        try:
            self._database: sqlite3.Connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False
            )
            # what is never committed is only written where it does not fit in memory
            self._database.executescript(f"{_SETTINGS} {tables} BEGIN;")
        except sqlite3.DatabaseError as error:
            raise self._failed(error) from error
        finally:
            if spool:
                os.unlink(path)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Give the file up."""
        database = getattr(self, "_database", None)
        if database is not None:
            database.close()

    def rows(self, statement: str, *values: bytes | int) -> list[Any]:
        """All rows that `statement` gives."""
        with self._lock:
            try:
                return self._database.execute(statement, values).fetchall()
            except self._failure as error:
                raise self._failed(error) from error

    def change(self, statement: str, rows: Iterable[tuple[bytes, ...]]) -> int:
        """How many rows `statement` changed, done with each of `rows`."""
        with self._lock:
            try:
                return self._database.executemany(statement, rows).rowcount
            except self._failure as error:
                raise self._failed(error) from error

    def _failed(self, error: sqlite3.DatabaseError) -> StoreError:
        if getattr(error, "sqlite_errorcode", 0) == self._full:
            return NoSpace(f"no space left for the names of files in {self._spool}", self._spool)
        return StoreError(f"names of files cannot be kept in {self._spool}: {error}", self._spool)


class Sources:
    """Where the bytes of many files are, told by what can be marshalled."""

    def __init__(self) -> None:
        self._kept: list[Any] = []
        self._numbers: dict[int, int] = {}

    def told(self, source: ByteSource) -> tuple[Any, ...]:
        """What `source` gives again. Tuples and members are told as such; others, of which there are
        few, are kept."""
        if isinstance(source, tuple):
            return _TUPLE, self._number(type(source)), *source
        if isinstance(source, MemberBytes):
            return _MEMBER, self._number(source.members), source.number, source.size
        return _OTHER, self._number(source)

    def source(self, how: int, number: int, *rest: Any) -> ByteSource:
        """The source of which that was told."""
        kept = self._kept[number]
        if how == _MEMBER:
            member, size = rest
            return MemberBytes(member, size, kept)
        found: ByteSource = kept(*rest) if how == _TUPLE else kept
        return found

    def _number(self, one: object) -> int:
        """Which of those that are kept is `one`, which is from now on."""
        number = self._numbers.setdefault(id(one), len(self._kept))
        if number == len(self._kept):
            self._kept.append(one)
        return number


def key_of(value: Any) -> bytes:
    """What is the same for equal values that can be marshalled."""
    return marshal.dumps(value, 2)  # later versions tell which objects are one


def _new_file(directory: str) -> str:
    import tempfile

    descriptor, path = tempfile.mkstemp(prefix="spill-", dir=directory)
    os.close(descriptor)
    return path
