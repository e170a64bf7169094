"""HTTP with one policy: redirects, limits, retries (reliability.md 1.2).

Redirects are followed by hand: what we added to a request never reaches another origin, https never
becomes http, and none leads further inside than where it comes from. Bodies are bounded or streamed.
Failures become errors that name the registry and the operation, never a URL with a query.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from assembler.cancellation import Cancellation
from assembler.errors import ProtocolViolation, RateLimited, Unreachable, UsageError
from assembler.net.body import MAX_ERROR_BODY, FileBody, decoded, parsed
from assembler.net.failure import Cause, classify, unreachable
from assembler.net.limits import Limits
from assembler.net.origin import Origin, Zone
from assembler.net.proxy import Proxies
from assembler.net.retry import RETRYABLE, Attempts, RetryPolicy, asked_for, come_back
from assembler.net.trace import Exchanged
from assembler.net.warning import Warnings
from assembler.values import field, replace, value
from assembler.version import __version__

if TYPE_CHECKING:
    from assembler.net.dial import LookUp
    from assembler.net.tls import Certificates
    from assembler.net.transport import Answer, Transport

MAX_REDIRECTS = 10
_DRAINED = 16 << 10  # bytes of a redirect that are read to keep its connection
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GO_ALONG = frozenset(
    "accept accept-encoding content-range content-type if-match if-modified-since if-none-match if-range"
    " if-unmodified-since range user-agent".split()
)
"""Headers that say what is asked for. All others stay with the origin that they were meant for."""
_USUAL = (
    ("User-Agent", f"assemble/{__version__}"), ("Accept", "*/*"), ("Accept-Encoding", "identity")
)  # fmt: skip
_PLAIN_TO_TLS = (b"HTTP request to an HTTPS server", b"plain HTTP request was sent to HTTPS port")

Body = bytes | FileBody | Callable[[], Iterable[bytes]]
"""A request's body: bytes, a part of a file, or a function that gives the pieces anew for each
attempt."""


@value
class Request:
    """One request. `private` headers go to the first origin only; `length` is of a body given by
    pieces; `hint` says what to do when nothing answers, where that is no registry. `zone` forbids
    every address that is further inside. The head of the answer may take `patience` seconds, None for
    the usual limit. A `brief` one is of what can be had elsewhere."""

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
    zone: Zone = Zone.LINK
    patience: float | None = None
    brief: bool = False


@value
class Response:
    """An answer whose body was read, up to a limit. `url` is where it came from, behind all redirects,
    and `zone` that of its address."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    url: str = field(repr=False)
    zone: Zone = Zone.PUBLIC

    def header(self, name: str) -> str:
        """The header `name`, empty when there is none."""
        return self.headers.get(name.lower(), "")

    def json(self) -> object:
        """The body as JSON. Raises ValueError, also for what is nested too deep to be read."""
        return parsed(self.body)


@value
class Stream:
    """An answer whose body is being read: each piece is good until the next one is asked for. `url`
    and `zone` as of a Response."""

    status: int
    headers: Mapping[str, str]
    pieces: Iterator[memoryview] = field(repr=False)
    url: str = field(repr=False)
    zone: Zone = Zone.PUBLIC

    def header(self, name: str) -> str:
        """The header `name`, empty when there is none."""
        return self.headers.get(name.lower(), "")


@value
class _Received:
    response: Answer
    headers: Mapping[str, str]
    request: Request  # as it was sent to the last origin
    zone: Zone


