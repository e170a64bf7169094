"""Redirects: what goes along, and where they may not lead (rules R1-R3)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from assembler.errors import ProtocolViolation, Unreachable
from assembler.net.client import HttpClient, Request
from assembler.net.origin import Zone
from assembler.net.tls import Certificates
from tests.net.servers import Authority, Server, answer, names

HEADERS = {
    "Accept": "application/json",
    "Range": "bytes=5-",
    "X-Registry-Auth": "s3cret",
    "Cookie": "s3cret=1",
}
PRIVATE = {"Authorization": "Bearer s3cret"}


def moved(url: str, status: int = 307) -> bytes:
    return answer(status, b"elsewhere", f"Location: {url}")


def get(url: str, **how: Any) -> Request:
    return Request("GET", url, "r.example", "a blob", headers=HEADERS, private=PRIVATE, **how)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("other", ["localhost", "::1", "another port"])
def test_R1_only_what_is_asked_for_reaches_another_origin(
    serve: Callable[..., Server], client: Callable[..., HttpClient], status: int, other: str
) -> None:
    there = serve(answer(body=b"it"), host="::1" if other == "::1" else "127.0.0.1")
    name = other if other == "localhost" else ""
    first = serve(moved(there.url("/it", host=name), status))
    look_up = names(localhost="127.0.0.1")
    response = client(look_up=look_up).request(get(first.url("/v2/")))
    assert response.body == b"it"
    assert b"s3cret" in first.heads[0]
    assert b"s3cret" not in there.heads[0]
    assert b"Range: bytes=5-" in there.heads[0] and b"Accept: application/json" in there.heads[0]


def test_R1_what_was_dropped_does_not_come_back(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    first = serve(answer())
    there = serve(moved(first.url("/back")))
    first.replies = [moved(there.url()), answer(body=b"home")]
    assert client().request(get(first.url())).body == b"home"
    assert [b"s3cret" in head for head in first.heads] == [True, False]


def test_R1_inside_an_origin_everything_goes_along(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    first = serve(moved("/there?x=1"), moved("next"), answer(body=b"here"))
    assert client().request(get(first.url())).body == b"here"
    assert [head.split()[1] for head in first.heads] == [b"/", b"/there?x=1", b"/next"]
    assert all(b"Bearer s3cret" in head for head in first.heads)
    assert first.connections == 1


def test_R6_what_a_redirect_says_besides_may_break_off(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    there = serve(answer(body=b"it"))

    def breaks(connection: socket.socket, head: bytes) -> bool:
        connection.sendall(answer(307, b"else", f"Location: {there.url()}", length=100))
        return False

    assert client().request(get(serve(breaks).url())).body == b"it"


def test_R1_a_name_and_password_in_a_redirect_are_not_used(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    there = serve(answer())
    first = serve(moved(there.url().replace("//", "//user:pw@")))
    client().request(get(first.url()))
    assert b"authorization" not in there.heads[0].lower() and b"user" not in there.heads[0]


def test_R1_a_body_is_sent_again_and_303_only_looks(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    server = serve(moved("/b", 308), moved("/c", 303), answer(body=b"seen"))
    request = Request("PUT", server.url(), "r", "x", body=b"data")
    assert client().request(request).body == b"seen"
    assert server.bodies == [b"data", b"data", b""]
    assert [head.split()[0] for head in server.heads] == [b"PUT", b"PUT", b"GET"]


def test_R1_a_loop_ends_after_ten(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    server = serve(moved("/again"))
    with pytest.raises(ProtocolViolation, match="more than 10 times"):
        client().request(get(server.url()))
    assert len(server.heads) == 11


@pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://h/", "//[::1"])
def test_R1_what_is_no_url_is_not_followed(
    serve: Callable[..., Server], client: Callable[..., HttpClient], location: str
) -> None:
    with pytest.raises(ProtocolViolation, match="no URL"):
        client().request(get(serve(moved(location)).url()))


def test_R1_one_that_is_not_to_be_followed_is_an_answer(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    response = client().request(get(serve(moved("/x")).url(), follow=False))
    assert (response.status, response.header("Location")) == (307, "/x")


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_RG03_R3_https_never_becomes_http(
    serve: Callable[..., Server],
    client: Callable[..., HttpClient],
    authority: Authority,
    hops: int,
) -> None:
    plain = serve(answer())
    secure = serve(
        *[moved(f"/{n}") for n in range(hops - 1)],
        moved(plain.url()),
        context=authority.server(),
    )
    trusting = client(certificates=lambda host: Certificates((authority.certificate,)))
    with pytest.raises(ProtocolViolation, match=r"from https to http \(127\.0\.0\.1\); refused"):
        trusting.request(get(secure.url()))
    assert len(secure.heads) == hops and not plain.connections


class Outside:
    """A way to a server on this machine that counts as one on the internet."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **public: str) -> None:
        from assembler.net import dial, transport
        from assembler.net.origin import zone_of

        def judged(address: str) -> Zone:
            return Zone.PUBLIC if address in public.values() else zone_of(address)

        monkeypatch.setattr(dial, "zone_of", judged)
        monkeypatch.setattr(transport, "zone_of", judged)


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Server]) -> Server:
    """A server at 127.0.0.2, which stands for a public address here."""
    Outside(monkeypatch, registry="127.0.0.2")
    return serve(answer(), host="127.0.0.2")


