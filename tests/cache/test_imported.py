"""Caches from elsewhere behind the store's own: asked when that knows nothing, or nothing young enough."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from assembler.cache.base import Record
from assembler.cache.document import CacheDocument
from assembler.cache.imported import Import, ImportedCache
from assembler.cache.local import LocalCache
from assembler.oci.digest import Digest

KEY = Digest.of(b"key")
OLD = Record(Digest.of(b"old"), "2026-01-02T03:04:05Z", ran=100.0)
YOUNG = Record(Digest.of(b"young"), "2026-01-02T03:04:05Z", ran=200.0, source="elsewhere")


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalCache]:
    with LocalCache(str(tmp_path / "cache.db")) as cache:
        yield cache


def behind(local: LocalCache, *records: Record, since: float | None = None) -> ImportedCache:
    """`local` with a cache behind it for each of `records`."""
    imports = [
        Import("place", lambda one=one: CacheDocument({KEY: one}))  # type: ignore[misc]
        for one in records
    ]
    return ImportedCache(local, imports, lambda blob: True, since)


def test_what_the_store_knows_is_asked_of_nobody(local: LocalCache) -> None:
    local.record(KEY, OLD)
    assert behind(local, YOUNG).lookup(KEY) == OLD


def test_what_is_too_old_here_may_be_younger_elsewhere(local: LocalCache) -> None:
    local.record(KEY, OLD)
    middle = replace(YOUNG, ran=120.0)
    assert behind(local, middle, YOUNG, since=150.0).lookup(KEY) == YOUNG
    assert behind(local, middle, YOUNG, since=100.0).lookup(KEY) == OLD
    assert behind(local, middle, since=150.0).lookup(KEY) == OLD, "whose age is told"
    assert behind(local, since=150.0).lookup(KEY) == OLD
