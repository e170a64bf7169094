"""What a build asks of shared caches beside records and layers, and does not wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from assembler.builder import Builder
from assembler.cache import listings as module
from assembler.cache.document import CacheDocument
from assembler.cache.exporting import CacheTarget, document_of
from assembler.cache.listings import bundled
from assembler.cache.local import LocalCache
from assembler.cache.places import CacheSource
from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import Cancelled
from assembler.events import Event, Warned
from assembler.images import host_platform
from assembler.imports import SharedCaches
from assembler.oci.digest import Digest
from assembler.oci.reference import Reference
from assembler.store.listings import packed
from assembler.testing.server import Answer
from tests.registry.faulty import FaultyRegistry
from tests.registry.rules import Action, Case, drip, hang

SELECTION = Digest.of(b"selection")
FILES = {"src/app.py": "- 644 0:0  11"}
MADE = bundled({SELECTION: packed(FILES)})


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    with FaultyRegistry() as made:
        assert MADE is not None
        document = CacheDocument(listings=MADE[0])
        content = document.serialise()
        top = document_of(CacheTarget(), content, document.blobs)
        for blob in (content, MADE[1]):
            made.add_blob("app", blob)
        made.add_manifest("app", "cache", top.media_type, top.content)
        yield made


class Machine:
    """A store that knows of a cache in `registry`."""

    def __init__(self, builder: Builder, cache: LocalCache, cancellation: Cancellation) -> None:
        self.builder = builder
        self.cache = cache
        self.cancellation = cancellation
        self.events: list[Event] = []

    def caches(self, registry: FaultyRegistry) -> SharedCaches:
        made = SharedCaches(
            [CacheSource(Reference.parse(f"{registry.host}/app:cache"))],
            [host_platform()],
            local=self.cache,
            store=self.builder.store,
            images=self.builder.images,
            sink=self.events.append,
            cancellation=self.cancellation,
            clock=time.time,
        )
        for _, one in made.imports:
            assert one.document.listings is not None
        return made


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    environment = Environment.read({"HOME": str(tmp_path)})
    with (
        Cancellation() as cancellation,
        LocalCache(str(tmp_path / "cache.db")) as cache,
        Builder(environment, store=str(tmp_path / "store"), cancellation=cancellation) as builder,
    ):
        yield Machine(builder, cache, cancellation)


def test_what_a_cache_lists_is_kept(
    machine: Machine, registry: FaultyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 60.0)
    assert machine.caches(registry).listing(SELECTION) == FILES
    assert machine.builder.store.listings.load(str(SELECTION)) == FILES


@pytest.mark.parametrize("action", [hang(), drip(1, 0.05)])
def test_a_registry_that_takes_its_time_is_not_waited_for(
    machine: Machine, registry: FaultyRegistry, action: Action, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    asked = threading.Event()

    @contextmanager
    def within(seconds: float) -> Iterator[Cancellation]:  # from when it was asked, however late
        def watch() -> None:
            asked.wait(60)
            time.sleep(seconds)
            limit.cancel()

        with Cancellation() as limit:
            watcher = threading.Thread(target=watch)
            watcher.start()
            try:
                yield limit
            finally:
                watcher.join()

    def noticed(case: Case) -> Answer:
        asked.set()
        return action(case)

    monkeypatch.setattr(machine.cancellation, "within", within)
    caches = machine.caches(registry)
    assert MADE is not None
    rule = registry.on("GET", f"/v2/app/blobs/{MADE[0].blob.digest}", noticed)
    assert caches.listing(SELECTION) is None
    assert caches.listing(SELECTION) is None
    assert rule.fired == 1
    assert not [event for event in machine.events if isinstance(event, Warned)]


def test_a_build_that_is_cancelled_says_so(machine: Machine, registry: FaultyRegistry) -> None:
    caches = machine.caches(registry)
    machine.cancellation.cancel()
    with pytest.raises(Cancelled):
        caches.listing(SELECTION)
