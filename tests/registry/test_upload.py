"""One blob to a registry that loses it, lies about it, or knows only half of the specification."""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import ProtocolViolation, RegistryError, Unreachable
from assembler.net.retry import RetryPolicy
from assembler.oci.descriptor import LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.reference import Reference
from assembler.registry.client import RegistryClient
from assembler.registry.configuration import RegistryConfiguration
from assembler.registry.upload import Destination, Stored, upload
from assembler.store.uploads import Uploads
from assembler.testing import Answer, Asked, MemoryRegistry

CHUNK = 100_000
BIG = os.urandom(1_000_000)
BLOB = Descriptor(LAYER_TAR, Digest.of(BIG), len(BIG))
Fault = Callable[[Asked], Answer | None]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[RegistryClient]:
    environment = Environment.read({"HOME": str(tmp_path)})
    configuration = RegistryConfiguration.read(environment, frozenset())
    quick = RetryPolicy(first=0.001, cap=0.002)
    with (
        Cancellation() as cancellation,
        RegistryClient(
            environment, configuration, cancellation=cancellation, policy=quick
        ) as found,
    ):
        yield found


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(str(tmp_path / "uploads"))


def destination(
    client: RegistryClient, registry: MemoryRegistry, uploads: Uploads | None = None
) -> Destination:
    reference = Reference.parse(f"{registry.host}/app:1")
    repository = client.repository(client.configuration.endpoint(reference), reference)
    return Destination(client, repository, uploads, CHUNK)


def send(
    to: Destination, content: bytes = BIG, mount_from: Sequence[str] = ()
) -> list[tuple[int, int]]:
    """Upload `content`; what progress was told."""
    told: list[tuple[int, int]] = []
    blob = Descriptor(LAYER_TAR, Digest.of(content), len(content))
    with Stored(blob, lambda blob: io.BytesIO(content)) as source:
        upload(to, source, mount_from=mount_from, progress=lambda *bytes: told.append(bytes))
    return told


def body_bytes(registry: MemoryRegistry) -> int:
    return sum(len(asked.body) for asked in registry.asked)


def methods(registry: MemoryRegistry) -> str:
    return " ".join(asked.method for asked in registry.asked)


@dataclass
class Once:
    """Answers the first request that `wanted` is true of by `answer`, and lets all others pass."""

    wanted: Callable[[Asked], bool]
    answer: Callable[[Asked], Answer]
    met: list[Asked] = field(default_factory=list)

    def __call__(self, asked: Asked) -> Answer | None:
        if self.met or not self.wanted(asked):
            return None
        self.met.append(asked)
        return self.answer(asked)


def nth(method: str, number: int) -> Callable[[Asked], bool]:
    """Whether this is the request number `number`, from 1, of that method."""
    seen: list[Asked] = []

    def wanted(asked: Asked) -> bool:
        if asked.method == method:
            seen.append(asked)
        return asked.method == method and len(seen) == number

    return wanted


def test_a_blob_that_is_there_is_not_read(client: RegistryClient) -> None:
    with MemoryRegistry() as registry:
        send(destination(client, registry))
        registry.asked.clear()

        def unread(blob: Descriptor) -> io.BytesIO:
            raise AssertionError

        with Stored(BLOB, unread) as source:
            upload(destination(client, registry), source)
        assert methods(registry) == "HEAD"


def test_a_small_blob_takes_two_requests_beside_the_check(client: RegistryClient) -> None:
    with MemoryRegistry() as registry:
        send(destination(client, registry), b"small")
        assert methods(registry) == "HEAD POST PUT"


def test_an_empty_blob_is_sent(client: RegistryClient) -> None:
    with MemoryRegistry() as registry:
        send(destination(client, registry), b"")
        assert str(Digest.of(b"")) in registry.blobs


def test_a_large_blob_goes_by_chunks_that_say_where_they_belong(client: RegistryClient) -> None:
    with MemoryRegistry() as registry:
        told = send(destination(client, registry))
        patches = [asked for asked in registry.asked if asked.method == "PATCH"]
        assert [asked.headers["content-range"] for asked in patches] == [
            f"{start}-{start + CHUNK - 1}" for start in range(0, len(BIG), CHUNK)
        ]
        assert {asked.headers["content-length"] for asked in patches} == {str(CHUNK)}
        assert registry.blobs[str(BLOB.digest)] == BIG
        assert told == sorted(told) and told[-1] == (len(BIG), len(BIG))


