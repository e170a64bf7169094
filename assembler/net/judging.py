"""What h11 is for (RFC 9112): bodies in chunks, of either direction, and heads that are not as usual.

Most exchanges need nothing of it, and so do not import it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h11
import httpx

from assembler.net.body import Pieces
from assembler.net.connection import SocketStream

_LONGEST_HEAD = 100 << 10  # bytes
_READ = 64 << 10
Headers = list[tuple[bytes, bytes]]


class Judge:
    """Of one exchange on `stream`. Everything raises httpx.TransportError, h11's mistakes too."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._engine = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LONGEST_HEAD)

    def send(self, method: str, target: bytes, headers: Headers, body: Pieces) -> None:
        """Write a request whose body has chunks."""
        for event in _events(method, target, headers, body):
            try:
                data = self._engine.send(event)
            except h11.LocalProtocolError as error:
                raise httpx.LocalProtocolError(str(error)) from error
            if data:
                self._stream.write(data)

    def asked(self, method: str, received: bytes) -> None:
        """A request was written by somebody else, and `received` of its answer: what that means
        depends on nothing but the method."""
        for event in _events(method, b"/", [(b"Host", b"h")], ()):
            self._engine.send(event)
        self._engine.receive_data(received)

    def head(self, most: int) -> h11.Response:
        """The head of the answer, read by `most` bytes."""
        while not isinstance(event := self._event(most), h11.Response):
            pass  # 100 Continue, say
        return event

    @property
    def unread(self) -> bytes:
        """What was received and belongs to nothing yet."""
        return bytes(self._engine.trailing_data[0])

    @property
    def finished(self) -> bool:
        """Whether the answer was read to its end, and nothing behind it."""
        return self._engine.their_state is h11.DONE and not self._engine.trailing_data[0]

    def body(self) -> Iterator[memoryview]:
        """The pieces of the body of the answer; nothing is waited for behind its end."""
        while self._engine.their_state is h11.SEND_BODY:
            event = self._event(_READ)
            if isinstance(event, h11.Data):
                yield memoryview(event.data)

    def _event(self, most: int) -> Any:
        try:
            while (event := self._engine.next_event()) is h11.NEED_DATA:
                data = self._stream.read(most)
                if not data and self._engine.their_state is h11.SEND_RESPONSE:
                    raise httpx.RemoteProtocolError("it disconnected without an answer")
                self._engine.receive_data(data)
        except (h11.RemoteProtocolError, ValueError) as error:  # h11 0.14: an int of 5,000 digits
            raise httpx.RemoteProtocolError(str(error)) from error
        return event


def _events(method: str, target: bytes, headers: Headers, body: Pieces) -> Iterator[h11.Event]:
    try:
        yield h11.Request(method=method, target=target, headers=headers)
    except h11.LocalProtocolError as error:
        raise httpx.LocalProtocolError(str(error)) from error
    for piece in body:
        yield h11.Data(data=bytes(piece))
    yield h11.EndOfMessage()
