"""HTTP with one policy; the only module that imports httpx.

Redirects are followed by hand: headers of ours never reach another origin, https never becomes
http. Bodies are bounded or streamed. Failures become errors that name the registry and the
operation, never a URL with a query.
"""

from __future__ import annotations

import os
import select
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urljoin

from assembler.cancellation import Cancellation
from assembler.errors import ProtocolViolation, Unreachable
from assembler.net.origin import Origin
from assembler.net.retry import RETRYABLE, RetryPolicy
from assembler.version import __version__

if TYPE_CHECKING:
    import httpx

MAX_REDIRECTS = 10
CONNECTIONS = 3  # tries of a request that gets no answer at all: a refused port stays refused
MAX_ERROR_BODY = 64 << 10
SLOWEST = 1024  # bytes a second, over WINDOW seconds, below which a transfer has failed
WINDOW = 60.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Certificates(Protocol):
    """Files for the connections to one host: authorities, and (certificate, key) pairs of ours."""

    @property
    def authorities(self) -> tuple[str, ...]:
        """Files that hold authorities beside the system's."""

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Files of client certificates with their keys."""


Body = bytes | Callable[[], Iterable[bytes]]
"""A request's body: bytes, or a function that gives the pieces anew for each attempt."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `private` headers go to the first origin only; `length` is of a streamed body;
    `hint` says what to do when nothing answers, where that is no registry."""

    method: str
    url: str
    registry: str
    operation: str
    headers: Mapping[str, str] = field(default_factory=dict)
    private: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Body = b""
    length: int | None = None
    follow: bool = True
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer whose body was read, up to a limit."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    url: str = field(repr=False)

    def header(self, name: str) -> str:
        """The header `name`, empty when there is none."""
        return self.headers.get(name.lower(), "")


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer whose body is being read."""

    status: int
    headers: Mapping[str, str]
    pieces: Iterator[bytes] = field(repr=False)

    def header(self, name: str) -> str:
        """The header `name`, empty when there is none."""
        return self.headers.get(name.lower(), "")


