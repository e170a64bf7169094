"""Names of images, as a build or command asks for them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from assembler.builder import Builder
from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import AssemblerError, NotFound, RegistryError
from assembler.events import Event, VertexProgress, VertexStarted
from assembler.images import Pull
from assembler.oci.config import Execution, ImageConfig
from assembler.oci.descriptor import INDEX, LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer
from assembler.oci.manifest import build_index
from assembler.oci.platform import Platform
from assembler.oci.reference import Reference
from assembler.store.check import Check
from assembler.testing.server import Answer
from tests.registry.faulty import FaultyRegistry
from tests.registry.rules import Action, Case, amend, drip, reply

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
MANIFESTS = "/v2/app/manifests/*"


@pytest.fixture
def faulty() -> Iterator[FaultyRegistry]:
    with FaultyRegistry() as registry:
        yield registry


@contextmanager
def command(tmp_path: Path, events: list[Event] | None = None) -> Iterator[Builder]:
    """What one command has; the next one finds the same store."""
    environment = Environment.read({"HOME": str(tmp_path)})
    seen = [] if events is None else events
    with (
        Cancellation() as cancellation,
        Builder(
            environment, store=str(tmp_path / "store"), cancellation=cancellation, sink=seen.append
        ) as found,
    ):
        yield found


def image(platform: Platform, *contents: bytes, **labels: str) -> Image:
    layers = tuple(
        Layer(Descriptor(LAYER_TAR, Digest.of(one), len(one)), Digest.of(one)) for one in contents
    )
    diff_ids = tuple(layer.diff_id for layer in layers)
    return Image.create(ImageConfig(platform, Execution(labels=labels), diff_ids), layers)


def provide(registry: FaultyRegistry, made: Image, *contents: bytes, tag: str = "") -> Descriptor:
    for content in (*contents, made.config_content):
        registry.add_blob("app", content)
    manifest = made.manifest
    registry.add_manifest("app", tag or str(made.digest), manifest.media_type, manifest.content)
    return replace(manifest.descriptor, platform=made.config.platform)


def provide_index(registry: FaultyRegistry, *entries: Descriptor) -> None:
    registry.add_manifest("app", "1", INDEX, build_index(entries).content)


def reference(registry: FaultyRegistry) -> Reference:
    return Reference.parse(f"{registry.host}/app:1")


def asked(registry: FaultyRegistry) -> list[str]:
    """The methods of requests for manifests since the last call."""
    found = [seen.method for seen in registry.asked("*", MANIFESTS)]
    registry.log.clear()
    return found


def test_R15_a_name_is_asked_for_once_in_a_build(faulty: FaultyRegistry, tmp_path: Path) -> None:
    amd64, arm64 = image(AMD64), image(ARM64)
    provide_index(faulty, provide(faulty, amd64), provide(faulty, arm64))
    name = str(reference(faulty))
    with command(tmp_path) as builder:
        for _ in range(3):
            found = builder.images.resolve(name, AMD64, pull=Pull.ALWAYS)
        assert found.config == amd64.config
        assert builder.images.resolve(name, ARM64, pull=Pull.ALWAYS).config == arm64.config
    assert asked(faulty) == ["GET", "GET", "GET"], "the index, and each image"


def test_R15_a_tag_that_means_what_it_meant_costs_one_head(
    faulty: FaultyRegistry, tmp_path: Path
) -> None:
    amd64 = image(AMD64)
    provide_index(faulty, provide(faulty, amd64), provide(faulty, image(ARM64)))
    for expected in (["GET", "GET"], ["HEAD"], ["HEAD"]):
        with command(tmp_path) as builder:
            assert builder.images.pull_manifest(reference(faulty), AMD64) == amd64
        assert asked(faulty) == expected
    newer = image(AMD64, newer="yes")
    provide_index(faulty, provide(faulty, newer))
    with command(tmp_path) as builder:
        assert builder.images.pull_manifest(reference(faulty), AMD64) == newer
    assert asked(faulty) == ["HEAD", "GET", "GET"]


def test_R15_a_base_for_several_platforms_is_kept_for_all_of_them(
    faulty: FaultyRegistry, tmp_path: Path
) -> None:
    amd64, arm64, arm7 = image(AMD64), image(ARM64), image(Platform.parse("linux/arm/v7"))
    provide_index(faulty, *(provide(faulty, one) for one in (amd64, arm64, arm7)))
    name = str(reference(faulty))
    with command(tmp_path) as builder:
        for made in (amd64, arm64):
            assert builder.images.resolve(name, made.config.platform).config == made.config
    asked(faulty)
    with command(tmp_path) as builder:
        for made in (amd64, arm64, amd64):
            found = builder.images.resolve(name, made.config.platform, pull=Pull.NEVER)
            assert found.config == made.config
        assert builder.images.resolve(name, arm7.config.platform).config == arm7.config
        assert asked(faulty) == ["GET", "GET"], "the index, which says nothing new, and one image"
    with command(tmp_path) as builder:
        for made in (amd64, arm64):
            found = builder.images.resolve(name, made.config.platform, pull=Pull.ALWAYS)
            assert found.config == made.config
        assert asked(faulty) == ["HEAD"], "one for all platforms"
    newer = image(AMD64, newer="yes")
    provide_index(faulty, provide(faulty, newer))
    with command(tmp_path) as builder:
        assert builder.images.pull_manifest(reference(faulty), AMD64) == newer
        assert builder.images.stored(reference(faulty), ARM64) is None, "it has none any more"


@pytest.mark.parametrize("answer", [reply(405), reply(200), amend({"Docker-Content-Digest": None})])
def test_R15_where_head_says_nothing_get_does(
    faulty: FaultyRegistry, tmp_path: Path, answer: Action
) -> None:
    made = image(AMD64)
    provide(faulty, made, tag="1")
    faulty.on("HEAD", MANIFESTS, answer)
    for _ in range(2):
        with command(tmp_path) as builder:
            assert builder.images.pull_manifest(reference(faulty), AMD64) == made
    assert asked(faulty) == ["GET", "HEAD", "GET"]


def test_a_digest_that_the_store_has_is_not_asked_for(
    faulty: FaultyRegistry, tmp_path: Path
) -> None:
    made = image(AMD64)
    provide(faulty, made, tag="1")
    name = Reference.parse(f"{faulty.host}/app@{made.digest}")
    for expected in (["GET"], []):
        with command(tmp_path) as builder:
            assert builder.images.pull_manifest(name, AMD64) == made
        assert asked(faulty) == expected


def test_an_index_may_have_a_better_image_than_the_store(
    faulty: FaultyRegistry, tmp_path: Path
) -> None:
    v6, v7 = Platform.parse("linux/arm/v6"), Platform.parse("linux/arm/v7")
    older, better = image(v6), image(v7)
    provide_index(faulty, provide(faulty, older), provide(faulty, better))
    with command(tmp_path) as builder:
        assert builder.images.pull_manifest(reference(faulty), v6) == older
    with command(tmp_path) as builder:
        assert builder.images.pull_manifest(reference(faulty), v7) == better


def test_a_32_bit_image_of_the_store_is_not_taken_for_a_64_bit_one(
    faulty: FaultyRegistry, tmp_path: Path
) -> None:
    small, right = image(Platform("linux", "386")), image(AMD64)
    provide_index(faulty, provide(faulty, small), provide(faulty, right))
    with command(tmp_path) as builder:
        builder.images.pull_manifest(reference(faulty), Platform("linux", "386"))
    with command(tmp_path) as builder:
        found = builder.images.resolve(str(reference(faulty)), AMD64)
        assert found.config.platform == AMD64


def test_a_name_without_a_registry_is_what_registries_conf_makes_of_it(
    faulty: FaultyRegistry, tmp_path: Path
) -> None:
    made = image(AMD64)
    provide(faulty, made, tag="1")
    hub = Reference.parse("app:1")
    for text in (
        f'[aliases]\napp = "{faulty.host}/app"\n',
        f'unqualified-search-registries = ["{faulty.host}/none", "{faulty.host}"]\n',
    ):
        home = tmp_path / str(len(text))
        (home / ".config/containers").mkdir(parents=True)
        (home / ".config/containers/registries.conf").write_text(text)
        with command(home) as builder:
            found = builder.images.resolve(str(hub), AMD64, short="app:1")
            assert (found.name, found.config) == (f"{faulty.host}/app:1", made.config)
        with command(home) as builder:
            found = builder.images.resolve(str(hub), AMD64, short="app:1", pull=Pull.NEVER)
            assert found.name == f"{faulty.host}/app:1"


def test_pull_modes(faulty: FaultyRegistry, tmp_path: Path) -> None:
    name = str(reference(faulty))
    provide(faulty, image(AMD64, n="1"), tag="1")

    def label(pull: Pull) -> str:
        with command(tmp_path) as builder:
            return builder.images.resolve(name, AMD64, pull=pull).config.execution.labels["n"]

    with pytest.raises(NotFound, match="the store has no image"):
        label(Pull.NEVER)
    assert asked(faulty) == []
    assert label(Pull.MISSING) == "1"
    provide(faulty, image(AMD64, n="2"), tag="1")
    assert label(Pull.MISSING) == label(Pull.NEVER) == "1"
    assert label(Pull.NEWER) == "2"
    provide(faulty, image(AMD64, n="3"), tag="1")
    assert label(Pull.ALWAYS) == "3"
    faulty.on("*", "*", reply(403))
    assert label(Pull.NEWER) == "3"
    with pytest.raises(RegistryError):
        label(Pull.ALWAYS)


def test_blobs_come_several_at_once_and_not_too_many(
    faulty: FaultyRegistry, tmp_path: Path
) -> None:
    contents = [os.urandom(5000) for _ in range(12)]
    made = image(AMD64, *contents, contents[0])
    provide(faulty, made, *contents, tag="1")
    together = threading.Barrier(4, timeout=60)
    faulty.on("GET", "/v2/app/blobs/*", _meeting(together), nth=range(2, 6))
    events: list[Event] = []
    with command(tmp_path, events) as builder:
        builder.images.complete(builder.images.pull_manifest(reference(faulty), AMD64))
        for content in contents:
            assert builder.store.blobs.has(Digest.of(content))
    assert len(faulty.asked("GET", "/v2/app/blobs/*")) == 1 + len(contents)
    ended = [one.item for one in events if isinstance(one, VertexProgress) and one.current]
    assert set(ended) == {str(Digest.of(content)) for content in contents}


def test_little_blobs_come_once_for_two_commands_with_one_turn(
    faulty: FaultyRegistry, tmp_path: Path
) -> None:
    contents = [os.urandom(5000) for _ in range(12)]
    provide(faulty, image(AMD64, *contents), *contents, tag="1")
    begun, go_on = threading.Event(), threading.Event()

    def held(case: Case) -> Answer:
        begun.set()
        assert go_on.wait(60)
        return case.honest()

    events: list[Event] = []
    with (
        command(tmp_path) as first,
        command(tmp_path, events) as second,
        ThreadPoolExecutor(2) as threads,
    ):
        (found, again) = (
            one.images.pull_manifest(reference(faulty), AMD64) for one in (first, second)
        )
        faulty.on("GET", "/v2/app/blobs/*", held, nth=1)
        one = threads.submit(first.images.complete, found)
        assert begun.wait(60)
        assert len(os.listdir(Path(first.store.path, "working"))) == 1
        other = threads.submit(second.images.complete, again)
        while not any(
            isinstance(event, VertexStarted) and "12 small" in event.name for event in events
        ):
            assert not other.done() and not go_on.wait(0.01), "it waits, and says so"
        go_on.set()
        one.result(60)
        other.result(60)
    asked_for = [one.path.rpartition("/")[2] for one in faulty.asked("GET", "/v2/app/blobs/*")]
    for content in contents:
        assert asked_for.count(str(Digest.of(content))) == 1
    assert os.listdir(tmp_path / "store" / "working") == []


def _meeting(barrier: threading.Barrier) -> Action:
    def act(case: Case) -> Answer:
        barrier.wait()
        return case.honest()

    return act


def test_a_blob_that_fails_stops_the_others(faulty: FaultyRegistry, tmp_path: Path) -> None:
    contents = [os.urandom(100_000) for _ in range(3)]
    made = image(AMD64, *contents)
    provide(faulty, made, *contents, tag="1")
    slow = drip(100, 0.05)  # 50 s
    faulty.on("GET", f"/v2/app/blobs/{Digest.of(contents[0])}", slow)
    faulty.on("GET", f"/v2/app/blobs/{Digest.of(contents[1])}", reply(404))
    with command(tmp_path) as builder, pytest.raises(NotFound):
        builder.images.complete(builder.images.pull_manifest(reference(faulty), AMD64))
    assert faulty.sent(str(Digest.of(contents[0]))) < 100_000


def test_M1_a_blob_with_other_bytes_is_not_stored_under_its_name(
    faulty: FaultyRegistry, tmp_path: Path
) -> None:
    content = os.urandom(200_000)
    made = image(AMD64, content)
    provide(faulty, made, content, tag="1")
    faulty.on(
        "GET",
        f"/v2/app/blobs/{Digest.of(content)}",
        amend(body=lambda body: bytes(reversed(body))),
    )
    with command(tmp_path) as builder:
        found = builder.images.pull_manifest(reference(faulty), AMD64)
        with pytest.raises(AssemblerError, match="other bytes"):
            builder.images.complete(found)
        assert not builder.store.blobs.has(Digest.of(content))
        assert os.listdir(os.path.join(builder.store.path, "ingest")) == []


def test_an_index_is_pulled_whole_and_gives_each_platform(
    faulty: FaultyRegistry, tmp_path: Path
) -> None:
    amd64, arm64 = image(AMD64, b"one"), image(ARM64, b"two")
    attested = replace(
        provide(faulty, image(AMD64, a="b")), platform=Platform("unknown", "unknown")
    )
    provide_index(faulty, provide(faulty, amd64, b"one"), provide(faulty, arm64, b"two"), attested)
    with command(tmp_path) as builder:
        top = builder.images.pull_index(reference(faulty))
    faulty.on("*", "*", reply(500))
    with command(tmp_path) as builder:
        assert builder.store.blobs.has(attested.digest)
        for made in (amd64, arm64):
            found = builder.images.stored(reference(faulty), made.config.platform)
            assert found == made
            builder.images.complete(made)
        assert builder.images.stored(reference(faulty), Platform("linux", "s390x")) is None
        descriptor = builder.store.refs.get(str(reference(faulty)))
        assert descriptor is not None and descriptor.digest == top.descriptor.digest
    assert problems(tmp_path) == []


def test_of_an_index_some_platforms_are_pulled(faulty: FaultyRegistry, tmp_path: Path) -> None:
    arm = Platform.parse("linux/arm/v7")
    entries = [provide(faulty, image(one), tag="") for one in (AMD64, ARM64, arm)]
    provide_index(faulty, *entries)
    with command(tmp_path) as builder:
        builder.images.pull_index(reference(faulty), [AMD64, arm])
        here = [builder.store.blobs.has(entry.digest) for entry in entries]
        assert here == [True, False, True]
    assert problems(tmp_path) == [], "what is in the registry only is no problem"
    with command(tmp_path) as builder:
        assert builder.images.resolve(str(reference(faulty)), arm).config.platform == arm
        assert builder.images.pull_manifest(reference(faulty), ARM64).config.platform == ARM64
        with pytest.raises(NotFound, match="s390x"):
            builder.images.pull_index(reference(faulty), [AMD64, Platform("linux", "s390x")])


def problems(tmp_path: Path) -> list[str]:
    check = Check(str(tmp_path / "store"), lambda progress: None, lambda: None)
    return [problem.message for problem in check.problems()]
