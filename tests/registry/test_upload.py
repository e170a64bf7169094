"""One blob to a registry that loses it, lies about it, or knows only half of the specification."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import Cancelled, ProtocolViolation, RegistryError, Unauthorized, Unreachable
from assembler.net.retry import RetryPolicy
from assembler.oci.descriptor import LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.reference import Reference
from assembler.registry.client import RegistryClient
from assembler.registry.configuration import RegistryConfiguration
from assembler.registry.destination import Destination
from assembler.registry.download import fetch_blob
from assembler.registry.source import Stored
from assembler.registry.upload import upload
from assembler.store.uploads import Uploads
from assembler.testing.server import Answer, Asked
from assembler.testing.tokens import Tokens
from tests.registry.faulty import FaultyRegistry
from tests.registry.rules import (
    BLOB as BLOB_PATH,
)
from tests.registry.rules import (
    START,
    TOKEN,
    UPLOAD,
    Action,
    Case,
    amend,
    cut,
    lose_upload,
    reply,
    reset,
    unanswered,
)

CHUNK = 100_000
BIG = os.urandom(1_000_000)
BLOB = Descriptor(LAYER_TAR, Digest.of(BIG), len(BIG))
DIGEST = str(BLOB.digest)


@contextmanager
def connected(home: Path) -> Iterator[RegistryClient]:
    """A client that waits for nothing long."""
    environment = Environment.read({"HOME": str(home)})
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
def client(tmp_path: Path) -> Iterator[RegistryClient]:
    with connected(tmp_path) as found:
        yield found


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(str(tmp_path / "uploads"))


def destination(
    client: RegistryClient,
    registry: FaultyRegistry,
    uploads: Uploads | None = None,
    largest: int = CHUNK,
) -> Destination:
    reference = Reference.parse(f"{registry.host}/app:1")
    repository = client.repository(client.configuration.endpoint(reference), reference)
    return Destination(client, repository, uploads, CHUNK, largest)


def send(
    to: Destination, content: bytes = BIG, mount_from: Sequence[str] = ()
) -> list[tuple[int, int]]:
    """Upload `content`; what progress was told."""
    told: list[tuple[int, int]] = []
    blob = Descriptor(LAYER_TAR, Digest.of(content), len(content))
    source = Stored(blob, lambda blob: io.BytesIO(content))
    upload(to, source, mount_from=mount_from, progress=lambda *bytes: told.append(bytes))
    return told


def sizes(registry: FaultyRegistry, method: str = "PATCH") -> list[int]:
    """The bytes that came with each upload request of that method."""
    return [seen.received for seen in registry.asked(method, UPLOAD)]


def methods(registry: FaultyRegistry) -> str:
    return " ".join(seen.method for seen in registry.log)


def fields(answer: Answer) -> dict[str, str]:
    return dict(answer.fields())


def test_a_blob_that_is_there_is_not_read(client: RegistryClient, faulty: FaultyRegistry) -> None:
    faulty.add_blob("app", BIG)

    def unread(blob: Descriptor) -> io.BytesIO:
        raise AssertionError

    upload(destination(client, faulty), Stored(BLOB, unread))
    assert methods(faulty) == "HEAD"


@pytest.mark.parametrize("status", [401, 403])
def test_who_may_only_write_pushes_without_asking_what_is_there(
    client: RegistryClient, faulty: FaultyRegistry, status: int
) -> None:
    faulty.on("HEAD", BLOB_PATH, reply(status))
    faulty.on("PUT", UPLOAD, amend(status=202))
    send(destination(client, faulty), b"small")
    assert methods(faulty) == "HEAD POST PUT HEAD"
    assert faulty.blob(str(Digest.of(b"small"))) == b"small"


def test_who_may_not_write_is_told_so_by_the_upload(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.on("*", "/v2/*/blobs/*", reply(403))
    with pytest.raises(Unauthorized, match=r"the upload of blob .* was answered with status 403"):
        send(destination(client, faulty), b"small")
    assert methods(faulty) == "HEAD POST"


@pytest.mark.parametrize("content", [b"small", b""])
def test_a_small_blob_takes_two_requests_beside_the_check(
    client: RegistryClient, faulty: FaultyRegistry, content: bytes
) -> None:
    send(destination(client, faulty), content)
    assert methods(faulty) == "HEAD POST PUT"
    assert faulty.blob(str(Digest.of(content))) == content


def test_a_large_blob_goes_by_chunks_that_say_where_they_belong(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    told = send(destination(client, faulty))
    patches = faulty.asked("PATCH")
    assert [seen.header("content-range") for seen in patches] == [
        f"{start}-{start + CHUNK - 1}" for start in range(0, len(BIG), CHUNK)
    ]
    assert {seen.header("content-length") for seen in patches} == {str(CHUNK)}
    assert faulty.blob(DIGEST) == BIG
    assert told == sorted(told) and told[-1] == (len(BIG), len(BIG))


def test_chunks_grow_with_what_has_arrived(client: RegistryClient, faulty: FaultyRegistry) -> None:
    send(destination(client, faulty, largest=400_000))
    assert sizes(faulty) == [100_000, 100_000, 200_000, 400_000, 200_000]
    assert faulty.blob(DIGEST) == BIG


@pytest.mark.parametrize("broken", [False, True])
def test_what_little_is_left_goes_with_the_last_chunk_if_none_has_failed(
    client: RegistryClient, faulty: FaultyRegistry, broken: bool
) -> None:
    if broken:
        faulty.on("PATCH", UPLOAD, reply(503), nth=5)
    content = BIG + b"a little"
    send(destination(client, faulty), content)
    assert sizes(faulty)[-2:] == ([100_000, 8] if broken else [100_000, 100_008])
    assert faulty.blob(str(Digest.of(content))) == content


@pytest.mark.parametrize("fault", [reset(), reply(503), reply(504)])
def test_R8_chunks_do_not_grow_any_more_once_one_broke(
    client: RegistryClient, faulty: FaultyRegistry, fault: Action
) -> None:
    faulty.on("PATCH", UPLOAD, fault, nth=1, at=500_000)
    send(destination(client, faulty, largest=400_000))
    first, second, third, _, *rest = sizes(faulty)
    assert (first, second, third) == (100_000, 100_000, 200_000)
    assert rest and all(size <= 100_000 for size in rest)
    assert faulty.blob(DIGEST) == BIG and faulty.received() <= len(BIG) + 400_000


def test_R8_a_smallest_chunk_is_honoured_by_all_but_the_last(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.minimum = 300_000
    send(destination(client, faulty))
    assert sizes(faulty) == [300_000] * 3 + [100_000]


@pytest.mark.parametrize("form", ["relative", "absolute", "plain", "changing"])
def test_R8_a_location_may_have_any_form(
    client: RegistryClient, faulty: FaultyRegistry, form: str
) -> None:
    faulty.location = form
    send(destination(client, faulty))
    assert faulty.blob(DIGEST) == BIG and faulty.received() == len(BIG)
    assert {seen.status for seen in faulty.log[1:]} == {201, 202}, "no place was missed"


@pytest.mark.parametrize(
    "form", ["ID", "ID?_state=a%3D%3D&empty=", "//HOST/v2/app/blobs/uploads/ID#x"]
)
def test_R8_a_location_is_resolved_as_a_URL(
    client: RegistryClient, faulty: FaultyRegistry, form: str
) -> None:
    def act(case: Case) -> Answer:
        answer = case.honest()
        id = fields(answer)["Location"].rpartition("/")[2].partition("?")[0]
        location = form.replace("ID", id).replace("HOST", faulty.host)
        return replace(answer, headers=fields(answer) | {"Location": location})

    faulty.on("POST", START, act)
    send(destination(client, faulty), b"small")
    put = faulty.log[-1]
    assert put.query["digest"] == str(Digest.of(b"small"))
    assert put.query.get("_state", "") == ("a==" if "_state" in form else "")


@pytest.mark.parametrize("percent", [10, 50, 90, 99])
@pytest.mark.parametrize("kept", [True, False])
def test_R8_after_a_reset_at_most_one_chunk_is_sent_twice(
    client: RegistryClient, faulty: FaultyRegistry, percent: int, kept: bool
) -> None:
    faulty.keeps = kept
    cut = faulty.on("PATCH", UPLOAD, reset(), nth=1, at=len(BIG) * percent // 100)
    send(destination(client, faulty))
    assert cut.fired == 1 and faulty.blob(DIGEST) == BIG
    assert faulty.received() <= len(BIG) + CHUNK
    assert len(faulty.asked("POST")) == 1


@pytest.mark.parametrize(
    "action", [reply(500), reply(408), reply(429, {"Retry-After": "0"}), reply(503, drain=False)]
)
def test_R8_a_refused_chunk_is_sent_again_when_the_registry_was_asked(
    client: RegistryClient, faulty: FaultyRegistry, action: Action
) -> None:
    faulty.on("PATCH", UPLOAD, action, nth=5)
    send(destination(client, faulty))
    assert faulty.blob(DIGEST) == BIG
    assert len(faulty.asked("PATCH")) == len(BIG) // CHUNK + 1
    assert len(faulty.asked("GET", UPLOAD)) == 1


def test_R8_when_the_answer_to_a_chunk_is_lost_it_is_not_sent_again(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.on("PATCH", UPLOAD, unanswered(), nth=5)
    send(destination(client, faulty))
    assert faulty.received(DIGEST) == len(BIG)


def test_R8_a_lost_session_is_begun_anew(client: RegistryClient, faulty: FaultyRegistry) -> None:
    faulty.on("PATCH", UPLOAD, lose_upload(), nth=5)
    send(destination(client, faulty))
    assert faulty.blob(DIGEST) == BIG and len(faulty.asked("POST")) == 2


@pytest.mark.parametrize("nth", [range(3, 100), range(2, 100, 2)], ids=["at once", "amid"])
def test_R8_sessions_that_are_lost_again_and_again_end_in_one_request(
    client: RegistryClient, faulty: FaultyRegistry, nth: range
) -> None:
    faulty.on("PATCH", UPLOAD, lose_upload(), nth=nth)
    send(destination(client, faulty))
    assert sizes(faulty, "PUT")[-1] == len(BIG)


@pytest.mark.parametrize("status", [404, 405, 416, 501])
def test_R8_a_registry_without_chunks_gets_one_request(
    client: RegistryClient, faulty: FaultyRegistry, status: int
) -> None:
    faulty.on("PATCH", UPLOAD, reply(status))
    send(destination(client, faulty))
    assert faulty.blob(DIGEST) == BIG
    assert len(faulty.asked("PATCH")) == 1 and sizes(faulty, "PUT") == [len(BIG)]


def test_R8_a_chunk_that_is_out_of_place_is_put_into_its_place(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.on("PATCH", UPLOAD, reply(416), nth=5)
    send(destination(client, faulty))
    assert faulty.blob(DIGEST) == BIG and len(faulty.asked("POST")) == 1


@pytest.mark.parametrize("lie", ["0-", "0-0", "", "bytes", "5-99", "0-99999999"])
def test_R8_a_range_that_cannot_be_is_not_believed(
    client: RegistryClient, faulty: FaultyRegistry, lie: str
) -> None:
    faulty.on("PATCH", UPLOAD, reply(503), nth=3)
    faulty.on("GET", UPLOAD, amend({"Range": lie}))
    send(destination(client, faulty))
    assert faulty.blob(DIGEST) == BIG
    assert len(faulty.asked("POST")) == 2, "from the beginning, in a new upload"


def test_R8_a_range_that_says_more_than_was_kept_costs_one_more_upload(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    def lying(case: Case) -> Answer:
        answer = case.honest()
        return replace(answer, headers=fields(answer) | {"Range": f"0-{3 * CHUNK - 1}"})

    def trusting(case: Case) -> Answer:
        headers = case.exchange.asked.headers
        headers.pop("content-range")
        return case.honest()

    faulty.on("PATCH", UPLOAD, reply(503), nth=3)
    faulty.on("PATCH", UPLOAD, trusting)
    faulty.on("GET", UPLOAD, lying)
    send(destination(client, faulty))
    assert faulty.blob(DIGEST) == BIG and len(faulty.asked("POST")) == 2


def test_R8_a_chunk_that_the_registry_shortens_is_completed(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    def shortened(case: Case) -> Answer:
        session = faulty.sessions[case.exchange.asked.path.rpartition("/")[2]]
        answer = case.honest()
        session.content = type(session.content)(BIG[:40_000])
        return replace(answer, headers=fields(answer) | {"Range": "0-39999"})

    faulty.on("PATCH", UPLOAD, shortened, nth=1)
    send(destination(client, faulty))
    assert faulty.received(DIGEST) == len(BIG) + 60_000


def test_R8_when_the_last_answer_is_lost_the_blob_is_found(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.on("PUT", UPLOAD, unanswered(), nth=1)
    send(destination(client, faulty))
    assert faulty.received() == len(BIG), "nothing was sent again"


def test_a_limit_on_the_size_of_requests_makes_chunks_smaller(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    content = os.urandom(20 << 20)

    def limited(case: Case) -> Answer:
        if int(case.exchange.asked.header("content-length")) <= 5 << 20:
            return case.honest()
        return reply(413, drain=False)(case)

    faulty.on("PATCH|PUT", UPLOAD, limited)
    send(replace(destination(client, faulty), chunk=32 << 20), content)
    assert faulty.blob(str(Digest.of(content))) == content


def test_a_blob_that_is_not_what_it_says_is_refused_once(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    wrong = Descriptor(LAYER_TAR, Digest.of(b"other"), len(BIG))
    with pytest.raises(ProtocolViolation) as caught:
        upload(destination(client, faulty), Stored(wrong, lambda blob: io.BytesIO(BIG)))
    assert caught.value.status == 400
    assert faulty.received() == len(BIG)


def test_R5_failures_without_progress_end(client: RegistryClient, faulty: FaultyRegistry) -> None:
    faulty.on("PATCH", UPLOAD, reply(503))
    with pytest.raises(Unreachable, match="503"):
        send(destination(client, faulty))


def test_R5_progress_begins_the_count_of_failures_anew(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.on("PATCH", UPLOAD, reply(503), nth=range(1, 1000, 2))
    send(destination(client, faulty))
    assert len(faulty.asked("PATCH")) == 2 * len(BIG) // CHUNK


def test_R10_a_token_that_ends_amid_an_upload_costs_no_byte_of_what_is_there(
    client: RegistryClient,
) -> None:
    with FaultyRegistry(tokens=Tokens(uses=4)) as registry:
        send(destination(client, registry))
        assert registry.blob(DIGEST) == BIG
        assert len(registry.asked("POST", START)) <= 2, "one is the challenge's"


def test_R10_tokens_of_two_seconds_end_by_the_clock_amid_an_upload_and_a_download(
    client: RegistryClient,
) -> None:
    """The token server says that they are good for a minute, and the registry has no leeway."""

    now = 0.0

    def slowly(act: Action, seconds: float) -> Action:
        def later(case: Case) -> Answer:
            nonlocal now
            now += seconds
            return act(case)

        return later

    tokens = Tokens(ttl=2, clock=lambda: now)
    with FaultyRegistry(tokens=tokens) as registry:
        registry.on("PATCH", UPLOAD, slowly(lambda case: case.honest(), 0.3))
        registry.on("GET", BLOB_PATH, slowly(cut(250_000, quietly=True), 0.8))
        to = destination(client, registry)
        send(to)
        assert registry.blob(DIGEST) == BIG and registry.received(DIGEST) == len(BIG)
        ended = [seen for seen in registry.log if seen.status == 401 and _had_token(seen)]
        assert ended, "a token ended amid the upload"
        received = bytearray()
        where = to.repository.reference
        fetch_blob(client, where, BLOB, received.extend, cancellation=client.cancellation)
        assert received == BIG
        again = [seen for seen in registry.log if seen.status == 401 and _had_token(seen)]
        assert len(again) > len(ended), "a token ended amid the download"
        assert len(again) < len(tokens.given), "each refusal brings one token"


def _had_token(seen: Asked) -> bool:
    return seen.header("authorization").startswith("Bearer ")


def test_R12_a_blob_that_was_stored_as_another_is_refused(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.on("PUT", UPLOAD, amend({"Docker-Content-Digest": str(Digest.of(b"other"))}))
    with pytest.raises(ProtocolViolation, match="another digest"):
        send(destination(client, faulty), b"small")


@pytest.mark.parametrize("status", [200, 202, 204])
def test_R12_another_success_is_one_if_the_blob_is_there(
    client: RegistryClient, faulty: FaultyRegistry, status: int
) -> None:
    faulty.on("PUT", UPLOAD, amend(status=status), nth=1)
    faulty.on("PUT", UPLOAD, reply(status), nth=2)
    send(destination(client, faulty), b"small")
    with pytest.raises(RegistryError, match="not there"):
        send(destination(client, faulty), b"other")


def test_R9_a_blob_of_another_repository_is_mounted(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.add_blob("base", BIG)
    send(destination(client, faulty), mount_from=["base"])
    assert faulty.received() == 0


def test_R9_of_several_repositories_the_one_that_has_the_blob_gives_it(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.add_blob("third", BIG)
    faulty.on("HEAD", "/v2/second/*", reply(403))
    send(destination(client, faulty), mount_from=["first", "second", "third"])
    assert faulty.received() == 0 and len(faulty.asked("POST")) == 1


@pytest.mark.parametrize("status", [202, 400, 401, 403, 404, 405])
def test_R9_a_mount_that_is_refused_becomes_an_upload(
    client: RegistryClient, faulty: FaultyRegistry, status: int
) -> None:
    if status != 202:
        faulty.on("POST", START, reply(status, {"WWW-Authenticate": 'Basic realm="x"'}), nth=1)
    send(destination(client, faulty), mount_from=["base"])
    assert faulty.blob(DIGEST) == BIG
    assert len(faulty.asked("POST")) == (1 if status == 202 else 2)


def test_R9_a_mount_asks_for_a_token_that_reads_the_other_repository(
    client: RegistryClient,
) -> None:
    tokens = Tokens()
    with FaultyRegistry(tokens=tokens) as registry:
        registry.add_blob("base", BIG)
        send(destination(client, registry), mount_from=["base"])
        assert registry.received() == 0
        assert any("repository:base:pull" in " ".join(scopes) for scopes in tokens.asked)


def test_R9_who_gets_no_token_for_the_other_repository_uploads(client: RegistryClient) -> None:
    """The registry's challenge wants it, and the token server refuses all in place of a part."""

    def refused(case: Case) -> Answer:
        return Answer(403) if "base" in case.exchange.asked.target else case.honest()

    def wants_both(case: Case) -> Answer:
        scope = "repository:app:pull,push repository:base:pull"
        challenge = f'Bearer realm="{registry.origin}/token",scope="{scope}"'
        mounts = "mount" in case.exchange.asked.query
        return Answer(401, {"WWW-Authenticate": challenge}) if mounts else case.honest()

    with FaultyRegistry(tokens=Tokens()) as registry:
        registry.on("GET", TOKEN, refused)
        registry.on("POST", START, wants_both)
        registry.add_blob("base", BIG)
        send(destination(client, registry), mount_from=["base"])
        assert registry.blob(DIGEST) == BIG and registry.received() == len(BIG)


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


