"""Connections: how many, for how long, and what goes over them."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from assembler.cancellation import Cancellation
from assembler.errors import BlobCorrupt, Cancelled, Unreachable
from assembler.net.body import FileBody
from assembler.net.client import HttpClient, Request
from assembler.net.limits import Limits
from assembler.net.retry import RetryPolicy
from assembler.net.tls import Certificates
from tests.bounds import watchdog
from tests.leftovers import nothing_left
from tests.net.servers import Authority, Server, answer

LARGE = os.urandom(1 << 20) * 9 + b"and a bit"


@pytest.fixture
def client(client: Callable[..., HttpClient], authority: Authority) -> Callable[..., HttpClient]:
    trusted = Certificates((authority.certificate,))
    return lambda **how: client(**{"certificates": lambda host: trusted, **how})


@pytest.fixture(params=["http", "https"])
def started(
    request: pytest.FixtureRequest, serve: Callable[..., Server], authority: Authority
) -> Callable[..., Server]:
    """Starts servers with and without TLS."""
    secure = request.param == "https"
    return lambda *replies: serve(*replies, context=authority.server() if secure else None)


def get(server: Server) -> Request:
    return Request("GET", server.url(), "r.example", "a blob")


def put(server: Server, body: Any, length: int | None = None) -> Request:
    return Request("PUT", server.url(), "r.example", "a blob", body=body, length=length)


def test_a_connection_is_used_again(
    started: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    server = started(answer(body=b"it"))
    one = client()
    for _ in range(5):
        assert one.request(get(server)).body == b"it"
    assert server.connections == 1


def test_a_large_body_comes_whole_and_its_connection_is_used_again(
    started: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    server = started(answer(body=LARGE), answer(body=b"next"))
    one = client()
    with one.stream(get(server)) as stream:
        assert b"".join(map(bytes, stream.pieces)) == LARGE
    assert one.request(get(server)).body == b"next"
    assert server.connections == 1


def test_a_large_body_that_is_not_read_to_its_end(
    started: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    server = started(answer(body=LARGE), answer(body=b"next"))
    one = client()
    with one.stream(get(server)) as stream:
        next(stream.pieces)
    assert one.request(get(server)).body == b"next"


@pytest.mark.parametrize("sent", [0, 10, 70_000, len(LARGE) - 1])
def test_R6_a_large_body_that_ends_early_gives_what_there_was(
    started: Callable[..., Server], client: Callable[..., HttpClient], sent: int
) -> None:
    def part(connection: socket.socket, head: bytes) -> bool:
        connection.sendall(answer(body=LARGE[:sent], length=len(LARGE)))
        return False

    received = b""
    with pytest.raises(Unreachable), client().stream(get(started(part))) as stream:
        for piece in stream.pieces:
            received += piece
    assert received == LARGE[:sent]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_part_of_a_file_is_sent(
    started: Callable[..., Server], client: Callable[..., HttpClient], tmp_path: Path, method: str
) -> None:
    server, sent = started(answer(201)), []
    path = tmp_path / "blob"
    path.write_bytes(LARGE)
    body = FileBody(lambda: path.open("rb"), 100, len(LARGE) - 107, sent.append)
    one = client()
    request = Request(method, server.url(), "r", "a blob", body=body)
    assert [one.request(request).status for _ in range(2)] == [201, 201]
    expected = hashlib.sha256(LARGE[100:-7]).digest()
    assert [hashlib.sha256(one).digest() for one in server.bodies] == [expected] * 2
    assert sent[-1] == len(LARGE) - 107 and server.connections == 1


def test_a_part_of_what_is_no_file_is_sent(
    started: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    server = started(answer(201))
    client().request(put(server, FileBody(lambda: io.BytesIO(b"0123456789"), 2, 5)))
    assert server.bodies == [b"23456"]


def test_a_file_that_is_too_short_is_not_sent_as_if_it_were_whole(
    started: Callable[..., Server], client: Callable[..., HttpClient], tmp_path: Path
) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"short")
    server = started(answer(201))
    with pytest.raises(BlobCorrupt, match="only 5 of the 9 bytes"):
        client().request(put(server, FileBody(lambda: path.open("rb"), 0, 9)))
    assert not server.bodies


def test_a_file_that_cannot_be_read_is_no_fault_of_the_network(
    started: Callable[..., Server], client: Callable[..., HttpClient], tmp_path: Path
) -> None:
    server, one = started(answer(201)), client(policy=RetryPolicy())
    for body in (
        FileBody(lambda: (tmp_path / "gone").open("rb"), 0, 9),
        lambda: [(tmp_path / "gone").read_bytes()],
    ):
        with pytest.raises(FileNotFoundError):
            one.request(put(server, body, length=9))


def test_a_body_of_pieces(
    started: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    server = started(answer(201))
    client().request(put(server, lambda: [b"ab", b"cd"], length=4))
    assert server.bodies == [b"abcd"] and b"Content-Length: 4" in server.heads[0]


def test_a_refusal_in_the_middle_of_an_upload_is_heard(client: Callable[..., HttpClient]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer(413, b"too much"))
                over.wait()

        over = threading.Event()
        thread = threading.Thread(target=refuse)
        thread.start()
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            pieces = [b"x" * (1 << 20)] * 64
            request = Request("PUT", url, "r", "x", body=lambda: pieces, length=64 << 20)
            response = client().request(request)
        finally:
            over.set()
            thread.join()
    assert (response.status, response.body) == (413, b"too much")


def test_R15_a_host_has_four_connections_at_most(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    together, most, lock = 0, 0, threading.Lock()

    def slow(connection: socket.socket, head: bytes) -> None:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        time.sleep(0.01)
        with lock:
            together -= 1
        connection.sendall(answer())

    # No time passes for the client: a machine that stalls does not make its connections stranded.
    server, one = serve(slow), client(clock=lambda: 0.0)
    threads = [threading.Thread(target=one.request, args=(get(server),)) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.heads) == 40 and most <= 4 and server.connections <= 4


def test_what_is_held_but_not_used_holds_nobody_up(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    server, one = serve(answer(body=b"it")), client()
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(one.stream(get(server)))
        assert one.request(get(server)).body == b"it"


def test_who_waits_for_a_connection_ends_with_the_build(
    serve: Callable[..., Server], client: Callable[..., HttpClient], cancellation: Cancellation
) -> None:
    server = serve(lambda connection, head: connection.recv(1))
    one, ended = client(), []

    def ask() -> None:
        with pytest.raises(Cancelled):
            one.request(get(server))
        ended.append(threading.current_thread())

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    while len(server.heads) < 4:
        time.sleep(0.01)
    cancellation.cancel(2)
    for thread in threads:
        thread.join()
    assert len(ended) == 6


def test_a_connection_that_was_closed_meanwhile_is_no_failure(
    started: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    def last(connection: socket.socket, head: bytes) -> bool:
        connection.sendall(answer(body=b"it"))
        return False

    server, one = started(last), client()
    for _ in range(3):
        assert one.request(get(server)).body == b"it"


def test_one_that_breaks_when_it_is_used_again_is_replaced(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    server, one = serve(answer(body=b"it"), lambda connection, head: False, answer()), client()
    assert one.request(get(server)).body == b"it"
    assert one.request(get(server)).status == 200
    assert (len(server.heads), server.connections) == (3, 2)


def test_what_must_not_be_sent_twice_is_not(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    server, one = serve(answer(), lambda connection, head: False, answer()), client()
    one.request(get(server))
    with pytest.raises(Unreachable):
        one.request(Request("PATCH", server.url(), "r", "x", body=b"data"))
    assert len(server.heads) == 2


def test_nothing_is_left_open(
    started: Callable[..., Server], cancellation: Cancellation, authority: Authority
) -> None:
    server = started(answer(body=b"it"), answer(500), answer(body=LARGE))
    with (
        nothing_left(),
        HttpClient(
            cancellation=cancellation,
            policy=RetryPolicy(tries=1),
            certificates=lambda host: Certificates((authority.certificate,)),
        ) as one,
    ):
        for _ in range(3):
            with one.stream(get(server)) as stream:
                next(stream.pieces, b"")
        server.__exit__()
        with pytest.raises(Unreachable):
            one.request(get(server))


@pytest.mark.parametrize("size", [100, len(LARGE)])
def test_a_body_ends_with_the_build(
    started: Callable[..., Server],
    client: Callable[..., HttpClient],
    cancellation: Cancellation,
    size: int,
) -> None:
    server = started(lambda connection, head: connection.sendall(answer(body=b"x", length=size)))
    one = client(limits=Limits(window=3600))
    with watchdog(), pytest.raises(Cancelled), one.stream(get(server)) as stream:
        assert next(stream.pieces) == b"x"
        threading.Timer(0.1, cancellation.cancel, [2]).start()
        next(stream.pieces)
