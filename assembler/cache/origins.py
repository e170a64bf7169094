"""Where the blobs of imported layers are, as the store's cache remembers it: rows that name a place,
so that a layer which nobody needed yet can be fetched by a later build.

A place is the text of `cache.places.Place.text`. What is there may have gone: then its row goes too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from assembler.cache.base import Record
from assembler.cache.document import CachedLayer
from assembler.cache.local import LocalCache
from assembler.cache.rows import Row, insertion, layer_row, step_row
from assembler.oci.digest import Digest
from assembler.oci.image import Layer

_AT_ONCE = 500  # values in one statement: SQLite may be built to take no more than 999


class Origins:
    """The rows of `cache`. Threads share it."""

    def __init__(self, cache: LocalCache) -> None:
        self._cache = cache

    def of(self, blob: Digest) -> tuple[str, ...]:
        """The places that have `blob`."""
        rows = self._cache.select("origins", "digest = ?", str(blob))
        return tuple(place for digest, place in rows if digest == str(blob))

    def diff_ids(self, blob: Digest) -> set[Digest]:
        """What is said of the tar in `blob`."""
        rows = self._cache.select("layers", "digest = ?", str(blob))
        return {Digest.parse(row[5]) for row in rows}

    def contradicts(self, layer: Layer) -> bool:
        """Whether another tar is known to be in the blob of `layer`."""
        return bool(self.diff_ids(layer.descriptor.digest) - {layer.diff_id})

    def take(
        self, key: Digest, records: Mapping[Digest, Record], result: CachedLayer | None, place: str
    ) -> None:
        """Remember imported `records` of one identity, and the layer that a cache at `place` has it
        in. What the store knows otherwise stays, but for what `key` leads to."""
        statements = [
            insertion("steps", *step_row(one, record), unless_known=one != key)
            for one, record in records.items()
        ]
        if result is not None and not self.contradicts(result.layer):
            for identity in {record.identity for record in records.values()}:
                row = layer_row(identity, result.variant, result.layer)
                statements.append(insertion("layers", *row, unless_known=True))
            statements.append(_origin(result.layer, place))
        self._cache.change(statements)

    def take_layer(self, identity: Digest, variant: str, layer: Layer, place: str) -> None:
        """Remember that `identity` is packed in `layer` at `place`."""
        row = layer_row(identity, variant, layer)
        self._cache.change([insertion("layers", *row), _origin(layer, place)])

    def lost(self, blob: Digest, place: str) -> None:
        """Take note that `place` has not got `blob`."""
        where = "DELETE FROM origins WHERE digest = ? AND place = ?"
        self._cache.change([(where, (str(blob), place))])

    def refuse(self, blob: Digest) -> None:
        """Forget that anything is packed in `blob`, which is not what a cache said of it."""
        self._cache.change(
            [
                (f"DELETE FROM {name} WHERE digest = ?", (str(blob),))
                for name in ("layers", "origins")
            ]
        )

    def keys(self, identities: Iterable[Digest]) -> dict[Digest, dict[Digest, Record]]:
        """Everything that is recorded of `identities`, by identity and key."""
        found: dict[Digest, dict[Digest, Record]] = {one: {} for one in identities}
        wanted = sorted(map(str, found))
        for first in range(0, len(wanted), _AT_ONCE):
            some = wanted[first : first + _AT_ONCE]
            where = f"identity IN ({', '.join('?' * len(some))})"
            for key, text, *told in self._cache.select("steps", where, *some):
                identity = Digest.parse(text)
                found[identity][Digest.parse(key)] = Record(identity, *told)
        return found


def _origin(layer: Layer, place: str) -> tuple[str, Row]:
    return insertion("origins", str(layer.descriptor.digest), place)
