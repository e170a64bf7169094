"""An HTTP/1.1 server for tests: it can break off anywhere, and counts what passes.

It is written on sockets: what tests need most, a reset between two bytes, a status line that is
none, a header twice, is what libraries keep away from.
"""

from __future__ import annotations

import io
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

PIECE = 64 << 10
_HANDSHAKE = b"\x16"  # of TLS (RFC 8446 5.1)
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_ENDING = 10.0  # seconds
POLITE = 256 << 10  # bytes of a refused body that Go's server reads before it hangs up


@dataclass
class Asked:
    """A request as it came, and what became of it. Header names are in lower case. `body` is kept
    by registries in memory only; `received` and `sent` are bytes of the bodies; `status` is 0 while
    it is not answered, or because it never was."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = field(default=b"", repr=False)
    target: str = ""
    connection: int = 0
    received: int = 0
    sent: int = 0
    status: int = 0
    upload: str = ""
    """The upload session that it belongs to."""

    def header(self, name: str) -> str:
        """The header `name`, empty when there is none."""
        return self.headers.get(name.lower(), "")


@dataclass(frozen=True)
class Answer:
    """A status, headers and a body.

    A body of pieces is sent with `length` as Content-Length, else chunked. After `broken` bytes of
    it the connection ends, as if that were all or by a `reset`. With `close` it ends behind it.
    """

    status: int
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = ()
    body: bytes | Iterable[bytes] = field(default=b"", repr=False)
    broken: int | None = None
    length: int | None = None
    reset: bool = False
    close: bool = False

    def fields(self) -> list[tuple[str, str]]:
        """The headers in order."""
        return list(self.headers.items() if isinstance(self.headers, Mapping) else self.headers)

    @property
    def size(self) -> int | None:
        """How long the body is, None where nobody knows."""
        return len(self.body) if isinstance(self.body, bytes) else self.length


class HungUp(Exception):
    """This connection is over: with a reset, or quietly."""

    def __init__(self, *, quietly: bool = False) -> None:
        super().__init__("hung up")
        self.quietly = quietly


class Early(Exception):
    """This is answered before the request was read to its end."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("answered early")
        self.answer = answer


