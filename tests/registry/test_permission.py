"""Who may not push is told so before there is anything to push; nobody else is."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import (
    Cancelled,
    NotFound,
    ProtocolViolation,
    RegistryError,
    Unauthorized,
    Unreachable,
)
from assembler.net import dial
from assembler.net.failure import Cause
from assembler.net.retry import RetryPolicy
from assembler.oci.descriptor import LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.reference import Reference
from assembler.registry.client import RegistryClient
from assembler.registry.configuration import RegistryConfiguration
from assembler.registry.destination import Destination
from assembler.registry.permission import forget, refusal
from assembler.registry.source import Stored
from assembler.registry.upload import upload
from assembler.testing.tokens import Tokens
from tests.registry.certificates import Authority
from tests.registry.faulty import FaultyRegistry
from tests.registry.rules import START, TOKEN, UPLOAD, Action, amend, reply, reset

BLOB = Descriptor(LAYER_TAR, Digest.of(b"a layer"), 7)
DENIED = b'{"errors":[{"code":"DENIED","message":"not yours"}]}'
UNSUPPORTED = b'{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}'


@pytest.fixture
def warned() -> list[str]:
    return []


@pytest.fixture
def client(tmp_path: Path, warned: list[str]) -> Iterator[RegistryClient]:
    environment = Environment.read({"HOME": str(tmp_path)})
    configuration = RegistryConfiguration.read(environment, frozenset())
    quick = RetryPolicy(first=0.001, cap=0.002)
    with (
        Cancellation() as cancellation,
        RegistryClient(
            environment,
            configuration,
            cancellation=cancellation,
            policy=quick,
            warn=warned.append,
        ) as found,
    ):
        yield found


def name_in(registry: FaultyRegistry) -> Reference:
    return Reference.parse(f"{registry.host}/team/app:1")


def send(client: RegistryClient, reference: Reference, content: bytes) -> None:
    repository = client.repository(client.configuration.endpoint(reference), reference)
    blob = Descriptor(LAYER_TAR, Digest.of(content), len(content))
    upload(Destination(client, repository), Stored(blob, lambda blob: io.BytesIO(content)))


def told_by_upload(client: RegistryClient, reference: Reference) -> RegistryError:
    """What sending a blob there ends with."""
    with pytest.raises(RegistryError) as caught:
        send(client, reference, b"a layer")
    return caught.value


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, DENIED, Unauthorized),
        (403, DENIED, Unauthorized),
        (404, DENIED, NotFound),
        (405, UNSUPPORTED, ProtocolViolation),
    ],
)
def test_a_refusal_is_what_the_push_would_say(
    client: RegistryClient,
    faulty: FaultyRegistry,
    status: int,
    body: bytes,
    kind: type[RegistryError],
) -> None:
    faulty.on("POST", START, reply(status, {}, body))
    error = refusal(client, name_in(faulty))
    assert isinstance(error, kind) and error.status == status and error.hint
    assert f"{faulty.host}/team/app: the upload of a layer" in error.message
    assert json.loads(body)["errors"][0]["message"] in error.message
    pushed = told_by_upload(client, name_in(faulty))
    assert pushed.message.replace(f"blob {BLOB.digest}", "a layer") == error.message
    assert (type(pushed), pushed.hint) == (type(error), error.hint)
    assert not faulty.asked("DELETE")


@pytest.mark.parametrize("location", ["relative", "absolute", "plain", "changing"])
def test_the_upload_that_it_opened_is_gone_on_with_by_the_first_blob(
    client: RegistryClient, faulty: FaultyRegistry, location: str
) -> None:
    faulty.location = location
    assert refusal(client, name_in(faulty)) is None
    for content in (b"one", b"two"):
        send(client, name_in(faulty), content)
    forget(client)
    assert [one.method for one in faulty.log] == ["POST", "HEAD", "PUT", "HEAD", "POST", "PUT"]
    assert not faulty.sessions and len(faulty.contents) == 2


@pytest.mark.parametrize("location", ["relative", "absolute", "plain", "changing"])
def test_an_upload_that_nobody_went_on_with_is_given_up(
    client: RegistryClient, faulty: FaultyRegistry, location: str
) -> None:
    faulty.location = location
    assert refusal(client, name_in(faulty)) is refusal(client, name_in(faulty)) is None
    assert len(faulty.sessions) == 1, "the second is given up at once"
    for _ in range(2):
        forget(client)
    assert [one.method for one in faulty.log] == ["POST", "POST", "DELETE", "DELETE"]
    assert not faulty.sessions


@pytest.mark.parametrize("status", [404, 405, 500, 503])
def test_a_registry_where_uploads_cannot_be_given_up_is_left_alone(
    client: RegistryClient, faulty: FaultyRegistry, warned: list[str], status: int
) -> None:
    faulty.on("DELETE", UPLOAD, reply(status))
    assert refusal(client, name_in(faulty)) is None
    forget(client)
    assert len(faulty.asked("DELETE")) == 1 and not warned


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416, 500])
def test_R8_an_upload_that_has_ended_meanwhile_is_opened_anew(
    client: RegistryClient, faulty: FaultyRegistry, status: int
) -> None:
    """A location may be good for a while only, as those that are signed are."""
    assert refusal(client, name_in(faulty)) is None
    session = next(iter(faulty.sessions))
    faulty.sessions.clear()
    faulty.on("*", f"/v2/*/blobs/uploads/{session}*", reply(status))
    send(client, name_in(faulty), b"one")
    assert faulty.blob(str(Digest.of(b"one"))) == b"one"
    assert len(faulty.asked("POST")) == 2 and not faulty.sessions


@pytest.mark.parametrize(
    "action",
    [
        *(reply(status) for status in (200, 201, 202, 204, 400, 409, 413, 422, 429, 500, 503, 507)),
        reply(405, {}, b"Method not allowed\n"),  # docker-registry while it collects garbage
        amend({"Location": None}),
        amend({"Location": "http://[/"}),
        reset(),
        reply(200, {"Content-Type": "text/html"}, b"<html>welcome</html>"),
    ],
)
def test_what_may_pass_and_what_is_strange_is_no_refusal(
    client: RegistryClient, faulty: FaultyRegistry, action: Action
) -> None:
    faulty.on("POST", START, action)
    assert refusal(client, name_in(faulty)) is None
    assert faulty.asked("POST")


def test_R10_a_token_that_was_given_proves_nothing_and_one_that_was_not_does(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    """hub-feedback#1771: Docker Hub gives one to whoever asks."""
    faulty.tokens = Tokens(users={"me": "secret"}, anonymous=frozenset({"pull"}))
    error = refusal(client, name_in(faulty))
    assert isinstance(error, Unauthorized) and "assemble login" in error.hint
    assert len(faulty.tokens.asked) == 1
    faulty.on("GET", TOKEN, reply(503), nth=range(1, 100))
    assert refusal(client, Reference.parse(f"{faulty.host}/other:1")) is None


