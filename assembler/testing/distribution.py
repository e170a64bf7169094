"""What a registry holds and what it answers, by the distribution spec; no socket, no thread."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from assembler.testing.server import PIECE, Answer, Asked, Early, HungUp

IN_MEMORY = 4 << 20
INDEX = "application/vnd.oci.image.index.v1+json"


class Content:
    """Bytes that grow, in memory first and then in a file without a name."""

    def __init__(self, start: bytes = b"") -> None:
        self.size = 0
        self._memory = bytearray()
        self._file: int | None = None
        self.append(start)

    def append(self, piece: bytes) -> None:
        """Add `piece` at the end."""
        self.size += len(piece)
        if self._file is None and self.size > IN_MEMORY:
            self._file, name = tempfile.mkstemp()
            os.unlink(name)
            os.write(self._file, self._memory)
            self._memory.clear()
        if self._file is None:
            self._memory += piece
        else:
            os.write(self._file, piece)

    def read(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` to `end`, by pieces."""
        end = self.size if end is None else end
        for at in range(start, end, PIECE):
            length = min(PIECE, end - at)
            if self._file is None:
                yield bytes(self._memory[at : at + length])
            else:
                yield os.pread(self._file, length, at)

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


@dataclass
class Session:
    """An open upload. `id` may change with each answer, `upload` stays."""

    repository: str
    upload: str
    content: Content = field(default_factory=Content)
    lock: threading.Lock = field(default_factory=threading.Lock)
    state: int = 0
    last: int | None = None
    """The size of the last chunk, when there was one."""


