"""Servers that are too slow, broken, or busy (rules R4, R5)."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from assembler.cancellation import Cancellation
from assembler.errors import RateLimited, Unreachable
from assembler.net.client import HttpClient, Request
from assembler.net.connection import SocketStream
from assembler.net.failure import Cause
from assembler.net.limits import Limits
from assembler.net.retry import RetryPolicy
from tests.net.servers import Reply, Server, answer

QUICK = Limits(head=0.3, window=0.3, handshake=0.3)
OFTEN = RetryPolicy(tries=1000)  # whatever a machine may be too slow for


class Waits(Cancellation):
    """Does not sleep, and remembers how long it should have."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        return False


@pytest.fixture
def waits() -> Iterator[Waits]:
    with Waits() as wish:
        yield wish


@pytest.fixture
def client(waits: Waits) -> Iterator[Callable[..., HttpClient]]:
    with ExitStack() as stack:

        def make(**how: Any) -> HttpClient:
            how.setdefault("policy", RetryPolicy(jitter=lambda: 1.0))
            return stack.enter_context(HttpClient(cancellation=waits, **how))

        yield make


def get(server: Server, **how: Any) -> Request:
    return Request("GET", server.url(), "r.example", "a blob", **how)


def dripping(data: bytes) -> Callable[[socket.socket, bytes], bool]:
    """Sends `data` a byte at a time, for ever."""

    def reply(connection: socket.socket, head: bytes) -> bool:
        with suppress(OSError):
            for n in range(10_000):
                connection.sendall(data[n : n + 1] or b"x")
                time.sleep(0.02)
        return False

    return reply


def silent(connection: socket.socket, head: bytes) -> bool:
    with suppress(OSError):
        connection.recv(1)
    return False


def gone(connection: socket.socket, head: bytes) -> bool:
    return False


@pytest.mark.parametrize(
    "reply",
    [
        silent,
        dripping(b"HTTP/1.1 200 OK\r\nX-Drip: "),
        dripping(answer(length=1 << 20)),
        dripping(answer(length=1 << 24)),  # received past httpx
        dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n"),
    ],
    ids=["silent", "head", "body", "large-body", "chunked"],
)
def test_R4_a_slow_loris_fails_within_its_window_and_is_tried_again(
    serve: Callable[..., Server], client: Callable[..., HttpClient], reply: Reply
) -> None:
    server = serve(reply, reply, answer(body=b"at last"))
    response = client(limits=QUICK, policy=OFTEN).request(get(server), limit=1 << 25)
    assert response.body == b"at last" and len(server.heads) >= 3


