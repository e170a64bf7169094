"""HTTP/1.1 on one connection: a request, then its answer (RFC 9112), by h11.

h11 writes and judges the heads, and bodies that are chunked. A body whose length is said passes it by
(speed.md 8): it is received into one buffer, and whoever reads it is given views of that.
"""

from __future__ import annotations

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
        self._engine = h11.Connection(h11.CLIENT)
        self._length = -1  # that is still to come of a body that passes h11 by
        self._first = b""  # of that, what came with the head
        self._lasts = False

    @property
    def expired(self) -> bool:
        """Whether an idle one had better not be used: it is too old, or the other end has closed it
        or said something unasked."""
        return time.monotonic() > self._expires or self.stream.readable

    def ask(
        self,
        method: str,
        target: bytes,
        headers: Headers,
        body: Iterable[bytes] = (),
    ) -> Head:
        """Send a request and wait for the head of its answer. Then read the `body` of that, as far as
        it is wanted, and `end` it."""
        self.idle = False
        self._engine = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LONGEST_HEAD)
        self._length, self._lasts = -1, False
        try:
            self._send(h11.Request(method=method, target=target, headers=headers))
            for piece in body:
                self._send(h11.Data(data=piece))
            self._send(h11.EndOfMessage())
        except h11.LocalProtocolError as error:
            raise httpx.LocalProtocolError(str(error)) from error
        except httpx.WriteError:
            pass  # who does not read on may have answered (RFC 9112 9.5)
        self.stream.expect()
        while not isinstance(event := self._event(_HEAD), h11.Response):
            pass  # 100 Continue, say
        headers = event.headers.raw_items()
        self._judge(method, event.status_code, event.http_version, headers)
        return Head(event.status_code, headers)

    def body(self) -> Iterator[memoryview]:
        """The pieces of the body; each is good until the next one is asked for."""
        if self._length >= 0:
            for piece in self.stream.pieces(self._length, self._first):
                self._length -= len(piece)
                yield piece
            return
        while isinstance(event := self._event(_READ), h11.Data):
            yield memoryview(event.data)

    def end(self) -> None:
        """The answer is read, or given up: what was not read to its end is closed."""
        if self._length < 0:
            engine = self._engine
            whole = engine.our_state is h11.DONE and engine.their_state is h11.DONE
            self._lasts = whole and not engine.trailing_data[0]
        if self._lasts and self._length <= 0:
            self.idle = True
            self._expires = time.monotonic() + self._keep_alive
        elif not self.idle:
            self.stream.close()

    def close(self) -> None:
        """Give the connection up."""
        self.idle = False
        self.stream.close()

    def _send(self, event: Any) -> None:
        if data := self._engine.send(event):
            self.stream.write(data)

    def _event(self, most: int) -> Any:
        try:
            while (event := self._engine.next_event()) is h11.NEED_DATA:
                data = self.stream.read(most)
                if not data and self._engine.their_state is h11.SEND_RESPONSE:
                    raise httpx.RemoteProtocolError("it disconnected without an answer")
                self._engine.receive_data(data)
        except h11.RemoteProtocolError as error:
            raise httpx.RemoteProtocolError(str(error)) from error
        return event

    def _judge(self, method: str, status: int, version: bytes, headers: Headers) -> None:
        """Whether the body passes h11 by, and the connection can be used after it."""
        said = {name.lower(): value for name, value in headers}
        if method == "CONNECT" or b"transfer-encoding" in said:
            return
        if method == "HEAD" or status in (204, 304):
            self._length = 0
        elif b"content-length" in said:
            self._length = int(said[b"content-length"])  # h11 takes one number only
        else:
            return
        self._first, _ = self._engine.trailing_data
        tokens = b",".join(value for name, value in headers if name.lower() == b"connection")
        self._lasts = (
            self._engine.our_state is h11.DONE
            and version >= b"1.1"
            and len(self._first) <= self._length
            and b"close" not in {one.strip() for one in tokens.lower().split(b",")}
        )