def test_R8_a_smallest_chunk_is_honoured_by_all_but_the_last(client: RegistryClient) -> None:
    least = 300_000

    def fault(asked: Asked) -> Answer | None:
        if asked.method != "POST":
            return None
        registry.uploads["x"] = b""
        where = {"Location": "/v2/app/blobs/uploads/x", "OCI-Chunk-Min-Length": str(least)}
        return Answer(202, where)

    with MemoryRegistry(fault) as registry:
        send(destination(client, registry))
        lengths = [len(asked.body) for asked in registry.asked if asked.method == "PATCH"]
        assert all(length >= least for length in lengths[:-1])
        assert registry.blobs[str(BLOB.digest)] == BIG


@pytest.mark.parametrize(
    "location",
    [
        "x",
        "/v2/app/blobs/uploads/x",
        "/v2/app/blobs/uploads/x?_state=a%3D%3D",
        "/v2/app/blobs/uploads/x?digest-of=me&empty=",
        "http://HOST/v2/app/blobs/uploads/x",
        "http://HOST/v2/other/blobs/uploads/x?_state=b",
        "//HOST/v2/app/blobs/uploads/x#part",
    ],
)
def test_R8_a_location_may_have_any_form(client: RegistryClient, location: str) -> None:
    with MemoryRegistry() as registry:

        def fault(asked: Asked) -> Answer | None:
            if asked.method != "POST":
                return None
            registry.uploads["x"] = b""
            return Answer(202, {"Location": location.replace("HOST", registry.host)})

        registry.fault = fault
        send(destination(client, registry), b"small")
        put = registry.asked[-1]
        assert put.query["digest"] == str(Digest.of(b"small"))
        wanted = dict(re.findall(r"[?&](\w[\w-]*)=(\w*)", location))
        assert {name: put.query.get(name, "")[:1] for name in wanted} == {
            name: value[:1] for name, value in wanted.items()
        }


