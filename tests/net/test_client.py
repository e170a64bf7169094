"""The HTTP client and a build that ends: nothing of a server is waited for."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from assembler.cancellation import Cancellation
from assembler.errors import Cancelled
from assembler.net.client import HttpClient, Request
from assembler.net.limits import Limits
from tests.answering import answering
from tests.bounds import watchdog
from tests.net.servers import hole

PATIENT = Limits(connect=3600, handshake=3600, head=3600, window=3600)


@pytest.fixture
def blocked() -> Iterator[int]:
    with hole() as port:
        yield port


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


def ended_at_once(cancellation: Cancellation, url: str) -> None:
    """A client of no other limit than the end of the build ends with it."""
    patient = HttpClient(cancellation=cancellation, limits=PATIENT)
    with watchdog(), patient as client, pytest.raises(Cancelled):
        threading.Timer(0.3, cancellation.cancel, [2]).start()
        client.request(Request("GET", url, "server", "a file"))


def test_a_connect_to_a_black_hole(cancellation: Cancellation, blocked: int) -> None:
    ended_at_once(cancellation, f"http://127.0.0.1:{blocked}/")


def test_a_handshake_that_is_not_answered(cancellation: Cancellation, silent: int) -> None:
    ended_at_once(cancellation, f"https://127.0.0.1:{silent}/")


def test_a_request_that_is_not_answered(cancellation: Cancellation, silent: int) -> None:
    ended_at_once(cancellation, f"http://127.0.0.1:{silent}/")


def test_a_name_that_is_looked_up_for_ever(
    cancellation: Cancellation, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def hangs(*_: Any, **__: Any) -> None:
        over.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    try:
        ended_at_once(cancellation, "http://registry.example/")
    finally:
        over.set()


@pytest.mark.parametrize("sent", [0, 1000])
def test_a_body_that_stops(cancellation: Cancellation, sent: int) -> None:
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"x" * sent)
            self.wfile.flush()
            over.wait()

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as url:
        try:
            ended_at_once(cancellation, f"{url}/")
        finally:
            over.set()


def test_what_a_request_raises_is_raised_to_whoever_waits(cancellation: Cancellation) -> None:
    def body() -> Iterator[bytes]:
        raise RuntimeError("of the caller's own")
        yield b""

    with (
        closing(socket.create_server(("127.0.0.1", 0))) as listener,
        HttpClient(cancellation=cancellation) as client,
        pytest.raises(RuntimeError, match="of the caller's own"),
    ):
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        client.request(Request("PUT", url, "server", "a file", body=body, length=4))