@pytest.mark.parametrize(
    "target",
    ["127.0.0.1", "::1", "localhost", "evil.example", "metadata.example", "::ffff:127.0.0.1"],
)
def test_R2_no_redirect_leads_inside_from_the_internet(
    outside: Server, serve: Callable[..., Server], client: Callable[..., HttpClient], target: str
) -> None:
    inner = serve(answer(body=b"inner secrets"), host="::1" if target == "::1" else "127.0.0.1")
    outside.replies = [moved(inner.url("/latest", host=target))]
    look_up = names(
        localhost="127.0.0.1", evil_example="127.0.0.1", metadata_example="169.254.169.254 ::1"
    )
    with pytest.raises(ProtocolViolation, match="to an address inside") as refused:
        client(look_up=look_up).request(get(outside.url()))
    assert "r.example leads a blob" in refused.value.message
    assert not inner.connections


def test_R2_inside_a_registry_may_lead_inside(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    there = serve(answer(body=b"it"))
    assert client().request(get(serve(moved(there.url())).url())).body == b"it"


@pytest.mark.parametrize(
    "target", ["169.254.169.254", "metadata.example", "::ffff:169.254.169.254"]
)
def test_R2_not_even_inside_does_a_redirect_lead_to_a_link_local_address(
    serve: Callable[..., Server], client: Callable[..., HttpClient], target: str
) -> None:
    first = serve(moved(f"http://{f'[{target}]' if ':' in target else target}/latest/meta-data/"))
    one = client(look_up=names(metadata_example="169.254.169.254"))
    with pytest.raises(ProtocolViolation, match=r"to an address inside .*169\.254\.169\.254|a9fe"):
        one.request(get(first.url()))
    assert len(first.heads) == 1


def test_R2_a_chain_through_the_internet_does_not_come_back_inside(
    outside: Server, serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    inner = serve(answer())
    outside.replies = [moved(inner.url("/deep"))]
    inner.replies = [moved(outside.url()), answer()]
    with pytest.raises(ProtocolViolation, match="to an address inside"):
        client().request(get(inner.url()))
    assert len(inner.heads) == 1


def test_R2_a_name_is_judged_by_the_address_that_is_connected_to(
    outside: Server, serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    inner, asked = serve(answer()), []

    def rebinding(host: str, port: int) -> Any:
        asked.append(host)
        return names(evil_example="127.0.0.2" if len(asked) == 1 else "127.0.0.1")(host, port)

    outside.replies = [moved(inner.url(host="evil.example"))]
    with pytest.raises(Unreachable):  # 127.0.0.2 has nothing at that port
        client(look_up=rebinding).request(get(outside.url()))
    assert asked == ["evil.example"] and not inner.connections


def test_R2_a_request_that_must_stay_public(
    outside: Server, serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    inner = serve(answer())
    public = client()
    assert public.request(get(outside.url(), zone=Zone.PUBLIC)).zone is Zone.PUBLIC
    assert public.request(get(inner.url())).zone is Zone.INSIDE  # a connection to be used again
    with pytest.raises(ProtocolViolation, match="to an address inside"):
        public.request(get(inner.url(), zone=Zone.PUBLIC))
    assert len(inner.heads) == 1
