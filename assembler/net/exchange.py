"""HTTP/1.1 on one connection: a request, then its answer (RFC 9112).

Heads of answers as they usually are, one pattern reads; whatever else comes, h11 judges, and it reads
chunked bodies. A body whose length is said passes it by (speed.md 8): it is received into one buffer,
and whoever reads it is given views of that.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import h11
import httpx

from assembler.net.connection import SocketStream

_LONGEST_HEAD = 100 << 10  # bytes
_HEAD = 8 << 10  # that are read at once: what is behind a head belongs into another buffer
_READ = 64 << 10
_USUAL = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9]{2})(?: [\t -~]*)?\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\r\n)+)\r\n"
)
_LENGTH = re.compile(rb"[0-9]{1,18}")


Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Head:
    """The status of an answer and its headers, spelled as they came."""

    status: int
    headers: Headers


class Exchange:
    """The requests and answers on `stream`, one after the other. One that is idle may be used again
    within `keep_alive` seconds.

    Everything raises httpx.TransportError, h11's mistakes too, and what the stream raises.
    """

    def __init__(self, stream: SocketStream, keep_alive: float = 0.0) -> None:
        self.stream = stream
        self.idle = True
        self._keep_alive = keep_alive
        self._expires = float("inf")
        self._engine: h11.Connection | None = None  # where it reads the body
        self._length = 0  # that is still to come of a body that passes h11 by
        self._first = b""  # of that, what came with the head
        self._lasts = False  # whether it may be used again once the body is read

    @property
    def expired(self) -> bool:
        """Whether an idle one had better not be used: it is too old, or the other end has closed it
        or said something unasked."""
        return time.monotonic() > self._expires or self.stream.readable

    def ask(
        self, method: str, target: bytes, headers: Headers, body: bytes | Iterable[bytes] = b""
    ) -> Head:
        """Send a request, whose parts have no characters that they must not have, and wait for the
        head of its answer. Then read the `body` of that, as far as it is wanted, and `end` it."""
        self.idle = self._lasts = False
        self._engine = None
        if isinstance(body, bytes):
            return self._at_once(method, target, headers, body)
        engine, whole = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LONGEST_HEAD), True
        try:
            for event in _events(method, target, headers, body):
                if data := _sent(engine, event):
                    self.stream.write(data)
        except httpx.WriteError:
            whole = False  # who does not read on may have answered (RFC 9112 9.5)
        self.stream.expect()
        return self._judged(engine, method, whole)

    def body(self) -> Iterator[memoryview]:
        """The pieces of the body, from where it was left off; each is good until the next one is asked
        for."""
        engine = self._engine
        if engine is not None:
            while engine.their_state is h11.SEND_BODY:  # nothing is waited for behind its end
                event = self._event(engine, _READ)
                if isinstance(event, h11.Data):
                    yield memoryview(event.data)
            return
        first, self._first = self._first, b""
        for piece in self.stream.pieces(self._length, first):
            self._length -= len(piece)
            yield piece

    def end(self) -> None:
        """The answer is read, or given up: what was not read to its end is closed."""
        engine = self._engine
        if engine is not None:
            read = engine.their_state is h11.DONE and not engine.trailing_data[0]
        else:
            read = not self._length
        if self._lasts and read:
            self.idle = True
            self._expires = time.monotonic() + self._keep_alive
        elif not self.idle:
            self.stream.close()

    def close(self) -> None:
        """Give the connection up."""
        self.idle = False
        self.stream.close()

    def _at_once(self, method: str, target: bytes, headers: Headers, body: bytes) -> Head:
        """`ask` with one write."""
        whole = True
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        start = b"%b %b HTTP/1.1\r\n" % (method.encode("ascii"), target)
        try:
            self.stream.write(b"%b%b\r\n%b" % (start, lines, body))
        except httpx.WriteError:
            whole = False
        self.stream.expect()
        received = self._received(_HEAD)
        head = self._usual(method, received, whole)
        if head is None:
            engine = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LONGEST_HEAD)
            events = _events(method, target, headers, (body,) if body else ())
            for event in events:
                _sent(engine, event)
            engine.receive_data(received)
            head = self._judged(engine, method, whole)
        return head

    def _usual(self, method: str, received: bytes, whole: bool) -> Head | None:
        """The head that `received` begins with, None for h11 to judge it: one that is longer, has a
        header twice or says in another way than usual how long its body is."""
        match = _USUAL.match(received)
        if match is None:
            return None
        status, headers, said = int(match[1]), [], {}
        for line in match[2].split(b"\r\n")[:-1]:
            name, _, value = line.partition(b":")
            value = value.strip(b" \t")
            headers.append((name, value))
            said[name.lower()] = value
        length = said.get(b"content-length", b"")
        if len(said) < len(headers) or b"transfer-encoding" in said:
            return None
        if length and not _LENGTH.fullmatch(length):
            return None
        if method == "HEAD" or status in (204, 304):
            length = b"0"
        if not length:
            return None
        self._passes(int(length), received[match.end() :], whole, said.get(b"connection", b""))
        return Head(status, headers)

    def _judged(self, engine: h11.Connection, method: str, whole: bool) -> Head:
        """The head of the answer by `engine`, which was told the request; `whole` says that all of it
        was sent."""
        while not isinstance(event := self._event(engine, _HEAD), h11.Response):
            pass  # 100 Continue, say
        headers = event.headers.raw_items()
        said = {name.lower(): value for name, value in headers}
        length = said.get(b"content-length", b"")  # h11 takes one number only
        if method == "HEAD" or event.status_code in (204, 304):
            length = b"0"
        if method == "CONNECT" or b"transfer-encoding" in said or not length:
            self._engine = engine
            # Of what says both, whoever is in between may have read the other (RFC 9112 6.3).
            doubtful = said.keys() >= {b"content-length", b"transfer-encoding"}
            self._lasts = whole and not doubtful
        else:
            connection = b",".join(
                value for name, value in headers if name.lower() == b"connection"
            )
            whole = whole and event.http_version >= b"1.1"
            self._passes(int(length), engine.trailing_data[0], whole, connection)
        return Head(event.status_code, headers)

    def _passes(self, length: int, first: bytes, whole: bool, connection: bytes) -> None:
        """The body passes h11 by: `length` bytes, of which `first` are here, and maybe more. The
        connection can be used after it if all of the request was sent and it is not closed."""
        self._length, self._first = length, first[:length]
        closes = bool(connection) and b"close" in re.split(rb"[ \t]*,[ \t]*", connection.lower())
        self._lasts = whole and not closes and len(first) <= length

    def _event(self, engine: h11.Connection, most: int) -> Any:
        try:
            while (event := engine.next_event()) is h11.NEED_DATA:
                if engine.their_state is h11.SEND_RESPONSE:
                    engine.receive_data(self._received(most))
                else:
                    engine.receive_data(self.stream.read(most))
        except (h11.RemoteProtocolError, ValueError) as error:  # h11 0.14: an int of 5,000 digits
            raise httpx.RemoteProtocolError(str(error)) from error
        return event

    def _received(self, most: int) -> bytes:
        data = self.stream.read(most)
        if not data:
            raise httpx.RemoteProtocolError("it disconnected without an answer")
        return data


def _events(
    method: str, target: bytes, headers: Headers, body: Iterable[bytes]
) -> Iterator[h11.Event]:
    try:
        yield h11.Request(method=method, target=target, headers=headers)
    except h11.LocalProtocolError as error:
        raise httpx.LocalProtocolError(str(error)) from error
    for piece in body:
        yield h11.Data(data=piece)
    yield h11.EndOfMessage()


def _sent(engine: h11.Connection, event: h11.Event) -> bytes:
    """What is to be written for `event`."""
    try:
        return engine.send(event) or b""
    except h11.LocalProtocolError as error:
        raise httpx.LocalProtocolError(str(error)) from error
