"""What one build was told by the cache, or told it: whatever becomes of the database, that holds.

What a build does is decided by what is known at first: that nothing is to run, say, and so no
namespace is entered. It must find it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from assembler.cache.rows import Row, insertion

_KEYS = {"steps": 1, "layers": 2}  # the columns, from the first on, that tell rows apart
_DIGEST = 3  # of a row of layers


class Told:
    """Rows of `steps` and `layers`, without their seals."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[Row, Row]] = {table: {} for table in _KEYS}

    def read(self, table: str, rows: Sequence[Row]) -> None:
        """`rows` of `table` were found."""
        if table in _KEYS:
            self._rows[table] |= {row[: _KEYS[table]]: row for row in rows}

    def changed(self, statements: Sequence[tuple[str, Row]]) -> None:
        """`statements` were executed: those of `rows.insertion`, and deletions of what has a digest,
        their first value; without one, of all."""
        for statement, values in statements:
            words = statement.split()  # INSERT OR REPLACE INTO steps …
            if words[0] == "INSERT":
                self._inserted(words[4], values[:-1], words[2] == "REPLACE")
            elif values:
                layers = self._rows["layers"]
                for key in [key for key, row in layers.items() if row[_DIGEST] == values[0]]:
                    del layers[key]
            else:
                self._rows = {table: {} for table in _KEYS}

    def _inserted(self, table: str, row: Row, replacing: bool) -> None:
        if table in _KEYS:
            known, key = self._rows[table], row[: _KEYS[table]]
            if replacing or key not in known:
                known[key] = row

    def row(self, table: str, key: Row) -> Row | None:
        """The row of `table` with this key."""
        return self._rows[table].get(key) if table in _KEYS else None

    def variants(self, identity: str) -> list[str]:
        """In what forms the step `identity` is known to be packed."""
        return [variant for one, variant in self._rows["layers"] if one == identity]

    def statements(self) -> Iterator[tuple[str, Row]]:
        """What puts the rows into an empty database, or beside what others have put there."""
        for table, rows in self._rows.items():
            for row in rows.values():
                yield insertion(table, *row, unless_known=True)