def test_R4_an_upload_that_is_not_read(client: Callable[..., HttpClient]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        body = [b"x" * (1 << 20)] * 64
        request = Request("PUT", url, "r", "a blob", body=lambda: body, length=64 << 20)
        with (
            pytest.raises(Unreachable) as failed,
            client(limits=QUICK, policy=RetryPolicy(tries=1)).stream(request),
        ):
            pass
    assert failed.value.cause == Cause.SLOW


def test_R4_an_upload_that_is_not_acknowledged(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    server = serve(silent, answer(201))
    request = Request("PUT", server.url(), "r", "a blob", body=b"x" * 100_000)
    assert client(limits=QUICK, policy=OFTEN).request(request).status == 201
    assert server.bodies[:2] == [b"x" * 100_000] * 2


def test_R4_an_answer_that_needs_its_time(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    def late(connection: socket.socket, head: bytes) -> None:
        time.sleep(0.5)
        connection.sendall(answer(201))

    server = serve(late)
    assert client(limits=QUICK).request(get(server, patience=60.0)).status == 201
    assert len(server.heads) == 1


def test_R4_a_handshake_that_is_not_answered(
    client: Callable[..., HttpClient], waits: Waits
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(Unreachable) as failed:
            client(limits=QUICK).request(Request("GET", url, "r", "a blob"))
    assert failed.value.cause == Cause.SLOW and len(waits.seconds) == 5


def test_CN06_a_process_that_was_stopped_has_not_waited(cancellation: Cancellation) -> None:
    ours, theirs = socket.socketpair()
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 90
        theirs.send(b"x")
        return now

    with ours, theirs:
        stream = SocketStream(ours, cancellation=cancellation, limits=Limits(), clock=clock)
        stream.begin()
        ours.recv(100)
        assert stream.read(1) == b"x"


def test_what_the_caller_does_meanwhile_is_not_waiting(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    server = serve(answer(body=b"x" * 4096))
    with client(limits=Limits(window=0.05)).stream(get(server)) as stream:
        time.sleep(0.2)
        assert b"".join(map(bytes, stream.pieces)) == b"x" * 4096


@pytest.mark.parametrize("status", [408, 425, 429, 499, 500, 502, 503, 504, 522])
def test_R5_a_passing_failure_is_waited_for(
    serve: Callable[..., Server], client: Callable[..., HttpClient], waits: Waits, status: int
) -> None:
    server = serve(answer(status), answer(status), answer(body=b"it"))
    assert client().request(get(server)).body == b"it"
    assert waits.seconds == [1, 2]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 416, 501, 507])
def test_R13_a_lasting_one_is_not(
    serve: Callable[..., Server], client: Callable[..., HttpClient], status: int
) -> None:
    server = serve(answer(status, b"<html>no</html>"))
    assert client().request(get(server)).status == status
    assert len(server.heads) == 1


@pytest.mark.parametrize(
    "reply",
    [
        gone,
        answer(body=b"short", length=100),
        answer(body=b"short", length=10 << 20),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 429 Too Many Requests\nRetry-After 5\nX: y\n\n",
        b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 5\r\n\n<html>\r\n\r\n",
        b"\x00\x01\x02 garbage\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    ],
    ids=["eof", "short", "short-large", "chunk", "bare-lf", "mixed-lf", "garbage", "no-status",
         "two-lengths", "no-length"],
)  # fmt: skip
def test_R5_what_is_broken_is_tried_again(
    serve: Callable[..., Server], client: Callable[..., HttpClient], reply: Reply
) -> None:
    def broken(connection: socket.socket, head: bytes) -> bool:
        if isinstance(reply, bytes):
            connection.sendall(reply)
        return False

    server = serve(broken, broken, broken, broken, broken, answer(body=b"it"))
    assert client().request(get(server), limit=1 << 25).body == b"it"
    assert len(server.heads) == 6


def test_R5_after_six_tries_it_says_so(
    serve: Callable[..., Server], client: Callable[..., HttpClient], waits: Waits
) -> None:
    server = serve(gone)
    with pytest.raises(
        Unreachable, match=r"cannot reach r\.example for a blob at 127\.0\.0\.1"
    ) as failed:
        client().request(get(server))
    assert failed.value.cause == Cause.BROKEN and failed.value.hint
    assert waits.seconds == [1, 2, 4, 8, 16] and len(server.heads) == 6


def test_a_port_that_refuses_is_not_asked_for_long(
    client: Callable[..., HttpClient], waits: Waits, free_port: int
) -> None:
    with pytest.raises(Unreachable, match="nothing listens there") as failed:
        client().request(Request("GET", f"http://127.0.0.1:{free_port}/", "r", "a blob"))
    assert failed.value.cause == Cause.REFUSED and waits.seconds == [1, 2]


@pytest.mark.parametrize(
    ("code", "waited", "cause"),
    [
        (socket.EAI_AGAIN, 5, Cause.NAME_UNANSWERED),
        (socket.EAI_NONAME, 2, Cause.NAME_UNKNOWN),
    ],
)
def test_R5_names_that_cannot_be_looked_up(
    client: Callable[..., HttpClient], waits: Waits, code: int, waited: int, cause: Cause
) -> None:
    def fails(host: str, port: int) -> Any:
        raise socket.gaierror(code, "no")

    with pytest.raises(Unreachable) as failed:
        client(look_up=fails).request(Request("GET", "http://r.example/", "r", "a blob"))
    assert failed.value.cause == cause and len(waits.seconds) == waited


def test_R5_a_registry_that_has_answered_before_is_given_more_time(
    serve: Callable[..., Server], client: Callable[..., HttpClient], waits: Waits
) -> None:
    server, one = serve(answer(body=b"well"), gone), client()
    assert one.request(get(server)).body == b"well"
    with pytest.raises(Unreachable, match="the connection broke"):
        one.request(get(server))
    assert waits.seconds == [1, 2, 4, 8, 16] + [30] * 6
    waits.seconds.clear()
    with pytest.raises(Unreachable):
        one.request(get(server))
    assert len(waits.seconds) == 5, "once"


def test_R5_what_another_one_may_have_is_not_waited_for_so_long(
    serve: Callable[..., Server], client: Callable[..., HttpClient], waits: Waits
) -> None:
    server, one = serve(answer(body=b"well"), gone), client()
    assert one.request(get(server)).body == b"well"
    with pytest.raises(Unreachable):
        one.request(get(server, brief=True))
    assert len(waits.seconds) == 5


def test_R5_a_registry_that_has_gone_may_be_on_its_way_back(
    serve: Callable[..., Server], client: Callable[..., HttpClient], waits: Waits
) -> None:
    server, one = serve(answer(body=b"well")), client()
    assert one.request(get(server)).body == b"well"
    server.__exit__()
    for waited in (11, 2):
        waits.seconds.clear()
        with pytest.raises(Unreachable, match="nothing listens there"):
            one.request(get(server))
        assert len(waits.seconds) == waited


def test_R5_a_registry_that_fails_in_several_ways_is_alive(
    serve: Callable[..., Server], client: Callable[..., HttpClient], waits: Waits
) -> None:
    busy, wrong = (answer(status, b"", "Connection: close") for status in (503, 500))
    server = serve(busy, busy, gone, wrong, gone, gone, gone, gone, answer())
    assert client().request(get(server)).status == 200
    assert waits.seconds == [1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_R5_one_that_fails_in_one_way_from_the_first_is_dead(
    serve: Callable[..., Server], client: Callable[..., HttpClient], waits: Waits, status: int
) -> None:
    server = serve(answer(status))
    assert client().request(get(server)).status == status
    assert len(server.heads) == 6 and waits.seconds == [1, 2, 4, 8, 16]


def test_R5_retry_after_is_heeded(
    serve: Callable[..., Server], client: Callable[..., HttpClient], waits: Waits
) -> None:
    server = serve(
        answer(429, b"", "Retry-After: 7"),
        answer(503, b"", "Retry-After: never"),
        answer(429, b"", "Retry-After: 400"),
        answer(429, b"", "Retry-After: Thu, 01 Jan 1970 00:00:00 GMT"),
        answer(body=b"it"),
    )
    assert client().request(get(server)).body == b"it"
    assert waits.seconds == [7, 2, 300, 8]


@pytest.mark.parametrize(
    ("status", "asked", "kind", "text"),
    [
        (429, "3600", RateLimited, "limits the rate of requests"),
        (429, "Thu, 01 Jan 2099 00:00:00 GMT", RateLimited, "at 2099-01-01 00:00 UTC"),
        (503, "3600", Unreachable, "is not ready"),
    ],
)
def test_R5_an_hour_is_not_waited_for(
    serve: Callable[..., Server],
    client: Callable[..., HttpClient],
    waits: Waits,
    status: int,
    asked: str,
    kind: type[Exception],
    text: str,
) -> None:
    server = serve(answer(status, b"", f"Retry-After: {asked}"))
    with pytest.raises(kind, match=text) as failed:
        client().request(get(server))
    assert "r.example" in str(failed.value) and "a blob" in str(failed.value)
    assert len(server.heads) == 1 and not waits.seconds


def test_R4_R5_all_is_over_with_the_budget(
    serve: Callable[..., Server], client: Callable[..., HttpClient], waits: Waits
) -> None:
    now = 0.0

    def fails(connection: socket.socket, head: bytes) -> bool:
        nonlocal now
        now += 40
        return False

    server = serve(fails)
    patient = client(policy=RetryPolicy(budget=100, jitter=lambda: 1.0), clock=lambda: now)
    with pytest.raises(Unreachable):
        patient.request(get(server))
    assert len(server.heads) == 3


def test_R4_one_attempt_does_not_outlast_the_budget(
    serve: Callable[..., Server], client: Callable[..., HttpClient]
) -> None:
    server = serve(dripping(answer(length=1 << 20)))
    with pytest.raises(Unreachable, match="the time for it is over"):
        client(policy=RetryPolicy(budget=0.2)).request(get(server))