def test_R10_a_token_server_that_refuses_is_a_refusal(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.tokens = Tokens()
    faulty.on("GET", TOKEN, reply(403, {}, DENIED))
    error = refusal(client, name_in(faulty))
    assert isinstance(error, Unauthorized) and "not yours" in error.message


def test_the_token_that_it_got_is_good_for_the_push(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.tokens = Tokens()
    assert refusal(client, name_in(faulty)) is None
    send(client, name_in(faulty), b"a layer")
    assert len(faulty.tokens.asked) == 1


def test_RG16_a_certificate_that_nobody_knows_is_a_refusal(
    client: RegistryClient, tmp_path: Path
) -> None:
    authority = Authority.create(tmp_path)
    with FaultyRegistry(tls=authority.server()) as registry:
        reference = Reference.parse(f"{registry.host}/app:1")
        client.configuration = RegistryConfiguration(tls_verify=True)
        error = refusal(client, reference)
    assert isinstance(error, Unreachable) and error.cause == Cause.UNKNOWN_AUTHORITY
    assert "certs.d" in error.hint


@pytest.mark.parametrize(("code", "lasts"), [(socket.EAI_NONAME, True), (socket.EAI_AGAIN, False)])
def test_a_host_that_does_not_exist_is_a_refusal_and_no_answer_is_none(
    client: RegistryClient, monkeypatch: pytest.MonkeyPatch, code: int, lasts: bool
) -> None:
    asked: list[str] = []

    def fails(host: str, port: int) -> list[dial.Address]:
        asked.append(host)
        raise socket.gaierror(code, "no")

    monkeypatch.setattr(dial, "look_up", fails)
    error = refusal(client, Reference.parse("r.example/app:1"))
    assert (error is not None) == lasts
    assert len(asked) == (3 if lasts else 6)


def test_a_port_where_nothing_listens_is_no_refusal(client: RegistryClient, free_port: int) -> None:
    """So a registry restarts, and so the network of a new pod begins (kaniko#2657)."""
    assert refusal(client, Reference.parse(f"127.0.0.1:{free_port}/app:1")) is None


def test_of_failures_below_HTTP_only_those_last_that_somebody_must_mend() -> None:
    assert {cause for cause in Cause if cause.lasts} == {
        Cause.NAME_UNKNOWN, Cause.WRONG_NAME, Cause.EXPIRED, Cause.SELF_SIGNED,
        Cause.UNKNOWN_AUTHORITY, Cause.CLIENT_CERTIFICATE, Cause.SPEAKS_PLAIN, Cause.SPEAKS_TLS,
    }  # fmt: skip


def test_a_registry_that_is_blocked_is_asked_nothing(
    faulty: FaultyRegistry, tmp_path: Path, client: RegistryClient
) -> None:
    file = tmp_path / ".config/containers/registries.conf"
    file.parent.mkdir(parents=True)
    file.write_text(f'[[registry]]\nlocation = "{faulty.host}"\nblocked = true\n')
    environment = Environment.read({"HOME": str(tmp_path)})
    client.configuration = RegistryConfiguration.read(environment, frozenset())
    error = refusal(client, name_in(faulty))
    assert error is not None and "is blocked in" in error.message
    assert not faulty.log


def test_a_client_until_is_the_same_client_and_ends_by_itself(
    client: RegistryClient, faulty: FaultyRegistry, warned: list[str]
) -> None:
    faulty.tokens = Tokens()
    faulty.on("POST", START, reply(503), nth=1)
    with Cancellation() as limit, client.until(limit) as other:
        assert refusal(other, name_in(faulty)) is None
        assert not warned and len(faulty.asked("POST")) > 1
        limit.cancel()
        with pytest.raises(Cancelled):
            refusal(other, name_in(faulty))
    assert refusal(client, name_in(faulty)) is None
    assert len(faulty.tokens.asked) == 1
