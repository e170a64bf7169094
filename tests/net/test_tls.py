"""Certificates that are not accepted, proxies, and other ways in (rule R16, case RG-16)."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from assembler.errors import ProtocolViolation, Unreachable, UsageError
from assembler.net.body import MAX_ERROR_BODY
from assembler.net.client import HttpClient, Request
from assembler.net.failure import Cause, remedy
from assembler.net.limits import Limits
from assembler.net.origin import Origin
from assembler.net.retry import RetryPolicy
from assembler.net.tls import Certificates
from tests.net.servers import Authority, Server, answer, names


def get(url: str) -> Request:
    return Request("GET", url, "r.example", "a manifest")


def trusting(authority: Authority) -> Callable[[str], Certificates]:
    return lambda host: Certificates((authority.certificate,))


def failed(client: HttpClient, url: str) -> Unreachable:
    with pytest.raises(Unreachable) as failure:
        client.request(get(url))
    return failure.value


@pytest.mark.parametrize(
    ("names", "how", "cause", "says"),
    [
        ("DNS:other.example", {}, Cause.WRONG_NAME, "certificate is for another name"),
        ("IP:127.0.0.2", {}, Cause.WRONG_NAME, "certificate is for another name"),
        ("IP:127.0.0.1", {"start": "20200101000000Z"}, Cause.EXPIRED, "has expired"),
        ("IP:127.0.0.1", {"start": "20990101000000Z"}, Cause.NOT_YET_VALID, "is not valid yet"),
        ("IP:127.0.0.1", {"alone": True}, Cause.SELF_SIGNED, "signed by itself"),
    ],
    ids=["name", "address", "expired", "early", "self-signed"],
)
def test_RG16_a_certificate_that_is_wrong(
    serve: Callable[..., Server],
    client: Callable[..., HttpClient],
    authority: Authority,
    names: str,
    how: dict[str, Any],
    cause: Cause,
    says: str,
) -> None:
    server = serve(answer(), context=authority.server(names, **how))
    error = failed(client(certificates=trusting(authority), policy=RetryPolicy()), server.url())
    assert error.cause == cause and says in error.message
    assert f"127.0.0.1:{server.port}" in error.message
    expected = "clock" if cause == Cause.NOT_YET_VALID else f"127.0.0.1:{server.port}"
    assert expected in error.hint
    assert not server.heads


def test_RG16_an_authority_that_is_not_known(
    serve: Callable[..., Server], client: Callable[..., HttpClient], authority: Authority
) -> None:
    server = serve(answer(), context=authority.server())
    error = failed(client(), server.url())
    assert error.cause == Cause.UNKNOWN_AUTHORITY
    assert f"certs.d/127.0.0.1:{server.port}/ca.crt" in error.hint


def test_RG16_a_host_whose_certificate_is_not_checked(
    serve: Callable[..., Server], client: Callable[..., HttpClient], authority: Authority
) -> None:
    server = serve(answer(body=b"it"), context=authority.server("DNS:other", alone=True))
    unverified = client(unverified=frozenset({f"127.0.0.1:{server.port}"}))
    assert unverified.request(get(server.url())).body == b"it"


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_RG16_authorities_of_the_environment(
    serve: Callable[..., Server],
    client: Callable[..., HttpClient],
    authority: Authority,
    tmp_path: Path,
    variable: str,
) -> None:
    server = serve(answer(body=b"it"), context=authority.server())
    place = authority.certificate
    if variable == "SSL_CERT_DIR":
        place = authority.hashed(tmp_path)
    assert client(variables={variable: place}).request(get(server.url())).body == b"it"


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_RG16_authorities_that_cannot_be_read_are_named(
    client: Callable[..., HttpClient], tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "authorities.pem"
    if content is not None:
        path.write_text(content)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(UsageError, match=f"{path}: cannot be used as SSL_CERT_FILE"),
    ):
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        client(variables={"SSL_CERT_FILE": str(path)}).request(get(url))


def test_RG16_a_client_certificate(
    serve: Callable[..., Server], client: Callable[..., HttpClient], authority: Authority
) -> None:
    context = authority.server()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.certificate)
    server = serve(answer(body=b"it"), context=context)
    ours = authority.issue("client", "DNS:client")
    known = Certificates((authority.certificate,), ((f"{ours}.crt", f"{ours}.key"),))
    assert client(certificates=lambda host: known).request(get(server.url())).body == b"it"
    error = failed(client(certificates=trusting(authority)), server.url())
    assert error.cause == Cause.CLIENT_CERTIFICATE
    assert f"certs.d/127.0.0.1:{server.port}/client.cert" in error.hint


def test_RG16_plain_http_where_tls_is_spoken(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    def speaks_plain() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=speaks_plain)
        thread.start()
        port = listener.getsockname()[1]
        error = failed(client(policy=RetryPolicy()), f"https://127.0.0.1:{port}/")
        thread.join()
    assert error.cause == Cause.SPEAKS_PLAIN
    assert f"--insecure-registry 127.0.0.1:{port}" in error.hint


@pytest.mark.parametrize(
    "said",
    [
        b"\x15\x03\x01\x00\x02\x02\x46",
        answer(400, b"Client sent an HTTP request to an HTTPS server.\n"),
        answer(400, b"<title>400 The plain HTTP request was sent to HTTPS port</title>"),
    ],
    ids=["alert", "go", "nginx"],
)
def test_RG16_tls_where_plain_http_is_spoken(
    serve: Callable[..., Server], client: Callable[..., HttpClient], said: bytes
) -> None:
    def reply(connection: socket.socket, head: bytes) -> bool:
        connection.sendall(said)
        return False

    error = failed(client(policy=RetryPolicy()), serve(reply).url())
    assert error.cause == Cause.SPEAKS_TLS
    assert "--tls-verify" in error.hint and "certs.d/127.0.0.1:" in error.hint
    elsewhere = remedy(Cause.SPEAKS_TLS, Origin("http", "r.example", 5000))
    assert "https" in elsewhere and "--insecure-registry" in elsewhere


def test_RG16_the_name_is_sent_along(
    serve: Callable[..., Server], client: Callable[..., HttpClient], authority: Authority
) -> None:
    asked: list[str | None] = []
    context = authority.server("DNS:r.example")
    context.sni_callback = lambda connection, name, _: asked.append(name)
    server = serve(answer(body=b"it"), context=context)
    one = client(certificates=trusting(authority), look_up=names(r_example="127.0.0.1"))
    assert one.request(get(server.url(host="r.example"))).body == b"it"
    assert asked == ["r.example"]


@pytest.mark.parametrize("addresses", ["::1", "::1 127.0.0.1"])
def test_RG16_ipv6(
    serve: Callable[..., Server], client: Callable[..., HttpClient], addresses: str
) -> None:
    server = serve(answer(body=b"it"), host="::1")
    one = client(look_up=names(r_example=addresses))
    assert one.request(get(server.url(host="r.example"))).body == b"it"
    assert one.request(get(server.url())).body == b"it"
    assert f"Host: [::1]:{server.port}".encode() in server.heads[1]


def test_RG16_a_dead_ipv6_beside_ipv4(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    server = serve(answer(body=b"it"))
    one = client(look_up=names(r_example="2001:db8::1 127.0.0.1"))
    assert one.request(get(server.url(host="r.example"))).body == b"it"


class Tunnel:
    """A proxy that leads everything to one server."""

    def __init__(self, target: Server, status: bytes = b"200 OK") -> None:
        self.target = target
        self.status = status

    def __call__(self, connection: socket.socket, head: bytes) -> bool:
        connection.sendall(b"HTTP/1.1 " + self.status + b"\r\n\r\n")
        if not self.status.startswith(b"2"):
            return False
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.target.port)) as there:
            back = threading.Thread(target=_copy, args=(there, connection))
            back.start()
            _copy(connection, there)
            back.join()
        return False


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def proxied(proxy: Server, **more: str) -> dict[str, str]:
    url = f"http://user:s3cret@127.0.0.1:{proxy.port}"
    return {"HTTPS_PROXY": url, "http_proxy": url, **more}


def test_RG16_https_by_a_proxy(
    serve: Callable[..., Server], client: Callable[..., HttpClient], authority: Authority
) -> None:
    server = serve(answer(body=b"it"), context=authority.server("DNS:r.example"))
    proxy = serve(Tunnel(server))
    one = client(certificates=trusting(authority), variables=proxied(proxy), look_up=names())
    assert one.request(get("https://r.example:444/v2/")).body == b"it"
    assert one.request(get("https://r.example:444/v2/")).body == b"it"
    assert proxy.heads[0].split(b"\r\n")[0] == b"CONNECT r.example:444 HTTP/1.1"
    assert b"Proxy-Authorization: Basic dXNlcjpzM2NyZXQ=" in proxy.heads[0]
    assert len(proxy.heads) == 1 and len(server.heads) == 2
    assert not any(b"roxy-" in head for head in server.heads)


def test_RG16_http_by_a_proxy(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    proxy = serve(answer(body=b"it"))
    one = client(variables=proxied(proxy), look_up=names())
    assert one.request(get("http://r.example:81/v2/?x=1")).body == b"it"
    assert proxy.heads[0].startswith(b"GET http://r.example:81/v2/?x=1 HTTP/1.1\r\n")
    assert b"Host: r.example:81" in proxy.heads[0] and b"dXNlcjpzM2NyZXQ=" in proxy.heads[0]


def test_RG16_no_proxy(serve: Callable[..., Server], client: Callable[..., HttpClient]) -> None:
    proxy, server = serve(answer()), serve(answer(body=b"it"))
    one = client(
        variables=proxied(proxy, no_proxy="r.example, 10.0.0.0/8"),
        look_up=names(r_example="127.0.0.1"),
    )
    assert one.request(get(server.url(host="r.example"))).body == b"it"
    assert not proxy.connections


@pytest.mark.parametrize("status", [b"407 Proxy Authentication Required", b"403 \x1b[1m", b"502 x"])
def test_RG16_a_proxy_that_refuses(
    serve: Callable[..., Server],
    client: Callable[..., HttpClient],
    authority: Authority,
    status: bytes,
) -> None:
    proxy = serve(Tunnel(serve(answer()), status))
    error = failed(client(variables=proxied(proxy)), "https://r.example/")
    shown = f"{error.message} {error.hint}"
    assert error.cause == Cause.PROXY and f"status {status[:3].decode()}" in error.message
    assert f"http://127.0.0.1:{proxy.port}" in error.message
    assert "HTTPS_PROXY" in error.hint and "s3cret" not in shown and shown.isprintable()


def test_RG16_a_proxy_that_refuses_plain_http_is_not_taken_for_the_host(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    proxy = serve(answer(407, b"who is dXNlcjpzM2NyZXQ=?"))
    error = failed(client(variables=proxied(proxy), look_up=names()), "http://r.example:81/")
    assert error.cause == Cause.PROXY and "http_proxy answers with status 407" in error.message
    assert "HTTPS_PROXY" in error.hint and "dXNlcj" not in f"{error.message} {error.hint}"


@pytest.mark.parametrize("form", ["user:s3cret", "dXNlcjpzM2NyZXQ=", "s3cret"])
@pytest.mark.parametrize("status", [403, 404, 502])
def test_RG16_a_proxy_that_tells_its_credential_is_not_quoted(
    serve: Callable[..., Server], client: Callable[..., HttpClient], status: int, form: str
) -> None:
    page = b"x" * 30_000 + f"<p>no way for {form} here</p>".encode()
    for said in (answer(status, page), answer(status, b"", f"X-User: {form}")):
        one = client(variables=proxied(serve(said)), look_up=names(), policy=RetryPolicy(tries=1))
        error = failed(one, "http://r.example:81/")
        assert error.cause == Cause.PROXY and f"answers with status {status}" in error.message
        assert form not in f"{error.message} {error.hint}"


def test_RG16_what_the_host_says_by_a_proxy_is_its_own(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    chunked = b"HTTP/1.1 404 Said\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwrong\r\n0\r\n\r\n"
    proxy = serve(
        answer(404, b"no such user"), chunked, answer(404, b"y" * 100_000), answer(body=b"it")
    )
    one = client(variables=proxied(proxy), look_up=names(), limits=Limits(window=30.0))
    assert one.request(get("http://r.example:81/")).body == b"no such user"
    assert one.request(get("http://r.example:81/")).body == b"wrong"
    assert one.request(get("http://r.example:81/")).body == b"y" * MAX_ERROR_BODY
    assert one.request(get("http://r.example:81/")).body == b"it"


def test_RG16_a_proxy_that_is_not_there(client: Callable[..., HttpClient], free_port: int) -> None:
    variables = {"ALL_PROXY": f"http://user:s3cret@127.0.0.1:{free_port}"}
    error = failed(client(variables=variables), "https://r.example/")
    shown = f"{error.message} {error.hint}"
    assert error.cause == Cause.PROXY and f"http://127.0.0.1:{free_port}" in error.message
    assert "s3cret" not in shown


@pytest.mark.parametrize("host", ["127.0.0.2", "169.254.169.254", "[::1]", "localhost"])
def test_R2_a_proxy_is_not_asked_for_an_address_inside(
    serve: Callable[..., Server], client: Callable[..., HttpClient], host: str
) -> None:
    proxy = serve(answer(302, b"", f"Location: http://{host}/latest"))
    one = client(variables=proxied(proxy), look_up=names(localhost="127.0.0.1"))
    with pytest.raises(ProtocolViolation, match="to an address inside"):
        one.request(get("http://r.example/"))
    assert len(proxy.heads) == 1
