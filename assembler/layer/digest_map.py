"""The digests of many files by where their bytes are, beyond some in a file."""

from __future__ import annotations

import marshal
from collections.abc import Iterator, Mapping

from assembler.layer.changeset import ByteSource
from assembler.layer.spill import Sources, Spill, key_of

_MOST = 50_000  # that are in memory
_TABLE = "CREATE TABLE digests (told BLOB PRIMARY KEY, digest BLOB NOT NULL) WITHOUT ROWID;"


class DigestMap(Mapping[ByteSource, bytes]):
    """SHA-256 digests, as bytes, by sources. Those that are more than memory should hold are in the
    directory `spool`. Methods raise NoSpace where it is full."""

    def __init__(self, spool: str) -> None:
        self._spool = spool
        self._latest: dict[ByteSource, bytes] = {}
        self._spill: Spill | None = None
        self._sources = Sources()

    def put(self, source: ByteSource, digest: bytes) -> None:
        """Have `digest` be that of `source`."""
        self._latest[source] = digest
        if len(self._latest) > _MOST and self._spool:
            if self._spill is None:
                self._spill = Spill(self._spool, _TABLE)
            rows = sorted((self._key(one), found) for one, found in self._latest.items())
            self._spill.change("INSERT OR REPLACE INTO digests VALUES (?, ?)", rows)
            self._latest.clear()

    def __getitem__(self, source: ByteSource) -> bytes:
        found = self._latest.get(source)
        if found is None and self._spill is not None:
            where = "SELECT digest FROM digests WHERE told = ?"
            found = next((digest for (digest,) in self._spill.rows(where, self._key(source))), None)
        if found is None:
            raise KeyError(source)
        return found

    def __iter__(self) -> Iterator[ByteSource]:
        yield from self._latest
        if self._spill is not None:
            for (told,) in self._spill.rows("SELECT told FROM digests"):
                yield self._sources.source(*marshal.loads(told))

    def __len__(self) -> int:
        spilled = (
            0 if self._spill is None else self._spill.rows("SELECT count(*) FROM digests")[0][0]
        )
        return len(self._latest) + int(spilled)

    def _key(self, source: ByteSource) -> bytes:
        return key_of(self._sources.told(source))
