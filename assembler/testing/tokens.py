"""Who may do what: Basic authorization, and a token server whose tokens end (distribution's token
specification, both its GET and its OAuth2 form)."""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from assembler.testing.server import Answer, Asked


@dataclass
class Grant:
    """What a token is good for."""

    scopes: frozenset[tuple[str, str]]
    """(repository, action)"""
    until: float
    uses: int


@dataclass
class Tokens:
    """Gives out tokens that end after `ttl` seconds of `clock`, or after `uses` requests.

    With `users` it wants one of them, by password or refresh token; `anonymous` actions need none.
    `given` are the tokens, `asked` the scopes of each request for one.
    """

    users: dict[str, str] = field(default_factory=dict)
    refresh: set[str] = field(default_factory=set)
    anonymous: frozenset[str] = frozenset({"pull", "push"})
    ttl: float = 300
    uses: int = 1 << 30
    clock: Callable[[], float] = time.monotonic
    realm: str = ""
    given: dict[str, Grant] = field(default_factory=dict)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def answer(self, asked: Asked, body: bytes) -> Answer:
        """A token, or a refusal."""
        known = basic(asked, self.users)
        query = parse_qs(urlsplit(asked.target).query)
        if asked.method == "POST":
            query = parse_qs(body.decode())
            user, password = (query.get(name, [""])[0] for name in ("username", "password"))
            known = query.get("refresh_token", [""])[0] in self.refresh or (
                bool(user) and self.users.get(user) == password
            )
        if not known and (asked.header("authorization") or asked.method == "POST"):
            return Answer(401, {"WWW-Authenticate": 'Basic realm="tokens"'})
        wanted = [one for scopes in query.get("scope", []) for one in scopes.split(" ")]
        scopes = set()
        for one in wanted:
            _, _, rest = one.partition(":")
            name, _, actions = rest.rpartition(":")
            for action in actions.split(","):
                if known or not self.users or action in self.anonymous:
                    scopes.add((name, action))
        token = uuid.uuid4().hex
        with self._lock:
            self.given[token] = Grant(frozenset(scopes), self.clock() + self.ttl, self.uses)
            self.asked.append(tuple(wanted))
        document = {"token": token, "access_token": token, "expires_in": max(60, int(self.ttl))}
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(document).encode())

    def refuses(self, asked: Asked, origin: str) -> Answer | None:
        """The challenge for a request whose token is not good for it."""
        needed = _needed(asked)
        token = asked.header("authorization").removeprefix("Bearer ")
        with self._lock:
            grant = self.given.get(token)
            good = grant is not None and self.clock() < grant.until and grant.uses > 0
            if grant is not None:
                grant.uses -= 1
        if grant is not None and good and needed <= grant.scopes:
            return None
        challenge = f'Bearer realm="{self.realm or origin + "/token"}",service="faulty"'
        names = sorted({name for name, _ in needed})
        scopes = " ".join(
            f"repository:{name}:{','.join(sorted(a for n, a in needed if n == name))}"
            for name in names
        )
        challenge += f',scope="{scopes}"' if scopes else ""
        if token:
            challenge += f',error="{"insufficient_scope" if good else "invalid_token"}"'
        return Answer(401, {"WWW-Authenticate": challenge})


def basic(asked: Asked, users: dict[str, str]) -> bool:
    """Whether the request has the name and password of one of `users`."""
    pairs = (f"{name}:{password}".encode() for name, password in users.items())
    said = asked.header("authorization")
    return said in {f"Basic {base64.b64encode(pair).decode()}" for pair in pairs}


def _needed(asked: Asked) -> set[tuple[str, str]]:
    """(repository, action) that the request needs."""
    parts = asked.path.removeprefix("/v2/")
    for mark in ("/blobs/", "/manifests/", "/tags/", "/referrers/"):
        name, found, _ = parts.partition(mark)
        if found:
            break
    else:
        return set()
    if asked.method in ("GET", "HEAD") and "/uploads/" not in asked.path:
        return {(name, "pull")}
    return {(name, "pull"), (name, "push")}