class Exchange:
    """One request and its answer, while it lasts."""

    def __init__(
        self,
        server: Server,
        connection: socket.socket,
        reader: io.BufferedReader,
        asked: Asked,
    ) -> None:
        self.asked = asked
        self.last = False
        self._counted = False
        self._server = server
        self._connection = connection
        self._reader = reader
        self._left: int | None = 0
        if asked.header("transfer-encoding").lower() == "chunked":
            self._left = None
        elif asked.header("content-length"):
            self._left = int(asked.header("content-length"))

    def pieces(self) -> Iterator[bytes]:
        """What is left of the request's body, as it comes. Raises HungUp when the client goes."""
        if self._left != 0 and self.asked.header("expect").lower() == "100-continue":
            self.raw(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._left is None:
            yield from self._chunks()
            return
        while self._left:
            piece = self._reader.read1(min(PIECE, self._left))
            if not piece:
                raise HungUp
            self._left -= len(piece)
            self.asked.received += len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._line().partition(b";")[0], 16):
            piece = self._reader.read(size)
            if len(piece) < size:
                raise HungUp
            self._line()
            self.asked.received += size
            yield piece
        while self._line().strip():
            pass
        self._left = 0

    def _line(self) -> bytes:
        line = self._reader.readline(PIECE)
        if not line.endswith(b"\n"):  # a body that breaks off is none
            raise HungUp
        return line

    def drain(self, most: int | None = None) -> bool:
        """Read the rest of the request's body, or `most` bytes of it; whether that was all."""
        read = 0
        for piece in self.pieces():
            read += len(piece)
            if most is not None and read >= most:
                return self._left == 0
        return True

    def shut(self) -> None:
        """Say that nothing more will be sent."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def raw(self, data: bytes) -> None:
        """Write `data` as it is."""
        self._connection.sendall(data)

    def wait(self, seconds: float | None = None) -> None:
        """Do nothing for so long, or until the server is closed."""
        if self._server.closing.wait(seconds):
            raise HungUp

    def answer(self, answer: Answer) -> None:
        """Send it. Raises HungUp where it says so."""
        self.asked.status = answer.status
        reason = HTTPStatus(answer.status).phrase if answer.status in _KNOWN else "Status"
        fields = answer.fields()
        names = {name.lower() for name, _ in fields}
        length = answer.size
        bodiless = answer.status in (204, 304) or answer.status < 200
        chunked = length is None
        if chunked and "transfer-encoding" not in names:
            fields.append(("Transfer-Encoding", "chunked"))
        elif not chunked and not bodiless and "content-length" not in names:
            fields.append(("Content-Length", str(length)))
        if answer.close:
            fields.append(("Connection", "close"))
        head = f"HTTP/1.1 {answer.status} {reason}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in fields)
        self.last = self.last or answer.close
        silent = self.asked.method == "HEAD" or bodiless or length == 0
        if silent:
            self.done()
        self.raw(head.encode("latin-1") + b"\r\n")
        if not silent:
            pieces = _sliced(answer.body) if isinstance(answer.body, bytes) else answer.body
            self._body(pieces, answer, length)
        elif answer.broken is not None:
            raise HungUp(quietly=not answer.reset)

    def _body(self, pieces: Iterable[bytes], answer: Answer, length: int | None) -> None:
        for piece in pieces:
            if answer.broken is not None:
                piece = piece[: answer.broken - self.asked.sent]
            if length is not None and self.asked.sent + len(piece) >= length:
                self.done()
            self.asked.sent += len(piece)
            self.raw(piece if length is not None else b"%x\r\n%b\r\n" % (len(piece), piece))
            if answer.broken is not None and self.asked.sent >= answer.broken:
                raise HungUp(quietly=not answer.reset)
        if length is None:
            self.done()
            self.raw(b"0\r\n\r\n")

    def done(self) -> None:
        """The client may think of its next request from now on."""
        if not self._counted:
            self._counted = True
            self._server.ended()


_KNOWN = {status.value for status in HTTPStatus}


def _sliced(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), PIECE):
        yield body[start : start + PIECE]


@dataclass
class Counts:
    """What a server counts: connections and requests, in all and the most at once."""

    connections: int = 0
    open: int = 0
    most_open: int = 0
    busy: int = 0
    most_busy: int = 0


@dataclass
class Server:
    """Answers on a loopback port, a thread for each connection. Use it with `with`.

    `serve` is called with each Exchange; it answers, or raises HungUp.
    """

    serve: Callable[[Exchange], None]
    address: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None
    log: list[Asked] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    closing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        self._listener = socket.create_server((self.address, 0), family=family, backlog=128)
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Server:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for connection in self._connections:
                _shut(connection)
        until = time.monotonic() + _ENDING
        while self._threads:  # but for those in which a test sleeps
            self._threads.pop().join(max(0.0, until - time.monotonic()))
        self._listener.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="server", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.add(connection)
                if self.closing.is_set():  # too late to be shut with the others
                    _shut(connection)
                self.counts.connections += 1
                self.counts.open += 1
                self.counts.most_open = max(self.counts.most_open, self.counts.open)
            self._start(self._serve_one, connection, self.counts.connections)

    def _serve_one(self, plain: socket.socket, number: int) -> None:
        connection = plain
        quietly = False
        reader: io.BufferedReader | None = None
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                connection = self.tls.wrap_socket(plain, server_side=True)
                with self._lock:
                    self._connections.discard(plain)
                    self._connections.add(connection)
            stream = connection.makefile("rb", PIECE)
            assert isinstance(stream, io.BufferedReader)
            reader = stream
            while asked := _head(reader, number):
                self._exchange(Exchange(self, connection, reader, asked))
            quietly = True
        except HungUp as hung:
            quietly = hung.quietly
        except _NoRequest:
            with suppress(OSError):
                connection.sendall(_BAD_REQUEST)
            quietly = True
        except OSError:  # the client has gone, or does not like the certificate
            quietly = True
        finally:
            with self._lock:
                self._connections.discard(connection)
                self.counts.open -= 1
            _hang_up(connection, reader, quietly)

    def _exchange(self, exchange: Exchange) -> None:
        with self._lock:
            self.log.append(exchange.asked)
            self.counts.busy += 1
            self.counts.most_busy = max(self.counts.most_busy, self.counts.busy)
        try:
            self.serve(exchange)
            if not exchange.drain(POLITE):
                exchange.shut()
                self.closing.wait(0.5)  # as Go's does: for the answer to be read before the reset
                raise HungUp(quietly=True)
            if exchange.last:
                raise HungUp(quietly=True)
        finally:
            exchange.done()

    def ended(self) -> None:
        """Called when an exchange has come to its last byte."""
        with self._lock:
            self.counts.busy -= 1


class _NoRequest(Exception):
    """What came is no HTTP: TLS, say, by which clients of insecure registries try first."""


def _head(reader: io.BufferedReader, connection: int) -> Asked | None:
    """The next request's head; None at the connection's end. Raises _NoRequest."""
    if reader.peek(1)[:1] == _HANDSHAKE:
        raise _NoRequest
    line = reader.readline(PIECE)
    while line == b"\r\n":
        line = reader.readline(PIECE)
    if not line.endswith(b"\n"):
        return None
    words = line.decode("latin-1").split()
    if len(words) != 3 or not words[2].startswith("HTTP/"):
        raise _NoRequest
    method, target, _ = words
    headers: dict[str, str] = {}
    while (line := reader.readline(PIECE)).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if not line:
        return None
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return Asked(method, parts.path, query, headers, target=target, connection=connection)


def _shut(connection: socket.socket) -> None:
    """End what another thread may be reading or writing: of TLS only the connection below it."""
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _hang_up(connection: socket.socket, reader: io.BufferedReader | None, quietly: bool) -> None:
    with suppress(OSError):
        if quietly:
            connection.shutdown(socket.SHUT_WR)
        else:
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    if reader is not None:
        with suppress(OSError):
            reader.close()
    connection.close()