def test_a_growing_blob_is_sent_while_it_grows(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    source = Growing()
    began = threading.Event()

    def noticed(case: Case) -> Answer:
        began.set()
        return case.honest()

    def make() -> None:
        source.write(BIG[:500_000])
        assert began.wait(60), "sent before it is whole"
        source.write(BIG[500_000:])
        source.finish()

    faulty.on("PATCH", UPLOAD, noticed)
    maker = threading.Thread(target=make)
    maker.start()
    upload(destination(client, faulty), source)
    maker.join()
    assert faulty.blob(DIGEST) == BIG and faulty.received() == len(BIG)


def test_a_growing_blob_that_is_small_is_looked_for_first(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.add_blob("app", b"small")
    source = Growing()
    source.write(b"small")
    source.finish()
    upload(destination(client, faulty), source)
    assert methods(faulty) == "HEAD"


def test_an_upload_that_a_dead_command_began_is_gone_on_with(
    client: RegistryClient, faulty: FaultyRegistry, uploads: Uploads
) -> None:
    faulty.on("PATCH", UPLOAD, reply(403), nth=6)
    with pytest.raises(RegistryError):
        send(destination(client, faulty, uploads))
    send(destination(client, faulty, uploads))
    assert faulty.blob(DIGEST) == BIG
    assert faulty.received() <= len(BIG) + CHUNK
    assert len(faulty.asked("POST")) == 1


def test_an_upload_that_was_cancelled_is_gone_on_with(
    client: RegistryClient, faulty: FaultyRegistry, uploads: Uploads, tmp_path: Path
) -> None:
    def cancelled(case: Case) -> Answer:
        answer = case.honest()
        client.cancellation.cancel(signal.SIGINT)
        return answer

    faulty.on("PATCH", UPLOAD, cancelled, nth=5)
    with pytest.raises(Cancelled):
        send(destination(client, faulty, uploads))
    with connected(tmp_path) as another:
        send(destination(another, faulty, uploads))
    assert faulty.blob(DIGEST) == BIG and faulty.received(DIGEST) == len(BIG)


def test_no_credential_is_remembered(tmp_path: Path, uploads: Uploads) -> None:
    auth = base64.b64encode(b"me:secret-canary").decode()
    with FaultyRegistry(users={"me": "secret-canary"}) as registry:
        (tmp_path / ".docker").mkdir()
        document = {"auths": {registry.host: {"auth": auth}}}
        (tmp_path / ".docker/config.json").write_text(json.dumps(document))
        registry.on("PATCH", UPLOAD, reply(403), nth=3)
        with connected(tmp_path) as client, pytest.raises(RegistryError):
            send(destination(client, registry, uploads))
    [entry] = (tmp_path / "uploads").iterdir()
    text = entry.read_text()
    assert registry.host in text and "canary" not in text and auth not in text


@pytest.mark.parametrize("action", [lose_upload(), reply(500), reply(200, {"Range": "0-5"})])
def test_an_upload_that_the_registry_forgot_is_begun_anew(
    client: RegistryClient, faulty: FaultyRegistry, uploads: Uploads, action: Action
) -> None:
    faulty.on("PATCH", UPLOAD, reply(403), nth=3)
    with pytest.raises(RegistryError):
        send(destination(client, faulty, uploads))
    faulty.on("GET", UPLOAD, action)
    send(destination(client, faulty, uploads))
    assert faulty.blob(DIGEST) == BIG


def test_two_uploads_of_a_blob_at_once_do_not_share_a_session(
    client: RegistryClient, faulty: FaultyRegistry, uploads: Uploads
) -> None:
    threads = [
        threading.Thread(target=send, args=(destination(client, faulty, uploads),))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faulty.blob(DIGEST) == BIG
    assert all(seen.status in (200, 201, 202, 404) for seen in faulty.log)
