"""Where the blobs of imported layers are, as the store's cache remembers it: rows that name a place,
so that a layer which nobody needed yet can be fetched by a later build.

A place is the text of `cache.places.Place.text`. What is there may have gone: then its row goes too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from assembler.cache.base import Record
from assembler.cache.document import CachedLayer
from assembler.cache.local import LocalCache
from assembler.oci.digest import Digest
from assembler.oci.image import Layer


class Origins:
    """The rows of `cache`. Threads share it."""

    def __init__(self, cache: LocalCache) -> None:
        self._cache = cache

    def of(self, blob: Digest) -> tuple[str, ...]:
        """The places that have `blob`."""
        rows = self._cache.select("SELECT place FROM origins WHERE digest = ?", str(blob))
        return tuple(row[0] for row in rows)

    def diff_ids(self, blob: Digest) -> set[str]:
        """What the tar in `blob` is said to have for a digest."""
        rows = self._cache.select("SELECT diff_id FROM layers WHERE digest = ?", str(blob))
        return {row[0] for row in rows}

    def take(
        self, records: Mapping[Digest, Record], result: CachedLayer | None, place: str
    ) -> None:
        """Remember imported `records` of one identity, and the layer that a cache at `place` has it
        in. What the store knows better stays."""
        statements: list[tuple[str, tuple[object, ...]]] = [
            (
                "INSERT OR IGNORE INTO steps VALUES(?, ?, ?, ?, ?, ?, strftime('%s', 'now'))",
                (str(key), str(one.identity), one.created, one.inputs, one.ran, one.source),
            )
            for key, one in records.items()
        ]
        if result is not None:
            for identity in {record.identity for record in records.values()}:
                statements += _packed("IGNORE", identity, result.variant, result.layer, place)
        self._cache.change(statements)

    def take_layer(self, identity: Digest, variant: str, layer: Layer, place: str) -> None:
        """Remember that `identity` is packed in `layer` at `place`."""
        self._cache.change(_packed("REPLACE", identity, variant, layer, place))

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
        rows = self._cache.select("SELECT key, identity, created, inputs, ran, source FROM steps")
        wanted = {str(one): one for one in found}
        for key, text, created, inputs, ran, source in rows:
            if text in wanted:
                identity = wanted[text]
                record = Record(identity, created, inputs, float(ran), source)
                found[identity][Digest.parse(key)] = record
        return found


def _packed(
    conflict: str, identity: Digest, variant: str, layer: Layer, place: str
) -> list[tuple[str, tuple[object, ...]]]:
    blob = layer.descriptor
    digest = str(blob.digest)
    statements: list[tuple[str, tuple[object, ...]]] = []
    if blob.annotations:
        annotations = json.dumps(dict(blob.annotations))
        statements.append(
            ("INSERT OR REPLACE INTO annotations VALUES(?, ?)", (digest, annotations))
        )
    return [
        *statements,
        (
            f"INSERT OR {conflict} INTO layers VALUES(?, ?, ?, ?, ?, ?)",
            (str(identity), variant, blob.media_type, digest, blob.size, str(layer.diff_id)),
        ),
        ("INSERT OR IGNORE INTO origins VALUES(?, ?)", (digest, place)),
    ]
