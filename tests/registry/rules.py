"""What goes wrong, and when: the rules of the faulty registry.

    registry.on("PATCH", UPLOAD, reset(), at=400_000)        # the 400 000th byte of an upload
    registry.on("HEAD", BLOB, reply(503), nth=1)             # the first time only
    registry.on("GET", MANIFEST, reply(404), nth=range(1, 4))
    registry.on("PUT", UPLOAD, unanswered(), nth=1)          # done, but the client is not told

An action is a function of the `Case`; what it returns is answered. It may raise HungUp.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from assembler.testing.server import Answer, Asked, Exchange, HungUp

PING, TOKEN = "/v2/", "/token"
BLOB, MANIFEST = "/v2/*/blobs/sha*", "/v2/*/manifests/*"
START, UPLOAD = "/v2/*/blobs/uploads/", "/v2/*/blobs/uploads/?*"


@dataclass(frozen=True)
class Case:
    """A request that a rule is about. `honest` does what the registry should, and gives its answer;
    `forget` loses the upload session that the request names."""

    exchange: Exchange
    honest: Callable[[], Answer]
    forget: Callable[[], None]


Action = Callable[[Case], Answer]


@dataclass
class Rule:
    """`action` for the requests whose method and path match: every one of them, or the `nth` (from
    1). With `at` it happens in the middle: when byte `at` of the blob is about to pass, whichever
    request it is in. `fired` counts."""

    method: str
    path: str
    action: Action
    nth: int | Container[int] | None = None
    at: int | None = None
    matched: int = 0
    fired: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def about(self, asked: Asked) -> bool:
        """Whether the request matches."""
        methods = self.method.split("|")
        return ("*" in methods or asked.method in methods) and fnmatchcase(asked.path, self.path)

    def now(self) -> bool:
        """Count one match; whether it is the one."""
        with self._lock:  # each connection has a thread
            self.matched += 1
            nth = {self.nth} if isinstance(self.nth, int) else self.nth
            due = nth is None or self.matched in nth
            self.fired += due
            return due


def reply(
    status: int,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    *,
    drain: bool = True,
) -> Action:
    """Answer this. The request's body is read before, or (`drain=False`) the connection is closed
    behind the answer."""
    fields = headers if isinstance(headers, Mapping) else tuple(headers)

    def act(case: Case) -> Answer:
        if drain:
            case.exchange.drain()
        return Answer(status, fields, body, close=not drain)

    return act


def reset(received: int = 0) -> Action:
    """Reset the connection after so many bytes of the request's body; they are not kept. In a rule
    with `at` what came before is."""

    def act(case: Case) -> Answer:
        if received:
            case.exchange.drain(received)
        raise HungUp

    return act


def unanswered(*, quietly: bool = False) -> Action:
    """Do it, and reset the connection instead of saying so."""

    def act(case: Case) -> Answer:
        case.honest()
        raise HungUp(quietly=quietly)

    return act


def cut(sent: int, *, quietly: bool = False) -> Action:
    """The right answer, of whose body only so many bytes are sent."""
    return lambda case: replace(case.honest(), broken=sent, reset=not quietly)


def amend(
    headers: Mapping[str, str | None] | None = None,
    *,
    status: int = 0,
    body: Callable[[bytes], bytes] | None = None,
) -> Action:
    """The right answer with another status, other headers (None: without it) or another body."""

    def act(case: Case) -> Answer:
        answer = case.honest()
        fields = dict(answer.fields())
        for name, value in (headers or {}).items():
            fields = {key: had for key, had in fields.items() if key.lower() != name.lower()}
            fields |= {} if value is None else {name: value}
        content = answer.body
        if body is not None:
            content = body(_whole(content))
        return replace(answer, status=status or answer.status, headers=fields, body=content)

    return act


def chunked() -> Action:
    """The right answer without a Content-Length, in chunked coding."""

    def act(case: Case) -> Answer:
        answer = case.honest()
        body = [answer.body] if isinstance(answer.body, bytes) else answer.body
        return replace(answer, body=body, length=None)

    return act


def drip(size: int, seconds: float) -> Action:
    """The right answer, `size` bytes of its body every `seconds`."""

    def act(case: Case) -> Answer:
        answer = case.honest()
        content = _whole(answer.body)

        def pieces() -> Iterator[bytes]:
            for start in range(0, len(content), size):
                case.exchange.wait(seconds)
                yield content[start : start + size]

        return replace(answer, body=pieces(), length=len(content))

    return act


def stall(sent: int) -> Action:
    """The right answer, of whose body only so many bytes are sent, and no end before the registry's."""

    def act(case: Case) -> Answer:
        answer = case.honest()
        content = _whole(answer.body)

        def pieces() -> Iterator[bytes]:
            yield content[:sent]
            if len(content) > sent:
                case.exchange.wait()

        return replace(answer, body=pieces(), length=len(content))

    return act


def hang(seconds: float | None = None) -> Action:
    """Say nothing for so long, or for ever; then hang up."""

    def act(case: Case) -> Answer:
        case.exchange.wait(seconds)
        raise HungUp

    return act


def raw(data: bytes) -> Action:
    """These bytes for an answer, and the end of the connection."""

    def act(case: Case) -> Answer:
        case.exchange.drain()
        case.exchange.raw(data)
        raise HungUp(quietly=True)

    return act


def lose_upload() -> Action:
    """Forget the upload session, then answer what is right."""

    def act(case: Case) -> Answer:
        case.forget()
        return case.honest()

    return act


def redirect(origin: str, status: int = 307, *, drain: bool = True) -> Action:
    """To the same path at another origin (`http://127.0.0.1:1`)."""

    def act(case: Case) -> Answer:
        if drain:
            case.exchange.drain()
        return Answer(status, {"Location": origin + case.exchange.asked.path}, close=not drain)

    return act


def _whole(body: bytes | Iterable[bytes]) -> bytes:
    return body if isinstance(body, bytes) else b"".join(body)


@dataclass
class Chaos:
    """Every request fails with this probability, in one of the ways that networks and registries
    have: a reset before, amid or after it was read, 500, 503, 429, a body that ends early. None
    fails more than `most` times in a row."""

    probability: float
    seed: int = 0
    most: int = 1 << 30
    retry_after: tuple[str, ...] = ("0",)
    failures: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()
        self._in_a_row: dict[tuple[str, str], int] = {}

    def __call__(self, asked: Asked) -> Action | None:
        """What happens to the request, None when nothing does."""
        with self._lock:
            key = asked.method, asked.path
            failed = self._in_a_row.pop(key, 0)
            if failed >= self.most or self._random.random() >= self.probability:
                return None
            self._in_a_row[key] = failed + 1
            length = int(asked.header("content-length") or 0)
            ways: dict[str, Action] = {
                "reset": reset(),
                "reset amid": reset(self._random.randrange(length) if length else 0),
                "unanswered": unanswered(),
                "500": reply(500),
                "503": reply(503),
                "429": reply(429, {"Retry-After": self._random.choice(self.retry_after)}),
                "early end": self._early(),
            }
            way = self._random.choice(sorted(ways))
            self.failures[way] = self.failures.get(way, 0) + 1
            return ways[way]

    def _early(self) -> Action:
        share, reset = self._random.random(), self._random.random() < 0.5

        def act(case: Case) -> Answer:
            answer = case.honest()
            length = answer.size
            if not length or case.exchange.asked.method == "HEAD":
                raise HungUp
            return replace(answer, broken=int(length * share), reset=reset)

        return act
