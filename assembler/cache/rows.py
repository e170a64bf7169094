"""The tables of cache.db, and what a row of each is.

SQLite notices damage of its pages' structure, not of what is in them. So each row ends with a seal of
all that is in it.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from assembler.cache.base import Record
from assembler.oci.digest import Digest
from assembler.oci.image import Layer

Row = tuple[Any, ...]

SCHEMA = 6
TABLES = """
CREATE TABLE IF NOT EXISTS steps(
    key TEXT PRIMARY KEY, identity TEXT NOT NULL, created TEXT NOT NULL, inputs TEXT NOT NULL,
    ran REAL NOT NULL, source TEXT NOT NULL, seal TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS layers(
    identity TEXT NOT NULL, variant TEXT NOT NULL, media_type TEXT NOT NULL, digest TEXT NOT NULL,
    size INTEGER NOT NULL, diff_id TEXT NOT NULL, annotations TEXT NOT NULL, seal TEXT NOT NULL,
    PRIMARY KEY(identity, variant)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images(
    key TEXT PRIMARY KEY, media_type TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL,
    seal TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS downloads(
    url TEXT PRIMARY KEY, digest TEXT NOT NULL, size INTEGER NOT NULL, etag TEXT NOT NULL,
    modified TEXT NOT NULL, seal TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS origins(
    digest TEXT NOT NULL, place TEXT NOT NULL, seal TEXT NOT NULL, PRIMARY KEY(digest, place))
    WITHOUT ROWID;
"""


def step_row(key: Digest, record: Record) -> Row:
    """A row of `steps`."""
    identity, ran = str(record.identity), float(record.ran)
    return (str(key), identity, record.created, record.inputs, ran, record.source)


def layer_row(identity: Digest, variant: str, layer: Layer) -> Row:
    """A row of `layers`."""
    blob = layer.descriptor
    annotations = json.dumps(dict(blob.annotations)) if blob.annotations else "{}"
    digest, diff_id = str(blob.digest), str(layer.diff_id)
    return (str(identity), variant, blob.media_type, digest, blob.size, diff_id, annotations)


def insertion(table: str, *values: object, unless_known: bool = False) -> tuple[str, Row]:
    """The statement that puts a row into `table`, with its seal, in place of what is there."""
    conflict = "IGNORE" if unless_known else "REPLACE"
    marks = ", ".join("?" * (len(values) + 1))
    return f"INSERT OR {conflict} INTO {table} VALUES({marks})", (*values, seal(table, values))


def seal(table: str, values: Row) -> str:
    """What tells a row from one of which anything was damaged."""
    text = repr((table, *values)).encode("utf-8", "backslashreplace")
    return hashlib.blake2b(text, digest_size=8).hexdigest()
