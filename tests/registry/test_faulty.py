"""The faulty registry is right when no rule is about a request, and wrong just as its rules say."""

from __future__ import annotations

import http.client
import json
import os
from urllib.parse import urlsplit

import pytest

from assembler.testing.distribution import sha256
from assembler.testing.tokens import Tokens
from tests.registry.faulty import FaultyRegistry
from tests.registry.rules import (
    BLOB,
    MANIFEST,
    PING,
    START,
    UPLOAD,
    Chaos,
    amend,
    chunked,
    cut,
    drip,
    lose_upload,
    raw,
    redirect,
    reply,
    reset,
    unanswered,
)  # fmt: skip

BIG = os.urandom(6_000_000)


def ask(
    registry: FaultyRegistry, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(registry.host, timeout=60)
    try:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body or None, fields)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return response.status, found, response.read()
    finally:
        connection.close()


def start(faulty: FaultyRegistry) -> str:
    _, headers, _ = ask(faulty, "POST", "/v2/a/blobs/uploads/")
    return headers["location"]


def test_an_upload_by_chunks_comes_back_in_ranges(faulty: FaultyRegistry) -> None:
    location = start(faulty)
    for at in (0, 2_000_000):
        status, headers, _ = ask(
            faulty, "PATCH", location, BIG[at : at + 2_000_000],
            Content_Range=f"{at}-{at + 1_999_999}",
        )  # fmt: skip
        assert (status, headers["range"]) == (202, f"0-{at + 1_999_999}")
        location = headers["location"]
    status, headers, _ = ask(faulty, "PATCH", location, b"x", Content_Range="9-9")
    assert (status, headers["range"]) == (416, "0-3999999")
    status, headers, _ = ask(faulty, "PUT", f"{location}&digest={sha256(BIG)}", BIG[4_000_000:])
    assert status == 201
    status, headers, body = ask(faulty, "GET", headers["location"], Range="bytes=10-19")
    assert (status, headers["content-range"], body) == (206, "bytes 10-19/6000000", BIG[10:20])
    assert faulty.blob(sha256(BIG)) == BIG
    assert faulty.received(sha256(BIG)) == len(BIG) + 1 and not faulty.sessions


def test_a_reset_happens_at_its_byte_whichever_request_that_is_in(faulty: FaultyRegistry) -> None:
    rule = faulty.on("PATCH", UPLOAD, reset(), at=3_000_000)
    location = start(faulty)
    _, headers, _ = ask(faulty, "PATCH", location, BIG[:2_000_000])
    with pytest.raises(OSError):
        ask(faulty, "PATCH", headers["location"], BIG[2_000_000:])
    assert rule.fired == 1
    status, headers, _ = ask(faulty, "GET", headers["location"])
    assert (status, headers["range"]) == (204, "0-2999999")


def test_a_registry_that_keeps_nothing_of_a_broken_chunk(faulty: FaultyRegistry) -> None:
    faulty.keeps = False
    faulty.on("PATCH", UPLOAD, reply(503), at=3_000_000)
    location = start(faulty)
    _, headers, _ = ask(faulty, "PATCH", location, BIG[:2_000_000])
    assert ask(faulty, "PATCH", headers["location"], BIG[2_000_000:])[0] == 503
    assert ask(faulty, "GET", headers["location"])[1]["range"] == "0-1999999"


def test_chunks_below_the_minimum_are_refused_but_for_the_last(faulty: FaultyRegistry) -> None:
    faulty.minimum = 1000
    location = start(faulty)
    _, headers, _ = ask(faulty, "PATCH", location, BIG[:10])
    assert headers["oci-chunk-min-length"] == "1000"
    assert ask(faulty, "PATCH", headers["location"], BIG[10:20])[0] == 416
    digest = sha256(BIG[:10])
    assert ask(faulty, "PUT", f"{headers['location']}&digest={digest}")[0] == 201


@pytest.mark.parametrize("form", ["relative", "absolute", "plain", "changing"])
def test_R8_every_form_of_location(faulty: FaultyRegistry, form: str) -> None:
    faulty.location = form
    first = start(faulty)
    assert ("?" in first, first.startswith("http")) == (form != "plain", form == "absolute")
    _, headers, _ = ask(faulty, "PATCH", first, b"abc")
    assert (ask(faulty, "GET", first)[0] == 404) == (form == "changing")
    parts = urlsplit(headers["location"])
    status, _, _ = ask(faulty, "PUT", f"{parts.path}?digest={sha256(b'abc')}")
    assert status == 201


def test_a_blob_is_cut_reset_changed_chunked_or_dripped(faulty: FaultyRegistry) -> None:
    path = f"/v2/a/blobs/{faulty.add_blob('a', BIG)}"
    faulty.on("GET", BLOB, cut(100, quietly=True), nth=1)
    faulty.on("GET", BLOB, amend({"Content-Range": "bytes 1-2/3"}, status=206), nth=2)
    faulty.on("GET", BLOB, amend(body=lambda body: body[:-1] + b"?"), nth=3)
    faulty.on("GET", BLOB, chunked(), nth=4)
    faulty.on("GET", BLOB, drip(2_000_000, 0.001), nth=5)
    with pytest.raises(http.client.IncompleteRead):
        ask(faulty, "GET", path)
    assert ask(faulty, "GET", path)[1]["content-range"] == "bytes 1-2/3"
    assert ask(faulty, "GET", path)[2] == BIG[:-1] + b"?"
    _, headers, body = ask(faulty, "GET", path)
    assert "content-length" not in headers and body == BIG
    assert ask(faulty, "GET", path)[2] == BIG
    faulty.on("GET", BLOB, reset(), at=5_000_000)
    with pytest.raises(OSError):
        ask(faulty, "GET", path, Range="bytes=4000000-")


