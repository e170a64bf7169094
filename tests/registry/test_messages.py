"""What users are told when a registry refuses: who, where, what, and what to do. And never a secret."""

from __future__ import annotations

import base64
import json
import time
import traceback
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from assembler.access import Access
from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import (
    NotFound,
    ProtocolViolation,
    RateLimited,
    RegistryError,
    Unauthorized,
    Unreachable,
)
from assembler.net.client import Request, Response
from assembler.net.origin import Origin
from assembler.net.retry import RetryPolicy
from assembler.oci.reference import Reference
from assembler.registry.auth import Tokens
from assembler.registry.client import PULL, PUSH, RegistryClient
from assembler.registry.configuration import RegistryConfiguration
from assembler.registry.credential import Credential, Found
from assembler.registry.messages import quoted, refused
from assembler.registry.repository import Repository
from assembler.testing import Answer, Asked, MemoryRegistry

QUICK = RetryPolicy(tries=2, first=0.001, cap=0.002)
REFERENCE = Reference.parse("example.com/team/app:1")


def repository(found: Found | None = None, mirror: bool = False) -> Repository:
    tokens = Tokens(
        None,  # type: ignore[arg-type]
        "example.com",
        Origin.of("https://example.com"),
        lambda: found or Found(),
    )
    if found is not None:
        tokens.renew(frozenset(), challenge="Basic")
    url = "https://example.com/v2/team/app"
    return Repository(url, "example.com", "team/app", REFERENCE, tokens, mirror)


def said(
    status: int,
    *,
    found: Found | None = None,
    operation: str = "the manifest 1",
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> RegistryError:
    response = Response(status, headers or {}, body, "")
    return refused(response, repository(found), operation)


NOBODY = Found(looked=("/home/me/auth.json", "$DOCKER_AUTH_CONFIG"))
SOMEBODY = Found(Credential("me", "canary"), "/home/me/auth.json")


@pytest.mark.parametrize(
    ("status", "kind", "hint"),
    [
        (401, Unauthorized, "assemble login example.com"),
        (403, Unauthorized, "assemble login example.com"),
        (404, NotFound, "check the name"),
        (405, ProtocolViolation, "read-only mirror"),
        (413, ProtocolViolation, "client_max_body_size"),
        (429, RateLimited, "mirror in registries.conf"),
        (500, Unreachable, "try again later"),
        (503, Unreachable, "try again later"),
        (507, ProtocolViolation, "no space"),
        (418, ProtocolViolation, ""),
    ],
)
def test_every_refusal_says_where_what_and_what_to_do(
    status: int, kind: type[RegistryError], hint: str
) -> None:
    error = said(status)
    assert type(error) is kind and error.status == status
    assert error.registry == "example.com" and error.operation == "the manifest 1"
    assert "example.com/team/app: the manifest 1" in error.message
    assert hint in error.hint


def test_it_says_whether_there_was_a_credential_and_where_from() -> None:
    nobody = said(401, found=NOBODY)
    assert "looked in /home/me/auth.json, $DOCKER_AUTH_CONFIG" in nobody.message
    assert "the credential from /home/me/auth.json was refused" in said(401, found=SOMEBODY).message
    assert "asked for no credential" in said(403).message
    assert "ask for the right" in said(403, found=SOMEBODY).hint


@pytest.mark.parametrize(
    ("minutes", "expected"), [(0, ""), (-30, "30 minutes ahead of"), (90, "90 minutes behind")]
)
def test_a_clock_that_is_wrong_is_named(minutes: int, expected: str) -> None:
    date = formatdate(time.time() + 60 * minutes, usegmt=True)
    hint = said(401, found=SOMEBODY, headers={"date": date}).hint
    assert expected in hint and ("clock" in hint) == bool(expected)


def test_a_missing_repository_is_told_from_a_missing_image() -> None:
    assert "create it there first" in said(404, operation="a blob upload").hint
    assert "tag" in said(404, found=SOMEBODY).hint
    assert "private" in said(404, found=NOBODY).hint
    for what in ("the blob", "the configuration"):
        lost = said(404, found=NOBODY, operation=f"{what} sha256:0").hint
        assert "pushed anew" in lost and "tag" not in lost


def test_a_mirror_is_called_one() -> None:
    error = refused(Response(500, {}, b"", ""), repository(mirror=True), "a blob")
    assert "example.com/team/app (a mirror of example.com)" in error.message


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "90"}, "wait 90 seconds, until"),
        ({"ratelimit-reset": "90"}, "wait 90 seconds, until"),
        ({"ratelimit-limit": "100;w=21600"}, "wait up to 360 minutes"),
        ({"retry-after": "soon"}, "wait, "),
        ({"retry-after": "-5"}, "wait, "),
        ({"retry-after": "9" * 400}, "wait, "),
        ({}, "wait, "),
    ],
)
def test_a_rate_limit_says_when_it_ends(headers: dict[str, str], expected: str) -> None:
    assert expected in said(429, headers=headers).hint
    assert "assemble login" in said(429, found=NOBODY).hint
    assert "assemble login" not in said(429, found=SOMEBODY).hint


