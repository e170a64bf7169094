"""Fakes for tests, ours and users': a registry in this process, files that ADD fetches.

with MemoryRegistry() as registry:
    assemble("push", "app", f"{registry.host}/team/app:1")
    assert "team/app" in registry.repositories()
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from assembler.dockerfile.remote import file_name
from assembler.errors import NotFound
from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.tree import ChangesetTree, EmptyTree, Tree
from assembler.oci.digest import Digest
from assembler.plan.steps import GitSource, UrlSource


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the registry got it; header names in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, headers and a body; `broken` sends only so many bytes of the body, then hangs up."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    broken: int | None = None


Fault = Callable[[Asked], Answer | None]
"""Looks at every request first; what it returns is answered instead, None lets it through."""


class MemoryRegistry:
    """A distribution-spec registry on a loopback port, everything in memory. Use it with `with`.

    `fault` may answer instead of it. With `users` (name to password) it wants Basic authorization;
    with `token` a Bearer token, which it gives out itself at /token. `asked` are the requests.
    """

    def __init__(
        self, fault: Fault | None = None, users: dict[str, str] | None = None, token: str = ""
    ) -> None:
        self.fault = fault
        self.users = users or {}
        self.token = token
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.uploads: dict[str, bytes] = {}
        self.asked: list[Asked] = []
        self._where: set[tuple[str, str]] = set()
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _bound(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> MemoryRegistry:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def repositories(self) -> set[str]:
        """The repositories that hold a manifest."""
        return {name for name, _ in self.manifests}

    def respond(self, asked: Asked) -> Answer:
        """The answer to one request."""
        with self._lock:
            self.asked.append(asked)
            if self.fault is not None and (answer := self.fault(asked)) is not None:
                return answer
            if asked.path == "/token":
                return _json(200, {"token": self.token})
            if not self._allowed(asked):
                return self._challenge()
            return self._route(asked)

    def _allowed(self, asked: Asked) -> bool:
        given = asked.headers.get("authorization", "")
        if self.token:
            return given == f"Bearer {self.token}"
        if self.users:
            pairs = (f"{name}:{password}".encode() for name, password in self.users.items())
            return given in {f"Basic {base64.b64encode(pair).decode()}" for pair in pairs}
        return True

    def _challenge(self) -> Answer:
        scheme = f'Bearer realm="http://{self.host}/token",service="memory"'
        header = scheme if self.token else 'Basic realm="memory"'
        return Answer(401, {"WWW-Authenticate": header})

    def _route(self, asked: Asked) -> Answer:
        if asked.path.rstrip("/") == "/v2":
            return _json(200, {})
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs/uploads|blobs)/?([^/]*)", asked.path)
        if match is None:
            return _error(404, "NAME_UNKNOWN")
        name, kind, what = match.groups()
        if kind == "manifests":
            return self._manifest(asked, name, what)
        return (
            self._upload(asked, name, what)
            if kind == "blobs/uploads"
            else self._blob(asked, name, what)
        )

    def _manifest(self, asked: Asked, name: str, what: str) -> Answer:
        if asked.method == "PUT":
            digest = _digest(asked.body)
            for key in (what, digest):
                self.manifests[name, key] = (asked.headers.get("content-type", ""), asked.body)
            return Answer(201, {"Docker-Content-Digest": digest})
        found = self.manifests.get((name, what))
        if found is None:
            return _error(404, "MANIFEST_UNKNOWN")
        headers = {"Content-Type": found[0], "Docker-Content-Digest": _digest(found[1])}
        return Answer(200, headers, found[1])

    def _blob(self, asked: Asked, name: str, what: str) -> Answer:
        content = self.blobs.get(what)
        if content is None or (name, what) not in self._where:
            return _error(404, "BLOB_UNKNOWN")
        asked_range = re.fullmatch(r"bytes=(\d+)-", asked.headers.get("range", ""))
        if asked_range is None:
            return Answer(200, {"Docker-Content-Digest": what}, content)
        start = int(asked_range[1])
        header = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return Answer(206, {"Content-Range": header}, content[start:])

    def _upload(self, asked: Asked, name: str, id: str) -> Answer:
        if asked.method == "POST":
            mount = asked.query.get("mount", "")
            if mount in self.blobs and (asked.query.get("from", ""), mount) in self._where:
                self._where.add((name, mount))
                return Answer(201, {"Location": f"/v2/{name}/blobs/{mount}"})
            id = uuid.uuid4().hex
            self.uploads[id] = b""
            return Answer(202, {"Location": f"/v2/{name}/blobs/uploads/{id}?state=x"})
        if id not in self.uploads:
            return _error(404, "BLOB_UPLOAD_UNKNOWN")
        if asked.method in ("PATCH", "PUT"):
            self.uploads[id] += asked.body
        if asked.method == "PUT":
            content = self.uploads.pop(id)
            if _digest(content) != asked.query.get("digest"):
                return _error(400, "DIGEST_INVALID")
            self.blobs[_digest(content)] = content
            self._where.add((name, _digest(content)))
            return Answer(201, {"Docker-Content-Digest": _digest(content)})
        last = max(0, len(self.uploads[id]) - 1)
        headers = {"Location": f"/v2/{name}/blobs/uploads/{id}?state=x", "Range": f"0-{last}"}
        return Answer(202 if asked.method == "PATCH" else 204, headers)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(status: int, document: object) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(document).encode())


def _error(status: int, code: str) -> Answer:
    return _json(status, {"errors": [{"code": code, "message": code.lower().replace("_", " ")}]})


def _bound(registry: MemoryRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            parts = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = registry.respond(Asked(self.command, parts.path, query, headers, body))
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.status != 204:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body[: answer.broken])
            self.close_connection = answer.broken is not None

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _serve

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    return Handler


class MemoryRemote:
    """Files that are elsewhere, in memory: the engine's `Remote` without a network.

    `files` maps a URL to its bytes, and `URL#path` of a repository to those of a file in it.
    `asked` are the URLs that were opened, in order.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.asked: list[str] = []

    def identity(self, source: UrlSource | GitSource) -> Digest:
        """See `engine.services.Remote.identity`."""
        if isinstance(source, UrlSource):
            return Digest.of(file_name(source.url).encode() + b"\0" + self._found(source.url))
        inside = [(entry.path, entry.source) for entry in self._repository(source)]
        return Digest.of(repr(inside).encode())

    def open(self, source: UrlSource | GitSource) -> tuple[Entry, Tree]:
        """See `engine.services.Remote.open`."""
        if isinstance(source, UrlSource):
            self.asked.append(source.url)
            content = self._found(source.url)
            return _inline(file_name(source.url), content, 0o600), EmptyTree()
        self.asked.append(source.repository.remote)
        tree = ChangesetTree(self._repository(source))
        return Entry("", Kind.DIRECTORY, mode=0o755), tree

    def _found(self, url: str) -> bytes:
        if url not in self.files:
            raise NotFound(f"invalid response status 404 for {url}", status=404)
        return self.files[url]

    def _repository(self, source: GitSource) -> list[Entry]:
        start = f"{source.repository.remote}#"
        entries: dict[str, Entry] = {}
        for name, content in sorted(self.files.items()):
            if not name.startswith(start):
                continue
            path = name.removeprefix(start)
            for depth in range(1, path.count("/") + 1):
                above = "/".join(path.split("/")[:depth])
                entries[above] = Entry(above, Kind.DIRECTORY, mode=0o755)
            entries[path] = _inline(path, content, 0o644)
        return [entries[path] for path in sorted(entries)]


def _inline(path: str, content: bytes, mode: int) -> Entry:
    return Entry(path, Kind.FILE, mode=mode, size=len(content), source=InlineBytes(content))