class HttpClient:
    """A pool of connections. Use it with `with`; threads share it.

    `certificates` gives the files for the connections to a host; hosts in `unverified` have their
    certificate not checked. Proxies and authorities are those
    of the environment `variables`. `warn` is told what registries warn of, each once, and of
    every request that is tried again; `trace` of every request that is over.
    """

    def __init__(
        self,
        *,
        cancellation: Cancellation,
        policy: RetryPolicy | None = None,
        unverified: Container[str] = frozenset(),
        certificates: Callable[[str], Certificates] | None = None,
        variables: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        warn: Callable[[str], None] = lambda text: None,
        look_up: LookUp | None = None,
        clock: Callable[[], float] = time.monotonic,
        trace: Callable[[Exchanged], None] | None = None,
    ) -> None:
        self._trace = trace
        self._cancellation = cancellation
        self._policy = policy or RetryPolicy()
        self._unverified = unverified
        self._certificates = certificates
        self._variables = {} if variables is None else variables
        self._limits = limits or Limits()
        self._warn = warn
        self._warnings = Warnings(warn)
        self._look_up = look_up
        self._clock = clock
        self._lock = threading.Lock()
        self._made: Transport | None = None
        self._lively: set[str] = set()
        """Where a good answer came from: the starts of URLs."""

    def __enter__(self) -> HttpClient:
        return self

    def __exit__(self, *_: object) -> None:
        if self._made is not None:
            self._made.close()

    def request(self, request: Request, limit: int = 4 << 20) -> Response:
        """The answer to `request`, retried by the policy; its body has at most `limit` bytes.

        Raises Unreachable when no attempt came through, RateLimited when the registry wants to be
        asked later than the policy allows, ProtocolViolation for a body over the limit. Statuses
        are the caller's to judge.
        """
        attempts = self.attempts(brief=request.brief)
        until = attempts.began + self._policy.budget
        while True:
            self._cancellation.check()
            try:
                response = self._once(request, limit, until)
            except Unreachable as error:
                if not self.pause(attempts, error):
                    raise
            else:
                if response.status not in RETRYABLE:
                    return response
                self._refuse_to_wait(request, response, attempts.began)
                why = f"{request.registry}: {request.operation} was answered with {response.status}"
                if not self.pause(attempts, answer=response, why=why):
                    return response

    @contextmanager
    def stream(self, request: Request) -> Iterator[Stream]:
        """The answer to `request` with its body unread; one attempt. Raises Unreachable, also
        from the pieces, when the connection breaks or is slower than the floor."""
        with self._send(request, None) as answer:
            response = answer.response
            pieces, url = self._pieces(answer), answer.request.url
            yield Stream(response.status_code, answer.headers, pieces, url, answer.zone)

    def attempts(self, *, brief: bool = False) -> Attempts:
        """Those that something has which begins now; `brief` if it can be had elsewhere."""
        return Attempts(self._policy, self._clock(), brief=brief)

    def moves_on(self, attempts: Attempts) -> None:
        """What is tried has moved on by now."""
        attempts.move_on(self._clock())

    def pause(
        self,
        attempts: Attempts,
        failure: Unreachable | None = None,
        *,
        answer: Response | Stream | None = None,
        why: str = "",
    ) -> bool:
        """Wait before the next attempt after a `failure`, or an `answer` that is one; false when the
        policy allows no more, or what failed stays so. The user is told `why`, else the failure."""
        way, lively, worth, retry_after = "", False, 0, ""
        if failure is not None:
            lively = failure.lively
            if failure.cause:
                worth = Cause(failure.cause).worth
                way = "" if worth else failure.cause
        elif answer is not None:
            way, retry_after = str(answer.status), answer.header("retry-after")
            lively = _site(answer.url) in self._lively
        seconds = attempts.fail(
            way, self._clock(), lively=lively, worth=worth, retry_after=retry_after
        )
        if seconds is None:
            return False
        if why or failure is not None:
            self._warn(f"{why or failure}; trying again in {seconds:.1f} s")
        self._cancellation.wait(seconds)
        self._cancellation.check()
        return True

    def _refuse_to_wait(self, request: Request, answer: Response, began: float) -> None:
        """Raise the error for a registry that wants to be asked when nobody waits any more."""
        status, retry_after = answer.status, answer.header("retry-after")
        asked, spent = asked_for(retry_after), self._clock() - began
        if asked is None or spent + asked <= self._policy.budget:
            return
        kind = RateLimited if status == 429 else Unreachable
        what = "limits the rate of requests" if status == 429 else "is not ready"
        raise kind(
            f"{request.registry} {what}: {request.operation} was answered with status {status}, and"
            f" may be asked for again at {come_back(retry_after)}",
            registry=request.registry,
            operation=request.operation,
            status=status,
            hint="log in for a higher limit, wait, or use a mirror in registries.conf"
            if status == 429
            else "try again then",
        )

    def _once(self, request: Request, limit: int, until: float) -> Response:
        with self._send(request, until) as answer:
            response, received = answer.response, bytearray()
            failed = response.status_code >= 400
            for piece in self._pieces(answer):
                received += piece
                if len(received) > (MAX_ERROR_BODY if failed else limit):
                    break
            body, size = bytes(received), len(received)
            if failed:
                body = body[:MAX_ERROR_BODY]
                self._check_scheme(answer, body)
            elif size <= limit:
                try:
                    body = decoded(body, answer.headers.get("content-encoding", ""), limit)
                except ValueError as error:
                    raise _violation(
                        request, f"sent {error} for", status=response.status_code
                    ) from error
            if not failed and len(body) > limit:
                what = f"sent more than {limit} bytes for"
                raise _violation(request, what, status=response.status_code)
            url = answer.request.url
            return Response(response.status_code, answer.headers, body, url, answer.zone)

    def _check_scheme(self, answer: _Received, body: bytes) -> None:
        """Servers that speak TLS tell who does not by a 400 in plain http."""
        if answer.response.status_code == 400 and any(one in body for one in _PLAIN_TO_TLS):
            raise self._unreachable(answer.request, Cause.SPEAKS_TLS, "")

    @contextmanager
    def _send(self, request: Request, until: float | None) -> Iterator[_Received]:
        redirects = 0
        while True:
            began, asked = self._clock(), request
            response = self._sent(request, until)
            stream = response.extensions["network_stream"]
            try:
                headers = _headers(response)
                if response.status_code < 500 and response.status_code not in RETRYABLE:
                    self._lively.add(_site(request.url))
                if "warning" in headers:
                    self._warnings.note(request.registry, response.headers.get_list("warning"))
                location, status = headers.get("location", ""), response.status_code
                if not (request.follow and status in _REDIRECTS and location):
                    yield _Received(response, headers, request, stream.zone)
                    return
                redirects += 1
                if redirects > MAX_REDIRECTS:
                    raise _violation(request, "redirected", f"more than {MAX_REDIRECTS} times")
                request = _redirected(request, status, location, stream.zone)
                self._drain(response)
            finally:
                received = stream.received
                response.close()
                self._traced(asked, began, response.status_code, received)

    def _traced(
        self, request: Request, began: float, status: int, received: int = 0, failure: str = ""
    ) -> None:
        if self._trace is not None:
            seconds, sent = self._clock() - began, _length(request) or 0
            what = request.method, request.url, status, sent, received, seconds, failure
            self._trace(Exchanged(*what))

    def _sent(self, request: Request, until: float | None) -> Answer:
        self._cancellation.check()
        transport = self._transport()
        from assembler.net.dial import AddressRefused
        from assembler.net.transport import ERRORS, Call, InvalidURL, Unsent

        said = {name.lower() for name in request.headers}
        headers = [(name, text) for name, text in _USUAL if name.lower() not in said]
        headers += [*request.headers.items(), *request.private.items()]
        for name, text in headers:
            if not (text.isascii() and text.isprintable()):  # h11 would show it whole
                raise UsageError(
                    f"the header {name} for {request.registry} has characters that no header may have",
                    hint="is there a line break or an accent in a password, a token or a file name?",
                )
        body, length, began = request.body, _length(request), self._clock()
        if length is None:
            headers.append(("Transfer-Encoding", "chunked"))
        elif length or request.method in ("POST", "PUT", "PATCH"):
            headers.append(("Content-Length", str(length)))
        call = Call(request.zone, request.patience, until)
        try:
            return transport.handle_request(
                transport.request(request.method, request.url, headers, body, call)
            )
        except AddressRefused as error:
            raise _violation(
                request, "leads", f"to an address inside ({error}); refused"
            ) from error
        except InvalidURL as error:
            raise _violation(request, "has no valid URL for") from error
        except Unsent as error:
            assert error.__cause__ is not None
            raise error.__cause__ from None
        except ERRORS as error:
            self._cancellation.check()
            self._traced(request, began, 0, failure=classify(error))
            raise self._failed(request, error) from error

    def _pieces(self, answer: _Received) -> Iterator[memoryview]:
        from assembler.net.transport import ERRORS, body_of

        try:
            yield from body_of(answer.response)
        except ERRORS as error:
            self._cancellation.check()
            raise self._failed(answer.request, error) from error

    def _drain(self, response: Answer) -> None:
        """Read a short body, so that the connection can be used again; one that breaks off cannot."""
        length = response.headers.get("content-length", "")
        if length.isdecimal() and int(length) <= _DRAINED:
            from assembler.net.transport import ERRORS, body_of

            with suppress(*ERRORS):
                for _ in body_of(response):
                    pass

    def _failed(self, request: Request, error: BaseException) -> Unreachable:
        return self._unreachable(request, classify(error), str(error))

    def _unreachable(self, request: Request, cause: Cause, detail: str) -> Unreachable:
        error = unreachable(
            request.registry, request.operation, Origin.of(request.url), cause, detail, request.hint
        )
        error.lively = _site(request.url) in self._lively
        return error

    def _transport(self) -> Transport:
        if self._made is not None:
            return self._made
        # httpx imports its command line, and with it rich, unless something stands in its place.
        sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
        from assembler.net.dial import look_up
        from assembler.net.tls import Contexts
        from assembler.net.transport import Transport

        with self._lock:
            if self._made is None:
                self._made = Transport(
                    cancellation=self._cancellation,
                    contexts=Contexts(self._certificates, self._unverified, self._variables),
                    proxies=Proxies(self._variables),
                    limits=self._limits,
                    look_up=self._look_up or look_up,
                    clock=self._clock,
                )
            return self._made


