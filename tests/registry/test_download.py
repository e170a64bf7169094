"""Blobs from a registry that breaks off and lies (rules R5, R6, R7, M1, M8, M9)."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import ProtocolViolation, RateLimited, Unreachable
from assembler.net.retry import LIVELY_TRIES, RetryPolicy
from assembler.oci.descriptor import LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.reference import Reference
from assembler.registry.client import RegistryClient
from assembler.registry.configuration import RegistryConfiguration
from assembler.registry.download import PROGRESS, fetch_blob, fetch_part
from assembler.testing.server import Answer, HungUp
from tests.registry.faulty import FaultyRegistry
from tests.registry.rules import Action, amend, cut, reply, reset

BLOB = os.urandom(4_000_000)
SIZE = len(BLOB)
GET = "/v2/app/blobs/*"
PIECE = 64 << 10  # what is on its way when a connection is reset


@pytest.fixture
def client(tmp_path: Path) -> Iterator[RegistryClient]:
    environment = Environment.read({"HOME": str(tmp_path)})
    configuration = RegistryConfiguration.read(environment, frozenset())
    policy = RetryPolicy(first=0.001, cap=0.002)
    with (
        Cancellation() as cancellation,
        RegistryClient(
            environment, configuration, cancellation=cancellation, policy=policy
        ) as found,
    ):
        yield found


def described(content: bytes = BLOB, size: int | None = None, **more: object) -> Descriptor:
    document = Descriptor(LAYER_TAR, Digest.of(content), size or len(content)).to_document()
    return Descriptor.from_document(document | more)


def fetched(client: RegistryClient, registry: FaultyRegistry, blob: Descriptor) -> bytes:
    """The bytes that were handed on; they are right, or there is an error."""
    registry.add_blob("app", BLOB)
    pieces = bytearray()
    where = Reference.parse(f"{registry.host}/app:1")
    fetch_blob(client, where, blob, pieces.extend, cancellation=client.cancellation)
    return bytes(pieces)


@pytest.mark.parametrize("percent", [10, 50, 90, 99])
def test_R6_what_came_before_a_reset_is_not_asked_for_again(
    client: RegistryClient, faulty: FaultyRegistry, percent: int
) -> None:
    pieces = bytearray()
    seen = Descriptor(LAYER_TAR, Digest.of(BLOB), SIZE)
    faulty.add_blob("app", BLOB)
    broken = faulty.on("GET", GET, reset(), nth=1, at=SIZE * percent // 100)
    before: list[int] = []

    def progress(current: int, total: int) -> None:
        before.append(current)

    where = Reference.parse(f"{faulty.host}/app:1")
    fetch_blob(
        client, where, seen, pieces.extend, progress=progress, cancellation=client.cancellation
    )
    assert bytes(pieces) == BLOB
    assert broken.fired == 1
    asked = [seen.header("range") for seen in faulty.asked("GET", GET)]
    assert asked[0] == ""
    # What was in the kernel when the reset came is lost, and may be nothing or all.
    begun = int(asked[1].removeprefix("bytes=").removesuffix("-") or 0)
    assert begun in [0, *before]
    assert faulty.asked("GET", GET)[1].sent == SIZE - begun


@pytest.mark.parametrize("percent", [10, 50, 90, 99])
def test_R6_no_byte_is_sent_twice_after_an_early_end(
    client: RegistryClient, faulty: FaultyRegistry, percent: int
) -> None:
    faulty.on("GET", GET, cut(SIZE * percent // 100, quietly=True), nth=1)
    assert fetched(client, faulty, described()) == BLOB
    assert faulty.sent() == SIZE


def test_R6_a_blob_that_came_whole_needs_no_end(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.on("GET", GET, lambda case: Answer(200, {}, _then_reset()), nth=1)
    assert fetched(client, faulty, described()) == BLOB
    assert len(faulty.asked("GET", GET)) == 1


def _then_reset() -> Iterator[bytes]:
    yield BLOB
    raise HungUp(quietly=True)


def test_R6_attempts_begin_anew_with_every_mebibyte(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    parts = LIVELY_TRIES + 4
    content = os.urandom(parts * (PROGRESS + 1))
    faulty.add_blob("app", content)
    for part in range(1, parts):
        faulty.on("GET", GET, reset(), nth=1, at=part * (PROGRESS + 1))
    assert fetched(client, faulty, described(content)) == content
    assert len(faulty.asked("GET", GET)) == parts


def test_R6_a_connection_that_breaks_at_once_every_time_is_given_up(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.on("GET", GET, cut(1000), nth=range(1, 3))
    faulty.on("GET", GET, reply(503))
    with pytest.raises(Unreachable):
        fetched(client, faulty, described())
    assert len(faulty.asked("GET", GET)) == LIVELY_TRIES


def test_a_registry_that_dies_amid_a_blob_is_an_error_whose_causes_end(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.on("GET", GET, reset(), at=1000)
    with pytest.raises(Unreachable) as caught:
        fetched(client, faulty, described())
    cause = caught.value.__cause__
    while cause is not None:
        assert cause is not caught.value
        cause = cause.__cause__


LIARS: dict[str, Action] = {
    "ignored": lambda case: Answer(200, {"Content-Length": str(SIZE)}, BLOB),
    "other start": amend({"Content-Range": f"bytes 5-{SIZE - 1}/{SIZE}"}),
    "other end": amend({"Content-Range": f"bytes 2000000-{SIZE - 2}/{SIZE}"}),
    "other total": amend({"Content-Range": f"bytes 2000000-{SIZE - 1}/{SIZE + 1}"}),
    "no range": amend({"Content-Range": None}),
    "not satisfiable": reply(416, {"Content-Range": f"bytes */{SIZE}"}),
    "encoded": amend({"Content-Encoding": "gzip"}),
    "short": amend(body=lambda body: body[:-5]),
    "long": amend(body=lambda body: body + b"more!"),
}


@pytest.mark.parametrize("lie", LIARS)
def test_R7_what_is_not_the_range_asked_for_begins_anew_once(
    client: RegistryClient, faulty: FaultyRegistry, lie: str
) -> None:
    faulty.on("GET", GET, cut(SIZE // 2, quietly=True), nth=1)
    faulty.on("GET", GET, LIARS[lie], nth=2)
    assert fetched(client, faulty, described()) == BLOB
    ranges = [seen.header("range") != "" for seen in faulty.asked("GET", GET)]
    assert ranges == ([False, True] if lie == "ignored" else [False, True, False])


@pytest.mark.parametrize("lie", [name for name in LIARS if name not in ("ignored", "long")])
def test_R7_a_registry_that_keeps_lying_is_refused(
    client: RegistryClient, faulty: FaultyRegistry, lie: str
) -> None:
    faulty.on("GET", GET, cut(SIZE // 2, quietly=True), nth=1)
    again = cut(SIZE * 3 // 4, quietly=True)
    faulty.on("GET", GET, again, nth=3)
    faulty.on("GET", GET, LIARS[lie], nth=range(2, 99))
    with pytest.raises(ProtocolViolation):
        fetched(client, faulty, described())
    assert len(faulty.asked("GET", GET)) == 4


@pytest.mark.parametrize("length", [SIZE - 1, SIZE + 1, 0])
def test_R7_a_length_that_is_not_the_blobs_is_asked_about_once_and_refused(
    client: RegistryClient, faulty: FaultyRegistry, length: int
) -> None:
    content = (BLOB + b"x")[:length]
    faulty.on("GET", GET, reply(200, {"Content-Length": str(length)}, content))
    with pytest.raises(ProtocolViolation, match=f"sends {length} bytes"):
        fetched(client, faulty, described())
    assert len(faulty.asked("GET", GET)) == 2


def test_R7_a_chunked_body_that_ends_early_is_gone_on_with(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.on("GET", GET, lambda case: Answer(200, {}, iter([BLOB[: SIZE // 2]])), nth=1)
    assert fetched(client, faulty, described()) == BLOB
    assert [seen.header("range") for seen in faulty.asked("GET", GET)] == [
        "",
        f"bytes={SIZE // 2}-",
    ]


def test_R7_an_encoding_that_was_not_asked_for_is_refused_by_name(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.on(
        "GET", GET, amend({"Content-Encoding": "gzip", "Content-Length": None}, body=gzip.compress)
    )
    with pytest.raises(ProtocolViolation, match="gzip"):
        fetched(client, faulty, described())
    assert {seen.header("accept-encoding") for seen in faulty.asked("GET", GET)} == {"identity"}


def test_R7_an_answer_that_begins_otherwise_than_before_is_not_spliced(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.on("GET", GET, cut(SIZE // 2, quietly=True), nth=1)
    faulty.on("GET", GET, reply(200, {}, b"x" * SIZE), nth=2)
    with pytest.raises(ProtocolViolation, match="others than before"):
        fetched(client, faulty, described())


def test_M1_more_bytes_than_its_size_are_not_read(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(4000):
            yield b"x" * PIECE

    faulty.on("GET", GET, lambda case: Answer(200, {}, endless()))
    with pytest.raises(ProtocolViolation, match="more of them"):
        fetched(client, faulty, described())
    assert faulty.sent() < 4000 * PIECE


def test_M4_a_blob_may_go_by_sha512(client: RegistryClient, faulty: FaultyRegistry) -> None:
    digest = Digest("sha512", hashlib.sha512(BLOB).hexdigest())
    faulty.on("GET", f"/v2/app/blobs/{digest}", reply(200, {}, BLOB), nth=1)
    faulty.on("GET", f"/v2/app/blobs/{digest}", reply(200, {}, b"x" + BLOB[1:]), nth=2)
    blob = Descriptor(LAYER_TAR, digest, SIZE)
    assert fetched(client, faulty, blob) == BLOB
    with pytest.raises(ProtocolViolation, match="other bytes"):
        fetched(client, faulty, blob)


def test_M8_urls_of_foreign_layers_are_not_followed(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    with FaultyRegistry() as elsewhere:
        blob = described(
            mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            urls=[f"{elsewhere.origin}/v2/app/blobs/{Digest.of(BLOB)}"],
        )
        assert fetched(client, faulty, blob) == BLOB
        assert elsewhere.log == []


def test_M9_data_is_used_in_place_of_a_request_if_it_is_right(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    small = b"small"
    right = described(small, data=base64.b64encode(small).decode())
    assert fetched(client, faulty, right) == small
    assert faulty.log == []
    faulty.add_blob("app", small)
    for data in (base64.b64encode(b"wrong").decode(), "not base64!", 7, "A" * 10_000_000):
        assert fetched(client, faulty, described(small, data=data)) == small
    assert len(faulty.asked("GET", GET)) == 4


def test_an_empty_blob_is_not_asked_for(client: RegistryClient, faulty: FaultyRegistry) -> None:
    blob = Descriptor(LAYER_TAR, Digest.of(b""), 0)
    assert fetched(client, faulty, blob) == b""
    with pytest.raises(ProtocolViolation, match="0 bytes"):
        fetched(client, faulty, Descriptor(LAYER_TAR, Digest.of(b"x"), 0))
    assert faulty.log == []


def test_R5_a_registry_asked_too_often_is_waited_for_and_then_named(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.on("GET", GET, reply(429, {"Retry-After": "0"}), nth=range(1, 4))
    assert fetched(client, faulty, described()) == BLOB
    faulty.on("GET", GET, reply(429, {"Retry-After": "0"}))
    with pytest.raises(RateLimited) as caught:
        fetched(client, faulty, described())
    assert "mirror" in caught.value.hint


def test_a_part_is_exactly_what_was_asked_for_or_nothing(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.add_blob("app", BLOB)
    where = Reference.parse(f"{faulty.host}/app:1")

    def part() -> bytes | None:
        return fetch_part(client, where, described(), 1000, 500)

    right = f"bytes 1000-1499/{SIZE}"
    faulty.on("GET", GET, reply(206, {"Content-Range": right}, BLOB[1000:1500]), nth=1)
    faulty.on("GET", GET, reply(206, {"Content-Range": right}, BLOB[1000:1501]), nth=2)
    faulty.on("GET", GET, reply(206, {"Content-Range": "bytes 0-499/9"}, BLOB[:500]), nth=3)
    assert part() == BLOB[1000:1500]
    assert part() is None and part() is None
    faulty.on("GET", GET, reply(200, {}, BLOB))
    assert part() is None
