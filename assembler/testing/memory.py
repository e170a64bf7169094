"""A registry in this process: everything in memory, every request to be looked at."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, MutableMapping

from assembler.testing.distribution import Content, Distribution, Session
from assembler.testing.server import Answer, Asked, Exchange, Server
from assembler.testing.tokens import Tokens, basic

Fault = Callable[[Asked], Answer | None]
"""Looks at every request first; what it returns is answered instead, None lets it through."""


class MemoryRegistry(Distribution):
    """A distribution-spec registry on a loopback port. Use it with `with`; see `Distribution` for
    its settings.

    `fault` may answer instead of it. With `users` (name to password) it wants Basic authorization;
    with `token` that Bearer token, which it gives out itself at /token; with `tokens` such as end,
    for the scopes they were asked for. With `tls` it speaks https. `asked` are the requests in
    order, `blobs` the bytes by digest, `manifests` media type and bytes by repository and tag or
    digest, `uploads` what has come of each open upload; all may be changed.
    """

    def __init__(
        self,
        fault: Fault | None = None,
        users: dict[str, str] | None = None,
        token: str = "",
        *,
        tokens: Tokens | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__()
        self.fault = fault
        self.users = users or {}
        self.token = token
        self.tokens = tokens
        self.blobs: MutableMapping[str, bytes] = _Blobs(self.contents)
        self.uploads: MutableMapping[str, bytes] = _Uploads(self.sessions)
        self._one_at_a_time = threading.RLock()
        self._server = Server(self._serve, tls=tls)
        self.asked = self._server.log
        self.origin = f"{'https' if tls else 'http'}://{self.host}"

    def __enter__(self) -> MemoryRegistry:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()
        self.close()

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"127.0.0.1:{self._server.port}"

    def respond(self, asked: Asked) -> Answer:
        """The answer to one request."""
        with self._one_at_a_time:  # what faults remember needs no lock; they may ask themselves
            if self.fault is not None and (answer := self.fault(asked)) is not None:
                return answer
        if asked.path == "/token" and self.token:
            return Answer(
                200, {"Content-Type": "application/json"}, f'{{"token":"{self.token}"}}'.encode()
            )
        if asked.path == "/token" and self.tokens is not None:
            return self.tokens.answer(asked, asked.body)
        return self._refusal(asked) or self.answer(asked, iter([asked.body] if asked.body else []))

    def _refusal(self, asked: Asked) -> Answer | None:
        """The challenge, where the request is not authorized."""
        if self.tokens is not None:
            return self.tokens.refuses(asked, self.origin)
        if self.token and asked.header("authorization") != f"Bearer {self.token}":
            challenge = f'Bearer realm="{self.origin}/token",service="memory"'
            return Answer(401, {"WWW-Authenticate": challenge})
        if self.users and not basic(asked, self.users):
            return Answer(401, {"WWW-Authenticate": 'Basic realm="memory"'})
        return None

    def _serve(self, exchange: Exchange) -> None:
        exchange.asked.body = b"".join(exchange.pieces())
        exchange.answer(self.respond(exchange.asked))


class _Bytes(MutableMapping[str, bytes]):
    """What `_content` of each name holds, as bytes."""

    def __init__(self, names: MutableMapping[str, Content] | MutableMapping[str, Session]) -> None:
        self._names = names

    def __getitem__(self, name: str) -> bytes:
        return b"".join(self._content(name).read())

    def __delitem__(self, name: str) -> None:
        del self._names[name]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._names))

    def __len__(self) -> int:
        return len(self._names)

    def _content(self, name: str) -> Content:
        raise NotImplementedError


class _Blobs(_Bytes):
    def __init__(self, contents: dict[str, Content]) -> None:
        super().__init__(contents)
        self._contents = contents

    def __setitem__(self, digest: str, content: bytes) -> None:
        self._contents[digest] = Content(content)

    def _content(self, name: str) -> Content:
        return self._contents[name]


class _Uploads(_Bytes):
    def __init__(self, sessions: dict[str, Session]) -> None:
        super().__init__(sessions)
        self._sessions = sessions

    def __setitem__(self, id: str, content: bytes) -> None:
        session = self._sessions.setdefault(id, Session("", id))  # of whichever asks for it first
        session.content = Content(content)

    def _content(self, name: str) -> Content:
        return self._sessions[name].content
