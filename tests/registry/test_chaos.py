"""Every request fails with probability 0.3, and pushes and pulls end right all the same.

`benchmarks/registry.py rounds` plays fifty rounds.
"""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.net.retry import LIVELY_TRIES, RetryPolicy
from assembler.oci.config import Execution, ImageConfig
from assembler.oci.descriptor import LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer
from assembler.oci.platform import Platform
from assembler.oci.reference import Reference
from assembler.registry.client import RegistryClient
from assembler.registry.configuration import RegistryConfiguration
from assembler.registry.download import fetch_blob
from assembler.registry.pull import resolve
from assembler.registry.push import push
from tests.registry.faulty import FaultyRegistry
from tests.registry.rules import BLOB, UPLOAD, Chaos, reply, reset

LINUX = Platform("linux", "amd64")
SIZES = (10, 100_000, 300_000, 1_000_000)
PROBABILITY = 0.3


def image(*contents: bytes) -> tuple[Image, dict[Digest, bytes]]:
    """An image of these layers, and its blobs."""
    blobs = {Digest.of(content): content for content in contents}
    layers = tuple(
        Layer(Descriptor(LAYER_TAR, digest, len(content)), digest)
        for digest, content in blobs.items()
    )
    made = Image.create(ImageConfig(LINUX, Execution(cmd=("x",)), tuple(blobs)), layers)
    return made, blobs | {made.manifest.config.digest: made.config_content}


@contextmanager
def site(chaos: Chaos | None = None) -> Iterator[tuple[RegistryClient, FaultyRegistry, list[str]]]:
    """A registry, a client that waits for no time that counts, and what it tells of that."""
    policy = RetryPolicy(first=0.001, cap=0.002)
    told: list[str] = []
    with (
        tempfile.TemporaryDirectory() as home,
        FaultyRegistry(chaos=chaos) as registry,
        Cancellation() as cancellation,
    ):
        environment = Environment.read({"HOME": home})
        configuration = RegistryConfiguration.read(environment, frozenset())
        with RegistryClient(
            environment, configuration, cancellation=cancellation, policy=policy, warn=told.append
        ) as client:
            yield client, registry, told


def one_round(seed: int, most: int = 1 << 30) -> int:
    """Push an image, and pull it, through a registry in chaos, where no request fails more than
    `most` times in a row; how many requests failed. Raises what the client raises."""
    made, blobs = image(*map(random.Random(seed).randbytes, SIZES))
    chaos = Chaos(PROBABILITY, seed, most)
    with site(chaos) as (client, registry, _):
        reference = Reference.parse(f"{registry.host}/team/app:1")
        push(
            client, [reference], made.manifest, lambda blob: io.BytesIO(blobs[blob.digest]),
            cancellation=client.cancellation,
        )  # fmt: skip
        assert registry.blob(str(made.manifest.config.digest)) == made.config_content
        assert registry.tags("team/app") == ["1"]
        found = resolve(client, reference, LINUX)
        assert found.manifest.descriptor.digest == made.digest
        for layer in found.manifest.layers:
            pieces = bytearray()
            fetch_blob(
                client, reference, layer, pieces.extend,
                progress=lambda current, total: None, cancellation=client.cancellation,
            )  # fmt: skip
            assert pieces == blobs[layer.digest]
    return sum(chaos.failures.values())


@pytest.mark.parametrize("seed", range(5))
def test_a_push_and_a_pull_end_right_though_every_request_may_fail(seed: int) -> None:
    assert one_round(seed, LIVELY_TRIES - 1) > 0


def test_R8_an_upload_that_breaks_again_and_again_but_moves_on_comes_to_its_end() -> None:
    breaks = [reset() for _ in range(4 * LIVELY_TRIES)]
    content = random.Random(0).randbytes(2_000_000)
    with site() as (client, registry, _):
        for number, action in enumerate(breaks, 1):
            registry.on("PATCH|PUT", UPLOAD, action, at=number * 30_000, nth=1)
        reference = Reference.parse(f"{registry.host}/team/app:1")
        made, blobs = image(content)
        push(
            client, [reference], made.manifest, lambda blob: io.BytesIO(blobs[blob.digest]),
            cancellation=client.cancellation,
        )  # fmt: skip
        assert all(rule.fired == 1 for rule in registry.rules)
        assert registry.blob(str(Digest.of(content))) == content
        assert registry.received(str(Digest.of(content))) == len(content)


def test_what_is_tried_again_is_told_with_the_reason() -> None:
    content = b"a layer"
    with site() as (client, registry, told):
        registry.on("HEAD", BLOB, reply(503, {"Retry-After": "0"}), nth=1)
        registry.on("PUT", UPLOAD, reset(), nth=1)
        reference = Reference.parse(f"{registry.host}/team/app:1")
        made, blobs = image(content)
        push(
            client, [reference], made.manifest, lambda blob: io.BytesIO(blobs[blob.digest]),
            cancellation=client.cancellation, jobs=1,
        )  # fmt: skip
        registry.on("GET", BLOB, reply(429, {"Retry-After": "0"}), nth=1)
        (layer,) = made.manifest.layers
        fetch_blob(
            client, reference, layer, lambda piece: None,
            progress=lambda current, total: None, cancellation=client.cancellation,
        )  # fmt: skip
    check, upload, pull = told
    assert registry.host in check and "the check for blob" in check and "503" in check
    assert check.endswith("; trying again in 0.0 s")
    assert "the upload of blob" in upload and "the connection broke" in upload
    assert "blob" in pull and "429" in pull