def test_R13_a_web_page_in_place_of_an_answer_is_recognised() -> None:
    error = said(200, headers={"content-type": "text/html"}, body=b"<html>log in</html>")
    assert "web page" in error.hint


@pytest.mark.parametrize(
    "body",
    [
        b"\x1b[2J" + b"A" * 10_000,
        json.dumps({"errors": [{"message": "\x1b]0;x\x07" + "A" * 10_000}]}).encode(),
        b"[" * 60_000,
        b'{"errors": [' + b'{"message": ' * 5_000,
        b'{"errors": 5}', b'{"errors": [5]}', b'{"errors": {}}', b"null", b"\xff\xfe", b"",
        b'{"errors": [{"message": {"a": 1}}]}',
    ],
)  # fmt: skip
def test_RG13_what_servers_say_is_escaped_and_short(body: bytes) -> None:
    text = quoted(Response(400, {}, body, ""), ())
    assert text.isprintable() and len(text) <= 203


@pytest.fixture
def cancellation() -> Iterator[Cancellation]:
    with Cancellation() as found:
        yield found


Ask = Callable[[RegistryClient, Repository], object]


def everything(client: RegistryClient, there: Repository) -> Iterator[Callable[[], object]]:
    """Requests of every kind."""
    for method, path, actions in [
        ("GET", "/manifests/1", PULL),
        ("PUT", "/manifests/1", PUSH),
        ("POST", "/blobs/uploads/?mount=sha256:0&from=base", PUSH),
        ("PATCH", "/blobs/uploads/1?_state=canary-state", PUSH),
    ]:
        request = Request(method, there.url + path, there.registry, f"{method} {path[:8]}")

        def one(request: Request = request, actions: str = actions) -> None:
            response = client.send(there, request, actions)
            raise refused(response, there, request.operation)

        yield one


def echo(asked: Asked) -> bytes:
    return json.dumps({"errors": [{"message": f"no: {asked.headers} {asked.body!r}"}]}).encode()


def signed(asked: Asked) -> Answer:
    return Answer(307, {"Location": "http://127.0.0.1:1/?X-Amz-Signature=canary-signature"})


def other_realm(asked: Asked) -> Answer:
    realm = 'Bearer realm="http://evil.example/?canary-realm=1",service="x"'
    return Answer(401, {"WWW-Authenticate": realm}, echo(asked))


HOSTILE: list[Callable[[Asked], Answer]] = [
    *(lambda asked, status=status: Answer(status, {"Warning": f'299 - "{asked.headers}"'},
      echo(asked)) for status in (400, 403, 404, 413, 429, 500, 507)),
    lambda asked: Answer(401, {"WWW-Authenticate": 'Basic realm="x"'}, echo(asked)),
    lambda asked: Answer(200, {}, echo(asked), broken=10),
    signed,
    other_realm,
]  # fmt: skip