@pytest.mark.parametrize("percent", [10, 50, 90, 99])
def test_R8_after_a_reset_at_most_one_chunk_is_sent_twice(
    client: RegistryClient, percent: int
) -> None:
    at = len(BIG) * percent // 100

    def half_received(asked: Asked) -> Answer:
        id = asked.path.rpartition("/")[2]
        registry.uploads[id] += asked.body[: at - len(registry.uploads[id])]
        return Answer(503)

    once = Once(nth("PATCH", at // CHUNK + 1), half_received)
    with MemoryRegistry(once) as registry:
        send(destination(client, registry))
        assert once.met and registry.blobs[str(BLOB.digest)] == BIG
        assert body_bytes(registry) <= len(BIG) + CHUNK


def test_R8_a_registry_that_lost_the_broken_chunk_gets_that_one_again(
    client: RegistryClient,
) -> None:
    with MemoryRegistry(Once(nth("PATCH", 5), lambda asked: Answer(502))) as registry:
        send(destination(client, registry))
        assert body_bytes(registry) == len(BIG) + CHUNK


def test_R8_a_lost_session_is_begun_anew(client: RegistryClient) -> None:
    def lose(asked: Asked) -> Answer:
        registry.uploads.clear()
        return Answer(404)

    with MemoryRegistry(Once(nth("PATCH", 5), lose)) as registry:
        send(destination(client, registry))
        assert registry.blobs[str(BLOB.digest)] == BIG
        assert body_bytes(registry) == len(BIG) + 5 * CHUNK


def test_R8_sessions_that_are_lost_again_and_again_end_in_one_request(
    client: RegistryClient,
) -> None:
    def fault(asked: Asked) -> Answer | None:
        if asked.method == "PATCH" and asked.headers["content-range"].startswith("200000-"):
            registry.uploads.clear()
        return None

    with MemoryRegistry(fault) as registry:
        send(destination(client, registry))
        assert registry.asked[-1].method == "PUT" and len(registry.asked[-1].body) == len(BIG)


@pytest.mark.parametrize("status", [404, 405, 416, 501])
def test_R8_a_registry_without_chunks_gets_one_request(client: RegistryClient, status: int) -> None:
    def fault(asked: Asked) -> Answer | None:
        return Answer(status) if asked.method == "PATCH" else None

    with MemoryRegistry(fault) as registry:
        send(destination(client, registry))
        assert registry.blobs[str(BLOB.digest)] == BIG
        assert body_bytes(registry) == len(BIG) + CHUNK


@pytest.mark.parametrize("lie", ["0-", "0-0", "", "bytes", "5-99", "0-99999999"])
def test_R8_a_range_that_cannot_be_is_not_believed(client: RegistryClient, lie: str) -> None:
    def fault(asked: Asked) -> Answer | None:
        if asked.method == "GET":
            return Answer(204, {"Range": lie, "Location": asked.path})
        return broken(asked)

    broken = Once(nth("PATCH", 3), lambda asked: Answer(503))
    with MemoryRegistry(fault) as registry:
        send(destination(client, registry))
        assert registry.blobs[str(BLOB.digest)] == BIG
        assert body_bytes(registry) == len(BIG) + 3 * CHUNK, "from the beginning, in a new upload"


def test_R8_a_range_that_says_more_than_was_kept_costs_one_more_upload(
    client: RegistryClient,
) -> None:
    def fault(asked: Asked) -> Answer | None:
        if asked.method == "GET":
            return Answer(204, {"Range": f"0-{3 * CHUNK - 1}", "Location": asked.path})
        return broken(asked)

    broken = Once(nth("PATCH", 3), lambda asked: Answer(503))
    with MemoryRegistry(fault) as registry:
        send(destination(client, registry))
        assert registry.blobs[str(BLOB.digest)] == BIG


def test_R8_a_single_chunk_that_the_registry_shortens_is_completed(client: RegistryClient) -> None:
    def shorten(asked: Asked) -> Answer:
        id = asked.path.rpartition("/")[2]
        registry.uploads[id] += asked.body[:40_000]
        return Answer(202, {"Range": "0-39999", "Location": asked.path})

    with MemoryRegistry(Once(nth("PATCH", 1), shorten)) as registry:
        send(destination(client, registry))
        assert body_bytes(registry) == len(BIG) + 60_000


def test_R8_when_the_last_answer_is_lost_the_blob_is_found(client: RegistryClient) -> None:
    def done(asked: Asked) -> Answer:
        registry.fault = None
        registry.respond(asked)
        return Answer(504)

    with MemoryRegistry(Once(nth("PUT", 1), done)) as registry:
        send(destination(client, registry))
        assert body_bytes(registry) == len(BIG), "nothing was sent again"


def test_a_limit_on_the_size_of_requests_makes_chunks_smaller(client: RegistryClient) -> None:
    content = os.urandom(20 << 20)

    def fault(asked: Asked) -> Answer | None:
        return Answer(413) if len(asked.body) > 5 << 20 else None

    with MemoryRegistry(fault) as registry:
        to = destination(client, registry)
        send(Destination(to.client, to.repository, chunk=32 << 20), content)
        assert registry.blobs[str(Digest.of(content))] == content


def test_a_blob_that_is_not_what_it_says_is_refused_once(client: RegistryClient) -> None:
    wrong = Descriptor(LAYER_TAR, Digest.of(b"other"), len(BIG))
    with MemoryRegistry() as registry:
        with (
            Stored(wrong, lambda blob: io.BytesIO(BIG)) as source,
            pytest.raises(ProtocolViolation) as caught,
        ):
            upload(destination(client, registry), source)
        assert caught.value.status == 400
        assert body_bytes(registry) == len(BIG)


def test_R5_failures_without_progress_end(client: RegistryClient) -> None:
    def fault(asked: Asked) -> Answer | None:
        return Answer(503) if asked.method == "PATCH" else None

    with MemoryRegistry(fault) as registry, pytest.raises(Unreachable, match="503"):
        send(destination(client, registry))


def test_R5_progress_begins_the_count_of_failures_anew(client: RegistryClient) -> None:
    def every_other(asked: Asked) -> Answer | None:
        count.append(asked) if asked.method == "PATCH" else None
        return Answer(503) if asked.method == "PATCH" and len(count) % 2 else None

    count: list[Asked] = []
    with MemoryRegistry(every_other) as registry:
        send(destination(client, registry))
        assert len(count) == 2 * len(BIG) // CHUNK


def test_R12_a_blob_that_was_stored_as_another_is_refused(client: RegistryClient) -> None:
    def fault(asked: Asked) -> Answer | None:
        if asked.method != "PUT":
            return None
        return Answer(201, {"Docker-Content-Digest": str(Digest.of(b"other"))})

    with (
        MemoryRegistry(fault) as registry,
        pytest.raises(ProtocolViolation, match="another digest"),
    ):
        send(destination(client, registry), b"small")


@pytest.mark.parametrize("status", [200, 202, 204])
def test_R12_another_success_is_one_if_the_blob_is_there(
    client: RegistryClient, status: int
) -> None:
    def fault(asked: Asked) -> Answer | None:
        if asked.method != "PUT" or not kept:
            return Answer(status) if asked.method == "PUT" else None
        registry.fault = None
        registry.respond(asked)
        return Answer(status)

    kept = True
    with MemoryRegistry(fault) as registry:
        send(destination(client, registry), b"small")
        kept, registry.fault = False, fault
        with pytest.raises(RegistryError, match="not there"):
            send(destination(client, registry), b"other")


def test_R9_a_blob_of_another_repository_is_mounted(client: RegistryClient) -> None:
    with MemoryRegistry() as registry:
        there = Reference.parse(f"{registry.host}/base:1")
        base = client.repository(client.configuration.endpoint(there), there)
        send(Destination(client, base))
        registry.asked.clear()
        send(destination(client, registry), mount_from=["base"])
        assert body_bytes(registry) == 0


@pytest.mark.parametrize("status", [202, 400, 401, 403, 404, 405])
def test_R9_a_mount_that_is_refused_becomes_an_upload(client: RegistryClient, status: int) -> None:
    def fault(asked: Asked) -> Answer | None:
        if "mount" in asked.query and status != 202:
            return Answer(status, {"WWW-Authenticate": 'Basic realm="x"'})
        return None

    with MemoryRegistry(fault) as registry:
        send(destination(client, registry), mount_from=["base"])
        assert registry.blobs[str(BLOB.digest)] == BIG
        posts = [asked for asked in registry.asked if asked.method == "POST"]
        assert len(posts) == (1 if status == 202 else 2)


class Growing:
    """A source that another thread writes."""

    def __init__(self) -> None:
        self.blob: Descriptor | None = None
        self._content = b""
        self._changed = threading.Condition()

    def write(self, piece: bytes) -> None:
        with self._changed:
            self._content += piece
            self._changed.notify_all()

    def finish(self) -> None:
        with self._changed:
            digest = Digest.of(self._content)
            self.blob = Descriptor(LAYER_TAR, digest, len(self._content))
            self._changed.notify_all()

    def available(self, least: int) -> int:
        with self._changed:
            self._changed.wait_for(lambda: self.blob is not None or len(self._content) >= least)
            return len(self._content)

    def read(self, offset: int, most: int) -> bytes:
        self.available(offset + 1)
        return self._content[offset : offset + most]


def test_a_growing_blob_is_sent_while_it_grows(client: RegistryClient) -> None:
    source = Growing()
    began = threading.Event()

    def fault(asked: Asked) -> Answer | None:
        if asked.method == "PATCH":
            began.set()
        return None

    def make() -> None:
        source.write(BIG[:500_000])
        assert began.wait(20), "sent before it is whole"
        source.write(BIG[500_000:])
        source.finish()

    with MemoryRegistry(fault) as registry:
        maker = threading.Thread(target=make)
        maker.start()
        upload(destination(client, registry), source)
        maker.join()
        assert registry.blobs[str(BLOB.digest)] == BIG
        assert body_bytes(registry) == len(BIG)


def test_a_growing_blob_that_is_small_is_looked_for_first(client: RegistryClient) -> None:
    with MemoryRegistry() as registry:
        send(destination(client, registry), b"small")
        source = Growing()
        source.write(b"small")
        source.finish()
        registry.asked.clear()
        upload(destination(client, registry), source)
        assert methods(registry) == "HEAD"


def test_an_upload_that_a_dead_command_began_is_gone_on_with(
    client: RegistryClient, uploads: Uploads
) -> None:
    def dead(asked: Asked) -> Answer | None:
        return (
            Answer(403)
            if asked.method == "PATCH" and asked.headers["content-range"].startswith("500000-")
            else None
        )

    with MemoryRegistry(dead) as registry:
        with pytest.raises(RegistryError):
            send(destination(client, registry, uploads))
        registry.fault = None
        send(destination(client, registry, uploads))
        assert registry.blobs[str(BLOB.digest)] == BIG
        assert body_bytes(registry) == len(BIG) + CHUNK
        assert methods(registry).count("POST") == 1


def test_an_upload_that_the_registry_forgot_is_begun_anew(
    client: RegistryClient, uploads: Uploads
) -> None:
    with MemoryRegistry(lambda asked: Answer(403) if asked.method == "PATCH" else None) as registry:
        with pytest.raises(RegistryError):
            send(destination(client, registry, uploads))
        registry.fault = None
        registry.uploads.clear()
        send(destination(client, registry, uploads))
        assert registry.blobs[str(BLOB.digest)] == BIG
