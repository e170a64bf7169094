"""Blobs that are read while they arrive."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import AssemblerError, NotFound
from assembler.net.retry import RetryPolicy
from assembler.oci.descriptor import LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.reference import Reference
from assembler.registry.arrivals import Arrivals
from assembler.registry.client import RegistryClient
from assembler.registry.configuration import RegistryConfiguration
from assembler.registry.parallel import JOBS
from assembler.testing.server import Answer
from tests.registry.faulty import FaultyRegistry
from tests.registry.rules import reply

GET = "/v2/app/blobs/*"
BLOB = os.urandom(1_000_000)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[RegistryClient]:
    environment = Environment.read({"HOME": str(tmp_path)})
    configuration = RegistryConfiguration.read(environment)
    policy = RetryPolicy(first=0.001, cap=0.002)
    with (
        Cancellation() as cancellation,
        RegistryClient(
            environment, configuration, cancellation=cancellation, policy=policy
        ) as found,
    ):
        yield found


def blob(registry: FaultyRegistry, content: bytes = BLOB) -> Descriptor:
    registry.add_blob("app", content)
    return Descriptor(LAYER_TAR, Digest.of(content), len(content))


def arrivals(
    client: RegistryClient, registry: FaultyRegistry, tmp_path: Path, *, keep: bool = False
) -> Arrivals:
    where = Reference.parse(f"{registry.host}/app:1")
    return Arrivals(client, where, str(tmp_path), client.cancellation, keep=keep)


def test_a_blob_is_fetched_once_however_often_it_is_opened(
    client: RegistryClient, faulty: FaultyRegistry, tmp_path: Path
) -> None:
    wanted = blob(faulty)
    with arrivals(client, faulty, tmp_path) as coming:
        for offset in (0, 400_000, 999_999):
            with coming.open(wanted) as stream:
                stream.seek(offset)
                assert stream.read() == BLOB[offset:]
        with coming.open(wanted) as one, coming.open(wanted) as other:
            assert one.read() == other.read() == BLOB
    assert len(faulty.asked("GET", GET)) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_has_come_can_be_read_and_the_last_byte_waits_for_the_digest(
    client: RegistryClient, faulty: FaultyRegistry, tmp_path: Path
) -> None:
    wanted, go_on = blob(faulty), threading.Event()

    def slowly() -> Iterator[bytes]:
        yield BLOB[:300_000]
        assert go_on.wait(60)
        yield BLOB[300_000:-1] + bytes([BLOB[-1] ^ 1])

    faulty.on("GET", GET, lambda case: Answer(200, {}, slowly()))
    with arrivals(client, faulty, tmp_path) as coming, coming.open(wanted) as stream:
        assert stream.read(1) == BLOB[:1]
        go_on.set()
        with pytest.raises(AssemblerError, match="other bytes"):
            stream.read()


def test_a_blob_that_failed_is_fetched_again_when_it_is_opened_again(
    client: RegistryClient, faulty: FaultyRegistry, tmp_path: Path
) -> None:
    wanted = blob(faulty)
    faulty.on("GET", GET, reply(404), nth=1)
    with arrivals(client, faulty, tmp_path) as coming:
        with coming.open(wanted) as stream, pytest.raises(NotFound):
            stream.read()
        with coming.open(wanted) as stream:
            assert stream.read() == BLOB


@pytest.mark.parametrize(("keep", "fetched_again"), [(False, True), (True, False)])
def test_a_few_unread_blobs_stay_or_all(
    client: RegistryClient,
    faulty: FaultyRegistry,
    tmp_path: Path,
    keep: bool,
    fetched_again: bool,
) -> None:
    wanted = [blob(faulty, bytes([n]) * 1000) for n in range(JOBS + 2)]
    with arrivals(client, faulty, tmp_path, keep=keep) as coming:
        for each in (*wanted, wanted[0]):
            with coming.open(each) as stream:
                assert len(stream.read()) == 1000
    assert len(faulty.asked("GET", GET)) == len(wanted) + fetched_again


def test_nobody_waits_for_what_nobody_reads(
    client: RegistryClient, faulty: FaultyRegistry, tmp_path: Path
) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield BLOB[:1000]

    huge = Descriptor(LAYER_TAR, Digest.of(b"huge"), 1 << 50)
    faulty.on("GET", GET, lambda case: Answer(200, {}, endless()))
    with arrivals(client, faulty, tmp_path) as coming, coming.open(huge) as stream:
        assert stream.read(10) == BLOB[:10]


def test_an_empty_blob_has_no_bytes(
    client: RegistryClient, faulty: FaultyRegistry, tmp_path: Path
) -> None:
    with arrivals(client, faulty, tmp_path) as coming, coming.open(blob(faulty, b"")) as stream:
        assert stream.read() == b""
