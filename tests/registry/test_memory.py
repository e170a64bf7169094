"""The registry that users' tests get."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from pathlib import Path

import pytest

from assembler.testing import Answer, MemoryRegistry, Tokens
from assembler.testing.distribution import sha256
from tests.registry.certificates import Authority

KIND = "application/vnd.oci.image.manifest.v1+json"
ME = "Basic bWU6cHc="


def ask(
    registry: MemoryRegistry, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(registry.host, timeout=60)
    try:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body or None, fields)
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


def test_what_it_holds_and_was_asked_can_be_looked_at_and_changed() -> None:
    with MemoryRegistry() as registry:
        _, headers, _ = ask(registry, "POST", "/v2/team/app/blobs/uploads/")
        location = headers["location"]
        ask(registry, "PATCH", location, b"abc")
        assert list(registry.uploads.values()) == [b"abc"]
        (id,) = registry.uploads
        registry.uploads[id] = b"abcd"  # as if more had come
        assert ask(registry, "GET", location)[1]["range"] == "0-3"
        assert ask(registry, "PUT", f"{location}&digest={sha256(b'abcd')}")[0] == 201
        blob = {"mediaType": "text/plain", "digest": sha256(b"abcd"), "size": 4}
        manifest = json.dumps({"schemaVersion": 2, "config": blob, "layers": []}).encode()
        ask(registry, "PUT", "/v2/team/app/manifests/1", manifest, Content_Type=KIND)
        assert registry.repositories() == {"team/app"} and registry.tags("team/app") == ["1"]
        assert registry.manifests["team/app", "1"] == (KIND, manifest)
        assert registry.blobs == {sha256(b"abcd"): b"abcd"}
        registry.blobs[sha256(b"abcd")] = b"evil"
        assert ask(registry, "GET", f"/v2/team/app/blobs/{sha256(b'abcd')}")[2] == b"evil"
        assert [asked.body for asked in registry.asked if asked.method == "PATCH"] == [b"abc"]
        assert registry.asked[-1].headers["host"] == registry.host


def test_a_fault_answers_instead_of_it_one_request_at_a_time() -> None:
    answers = [Answer(503, {"Retry-After": "1"}), None, Answer(200, {}, b"abcdef", broken=3)]
    with MemoryRegistry(lambda asked: answers.pop(0)) as registry:
        assert ask(registry, "GET", "/v2/")[0] == 503
        assert ask(registry, "GET", "/v2/")[::2] == (200, b"{}")
        with pytest.raises(http.client.IncompleteRead) as caught:
            ask(registry, "GET", "/v2/")
        assert caught.value.partial == b"abc"
        assert answers == []


def test_passwords_a_fixed_token_and_tokens_that_end() -> None:
    with MemoryRegistry(users={"me": "pw"}) as registry:
        assert ask(registry, "GET", "/v2/")[1]["www-authenticate"].startswith("Basic ")
        assert ask(registry, "GET", "/v2/", Authorization=ME)[0] == 200
    with MemoryRegistry(token="abc") as registry:
        assert (
            f"http://{registry.host}/token" in ask(registry, "GET", "/v2/")[1]["www-authenticate"]
        )
        token = json.loads(ask(registry, "GET", "/token")[2])["token"]
        assert ask(registry, "GET", "/v2/", Authorization=f"Bearer {token}")[0] == 200
    now = [0.0]
    with MemoryRegistry(tokens=Tokens(ttl=5, clock=lambda: now[0])) as registry:
        token = json.loads(ask(registry, "GET", "/token?scope=repository:a:pull")[2])["token"]
        path, bearer = "/v2/a/manifests/1", f"Bearer {token}"
        assert ask(registry, "GET", path, Authorization=bearer)[0] == 404
        assert ask(registry, "PUT", path, b"{}", Authorization=bearer)[0] == 401
        now[0] = 6
        assert ask(registry, "GET", path, Authorization=bearer)[0] == 401


@pytest.mark.parametrize("said", [b"", b"no request\r\n", b"GET /v2/\r\n\r\n"])
def test_who_speaks_no_http_is_told_so(said: bytes) -> None:
    with MemoryRegistry() as registry:
        host, _, port = registry.host.partition(":")
        for _ in range(5):  # a handshake has a line's end in it or not
            with socket.create_connection((host, int(port)), timeout=60) as connection:
                if not said:
                    context = ssl.create_default_context()
                    with pytest.raises(ssl.SSLError, match="WRONG_VERSION_NUMBER"):
                        context.wrap_socket(connection, server_hostname="r.example")
                    continue
                connection.sendall(said)
                assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
        assert not registry.asked


def test_it_speaks_tls(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    with MemoryRegistry(tls=authority.server()) as registry:
        context = ssl.create_default_context(cafile=str(authority.certificate))
        host, _, port = registry.host.partition(":")
        connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=60)
        connection.request("POST", "/v2/a/blobs/uploads/")
        response = connection.getresponse()
        assert response.status == 202
        registry.location = "absolute"
        response.read()
        connection.request("POST", "/v2/a/blobs/uploads/")
        assert connection.getresponse().headers["location"].startswith(f"https://{host}:{port}/")
        connection.close()