def _site(url: str) -> str:
    """Scheme, host and port of `url` as they are written."""
    end = url.find("/", url.find("://") + 3)
    return url if end < 0 else url[:end]


def _length(request: Request) -> int | None:
    """Of the body, None where nobody knows."""
    body = request.body
    if callable(body):
        return request.length
    return len(body) if isinstance(body, bytes) else body.length


def _redirected(request: Request, status: int, location: str, here: Zone) -> Request:
    """The request that a redirect asks for. Raises ProtocolViolation for one that must not be
    followed. What was dropped on the way to another origin does not come back on the way home."""
    try:
        url = urljoin(request.url, location)
        before, after = Origin.of(request.url), Origin.of(url)
    except ValueError as error:
        raise _violation(request, "redirected", "to something that is no URL") from error
    if before.scheme == "https" and after.scheme == "http":
        raise _violation(request, "redirected", f"from https to http ({after.host}); refused")
    headers, private, zone = dict(request.headers), request.private, request.zone
    if before != after:
        headers = {name: text for name, text in headers.items() if name.lower() in _GO_ALONG}
        private, zone = {}, max(zone, here)
    method, body, length = request.method, request.body, request.length
    if status == 303 and method != "HEAD":  # RFC 9110 15.4.4: look there
        method, body, length = "GET", b"", None
        headers.pop("Content-Type", None)
    return replace(
        request, method=method, url=url, headers=headers, private=private, body=body, length=length,
        zone=zone,
    )  # fmt: skip


def _headers(response: Answer) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _violation(request: Request, did: str, how: str = "", *, status: int = 0) -> ProtocolViolation:
    return ProtocolViolation(
        f"{request.registry} {did} {request.operation} {how}".rstrip(),
        registry=request.registry,
        operation=request.operation,
        status=status,
    )
