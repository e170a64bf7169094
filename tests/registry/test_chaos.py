"""Every request fails with probability 0.3, and pushes and pulls end right all the same.

`benchmarks/registry.py rounds` plays fifty rounds.
"""

from __future__ import annotations

import io
import random
import tempfile

import pytest

from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.net.retry import RetryPolicy
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
from assembler.registry.push import push_image
from tests.registry.faulty import FaultyRegistry
from tests.registry.rules import Chaos

LINUX = Platform("linux", "amd64")
SIZES = (10, 100_000, 300_000, 1_000_000)
PROBABILITY = 0.3


def one_round(seed: int, most: int = 1 << 30) -> int:
    """Push an image, and pull it, through a registry in chaos, where no request fails more than
    `most` times in a row; how many requests failed. Raises what the client raises."""
    numbers = random.Random(seed)
    blobs = {Digest.of(content): content for content in map(numbers.randbytes, SIZES)}
    layers = tuple(
        Layer(Descriptor(LAYER_TAR, digest, len(content)), digest)
        for digest, content in blobs.items()
    )
    image = Image.create(ImageConfig(LINUX, Execution(cmd=("x",)), tuple(blobs)), layers)
    config = {image.manifest.config.digest: image.config_content}
    chaos = Chaos(PROBABILITY, seed, most)
    policy = RetryPolicy(first=0.001, cap=0.002)
    with (
        tempfile.TemporaryDirectory() as home,
        FaultyRegistry(chaos=chaos) as registry,
        Cancellation() as cancellation,
    ):
        environment = Environment.read({"HOME": home})
        configuration = RegistryConfiguration.read(environment, frozenset())
        with RegistryClient(
            environment, configuration, cancellation=cancellation, policy=policy
        ) as client:
            reference = Reference.parse(f"{registry.host}/team/app:1")
            push_image(
                client, [reference], image,
                lambda blob: io.BytesIO((blobs | config)[blob.digest]), cancellation=cancellation,
            )  # fmt: skip
            assert registry.blob(str(image.manifest.config.digest)) == image.config_content
            assert registry.tags("team/app") == ["1"]
            found = resolve(client, reference, LINUX)
            assert found.manifest.descriptor.digest == image.digest
            for layer in found.manifest.layers:
                pieces: list[bytes] = []
                fetch_blob(
                    client, reference, layer, pieces.append,
                    progress=lambda current, total: None, cancellation=cancellation,
                )  # fmt: skip
                assert b"".join(pieces) == blobs[layer.digest]
    return sum(chaos.failures.values())


@pytest.mark.parametrize("seed", range(5))
def test_a_push_and_a_pull_end_right_though_every_request_may_fail(seed: int) -> None:
    assert one_round(seed, RetryPolicy().tries - 1) > 0
