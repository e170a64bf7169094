"""HTTP/1.1 on one connection: a request, then its answer (RFC 9112).

Bodies of a said length are written and read here (speed.md 8): an answer's is received into one buffer,
and whoever reads it is given views of that. Heads of answers as they usually are, one pattern reads;
whatever else comes, h11 judges (`net.judging`), and it has bodies in chunks.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx

from assembler.net.body import Pieces
from assembler.net.connection import SocketStream
from assembler.values import value

if TYPE_CHECKING:
    from assembler.net.judging import Headers, Judge

_HEAD = 8 << 10  # that are read at once: what is behind a head belongs into another buffer
_USUAL = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9]{2})(?: [\t -~]*)?\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\r\n)+)\r\n"
)
_LENGTH = re.compile(rb"[0-9]{1,18}")


@value
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
        self._judge: Judge | None = None  # where h11 reads the body
        self._length = 0  # that is still to come of a body that passes h11 by
        self._first = b""  # of that, what came with the head
        self._lasts = False  # whether it may be used again once the body is read

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
        body: bytes | Pieces = b"",
    ) -> Head:
        """Send a request, whose parts have no characters that they must not have, and wait for the
        head of its answer. Then read the `body` of that, as far as it is wanted, and `end` it."""
        self.idle = self._lasts = False
        self._judge = None
        whole, length = True, _length(headers)
        try:
            if isinstance(body, bytes):
                self.stream.write(_start(method, target, headers) + body)
            elif length is not None:
                self.stream.write(_start(method, target, headers))
                self._write(body, length)
            else:
                return self._in_chunks(method, target, headers, body)
        except httpx.WriteError:
            whole = False  # who does not read on may have answered (RFC 9112 9.5)
        self.stream.expect()
        received = self.stream.read(_HEAD)
        if not received:
            raise httpx.RemoteProtocolError("it disconnected without an answer")
        head = self._usual(method, received, whole)
        if head is None:
            from assembler.net.judging import Judge

            judge = Judge(self.stream)
            judge.asked(method, received)
            head = self._judged(judge, method, whole)
        return head

    def body(self) -> Iterator[memoryview]:
        """The pieces of the body, from where it was left off; each is good until the next one is asked
        for."""
        if self._judge is not None:
            yield from self._judge.body()
            return
        first, self._first = self._first, b""
        for piece in self.stream.pieces(self._length, first):
            self._length -= len(piece)
            yield piece

    def end(self) -> None:
        """The answer is read, or given up: what was not read to its end is closed."""
        read = not self._length if self._judge is None else self._judge.finished
        if self._lasts and read:
            self.idle = True
            self._expires = time.monotonic() + self._keep_alive
        elif not self.idle:
            self.stream.close()

    def close(self) -> None:
        """Give the connection up."""
        self.idle = False
        self.stream.close()

    def _write(self, body: Pieces, length: int) -> None:
        for piece in body:
            length -= len(piece)
            if length < 0:
                raise httpx.LocalProtocolError("a body that is longer than its Content-Length")
            self.stream.write(piece)
        if length:
            raise httpx.LocalProtocolError("a body that is shorter than its Content-Length")

    def _in_chunks(self, method: str, target: bytes, headers: Headers, body: Pieces) -> Head:
        """`ask` with a body of whose length nothing is said."""
        from assembler.net.judging import Judge

        judge, whole = Judge(self.stream), True
        try:
            judge.send(method, target, headers, body)
        except httpx.WriteError:
            whole = False
        self.stream.expect()
        return self._judged(judge, method, whole)

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

    def _judged(self, judge: Judge, method: str, whole: bool) -> Head:
        """The head of the answer by `judge`; `whole` says that all of the request was sent."""
        event = judge.head(_HEAD)
        headers = event.headers.raw_items()
        said = {name.lower(): value for name, value in headers}
        length = said.get(b"content-length", b"")  # h11 takes one number only
        if method == "HEAD" or event.status_code in (204, 304):
            length = b"0"
        if method == "CONNECT" or b"transfer-encoding" in said or not length:
            self._judge = judge
            # Of what says both, whoever is in between may have read the other (RFC 9112 6.3).
            doubtful = said.keys() >= {b"content-length", b"transfer-encoding"}
            self._lasts = whole and not doubtful
        else:
            connection = b",".join(
                value for name, value in headers if name.lower() == b"connection"
            )
            whole = whole and event.http_version >= b"1.1"
            self._passes(int(length), judge.unread, whole, connection)
        return Head(event.status_code, headers)

    def _passes(self, length: int, first: bytes, whole: bool, connection: bytes) -> None:
        """The body passes h11 by: `length` bytes, of which `first` are here, and maybe more. The
        connection can be used after it if all of the request was sent and it is not closed."""
        self._length, self._first = length, first[:length]
        closes = bool(connection) and b"close" in re.split(rb"[ \t]*,[ \t]*", connection.lower())
        self._lasts = whole and not closes and len(first) <= length


def _start(method: str, target: bytes, headers: Headers) -> bytes:
    """A request up to its body."""
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method.encode("ascii"), target, lines)


def _length(headers: Headers) -> int | None:
    """What a request says of its body, None where it comes in chunks."""
    for name, said in headers:
        if name.lower() == b"content-length":
            return int(said)
    return None
