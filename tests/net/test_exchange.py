"""A request and its answer on one connection: what is read past h11 means what h11 says it means."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import h11
import httpx
import pytest

from assembler.cancellation import Cancellation
from assembler.net.connection import SocketStream
from assembler.net.exchange import Exchange
from assembler.net.limits import Limits

BODY = bytes(range(256)) * 2
Ask = Callable[..., tuple[int, list[tuple[bytes, bytes]], bytes, bool]]


@pytest.fixture
def begin(cancellation: Cancellation) -> Iterator[Callable[..., Exchange]]:
    """Makes exchanges with the other end of a socket, which says `answer` and, unless told otherwise,
    closes."""
    with ExitStack() as stack:

        def begun(answer: bytes, *, ends: bool = True) -> Exchange:
            ours, theirs = socket.socketpair()
            for one in (ours, theirs):
                stack.callback(one.close)
            limits = Limits(head=60.0, window=60.0)
            exchange = Exchange(SocketStream(ours, cancellation=cancellation, limits=limits), 60.0)
            exchange.stream.begin()
            theirs.sendall(answer)
            if ends:
                theirs.shutdown(socket.SHUT_WR)
            return exchange

        yield begun


@pytest.fixture
def ask(begin: Callable[..., Exchange]) -> Ask:
    """Asks; the status, the headers, the body and whether the connection can be used again."""

    def asked(
        answer: bytes, method: str = "GET", *, ends: bool = True
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes, bool]:
        exchange = begin(answer, ends=ends)
        head = exchange.ask(method, b"/", [(b"Host", b"h")])
        exchange.stream.answered()
        body = b"".join(map(bytes, exchange.body()))
        exchange.end()
        return head.status, head.headers, body, exchange.idle

    return asked


def by_h11(answer: bytes, method: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """The same by h11 alone. Raises h11.RemoteProtocolError."""
    engine = h11.Connection(h11.CLIENT, max_incomplete_event_size=100 << 10)
    engine.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
    engine.send(h11.EndOfMessage())
    engine.receive_data(answer)
    engine.receive_data(b"")
    while not isinstance(head := engine.next_event(), h11.Response):
        pass
    body = b""
    while isinstance(event := engine.next_event(), h11.Data):
        body += event.data
    return head.status_code, head.headers.raw_items(), body


def answer(*lines: bytes, body: bytes = BODY, end: bytes = b"\r\n") -> bytes:
    return end.join((*lines, b"", body))


OK = b"HTTP/1.1 200 OK"
LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
HEADS = {
    "usual": answer(OK, LENGTH, b"X: y"),
    "no reason": answer(b"HTTP/1.1 200", LENGTH),
    "empty value": answer(OK, b"X:", LENGTH),
    "spaces": answer(OK, b"X: \t a b \t", LENGTH),
    "same length twice": answer(OK, LENGTH, LENGTH),
    "list of the same": answer(OK, b"Content-Length: %d, %d" % (len(BODY), len(BODY))),
    "twice": answer(OK, b"Link: a", b"link: b", LENGTH),
    "folded": answer(OK, b"X: a", b" b", LENGTH),
    "chunked": answer(OK, b"Transfer-Encoding: chunked", body=CHUNKED),
    "both": answer(OK, LENGTH, b"transfer-encoding: chunked", body=CHUNKED),
    "until the end": answer(OK, b"X: y"),
    "line feeds": answer(OK, LENGTH, end=b"\n"),
    "http/1.0": answer(b"HTTP/1.0 200 OK", LENGTH),
    "latin": answer(OK, b"X: \xe9", LENGTH),
    "early hints": answer(b"HTTP/1.1 103 Early Hints", b"Link: x", body=b"") + answer(OK, LENGTH),
    "not modified": answer(b"HTTP/1.1 304 Not Modified", LENGTH, body=b""),
    "nothing": answer(OK, b"Content-Length: 0", body=b""),
    "a long head": answer(OK, b"X: " + b"y" * 20_000, LENGTH),
}
BAD = {
    "lengths that differ": answer(OK, LENGTH, b"Content-Length: 1"),
    "list of two": answer(OK, b"Content-Length: 1, 2"),
    "negative": answer(OK, b"Content-Length: -1"),
    "plus": answer(OK, b"Content-Length: +1"),
    "hex": answer(OK, b"Content-Length: 0x10"),
    "of no end": answer(OK, b"Content-Length: " + b"9" * 30),
    "two codings": answer(OK, b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "gzip, chunked": answer(OK, b"Transfer-Encoding: gzip, chunked"),
    "space before the colon": answer(OK, b"X : y", LENGTH),
    "no name": answer(OK, b": y", LENGTH),
    "no colon": answer(OK, b"X", LENGTH),
    "NUL": answer(OK, b"X: a\0b", LENGTH),
    "carriage return": answer(OK, b"X: a\rb", LENGTH),
    "a page": b"<html>no registry here</html>\r\n\r\n",
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_means_what_h11_says(ask: Ask, name: str) -> None:
    assert ask(HEADS[name])[:3] == by_h11(HEADS[name], "GET")


@pytest.mark.parametrize("name", ["usual", "nothing", "chunked", "twice"])
def test_an_answer_to_HEAD_has_no_body(ask: Ask, name: str) -> None:
    head = HEADS[name].partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    assert ask(head, "HEAD")[:3] == by_h11(head, "HEAD")


@pytest.mark.parametrize("name", BAD)
def test_what_h11_refuses_is_refused(ask: Ask, name: str) -> None:
    with pytest.raises(h11.RemoteProtocolError):
        by_h11(BAD[name], "GET")
    with pytest.raises(httpx.RemoteProtocolError):
        ask(BAD[name])


def test_heads_that_were_garbled_mean_what_h11_says(ask: Ask) -> None:
    luck, seen = random.Random(7), {"same": 0, "refused": 0}
    for _ in range(400):
        said = bytearray(HEADS[luck.choice(list(HEADS)[:10])])
        head = said.index(BODY[:20])
        for _ in range(luck.choice((1, 1, 2, 5))):
            said[luck.randrange(head)] = luck.choice(b"\0\t\n\r ,-:;09AaZz\x7f\xff")
        try:
            expected = by_h11(bytes(said), "GET")
        except h11.RemoteProtocolError:
            seen["refused"] += 1
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                ask(bytes(said))
        else:
            seen["same"] += 1
            assert ask(bytes(said))[:3] == expected
    assert min(seen.values()) > 20, seen


@pytest.mark.parametrize(
    ("said", "idle"),
    [
        (HEADS["usual"], True),
        (HEADS["twice"], True),
        (HEADS["chunked"], True),
        (HEADS["not modified"], True),
        (HEADS["http/1.0"], False),
        (answer(OK, LENGTH, b"Connection: close"), False),
        (answer(OK, LENGTH, b"Connection: x , Close"), False),
        (answer(OK, LENGTH, b"Connection: keep-alive"), True),
        (answer(OK, b"Connection: a", b"Connection: close", LENGTH), False),
        (HEADS["usual"] + b"HTTP/1.1 200 OK\r\n", False),  # what nobody asked for
        (HEADS["chunked"] + b"x", False),
        (HEADS["both"], False),  # RFC 9112 6.3
    ],
)
def test_a_connection_is_used_again_if_it_stands_where_an_answer_begins(
    ask: Ask, said: bytes, idle: bool
) -> None:
    assert ask(said, ends=False)[3] is idle


@pytest.mark.parametrize("name", ["usual", "chunked", "nothing"])
def test_R4_behind_a_body_nothing_is_waited_for(begin: Callable[..., Exchange], name: str) -> None:
    exchange = begin(HEADS[name], ends=False)
    exchange.ask("GET", b"/", [(b"Host", b"h")])
    assert b"".join(map(bytes, exchange.body())) == (b"" if name == "nothing" else BODY)
    assert not list(exchange.body())
    exchange.end()
    assert exchange.idle


@pytest.mark.parametrize("body", [b"four", b"sixsix"])
def test_a_body_that_has_not_the_length_that_was_said_is_an_error(
    begin: Callable[..., Exchange], body: bytes
) -> None:
    exchange = begin(answer(OK, b"Content-Length: 0", body=b""), ends=False)
    with pytest.raises(httpx.LocalProtocolError, match="Content-Length"):
        exchange.ask("PUT", b"/", [(b"Host", b"h"), (b"Content-Length", b"5")], iter([body]))
    exchange.end()
    assert not exchange.idle


def test_a_request_with_a_body_may_have_an_answer_that_h11_judges(
    begin: Callable[..., Exchange],
) -> None:
    exchange = begin(answer(OK, b"Transfer-Encoding: chunked", body=b"2\r\nok\r\n0\r\n\r\n"))
    headers = [(b"Host", b"h"), (b"Content-Length", b"5")]
    assert exchange.ask("PATCH", b"/", headers, iter([b"fi", b"ve!"])).status == 200
    exchange.stream.answered()
    assert b"".join(map(bytes, exchange.body())) == b"ok"
    exchange.end()
    assert exchange.idle


@pytest.mark.parametrize("name", ["usual", "chunked"])
@pytest.mark.parametrize("lost", [b"", b"0\r\n\r\n"], ids=["nothing", "the end"])
def test_R6_a_connection_is_used_again_only_if_all_of_a_request_was_sent(
    begin: Callable[..., Exchange], monkeypatch: pytest.MonkeyPatch, name: str, lost: bytes
) -> None:
    exchange = begin(HEADS[name], ends=False)
    write = exchange.stream.write

    def fails(data: bytes) -> None:
        if data == lost:
            raise httpx.WriteError("the server answers without reading on")
        write(data)

    monkeypatch.setattr(exchange.stream, "write", fails)
    headers = [(b"Host", b"h"), (b"Transfer-Encoding", b"chunked")]
    assert exchange.ask("PUT", b"/", headers, iter([b"x"])).status == 200
    assert b"".join(map(bytes, exchange.body())) == BODY
    exchange.end()
    assert exchange.idle is not bool(lost)


@pytest.mark.parametrize("name", ["usual", "chunked", "twice"])
def test_R6_a_body_that_ends_early_is_an_error(ask: Ask, name: str) -> None:
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        ask(HEADS[name][:-8])


def test_R4_a_head_without_an_end(ask: Ask) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        ask(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 150_000, ends=False)


def test_an_end_instead_of_an_answer(ask: Ask) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="disconnected"):
        ask(b"")
    with pytest.raises(httpx.RemoteProtocolError, match="disconnected"):
        ask(b"HTTP/1.1 200 OK\r\nX: ")