def sha256(content: bytes) -> str:
    """A digest as manifests spell it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def digest_for(name: str, content: bytes) -> str:
    """The digest of `content` by the algorithm of `name`, where that is a digest."""
    algorithm, colon, _ = name.partition(":")
    if not colon or algorithm not in ("sha256", "sha512"):
        algorithm = "sha256"
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def error(status: int, code: str, **headers: str) -> Answer:
    """An error as registries spell it."""
    document = {"errors": [{"code": code, "message": code.lower().replace("_", " ")}]}
    fields = {"Content-Type": "application/json"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, fields, json.dumps(document).encode())


class Distribution:
    """Repositories with their blobs, manifests, tags and open uploads.

    Settings: `minimum` is its OCI-Chunk-Min-Length; `location` is the form of its upload locations:
    `relative`, `absolute`, `plain` without a query, `changing` with every answer; `keeps` says
    whether bytes of a request that broke off are kept; `referrers` whether it has that API, and
    `monolithic` whether a POST with a digest is taken as the whole upload.
    """

    def __init__(self) -> None:
        self.minimum = 0
        self.location = "relative"
        self.keeps = True
        self.referrers = True
        self.monolithic = True
        self.origin = ""
        self.contents: dict[str, Content] = {}
        self.where: set[tuple[str, str]] = set()
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.sessions: dict[str, Session] = {}
        self.uploaded: dict[str, str] = {}
        """The digest that each finished upload session had."""
        self._lock = threading.RLock()

    def close(self) -> None:
        """Give its files back."""
        for content in self.contents.values():
            content.close()
        for session in self.sessions.values():
            session.content.close()

    def add_blob(self, repository: str, content: bytes) -> str:
        """Have a blob; its digest."""
        digest = sha256(content)
        self._keep(repository, digest, Content(content))
        return digest

    def add_manifest(self, repository: str, name: str, kind: str, content: bytes) -> str:
        """Have a manifest by tag and digest; its digest."""
        digest = sha256(content)
        with self._lock:
            for key in (name, digest):
                self.manifests[repository, key] = (kind, content)
        return digest

    def blob(self, digest: str) -> bytes:
        """The bytes of a blob."""
        return b"".join(self.contents[digest].read())

    def repositories(self) -> set[str]:
        """The repositories that hold a manifest."""
        return {name for name, _ in self.manifests}

    def tags(self, repository: str) -> list[str]:
        """The tags of a repository, sorted."""
        return sorted(tag for name, tag in self.manifests if name == repository and ":" not in tag)

    def answer(self, asked: Asked, body: Iterable[bytes]) -> Answer:
        """What the distribution spec wants. `body` may raise HungUp."""
        if asked.path.rstrip("/") == "/v2":
            return Answer(200, {"Content-Type": "application/json"}, b"{}")
        pattern = r"/v2/(.+?)/(manifests|blobs/uploads|blobs|tags/list|referrers)(?:/(.*))?"
        match = re.fullmatch(pattern, asked.path)
        if match is None:
            return error(404, "NAME_UNKNOWN")
        name, kind, what = match[1], match[2], match[3] or ""
        handle: dict[str, Callable[[Asked, str, str, Iterable[bytes]], Answer]] = {
            "manifests": self._manifest,
            "blobs/uploads": self._upload,
            "blobs": self._blob,
            "tags/list": self._tags,
            "referrers": self._referrers,
        }
        return handle[kind](asked, name, what, body)

    def _manifest(self, asked: Asked, name: str, what: str, body: Iterable[bytes]) -> Answer:
        if asked.method == "PUT":
            return self._put_manifest(asked, name, what, b"".join(body))
        with self._lock:
            found = self.manifests.get((name, what))
            if found is None:
                return error(404, "MANIFEST_UNKNOWN")
            if asked.method == "DELETE":
                del self.manifests[name, what]
                return Answer(202)
        headers = {"Content-Type": found[0], "Docker-Content-Digest": digest_for(what, found[1])}
        return Answer(200, headers, found[1])

    def _put_manifest(self, asked: Asked, name: str, what: str, content: bytes) -> Answer:
        digest = digest_for(what, content)
        if ":" in what and what != digest:
            return error(400, "DIGEST_INVALID")
        try:
            document = json.loads(content)
        except ValueError:
            return error(400, "MANIFEST_INVALID")
        with self._lock:
            for blob in _blobs(document):
                if (name, blob) not in self.where:
                    return error(404, "MANIFEST_BLOB_UNKNOWN")
            for child in document.get("manifests", []):
                here = (name, child["digest"])
                if here not in self.manifests and here not in self.where:  # a blob of a cache
                    return error(404, "MANIFEST_BLOB_UNKNOWN")
        self.add_manifest(name, what, asked.header("content-type"), content)
        headers = {"Docker-Content-Digest": digest, "Location": f"/v2/{name}/manifests/{digest}"}
        if self.referrers and "subject" in document:
            headers["OCI-Subject"] = document["subject"]["digest"]
        return Answer(201, headers)

    def _blob(self, asked: Asked, name: str, what: str, body: Iterable[bytes]) -> Answer:
        content = self.contents.get(what)
        if content is None or (name, what) not in self.where:
            return error(404, "BLOB_UNKNOWN")
        headers = {
            "Docker-Content-Digest": what,
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
        }
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.header("range"))
        if match is None:
            return Answer(200, headers, content.read(), length=content.size)
        start, end = int(match[1]), min(int(match[2] or content.size), content.size - 1)
        if start > end:
            return Answer(416, {"Content-Range": f"bytes */{content.size}"})
        headers["Content-Range"] = f"bytes {start}-{end}/{content.size}"
        return Answer(206, headers, content.read(start, end + 1), length=end + 1 - start)

    def _upload(self, asked: Asked, name: str, id: str, body: Iterable[bytes]) -> Answer:
        if asked.method == "POST":
            return self._start(asked, name, body)
        with self._lock:
            session = self.sessions.get(id)
        if session is None or session.repository not in ("", name):
            return error(404, "BLOB_UPLOAD_UNKNOWN")
        session.repository = name
        asked.upload = session.upload
        with session.lock:
            if asked.method == "DELETE":
                self._forget(session)
                return Answer(204)
            if asked.method == "GET":
                return Answer(204, self._status(session))
            return self._take(asked, session, body)

    def _start(self, asked: Asked, name: str, body: Iterable[bytes]) -> Answer:
        mount, source = asked.query.get("mount", ""), asked.query.get("from", "")
        with self._lock:
            if mount and (source, mount) in self.where:
                self.where.add((name, mount))
                headers = {"Docker-Content-Digest": mount}
                return Answer(201, {"Location": f"/v2/{name}/blobs/{mount}", **headers})
        session = Session(name, uuid.uuid4().hex)
        asked.upload = session.upload
        with self._lock:
            self.sessions[session.upload] = session
        if self.monolithic and "digest" in asked.query:
            for piece in body:
                session.content.append(piece)
            return self._finish(session, asked.query["digest"])
        return Answer(202, self._status(session))

    def _take(self, asked: Asked, session: Session, body: Iterable[bytes]) -> Answer:
        said = re.fullmatch(r"(\d+)-(\d+)", asked.header("content-range"))
        too_small = session.last is not None and session.last < self.minimum
        if (said and int(said[1]) != session.content.size) or (
            too_small and asked.method == "PATCH"
        ):
            return Answer(416, self._status(session))
        before = session.content.size
        try:
            for piece in body:
                session.content.append(piece)
        except (HungUp, Early, OSError):
            if not self.keeps:
                session.content = Content(b"".join(session.content.read(0, before)))
            raise
        session.last = session.content.size - before
        if asked.method == "PUT":
            return self._finish(session, asked.query.get("digest", ""))
        return Answer(202, self._status(session))

    def _finish(self, session: Session, digest: str) -> Answer:
        hasher = hashlib.new(digest.partition(":")[0] or "sha256")
        for piece in session.content.read():
            hasher.update(piece)
        if f"{hasher.name}:{hasher.hexdigest()}" != digest:
            return error(400, "DIGEST_INVALID")
        self.uploaded[session.upload] = digest
        self._keep(session.repository, digest, session.content)
        self._forget(session)
        location = f"/v2/{session.repository}/blobs/{digest}"
        return Answer(201, {"Location": location, "Docker-Content-Digest": digest})

    def _keep(self, repository: str, digest: str, content: Content) -> None:
        with self._lock:
            if digest in self.contents:
                content.close()
            self.contents.setdefault(digest, content)
            self.where.add((repository, digest))

    def _forget(self, session: Session) -> None:
        with self._lock:
            for id in [id for id, one in self.sessions.items() if one is session]:
                del self.sessions[id]

    def _status(self, session: Session) -> dict[str, str]:
        id, query = session.upload, f"?_state=s{session.content.size}"
        if self.location == "changing":
            session.state += 1
            id = f"{session.upload}.{session.state}"
            self._forget(session)
            with self._lock:
                self.sessions[id] = session
        origin = self.origin if self.location == "absolute" else ""
        query = "" if self.location == "plain" else query
        headers = {
            "Location": f"{origin}/v2/{session.repository}/blobs/uploads/{id}{query}",
            "Range": f"0-{max(0, session.content.size - 1)}",
            "Docker-Upload-UUID": session.upload,
        }
        return headers | ({"OCI-Chunk-Min-Length": str(self.minimum)} if self.minimum else {})

    def _tags(self, asked: Asked, name: str, what: str, body: Iterable[bytes]) -> Answer:
        tags = [tag for tag in self.tags(name) if tag > asked.query.get("last", "")]
        count = int(asked.query.get("n", len(tags)))
        headers = {"Content-Type": "application/json"}
        if 0 < count < len(tags):
            headers["Link"] = f'</v2/{name}/tags/list?n={count}&last={tags[count - 1]}>; rel="next"'
        return Answer(200, headers, json.dumps({"name": name, "tags": tags[:count]}).encode())

    def _referrers(self, asked: Asked, name: str, what: str, body: Iterable[bytes]) -> Answer:
        if not self.referrers:
            return error(404, "NOT_FOUND")
        wanted = asked.query.get("artifactType", "")
        found = []
        for (repository, key), (kind, content) in sorted(self.manifests.items()):
            document = json.loads(content)
            if repository != name or key != sha256(content):
                continue
            if document.get("subject", {}).get("digest") != what:
                continue
            one = {"mediaType": kind, "digest": key, "size": len(content)}
            one["artifactType"] = document.get("artifactType") or document["config"]["mediaType"]
            if annotations := document.get("annotations"):
                one["annotations"] = annotations
            if wanted in ("", one["artifactType"]):
                found.append(one)
        headers = {"Content-Type": INDEX}
        headers |= {"OCI-Filters-Applied": "artifactType"} if wanted else {}
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": found}
        return Answer(200, headers, json.dumps(document).encode())


def _blobs(document: dict[str, Any]) -> Iterator[str]:
    """The blobs that a manifest names and its repository must have."""
    for descriptor in [*document.get("layers", []), document.get("config")]:
        if descriptor is not None and not descriptor.get("urls"):
            yield descriptor["digest"]
