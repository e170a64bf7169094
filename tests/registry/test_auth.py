"""Challenges and tokens: R2, R3, R9, R10, RG-13."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from assembler.cancellation import Cancellation
from assembler.errors import ProtocolViolation, RegistryError, Unauthorized
from assembler.net.client import HttpClient, Request, Response
from assembler.net.origin import Origin, Zone
from assembler.net.retry import RetryPolicy
from assembler.registry import auth, challenges, realms
from assembler.registry.auth import Tokens
from assembler.registry.challenges import Scopes
from assembler.registry.credential import Credential, Found
from assembler.testing import MemoryRegistry
from tests.bounds import cpu_seconds

PULL: Scopes = challenges.scopes("repository:team/app:pull")
PUSH: Scopes = challenges.scopes("repository:team/app:pull,push")
SOURCE: Scopes = challenges.scopes("repository:base:pull")
BEARER = 'Bearer realm="https://registry.example.com/token",service="here"'
ME = Credential("me", "canary-password")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        ("BASIC", [("basic", {})]),
        (
            'Bearer realm="https://a/t",service="s, t",scope="repository:a:pull,push"',
            [("bearer", {"realm": "https://a/t", "service": "s, t",
                         "scope": "repository:a:pull,push"})],
        ),
        (r'Bearer realm="a\"b\\c"', [("bearer", {"realm": 'a"b\\c'})]),
        (
            'Bearer realm="https://a/t" , Basic realm="b"',
            [("bearer", {"realm": "https://a/t"}), ("basic", {"realm": "b"})],
        ),
        (
            "Negotiate, NTLM abc==, Basic realm=b",
            [("negotiate", {}), ("ntlm", {}), ("basic", {"realm": "b"})],
        ),
        (
            "Bearer realm=https://a/t?x=1,service=s",
            [("bearer", {"realm": "https://a/t?x=1", "service": "s"})],
        ),
        ('Bearer Realm = "https://a/t", SERVICE="s"', [
            ("bearer", {"realm": "https://a/t", "service": "s"})]),
        ('Bearer realm="a",realm="b"', [("bearer", {"realm": "a"})]),
        ('Bearer realm="unfinished', [("bearer", {})]),
        ('="x", ;;; , Basic', [("basic", {})]),
        ("", []),
    ],
)  # fmt: skip
def test_challenges_are_read_as_RFC_9110_has_them(
    header: str, expected: list[tuple[str, dict[str, str]]]
) -> None:
    assert [(one.scheme, dict(one.parameters)) for one in challenges.parse(header)] == expected


def test_RG13_a_hostile_challenge_costs_no_time() -> None:
    with cpu_seconds(2):
        for text in (
            'Bearer a="' + "\\" * 100_000,
            "a " * 100_000,
            ',="' * 100_000,
            "x=" * 100_000,
        ):
            challenges.parse(text)


def test_scopes_are_joined_by_resource() -> None:
    joined = PUSH | SOURCE | challenges.scopes("registry:catalog:* nonsense")
    assert challenges.render(joined) == [
        "registry:catalog:*", "repository:base:pull", "repository:team/app:pull,push",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("registry", "realm"),
    [
        ("registry-1.docker.io", "auth.docker.io"),
        ("ghcr.io", "ghcr.io"),
        ("quay.io", "quay.io"),
        ("gcr.io", "gcr.io"),
        ("us-docker.pkg.dev", "us-docker.pkg.dev"),
        ("public.ecr.aws", "public.ecr.aws"),
        ("registry.gitlab.com", "gitlab.com"),
        ("registry.example.com", "gitlab.example.com"),
        ("registry.example.co.uk", "gitlab.example.co.uk"),
        ("registry.digitalocean.com", "api.digitalocean.com"),
        ("registry.redhat.io", "registry.redhat.io"),
        ("rg.fr-par.scw.cloud", "api.scaleway.com"),
        ("registry.cn-hangzhou.aliyuncs.com", "dockerauth.cn-hangzhou.aliyuncs.com"),
        ("registry-vpc.cn-chengdu.aliyuncs.com", "dockerauth-vpc.cn-chengdu.aliyuncs.com"),
        ("me.azurecr.io", "me.azurecr.io"),
        ("localhost", "localhost"),
        ("10.0.0.5", "10.0.0.5"),
    ],
)
def test_R2_a_credential_goes_to_the_token_server_of_its_site(registry: str, realm: str) -> None:
    assert realms.belongs(Origin("https", realm, 443), Origin("https", registry, 443), frozenset())


@pytest.mark.parametrize(
    ("registry", "realm"),
    [
        ("registry-1.docker.io", "auth.docker.io.evil.com"),
        ("ghcr.io", "ghcr.io.evil.example"),
        ("ghcr.io", "evilghcr.io"),
        ("registry.example.com", "registry.example.org"),
        ("registry.example.co.uk", "evil.co.uk"),
        ("me.azurecr.io", "evil.azurecr.io"),
        ("me.dkr.ecr.us-east-1.amazonaws.com", "evil.s3.us-east-1.amazonaws.com"),
        ("me.github.io", "evil.github.io"),
        ("10.0.0.5", "11.0.0.5"),
        ("registry", "evil"),
        ("localhost", "evil.localhost"),
        ("registry.example.com", "com"),
        ("rg.fr-par.scw.cloud", "evil.scaleway.com"),
        ("registry.cn-hangzhou.aliyuncs.com", "dockerauth.cn-beijing.aliyuncs.com"),
        ("registry-vpc.cn-chengdu.aliyuncs.com", "dockerauth.cn-chengdu.aliyuncs.com"),
        ("registry-internal.cn-chengdu.aliyuncs.com", "dockerauth.cn-chengdu.aliyuncs.com"),
    ],
)
def test_R2_a_credential_goes_to_no_stranger(registry: str, realm: str) -> None:
    here = Origin("https", registry, 443)
    assert not realms.belongs(Origin("https", realm, 443), here, frozenset())
    assert realms.belongs(Origin("https", realm, 443), here, frozenset({realm})), "logged in"


Answers = Callable[[Request], Response]


def gives(token: str = "token", **more: object) -> Response:
    return Response(200, {}, json.dumps({"token": token, **more}).encode(), "")


@dataclass
class Server:
    """Stands in for `HttpClient`: what the token server was asked, and what it answers."""

    answers: Answers = lambda request: gives()
    asked: list[Request] = field(default_factory=list)

    def request(self, request: Request, limit: int = 0) -> Response:
        assert limit == auth.MAX_TOKEN
        self.asked.append(request)
        return self.answers(request)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def tokens(
    server: Server,
    credential: Credential | None = ME,
    *,
    registry: str = "https://registry.example.com",
    learnt: frozenset[str] = frozenset(),
    clock: Clock | None = None,
) -> Tokens:
    found = Found(credential, "a file", ("a file",))
    host = Origin.of(registry).host
    return Tokens(
        server,  # type: ignore[arg-type]
        host,
        Origin.of(registry),
        lambda: found,
        learnt=lambda: learnt,
        clock=clock or Clock(),
    )


def test_nothing_is_sent_before_a_challenge() -> None:
    server = Server()
    ours = tokens(server)
    assert ours.header(PULL) == "" and not server.asked and ours.found is None


def test_a_token_is_asked_for_with_service_scope_and_account() -> None:
    server = Server()
    header = tokens(server).renew(PUSH, challenge=BEARER)
    assert header == "Bearer token"
    (request,) = server.asked
    assert request.method == "GET"
    assert request.url == (
        "https://registry.example.com/token?account=me&service=here"
        "&scope=repository%3Ateam%2Fapp%3Apull%2Cpush"
    )
    assert request.private == {"Authorization": ME.basic()}
    assert "canary" not in repr(request)


def test_without_a_credential_a_token_is_asked_for_by_nobody() -> None:
    server = Server()
    assert tokens(server, None).renew(PULL, challenge=BEARER) == "Bearer token"
    assert not server.asked[0].private and "account" not in server.asked[0].url


def test_an_identity_token_is_exchanged_by_POST_and_its_successor_is_used() -> None:
    server = Server(lambda request: gives(access_token="a", refresh_token="next-canary"))
    ours = tokens(server, Credential("ignored", "", "canary-identity"))
    ours.renew(PULL, challenge=BEARER)
    ours.renew(PUSH, challenge=BEARER)
    assert [request.method for request in server.asked] == ["POST", "POST"]
    bodies = [request.body for request in server.asked]
    assert b"refresh_token=canary-identity" in bodies[0]  # type: ignore[operator]
    assert b"refresh_token=next-canary" in bodies[1]  # type: ignore[operator]
    assert not server.asked[0].follow, "a redirect would be given the body"


def test_a_registry_token_is_used_as_it_is() -> None:
    server = Server()
    ours = tokens(server, Credential(registry_token="given"))
    assert ours.renew(PULL, challenge=BEARER) == "Bearer given" and not server.asked


def test_basic_is_answered_once() -> None:
    ours = tokens(Server())
    header = ours.renew(PULL, challenge='Basic realm="x"')
    assert header == ME.basic() and ours.header(PUSH) == header
    assert ours.renew(PULL, used=header, challenge='Basic realm="x"') == "", "it was refused"
    assert tokens(Server(), None).renew(PULL, challenge="Basic") == ""


def test_bearer_is_preferred_where_both_are_offered() -> None:
    header = f'Basic realm="b", {BEARER}'
    assert tokens(Server()).renew(PULL, challenge=header) == "Bearer token"


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(ProtocolViolation, match="negotiate, ntlm"):
        tokens(Server()).renew(PULL, challenge="Negotiate, NTLM")


def test_a_wider_token_serves_a_narrower_need() -> None:
    server = Server()
    ours = tokens(server)
    ours.renew(PUSH, challenge=BEARER)
    assert ours.header(PULL) == "Bearer token" and len(server.asked) == 1


@pytest.mark.parametrize(
    ("document", "headers", "life"),
    [
        ({"expires_in": 300}, {}, 290),
        ({"expires_in": "300"}, {}, 290),
        ({"expires_in": 8}, {}, 6),
        ({}, {}, 50),
        ({"expires_in": -1}, {}, 50),
        ({"expires_in": None}, {}, 50),
        ({"expires_in": 300, "issued_at": "2026-01-01T00:00:00Z"},
         {"date": "Thu, 01 Jan 2026 00:01:00 GMT"}, 230),
        ({"expires_in": 300, "issued_at": "2001-01-01T00:00:00.123456789Z"}, {}, 290),
        ({"expires_in": 300, "issued_at": "garbage"},
         {"date": "Thu, 01 Jan 2026 00:01:00 GMT"}, 290),
    ],
)  # fmt: skip
def test_R10_a_token_is_renewed_before_it_ends(
    document: dict[str, object], headers: dict[str, str], life: float
) -> None:
    def answer(request: Request) -> Response:
        body = json.dumps({"token": f"token{len(server.asked)}"} | document).encode()
        return Response(200, headers, body, "")

    clock, server = Clock(), Server(answer)
    ours = tokens(server, clock=clock)
    ours.renew(PULL, challenge=BEARER)
    clock.now += life - 0.5
    assert ours.header(PULL) == "Bearer token1"
    clock.now += 1
    assert ours.header(PULL) == "Bearer token2"


def test_R10_threads_with_the_same_old_token_ask_once() -> None:
    together = threading.Barrier(4)
    server = Server(lambda request: gives(f"token{len(server.asked)}"))
    ours = tokens(server)
    old = ours.renew(PUSH, challenge=BEARER)
    renewed: list[str] = []

    def one() -> None:
        together.wait(60)
        renewed.append(ours.renew(PUSH, used=old, challenge=BEARER))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert renewed == ["Bearer token2"] * 4 and len(server.asked) == 2


def test_R9_a_mount_may_read_its_source_with_the_same_token() -> None:
    server = Server()
    ours = tokens(server)
    ours.renew(PUSH, SOURCE, challenge=BEARER)
    assert "&scope=repository%3Abase%3Apull&scope=repository%3Ateam%2Fapp" in server.asked[0].url
    assert ours.header(PUSH, SOURCE) and len(server.asked) == 1


def test_R9_a_source_that_may_not_be_read_is_given_up() -> None:
    def answer(request: Request) -> Response:
        return Response(403, {}, b"", "") if "base" in request.url else gives()

    server = Server(answer)
    ours = tokens(server)
    assert ours.renew(PUSH, SOURCE, challenge=BEARER) == "Bearer token"
    assert ours.header(PUSH, SOURCE) == "Bearer token" and len(server.asked) == 2


@pytest.mark.parametrize(
    ("realm", "said"),
    [
        ("http://registry.example.com/token", "plain http"),
        ("https://evil.example.org/token", "evil.example.org, which is not known"),
        ("https://registry.example.com@evil.org/token", "user name"),
        ("https://169.254.169.254/latest/meta-data", "not known to belong"),
        ("https://127.0.0.1/token", "not known to belong"),
        ("https://[::1]/token", "not known to belong"),
        ("https://10.1.2.3/token", "not known to belong"),
        ("file:///etc/shadow", "no valid token server"),
        ("/token", "no valid token server"),
        ("https://[bad/token", "no valid token server"),
        ("", "no valid token server"),
    ],
)
def test_R2_R3_a_realm_that_is_not_safe_is_not_asked(realm: str, said: str) -> None:
    server = Server()
    with pytest.raises(ProtocolViolation, match=said):
        tokens(server).renew(PULL, challenge=f'Bearer realm="{realm}"')
    assert not server.asked


def test_R2_a_stranger_may_be_asked_by_nobody() -> None:
    server = Server()
    challenge = 'Bearer realm="https://auth.example.org/token"'
    assert tokens(server, None).renew(PULL, challenge=challenge) == "Bearer token"
    assert not server.asked[0].private
    assert server.asked[0].zone is Zone.PUBLIC, "but only where everybody may"


@pytest.mark.parametrize("zone", Zone)
def test_R2_a_token_server_is_no_further_inside_than_its_registry(zone: Zone) -> None:
    server = Server()
    challenge = 'Bearer realm="https://auth.example.com/token"'
    tokens(server).renew(PULL, challenge=challenge, zone=zone)
    tokens(server).renew(PULL, challenge=BEARER, zone=zone)
    assert [request.zone for request in server.asked] == [zone, Zone.LINK]


def test_R2_a_stranger_that_a_login_was_verified_with_gets_the_credential() -> None:
    server = Server()
    ours = tokens(server, learnt=frozenset({"auth.example.org"}))
    ours.renew(PULL, challenge='Bearer realm="https://auth.example.org/token"')
    assert server.asked[0].private
    assert ours.token_server == "auth.example.org"


def test_R3_a_plain_registry_may_have_a_plain_token_server() -> None:
    server = Server()
    ours = tokens(server, registry="http://127.0.0.1:5000")
    ours.renew(PULL, challenge='Bearer realm="http://127.0.0.1:5001/token"')
    assert server.asked[0].private


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"null", b'{"token": 1}', b'{"token": "a\\nb"}', b'{"token": ""}',
     b"[" * 100_000, b"\xff", b"<html>log in</html>"],
)  # fmt: skip
def test_RG13_an_answer_without_a_token_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="gave no token") as caught:
        tokens(Server(lambda request: Response(200, {}, body, ""))).renew(PULL, challenge=BEARER)
    assert caught.value.hint


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_a_token_server_that_refuses_is_quoted_without_secrets(status: int) -> None:
    echoed = f"no: canary-password {ME.encoded()} \x1b[31m{'x' * 500}"
    document = json.dumps({"errors": [{"message": echoed}]}).encode()
    server = Server(lambda request: Response(status, {}, document, ""))
    with pytest.raises(RegistryError) as caught:
        tokens(server).renew(PULL, challenge=BEARER)
    text = f"{caught.value.message} {caught.value.hint}"
    assert str(status) in text and "registry.example.com" in text
    assert "canary" not in text and ME.encoded() not in text and "\x1b" not in text
    assert len(caught.value.message) < 450
    if status in (400, 401, 403):
        assert isinstance(caught.value, Unauthorized) and "assemble login" in text
        assert "the credential from a file was refused" in text


@pytest.mark.parametrize("target", ["name", "address"])
def test_R2_a_name_that_leads_inside_is_not_connected_to(target: str) -> None:
    """The realm's own name, or an address, is private although the registry's is not (GGCR#2440)."""
    with Cancellation() as cancellation, MemoryRegistry() as inside:
        port = inside.host.rpartition(":")[2]
        http = HttpClient(
            cancellation=cancellation,
            policy=RetryPolicy(tries=1),
            look_up=lambda host, port: [(socket.AF_INET, ("127.0.0.1", port))],
        )
        ours = Tokens(http, "example.com", Origin.of("http://example.com"), Found)
        host = "auth.example.com" if target == "name" else "127.0.0.1"
        with http, pytest.raises(RegistryError, match="an address inside"):
            challenge = f'Bearer realm="http://{host}:{port}/token"'
            ours.renew(PULL, challenge=challenge, zone=Zone.PUBLIC)
        assert not inside.asked