@pytest.mark.parametrize("basic", [True, False], ids=["basic", "token"])
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_no_secret_is_in_any_message_or_traceback(
    tmp_path: Path, cancellation: Cancellation, number: int, basic: bool
) -> None:
    password = "canary-password"
    pair = base64.b64encode(f"me:{password}".encode()).decode()

    def fault(asked: Asked) -> Answer | None:
        if asked.path == "/token" or "authorization" not in asked.headers:
            return None
        return HOSTILE[number](asked)

    who = {"users": {"me": password}} if basic else {"token": "canary-token"}
    with MemoryRegistry(fault, **who) as registry:  # type: ignore[arg-type]
        environment = Environment.read(
            {"HOME": str(tmp_path), "DOCKER_AUTH_CONFIG":
             json.dumps({"auths": {registry.host: {"auth": pair}}})}
        )  # fmt: skip
        configuration = RegistryConfiguration.read(environment)
        with RegistryClient(
            environment, configuration, cancellation=cancellation, policy=QUICK
        ) as client:
            reference = Reference.parse(f"{registry.host}/team/app:1")
            there = client.repository(configuration.endpoint(reference), reference)
            for ask in everything(client, there):
                with pytest.raises(RegistryError) as caught:
                    ask()
                told = "".join(traceback.format_exception(caught.value)) + caught.value.hint
                told += repr(caught.value.__dict__) + repr(there)
                assert "canary" not in told and pair not in told, told
                assert registry.host in caught.value.message
        assert any("authorization" in asked.headers for asked in registry.asked)


def test_a_mirror_is_shown_its_own_credential_only(
    tmp_path: Path, cancellation: Cancellation
) -> None:
    with MemoryRegistry(users={"cache": "mine"}) as mirror:
        config = tmp_path / "registries.conf"
        config.write_text(
            f'[[registry]]\nprefix="docker.io"\n[[registry.mirror]]\nlocation="{mirror.host}"\n'
        )
        pairs = {"docker.io": b"hub:canary", mirror.host: b"cache:mine"}
        auths = {k: {"auth": base64.b64encode(v).decode()} for k, v in pairs.items()}
        environment = Environment.read(
            {"HOME": str(tmp_path), "DOCKER_AUTH_CONFIG": json.dumps({"auths": auths}),
             "CONTAINERS_REGISTRIES_CONF": str(config)}
        )  # fmt: skip
        configuration = RegistryConfiguration.read(environment)
        access = Access(creds="target:canary").creds_to("example.com")
        with RegistryClient(
            environment, configuration, access=access, cancellation=cancellation, policy=QUICK
        ) as client:
            reference = Reference.parse("debian")
            endpoint = configuration.endpoints(reference)[0]
            there = client.repository(endpoint, reference)
            request = Request("GET", f"{there.url}/manifests/latest", there.registry, "a manifest")
            assert client.send(there, request, PULL).status == 404
        given = [asked.headers["authorization"] for asked in mirror.asked if asked.headers.get(
            "authorization")]  # fmt: skip
        assert given == [f"Basic {auths[mirror.host]['auth']}"]


def test_R10_one_request_asks_for_one_new_token(tmp_path: Path, cancellation: Cancellation) -> None:
    challenge: list[str] = []

    def fault(asked: Asked) -> Answer | None:
        if asked.path == "/token":
            return None
        return Answer(401, {"WWW-Authenticate": challenge[0]})

    with MemoryRegistry(fault, token="x") as registry:
        challenge.append(f'Bearer realm="http://{registry.host}/token"')
        environment = Environment.read({"HOME": str(tmp_path)})
        configuration = RegistryConfiguration.read(environment)
        with RegistryClient(
            environment, configuration, cancellation=cancellation, policy=QUICK
        ) as client:
            reference = Reference.parse(f"{registry.host}/a:1")
            there = client.repository(configuration.endpoint(reference), reference)
            request = Request("GET", f"{there.url}/manifests/1", there.registry, "a manifest")
            assert client.send(there, request, PULL).status == 401
        assert [asked.path for asked in registry.asked] == [
            "/v2/a/manifests/1", "/token", "/v2/a/manifests/1",
        ]  # fmt: skip
