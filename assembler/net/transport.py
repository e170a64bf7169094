"""The transport below `HttpClient`: an httpx transport of our own.

A request has a connection of its own while its answer is read; a host has at most `PER_HOST` of
them (rule R15). httpx's own transport gives no hold on connections: neither on the address that is
connected to, nor on their sockets, nor on what a cancelled build leaves behind.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, cast

import httpx

from assembler.cancellation import NOTICING, Cancellation
from assembler.net.body import MAX_ERROR_BODY, FileBody, Pieces
from assembler.net.connection import SocketStream
from assembler.net.dial import AddressRefused, LookUp, connect, no_further_in, resolve
from assembler.net.exchange import Exchange, Head
from assembler.net.limits import Limits
from assembler.net.origin import Origin, Zone, zone_of, zone_of_host
from assembler.net.proxy import Proxies, Proxy
from assembler.net.sending import Sending
from assembler.net.sending import Unsent as Unsent
from assembler.net.tls import Contexts
from assembler.values import mutable, value

if TYPE_CHECKING:
    from assembler.net.judging import Headers

Answer = httpx.Response
InvalidURL = httpx.InvalidURL

PER_HOST = 4
KEEP_ALIVE = 15.0  # seconds that an idle connection is kept
STRANDED = 1.0  # seconds after which a connection that is held but not used holds nobody up
_PLAIN = re.compile(r"(https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?)(/[A-Za-z0-9_.~:/-]*)")
_REPLAYED = frozenset({b"GET", b"HEAD", b"PUT", b"DELETE"})  # idempotent: RFC 9110 9.2.2

ERRORS = (httpx.TransportError, OSError)  # ssl.SSLError is one of the latter
"""What `Transport` and its answers raise when the network, or the other end, fails."""


@value
class Call:
    """How a request is to be sent; handed over in `httpx.Request.extensions`.

    `zone` forbids every address that is further inside, `head` are the seconds that the answer may
    take, `until` is when all is over on the clock.
    """

    zone: Zone = Zone.LINK
    head: float | None = None
    until: float | None = None


@mutable
class _Connection:
    exchange: Exchange
    proxy: Proxy | None  # that takes requests for plain http in the place of the host
    used: bool = False


class _Host:
    """The connections to one origin."""

    def __init__(self) -> None:
        self.idle: list[_Connection] = []
        self.held: list[_Connection | None] = []  # None is one that is being made


class Transport(httpx.BaseTransport):
    """Sends requests, each on a connection that nobody else uses meanwhile. Threads share it."""

    def __init__(
        self,
        *,
        cancellation: Cancellation,
        contexts: Contexts,
        proxies: Proxies,
        limits: Limits,
        look_up: LookUp,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cancellation = cancellation
        self._contexts = contexts
        self._proxies = proxies
        self._limits = limits
        self._look_up = look_up
        self._clock = clock
        self._changed = threading.Condition()
        self._hosts: dict[Origin, _Host] = {}
        self._urls: dict[str, httpx.URL] = {}

    def request(
        self,
        method: str,
        url: str,
        headers: list[tuple[str, str]],
        body: bytes | FileBody | Callable[[], Iterable[bytes]],
        call: Call,
    ) -> httpx.Request:
        """A request as `handle_request` takes it. Raises httpx.InvalidURL."""
        stream: httpx.SyncByteStream
        more: dict[str, object] = {"call": call}
        if isinstance(body, bytes):
            stream = httpx.ByteStream(body)
            more["content"] = body
        elif isinstance(body, FileBody):
            stream = Sending.of_file(body)
        else:
            stream = Sending(body)
        parsed, more["target"] = self._parsed(url)
        host = ("Host", parsed.netloc.decode("ascii"))
        return httpx.Request(
            method, parsed, headers=[host, *headers], stream=stream, extensions=more
        )

    def _parsed(self, url: str) -> tuple[httpx.URL, bytes]:
        """`url`, and what of it is asked for. The URLs of one origin differ in their paths, and those
        have mostly nothing that must be escaped: the origin is parsed once."""
        plain = _PLAIN.fullmatch(url)
        if plain is None or "/." in plain[2]:
            parsed = httpx.URL(url)
            return parsed, parsed.raw_path
        origin = self._urls.get(plain[1])
        if origin is None:
            origin = self._urls[plain[1]] = httpx.URL(plain[1])
        return origin, plain[2].encode("ascii")

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, its body unread: it must be closed. Raises `ERRORS`, AddressRefused,
        UsageError, Cancelled."""
        call = request.extensions["call"]
        origin = _origin(request.url)
        while True:
            connection = self._acquire(origin, call)
            again = connection.used and request.method.encode() in _REPLAYED
            try:
                return self._exchange(origin, connection, request, call)
            except (httpx.NetworkError, httpx.RemoteProtocolError):
                # An idle connection may be closed the moment it is used again (RFC 9112 9.3.1).
                if (
                    connection.exchange.stream.received
                    or not again
                    or isinstance(request.stream, Sending)
                ):
                    raise

    def close(self) -> None:
        """Close the connections that wait for their next request."""
        with self._changed:
            idle = [one for host in self._hosts.values() for one in host.idle]
            self._hosts.clear()
        for one in idle:
            one.exchange.close()

    def _exchange(
        self, origin: Origin, connection: _Connection, request: httpx.Request, call: Call
    ) -> httpx.Response:
        exchange = connection.exchange
        stream = exchange.stream
        stream.begin(call.head, call.until)
        try:
            head = exchange.ask(request.method, *_message(connection, request))
            seen = self._judge(connection, head)
        except BaseException:
            exchange.close()
            self._release(origin, connection)
            raise
        stream.answered()
        return httpx.Response(
            head.status,
            headers=head.headers,
            stream=_Answer(exchange, lambda: self._release(origin, connection), seen),
            extensions={"network_stream": stream},
        )

    def _judge(self, connection: _Connection, head: Head) -> list[memoryview]:
        """Raise the refusal of a proxy that answers in the place of the host: what it says is not
        shown, for it may tell what it was told. What was read of the body for that."""
        proxy, seen = connection.proxy, b""
        if proxy is None or head.status < 400:
            return []
        if head.status == 407:  # the host never says it
            raise _refusal(proxy, head.status)
        if proxy.authorization:
            for piece in connection.exchange.body():
                seen += piece
                if len(seen) >= MAX_ERROR_BODY:
                    break
            headers = b"\n".join(value for _, value in head.headers)
            if proxy.is_quoted(headers + seen):
                raise _refusal(proxy, head.status)
        return [memoryview(seen)] if seen else []

    def _acquire(self, origin: Origin, call: Call) -> _Connection:
        """A connection for one request; `_release` gives it back."""
        with self._changed:
            host = self._hosts.setdefault(origin, _Host())
            while True:
                self._cancellation.check()
                found = _reusable(host, call)
                if found is not None:
                    host.held.append(found)
                    return found
                if len(host.held) < PER_HOST or self._stranded(host):
                    break
                self._changed.wait(NOTICING)
            host.held.append(None)
        try:
            made = self._connect(origin, call)
        except BaseException:
            with self._changed:
                host.held.remove(None)
                self._changed.notify()
            raise
        with self._changed:
            host.held[host.held.index(None)] = made
        return made

    def _stranded(self, host: _Host) -> bool:
        """Whether every connection is held by somebody who has turned to something else. What he
        waits for may need a connection itself."""
        before = self._clock() - STRANDED
        return all(one is not None and one.exchange.stream.busy_at < before for one in host.held)

    def _release(self, origin: Origin, connection: _Connection) -> None:
        with self._changed:
            host = self._hosts.get(origin)
            if host is not None and connection in host.held:
                host.held.remove(connection)
                if connection.exchange.idle:
                    connection.used = True
                    host.idle.append(connection)
                self._changed.notify()
        if host is None:
            connection.exchange.close()

    def _connect(self, origin: Origin, call: Call) -> _Connection:
        proxy = self._proxies.choose(origin)
        if proxy is None:
            stream = self._socket(origin.host, origin.port, call.zone)
        else:
            zone = zone_of_host(origin.host)
            if zone < call.zone:
                raise AddressRefused(origin.host)
            stream = self._to_proxy(proxy)
            stream.zone = zone
        try:
            if origin.scheme == "https":
                if proxy is not None:
                    _tunnel(stream, proxy, origin)
                stream.start_tls(self._contexts.of(origin.name), origin.host)
        except BaseException:
            stream.close()
            raise
        through = proxy if origin.scheme == "http" else None
        return _Connection(Exchange(stream, KEEP_ALIVE), through)

    def _to_proxy(self, proxy: Proxy) -> SocketStream:
        try:
            return self._socket(proxy.host, proxy.port, Zone.LINK)
        except OSError as error:
            raise httpx.ProxyError(f"{proxy} of {proxy.variable}: {error}") from error

    def _socket(self, host: str, port: int, zone: Zone) -> SocketStream:
        seconds, cancellation = self._limits.connect, self._cancellation
        addresses = resolve(host, port, cancellation, seconds, self._look_up)
        if zone is not Zone.LINK:
            addresses = no_further_in(addresses, zone)
        connection = connect(addresses, cancellation, seconds)
        return SocketStream(
            connection,
            cancellation=cancellation,
            limits=self._limits,
            zone=zone_of(str(connection.getpeername()[0])),
            clock=self._clock,
        )