class HttpClient:
    """A pool of connections. Use it with `with`; threads share it.

    `certificates` gives the files for the connections to a host; those that are `unverified` have
    their certificate not checked.
    """

    def __init__(
        self,
        *,
        cancellation: Cancellation,
        policy: RetryPolicy | None = None,
        unverified: Callable[[str], bool] = lambda host: False,
        certificates: Callable[[str], Certificates] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cancellation = cancellation
        self._policy = policy or RetryPolicy()
        self._unverified = unverified
        self._certificates = certificates
        self._clock = clock
        self._lock = threading.Lock()
        self._clients: dict[tuple[str, str], httpx.Client] = {}

    def __enter__(self) -> HttpClient:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients.values():
            client.close()

    def request(self, request: Request, limit: int = 4 << 20) -> Response:
        """The answer to `request`, retried by the policy; its body has at most `limit` bytes.

        Raises Unreachable when no attempt came through, ProtocolViolation for a body over the
        limit. Statuses are the caller's to judge.
        """
        for attempt in range(self._policy.tries):
            self._cancellation.check()
            last = attempt == self._policy.tries - 1
            try:
                response = self._once(request, limit)
            except Unreachable:
                if last or attempt >= CONNECTIONS - 1:
                    raise
                self._pause(self._policy.delay(attempt))
                continue
            if response.status not in RETRYABLE or last:
                return response
            self._pause(self._policy.delay(attempt, response.header("retry-after")))
        raise AssertionError("a retry policy has at least one try")

    @contextmanager
    def stream(self, request: Request) -> Iterator[Stream]:
        """The answer to `request` with its body unread; one attempt. Raises Unreachable, also
        from the pieces, when the connection breaks or is slower than the floor."""
        with self._send(request) as (response, _):
            pieces = self._pieces(response, request)
            yield Stream(response.status_code, _headers(response), pieces)

    def pause(self, attempt: int, retry_after: str = "") -> bool:
        """Wait before attempt `attempt` + 1; false when the policy allows no more."""
        if attempt >= self._policy.tries - 1:
            return False
        self._pause(self._policy.delay(attempt, retry_after))
        return True

    def _once(self, request: Request, limit: int) -> Response:
        with self._send(request) as (response, url):
            allowed = limit if response.status_code < 400 else MAX_ERROR_BODY
            body = b""
            for piece in self._pieces(response, request):
                body += piece
                if len(body) > allowed and response.status_code < 400:
                    raise ProtocolViolation(
                        f"{request.registry} sent more than {limit} bytes for {request.operation}",
                        registry=request.registry,
                        operation=request.operation,
                        status=response.status_code,
                    )
                if len(body) > allowed:
                    break
            return Response(response.status_code, _headers(response), body[:allowed], url)

    @contextmanager
    def _send(self, request: Request) -> Iterator[tuple[httpx.Response, str]]:
        import httpx

        url, first = request.url, Origin.of(request.url)
        for _ in range(MAX_REDIRECTS):
            origin = Origin.of(url)
            headers = {"User-Agent": f"assemble/{__version__}", **request.headers}
            if origin == first:
                headers |= request.private
            if request.length is not None:
                headers["Content-Length"] = str(request.length)
            content: Any = request.body() if callable(request.body) else request.body
            try:
                client = self._client(origin)
                sent = client.build_request(
                    request.method, url, headers=headers, content=content or None,
                    extensions={"trace": self._trace},
                )  # fmt: skip
                response = self._answered(client, sent)
            except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
                self._cancellation.check()
                raise _unreachable(request, origin, error) from error
            try:
                location = response.headers.get("location", "")
                if not (request.follow and response.status_code in _REDIRECTS and location):
                    yield response, url
                    return
                url = self._next(request, url, location)
            finally:
                response.close()
        raise ProtocolViolation(
            f"{request.registry} redirected {request.operation} more than {MAX_REDIRECTS} times",
            registry=request.registry,
            operation=request.operation,
        )

    def _answered(self, client: httpx.Client, request: httpx.Request) -> httpx.Response:
        """The answer to `request`, its body unread. Nothing ends a look-up of a name, a connect(2)
        or a TLS handshake from outside: a cancelled build leaves them alone in their thread."""
        outcome: list[httpx.Response | BaseException] = []
        left = threading.Event()
        reader, writer = os.pipe2(os.O_CLOEXEC)

        def send() -> None:
            try:
                outcome.append(client.send(request, stream=True))
            except BaseException as error:  # raised by whoever waits
                outcome.append(error)
            os.close(writer)
            if left.is_set():
                _close(outcome)

        try:
            threading.Thread(target=send, name="request", daemon=True).start()
            poller = select.poll()
            poller.register(reader)
            poller.register(self._cancellation.fileno(), select.POLLIN)
            poller.poll()
            if self._cancellation.cancelled:
                left.set()
                _close(outcome)
                self._cancellation.check()
        finally:
            os.close(reader)
        answer = outcome[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _next(self, request: Request, url: str, location: str) -> str:
        try:
            following = urljoin(url, location)
            before, after = Origin.of(url), Origin.of(following)
        except ValueError as error:
            raise ProtocolViolation(
                f"{request.registry} redirected {request.operation} to something that is no URL",
                registry=request.registry,
                operation=request.operation,
            ) from error
        if before.scheme == "https" and after.scheme == "http":
            raise ProtocolViolation(
                f"{request.registry} redirected {request.operation} from https to http "
                f"({after.host}); refused",
                registry=request.registry,
                operation=request.operation,
            )
        return following

    def _pieces(self, response: httpx.Response, request: Request) -> Iterator[bytes]:
        import httpx

        started, received = self._clock(), 0
        try:
            for piece in response.iter_raw():
                self._cancellation.check()
                received += len(piece)
                now = self._clock()
                if now - started >= WINDOW:
                    if received < SLOWEST * (now - started):
                        raise httpx.ReadTimeout("slower than the floor")
                    started, received = now, 0
                yield piece
        except (httpx.HTTPError, httpx.StreamError, ssl.SSLError, OSError) as error:
            self._cancellation.check()
            raise _unreachable(request, Origin.of(str(response.url)), error) from error

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Told of each connection: one that waits ends when the build does."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._cancellation.interrupts(info["return_value"].get_extra_info("socket"))

    def _client(self, origin: Origin) -> httpx.Client:
        host = origin.host if origin.port in (80, 443) else f"{origin.host}:{origin.port}"
        key = (origin.scheme, host)
        with self._lock:
            if key not in self._clients:
                self._clients[key] = self._connect(origin, host)
            return self._clients[key]

    def _connect(self, origin: Origin, host: str) -> httpx.Client:
        # httpx imports its command line, and with it rich, unless something stands in its place.
        sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
        import httpx

        verify: ssl.SSLContext | bool = False
        if origin.scheme == "https":
            verify = self._context(host)
        return httpx.Client(
            verify=verify,
            timeout=httpx.Timeout(60.0, connect=10.0),
            limits=httpx.Limits(max_connections=8, max_keepalive_connections=8),
            follow_redirects=False,
        )

    def _context(self, host: str) -> ssl.SSLContext:
        context = ssl.create_default_context()
        files = self._certificates(host) if self._certificates is not None else None
        if files is not None:
            for authority in files.authorities:
                context.load_verify_locations(authority)
            for certificate, key in files.pairs:
                context.load_cert_chain(certificate, key)
        if self._unverified(host):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _pause(self, seconds: float) -> None:
        self._cancellation.wait(seconds)
        self._cancellation.check()


def _close(outcome: list[httpx.Response | BaseException]) -> None:
    for answer in outcome:
        if not isinstance(answer, BaseException):
            answer.close()


def _headers(response: httpx.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _unreachable(request: Request, origin: Origin, error: BaseException) -> Unreachable:
    reason = str(error) or type(error).__name__
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__
    hint = request.hint or "is the registry running, and is its name right?"
    if cause is not None and not request.hint:
        hint = (
            f"put its certificate authority into ~/.config/containers/certs.d/{origin.host}/ca.crt, "
            f"or allow it with --insecure-registry {origin.host}"
        )
    return Unreachable(
        f"cannot reach {request.registry} for {request.operation}: {reason}",
        registry=request.registry,
        operation=request.operation,
        hint=hint,
    )
