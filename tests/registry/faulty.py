"""A registry on a loopback port that does what the spec says, unless a rule says otherwise.

with FaultyRegistry() as registry:
    cut = registry.on("PATCH|PUT", UPLOAD, reset(), at=400_000)
    push(client, f"{registry.host}/app:1", BLOB)
    assert cut.fired == 1
    assert registry.received(digest) <= len(BLOB) + CHUNK
"""

from __future__ import annotations

import ssl
from collections.abc import Container, Iterator
from dataclasses import replace

from assembler.testing.distribution import Distribution
from assembler.testing.server import Answer, Asked, Counts, Early, Exchange, HungUp, Server
from assembler.testing.tokens import Tokens, basic
from tests.registry.rules import Action, Case, Chaos, Rule


class FaultyRegistry(Distribution):
    """See the module, and `Distribution` for its settings. `log` are the requests in order.

    With `users` it wants Basic authorization, with `tokens` the Bearer tokens which these give out
    at /token. `chaos` lets requests fail at random, those that no rule is about.
    """

    def __init__(
        self,
        *,
        address: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        users: dict[str, str] | None = None,
        tokens: Tokens | None = None,
        chaos: Chaos | None = None,
    ) -> None:
        super().__init__()
        self.users = users or {}
        self.tokens = tokens
        self.chaos = chaos
        self.rules: list[Rule] = []
        self._server = Server(self._serve, address, tls)
        name = f"[{address}]" if ":" in address else address
        self.host = f"{name}:{self._server.port}"
        self.origin = f"{'https' if tls else 'http'}://{self.host}"

    def __enter__(self) -> FaultyRegistry:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()
        self.close()

    @property
    def log(self) -> list[Asked]:
        """Every request so far."""
        return self._server.log

    @property
    def counts(self) -> Counts:
        """Connections and requests, and the most at once."""
        return self._server.counts

    def on(
        self,
        method: str,
        path: str,
        action: Action,
        *,
        nth: int | Container[int] | None = None,
        at: int | None = None,
    ) -> Rule:
        """Add a rule, see `rules.Rule`; of several the first that is due decides."""
        rule = Rule(method, path, action, nth, at)
        self.rules.append(rule)
        return rule

    def asked(self, method: str = "*", path: str = "*") -> list[Asked]:
        """The requests that match, as rules do."""
        rule = Rule(method, path, _never)
        return [asked for asked in self.log if rule.about(asked)]

    def received(self, digest: str = "") -> int:
        """The bytes of bodies that came for uploads: for all, or for those that became `digest`."""
        return sum(
            asked.received
            for asked in self.log
            if "/blobs/uploads/" in asked.path
            and (not digest or self.uploaded.get(asked.upload) == digest)
        )

    def sent(self, digest: str = "") -> int:
        """The bytes of blobs that were sent: of all, or of `digest`."""
        end = f"/blobs/{digest}" if digest else ""
        return sum(s.sent for s in self.log if "/blobs/" in s.path and s.path.endswith(end))

    def header_names(self) -> set[str]:
        """The names of all headers that came, in lower case."""
        return {name for asked in self.log for name in asked.headers}

    def _serve(self, exchange: Exchange) -> None:
        asked = exchange.asked
        case = Case(exchange, lambda: self._right(exchange), lambda: self._lose(asked))
        rules = [rule for rule in self.rules if rule.at is None and rule.about(asked)]
        due = [rule for rule in rules if rule.now()]
        action = due[0].action if due else self.chaos(asked) if self.chaos else None
        try:
            answer = action(case) if action is not None else case.honest()
        except Early as early:
            exchange.answer(early.answer)
            return
        try:
            exchange.answer(self._interrupted(case, answer))
        except Early as early:
            raise HungUp from early  # in the middle of a body there is nothing else to say

    def _right(self, exchange: Exchange) -> Answer:
        asked = exchange.asked
        if asked.path == "/token" and self.tokens is not None:
            return self.tokens.answer(asked, b"".join(exchange.pieces()))
        if self.users and not basic(asked, self.users):
            return Answer(401, {"WWW-Authenticate": 'Basic realm="faulty"'})
        if self.tokens is not None and (refusal := self.tokens.refuses(asked, self.origin)):
            return refusal
        case = Case(exchange, _nothing, lambda: self._lose(asked))
        return self.answer(asked, self._watched(case))

    def _watched(self, case: Case) -> Iterator[bytes]:
        """The request's body; rules with `at` interrupt it where the upload gets there."""
        asked = case.exchange.asked
        session = self.sessions.get(asked.path.rpartition("/")[2])
        yield from self._until(case, case.exchange.pieces(), session.content.size if session else 0)

    def _interrupted(self, case: Case, answer: Answer) -> Answer:
        """The answer; rules with `at` interrupt the blob that it carries."""
        if case.exchange.asked.method != "GET" or answer.status not in (200, 206):
            return answer
        fields = {name.lower(): value for name, value in answer.fields()}
        start = int(fields.get("content-range", "bytes 0").removeprefix("bytes ").split("-")[0])
        if not any(rule.at is not None and rule.about(case.exchange.asked) for rule in self.rules):
            return answer
        body = [answer.body] if isinstance(answer.body, bytes) else answer.body
        return replace(answer, body=self._until(case, iter(body), start), length=answer.size)

    def _until(self, case: Case, pieces: Iterator[bytes], at: int) -> Iterator[bytes]:
        rules = [
            rule for rule in self.rules if rule.at is not None and rule.about(case.exchange.asked)
        ]
        for piece in pieces:
            for rule in sorted(rules, key=lambda rule: rule.at or 0):
                before = (rule.at or 0) - at
                if 0 <= before < len(piece) and rule.now():
                    if before:
                        yield piece[:before]
                    if case.exchange.asked.method != "GET":  # the rest was read and not taken
                        case.exchange.asked.received -= len(piece) - before
                    raise Early(rule.action(case))
            at += len(piece)
            yield piece

    def _lose(self, asked: Asked) -> None:
        session = self.sessions.get(asked.path.rpartition("/")[2])
        if session is not None:
            self._forget(session)


def _never(case: Case) -> Answer:
    raise AssertionError("this rule only looks")


def _nothing() -> Answer:
    raise AssertionError("it is being answered already")