class _Answer(httpx.SyncByteStream):
    """The body of an answer."""

    def __init__(
        self, exchange: Exchange, release: Callable[[], None], seen: list[memoryview]
    ) -> None:
        self.exchange = exchange
        self._release = release
        self._seen = seen
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return cast(Iterator[bytes], self.pieces())

    def pieces(self) -> Iterator[memoryview]:
        """The body: what was seen of it, and then the rest."""
        yield from self._seen
        yield from self.exchange.body()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.exchange.end()
            self._release()


def body_of(answer: httpx.Response) -> Iterator[memoryview]:
    """The pieces of the body of an answer of `Transport`; each is good until the next one is asked
    for. Raises `ERRORS`, Cancelled."""
    assert isinstance(answer.stream, _Answer)
    return answer.stream.pieces()


def _reusable(host: _Host, call: Call) -> _Connection | None:
    while host.idle:
        found = host.idle.pop()
        if not found.exchange.expired and found.exchange.stream.zone >= call.zone:
            return found
        found.exchange.close()
    return None


def _message(
    connection: _Connection, request: httpx.Request
) -> tuple[bytes, Headers, bytes | Pieces]:
    """Target, headers and body of `request` as `connection` is to be asked."""
    headers, target = request.headers.raw, request.extensions["target"]
    if connection.proxy is not None:
        target = b"http://" + request.url.netloc + target
        if connection.proxy.authorization:
            value = connection.proxy.authorization.encode("ascii")
            headers = [*headers, (b"Proxy-Authorization", value)]
    if isinstance(request.stream, Sending):
        return target, headers, request.stream.pieces()
    return target, headers, request.extensions["content"]


def _tunnel(stream: SocketStream, proxy: Proxy, origin: Origin) -> None:
    """Have the proxy connect to `origin` (RFC 9110 9.3.6). Raises httpx.ProxyError."""
    where = f"{origin.bracketed}:{origin.port}".encode("ascii")
    headers = [(b"Host", where)]
    if proxy.authorization:
        headers.append((b"Proxy-Authorization", proxy.authorization.encode("ascii")))
    stream.begin()
    answer = Exchange(stream).ask("CONNECT", where, headers)
    if not 200 <= answer.status < 300:
        raise _refusal(proxy, answer.status)


def _refusal(proxy: Proxy, status: int) -> httpx.ProxyError:
    return httpx.ProxyError(f"{proxy} of {proxy.variable} answers with status {status}")


def _origin(url: httpx.URL) -> Origin:
    host = url.raw_host.decode("ascii").strip("[]").lower()
    return Origin(url.scheme, host, url.port or {"http": 80, "https": 443}[url.scheme])
