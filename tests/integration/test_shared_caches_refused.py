"""Shared caches that cannot be used: the build is right, and one line says why (the issue of the cache,
"Bad input"; reliability B14). The registry is in this process; a machine is a store of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from assembler.oci.descriptor import CACHE_CONFIG
from assembler.testing.distribution import sha256
from assembler.testing.memory import MemoryRegistry
from assembler.testing.server import Answer
from tests.conftest import Assemble, environment

pytestmark = pytest.mark.integration

DOCKERFILE = "FROM scratch\nCOPY a /a\nWORKDIR /made\nCOPY b /b\n"
NAME = "team/app-cache"


@dataclass
class Shared:
    """A registry with the cache `NAME:main` of one machine, whose image has the digest `image`."""

    registry: MemoryRegistry
    directory: Path
    image: str = ""

    @property
    def ref(self) -> str:
        return f"{self.registry.host}/{NAME}:main"

    def build(self, machine: str, *options: str) -> Any:
        """Build on `machine`, whose image has the same times as everywhere."""
        env = environment(self.directory / machine, SOURCE_DATE_EPOCH="1700000000")
        command = ("build", "--progress", "plain", *options, str(self.directory / "context"))
        return Assemble(env)(*command)

    @property
    def manifest(self) -> dict[str, Any]:
        """The cache's manifest."""
        found: dict[str, Any] = json.loads(self.registry.manifests[NAME, "main"][1])
        return found

    @property
    def document(self) -> dict[str, Any]:
        """Its configuration."""
        digest = self.manifest["config"]["digest"]
        found: dict[str, Any] = json.loads(self.registry.blobs[digest])
        return found

    def publish(self, content: bytes, kind: str = CACHE_CONFIG, **fields: Any) -> None:
        """Let the tag mean a manifest with the configuration `content`."""
        self.registry.add_blob(NAME, content)
        manifest = self.manifest | fields
        described = {"mediaType": kind, "digest": sha256(content), "size": len(content)}
        manifest |= {"config": described}
        media_type = "application/vnd.oci.image.manifest.v1+json"
        self.registry.add_manifest(NAME, "main", media_type, json.dumps(manifest).encode())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    directory = tmp_path_factory.mktemp("shared")
    context = directory / "context"
    context.mkdir()
    (context / "a").write_bytes(bytes(range(256)) * 100)
    (context / "b").write_bytes(bytes(reversed(range(256))) * 100)
    (context / "Dockerfile").write_text(DOCKERFILE)
    with MemoryRegistry() as registry:
        shared = Shared(registry, directory)
        done = shared.build("one", "--cache-to", f"type=registry,ref={shared.ref},mode=max")
        shared.image = done.stdout.strip()
        yield shared


@pytest.fixture
def shared(made: Shared, tmp_path: Path) -> Iterator[Shared]:
    """What was made once, in a registry of the test's own."""
    with MemoryRegistry() as registry:
        for digest, content in made.registry.blobs.items():
            registry.add_blob(NAME, content)
            assert sha256(content) == digest
        for (_, name), (kind, content) in made.registry.manifests.items():
            registry.add_manifest(NAME, name, kind, content)
        (tmp_path / "context").symlink_to(made.directory / "context")
        yield Shared(registry, tmp_path, made.image)


def steps(done: Any) -> tuple[int, int]:
    """How many steps were taken from a cache only, and how many were not."""
    lines = [line.split() for line in done.stderr.splitlines() if line.startswith("#")]
    ours = {line[0] for line in lines if {"COPY", "WORKDIR"} & set(line)}
    executed = {line[0] for line in lines if line[1] == "DONE"} & ours
    return len(ours - executed), len(executed)


def warnings(done: Any) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("WARNING")]


def test_what_is_in_order_is_used(shared: Shared) -> None:
    done = shared.build("two", "--cache-from", shared.ref)
    assert (steps(done), warnings(done)) == ((3, 0), [])
    assert done.stdout.strip() == shared.image