def test_what_was_done_but_not_answered_was_done(faulty: FaultyRegistry) -> None:
    location = start(faulty)
    faulty.on("PUT", UPLOAD, unanswered(), nth=1)
    with pytest.raises(OSError):
        ask(faulty, "PUT", f"{location}&digest={sha256(b'abc')}", b"abc")
    assert ask(faulty, "HEAD", f"/v2/a/blobs/{sha256(b'abc')}")[0] == 200
    faulty.on("GET", UPLOAD, lose_upload(), nth=1)
    assert ask(faulty, "GET", start(faulty))[0] == 404


def test_mounts_and_manifests(faulty: FaultyRegistry) -> None:
    digest = faulty.add_blob("base", b"abc")
    kind = "application/vnd.oci.image.manifest.v1+json"
    blob = {"mediaType": "text/plain", "digest": digest, "size": 3}
    first = json.dumps({"schemaVersion": 2, "config": blob, "layers": [blob]}).encode()
    assert ask(faulty, "PUT", "/v2/a/manifests/1", first, Content_Type=kind)[0] == 404
    assert ask(faulty, "POST", f"/v2/a/blobs/uploads/?mount={digest}&from=no")[0] == 202
    assert ask(faulty, "POST", f"/v2/a/blobs/uploads/?mount={digest}&from=base")[0] == 201
    assert ask(faulty, "PUT", "/v2/a/manifests/1", first, Content_Type=kind)[0] == 201
    subject = {"mediaType": kind, "digest": sha256(first), "size": len(first)}
    second = json.dumps({"schemaVersion": 2, "config": blob, "layers": [], "subject": subject})
    headers = ask(faulty, "PUT", "/v2/a/manifests/2", second.encode(), Content_Type=kind)[1]
    assert headers["oci-subject"] == sha256(first)
    found = json.loads(ask(faulty, "GET", f"/v2/a/referrers/{sha256(first)}")[2])
    assert [one["digest"] for one in found["manifests"]] == [sha256(second.encode())]
    _, headers, body = ask(faulty, "GET", "/v2/a/tags/list?n=1")
    assert json.loads(body)["tags"] == ["1"] and "last=1" in headers["link"]
    faulty.on("GET", MANIFEST, reply(404), nth=range(1, 3))
    assert [ask(faulty, "GET", "/v2/a/manifests/1")[0] for _ in range(3)] == [404, 404, 200]


def test_tokens_end_by_the_clock_and_by_use() -> None:
    now = [0.0]
    tokens = Tokens(users={"me": "pw"}, anonymous=frozenset(), ttl=2, clock=lambda: now[0])
    with FaultyRegistry(tokens=tokens) as registry:
        digest = registry.add_blob("a", b"abc")
        path = f"/v2/a/blobs/{digest}"
        status, headers, _ = ask(registry, "GET", path)
        assert status == 401
        assert headers["www-authenticate"].endswith('scope="repository:a:pull"')
        realm = f"/token?scope={'repository:a:pull'}&service=faulty"
        anonymous = json.loads(ask(registry, "GET", realm)[2])["token"]
        assert ask(registry, "GET", path, Authorization=f"Bearer {anonymous}")[0] == 401
        login = "Basic bWU6cHc="
        token = json.loads(ask(registry, "GET", realm, Authorization=login)[2])["token"]
        assert ask(registry, "GET", path, Authorization=f"Bearer {token}")[0] == 200
        start = ask(registry, "POST", "/v2/a/blobs/uploads/", Authorization=f"Bearer {token}")
        assert start[0] == 401 and "insufficient_scope" in start[1]["www-authenticate"]
        now[0] = 2.5
        assert ask(registry, "GET", path, Authorization=f"Bearer {token}")[0] == 401
        tokens.uses = 1
        token = json.loads(ask(registry, "GET", realm, Authorization=login)[2])["token"]
        told = [ask(registry, "GET", path, Authorization=f"Bearer {token}")[0] for _ in range(2)]
        assert told == [200, 401]


def test_redirects_garbage_and_an_answer_before_the_body(faulty: FaultyRegistry) -> None:
    faulty.on("GET", PING, redirect("http://127.0.0.1:1"), nth=1)
    faulty.on("GET", PING, raw(b"HTTP/1.1 429 no\nRetry-After: 1\n\nx"), nth=2)
    assert ask(faulty, "GET", PING)[1]["location"] == "http://127.0.0.1:1/v2/"
    assert ask(faulty, "GET", PING)[0] == 429
    faulty.on("PATCH", UPLOAD, reply(413, drain=False))
    status, headers, _ = ask(faulty, "PATCH", start(faulty), b"x" * 1000)
    assert (status, headers["connection"]) == (413, "close")


def test_chaos_fails_as_often_as_it_says_and_in_all_ways() -> None:
    chaos = Chaos(0.3, seed=7)
    with FaultyRegistry(chaos=chaos) as registry:
        path = f"/v2/a/blobs/{registry.add_blob('a', b'abc')}"
        good = 0
        for _ in range(200):
            try:
                good += ask(registry, "GET", path)[2] == b"abc"
            except (OSError, http.client.HTTPException):
                continue
        assert good == 200 - sum(chaos.failures.values())
        assert 40 <= sum(chaos.failures.values()) <= 80 and len(chaos.failures) == 7
        assert registry.counts.connections == 200 and registry.counts.most_busy == 1
        assert registry.asked("POST", START) == []
