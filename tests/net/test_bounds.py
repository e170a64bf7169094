"""Garbage in answers (rules R7, R13, R14 and case RG-13): none of it is held, shown or obeyed."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from assembler.errors import ProtocolViolation, Unreachable, UsageError
from assembler.net.body import MAX_ERROR_BODY
from assembler.net.client import HttpClient, Request, Response
from assembler.net.failure import Cause
from assembler.net.retry import RetryPolicy
from tests.net.servers import Reply, Server, answer

ROOM = 20 << 10  # KiB that a garbage answer may add to the memory of this process


def get(server: Server) -> Request:
    return Request("GET", server.url(), "r.example", "a manifest")


def memory(what: str) -> int:
    """KiB of this process that are resident (VmRSS), or were at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


def flood(first: bytes, piece: bytes, times: int) -> Callable[[socket.socket, bytes], bool]:
    def reply(connection: socket.socket, head: bytes) -> bool:
        with suppress(OSError):
            connection.sendall(first)
            for _ in range(times):
                connection.sendall(piece)
        return False

    return reply


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (flood(answer(500, length=1 << 30), b"x" * (1 << 20), 1 << 10), ""),
        (flood(answer(200, length=1 << 30), b"x" * (1 << 20), 1 << 10), "more than 4194304 bytes"),
        (flood(b"HTTP/1.1 200 OK\r\n", b"X-Garbage: yes\r\n" * 1000, 1000), "no HTTP"),
        (flood(b"HTTP/1.1 200 OK\r\nX-Garbage: ", b"x" * (1 << 20), 10), "no HTTP"),
        (flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, 1000), "no HTTP"),
        (
            flood(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 1000, 1000
            ),
            "no HTTP",
        ),
    ],
    ids=["error-body", "body", "headers", "header", "informational", "chunk-extension"],
)
def test_RG13_garbage_is_not_held(
    serve: Callable[..., Server], client: Callable[..., HttpClient], reply: Reply, problem: str
) -> None:
    server = serve(reply)
    client().request(Request("GET", serve(answer()).url(), "r", "x"))  # everything is imported
    Path("/proc/self/clear_refs").write_text("5")  # the highest from now on: proc(5)
    before = memory("VmRSS")
    if problem:
        with pytest.raises((ProtocolViolation, Unreachable), match=problem):
            client().request(get(server))
    else:
        response = client().request(get(server))
        assert (response.status, len(response.body)) == (500, MAX_ERROR_BODY)
    assert memory("VmHWM") - before < ROOM


def test_RG13_json_nested_too_deep_is_wrong_json() -> None:
    with pytest.raises(ValueError, match="nested too deep"):
        Response(200, {}, b"[" * 100_000, "").json()
    assert Response(200, {}, b'{"a": [1]}', "").json() == {"a": [1]}


def test_R7_nothing_encoded_is_asked_for(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    server = serve(answer())
    client().request(get(server))
    assert b"Accept-Encoding: identity" in server.heads[0]


def test_R7_a_document_that_comes_encoded_all_the_same_is_decoded(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    server = serve(answer(200, gzip.compress(b"{}"), "Content-Encoding: gzip"))
    assert client().request(get(server)).body == b"{}"


@pytest.mark.parametrize(
    ("body", "encoding", "problem"),
    [
        (gzip.compress(b"x" * 5000), "gzip", "more than 1000 bytes"),
        (b"x" * 100, "gzip", "not gzip"),
        (b"x" * 100, "br", "Content-Encoding 'br'"),
        (b"x" * 100, "gzip, gzip", "Content-Encoding 'gzip, gzip'"),
    ],
)
def test_R7_within_the_bound_and_only_from_gzip(
    serve: Callable[..., Server],
    client: Callable[..., HttpClient],
    body: bytes,
    encoding: str,
    problem: str,
) -> None:
    server = serve(answer(200, body, f"Content-Encoding: {encoding}"))
    with pytest.raises(ProtocolViolation, match=problem):
        client().request(get(server), limit=1000)


def test_R7_a_stream_is_what_came(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    body = gzip.compress(b"x" * 5000)
    server = serve(answer(200, body, "Content-Encoding: gzip"))
    with client().stream(get(server)) as stream:
        assert (
            b"".join(map(bytes, stream.pieces)) == body
            and stream.header("content-encoding") == "gzip"
        )


def test_R14_warnings_are_told_once_and_escaped(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    told: list[str] = []
    long = "y" * 4000
    server = serve(
        answer(200, b"", 'Warning: 299 - "slow \x1b[31m \\"today\\""', f'Warning: 299 - "{long}"'),
        answer(200, b"", 'Warning: 299 - "slow \x1b[31m \\"today\\""', 'Warning: 110 x "stale"'),
        *[answer(200, b"", f'Warning: 299 - "{n}"') for n in range(100)],
    )
    warned = client(warn=told.append)
    for _ in range(102):
        warned.request(get(server))
    assert told[0] == r'r.example: slow \x1b[31m "today"'
    assert told[1] == f"r.example: {'y' * 200}"
    assert told[2:4] == ["r.example: 0", "r.example: 1"]
    assert len(told) == 20


def test_R13_what_the_server_says_of_a_failure_is_escaped_and_short(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    server = serve(b"HTTP/1.1 200 \x1b[31m" + b"x" * 1000 + b"\x00\r\n\r\n")
    with pytest.raises(Unreachable) as failed:
        client().request(get(server))
    assert failed.value.cause == Cause.MALFORMED
    assert failed.value.message.isprintable() and len(failed.value.message) < 400


@pytest.mark.parametrize("secret", ["s3cret\n", "s3cret\r\nX: y", "s3cr\x00et", "sécret3"])
def test_a_secret_that_is_no_header_is_not_shown(
    serve: Callable[..., Server], client: Callable[..., HttpClient], secret: str
) -> None:
    server = serve(answer())
    request = Request("GET", server.url(), "r.example", "x", private={"Authorization": secret})
    with pytest.raises(UsageError, match=r"the header Authorization for r\.example") as refused:
        client().request(request)
    assert "cret" not in f"{refused.value.message}{refused.value.hint}{refused.value.__cause__}"
    assert not server.heads


@pytest.mark.parametrize("path", ["/a\nb", "/\x00"])
def test_a_url_that_is_none_is_refused_at_once(
    serve: Callable[..., Server], client: Callable[..., HttpClient], path: str
) -> None:
    server = serve(answer())
    with pytest.raises(ProtocolViolation, match="has no valid URL"):
        client(policy=RetryPolicy()).request(Request("GET", server.url() + path, "r", "x"))
    assert not server.heads