def answering(status: int) -> Callable[[Shared], None]:
    def break_it(shared: Shared) -> None:
        shared.registry.fault = lambda asked: (
            Answer(status) if "/manifests/" in asked.path else None
        )

    return break_it


def without_tag(shared: Shared) -> None:
    del shared.registry.manifests[NAME, "main"]


def garbled_manifest(shared: Shared) -> None:
    kind, content = shared.registry.manifests[NAME, "main"]
    shared.registry.manifests[NAME, "main"] = kind, content[:-9]


def garbled_document(shared: Shared) -> None:
    shared.publish(b'{"version": 1, "steps": [{]}')


def other_document(shared: Shared) -> None:
    digest = shared.manifest["config"]["digest"]
    shared.registry.blobs[digest] = shared.registry.blobs[digest].replace(b"steps", b"stepz")


def newer_version(shared: Shared) -> None:
    shared.publish(b'{"version": 2, "steps": []}')


def of_buildkit(shared: Shared) -> None:
    shared.publish(b"{}", "application/vnd.buildkit.cacheconfig.v0")


def image_without(shared: Shared) -> None:
    content = b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}'
    shared.publish(content, "application/vnd.oci.image.config.v1+json")


def layer_of(shared: Shared) -> str:
    found: str = shared.document["layers"][0]["blob"]["digest"]
    return found


def missing_blob(shared: Shared) -> None:
    del shared.registry.blobs[layer_of(shared)]


def other_bytes(shared: Shared) -> None:
    digest = layer_of(shared)
    content = shared.registry.blobs[digest]
    shared.registry.blobs[digest] = content[:-1] + bytes([content[-1] ^ 1])


def shorter_blob(shared: Shared) -> None:
    digest = layer_of(shared)
    shared.registry.blobs[digest] = shared.registry.blobs[digest][:-5]


def other_diff_id(shared: Shared) -> None:
    document = shared.document
    document["layers"][0]["diff_id"] = sha256(b"something else")
    shared.publish(json.dumps(document).encode())


def exchanged_layers(shared: Shared) -> None:
    """The right keys lead to wrong bytes, all of which have their digests."""
    document = shared.document
    one, other = document["layers"][:2]
    one["blob"], other["blob"] = other["blob"], one["blob"]
    shared.publish(json.dumps(document).encode())


def no_layer(shared: Shared) -> None:
    document, blob = shared.document, b"no tar in any compression"
    shared.registry.add_blob(NAME, blob)
    described = document["layers"][0]["blob"] | {"digest": sha256(blob), "size": len(blob)}
    document["layers"][0]["blob"] = described
    layers = [*shared.manifest["layers"], described]
    shared.publish(json.dumps(document).encode(), layers=layers)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (answering(500), "500"),
        (answering(403), "403|denied"),
        (without_tag, "not found|no such|has no"),
        (garbled_manifest, "JSON|digest"),
        (garbled_document, "JSON"),
        (other_document, "other bytes than its digest"),
        (newer_version, "version 2, this assemble knows 1"),
        (of_buildkit, "a cache of BuildKit's"),
        (image_without, "an image without a cache in it"),
        (missing_blob, "building again"),
        (other_bytes, "other bytes than its digest.*building again"),
        (shorter_blob, "building again"),
        (other_diff_id, "diff_id.*building again"),
        (exchanged_layers, "diff_id.*building again"),
        (no_layer, "building again"),
    ],
    ids=lambda value: getattr(value, "__qualname__", "").split(".")[0] or None,
)
def test_B14_what_cannot_be_used_is_one_line_and_the_steps_run(
    shared: Shared, break_it: Callable[[Shared], None], said: str
) -> None:
    break_it(shared)
    done = shared.build("two", "--cache-from", shared.ref)
    assert done.stdout.strip() == shared.image
    (line,) = warnings(done)
    assert re.search(said, line), line
    assert steps(done)[1] > 0
    again = shared.build("two", "--cache-from", shared.ref)
    assert (steps(again), warnings(again)) == ((3, 0), [])
