"""Manifests and blobs from a registry, verified on the way (distribution-spec "Pull")."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from assembler.cancellation import Cancellation
from assembler.errors import (
    NotFound,
    ProtocolViolation,
    RegistryError,
    Unauthorized,
    Unreachable,
)
from assembler.net.client import Request, Stream
from assembler.net.retry import RETRYABLE
from assembler.oci.descriptor import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEX,
    MANIFEST,
    Descriptor,
)
from assembler.oci.digest import Digest
from assembler.oci.manifest import Index, Manifest, parse
from assembler.oci.platform import Platform
from assembler.oci.reference import Reference
from assembler.registry.client import PULL, RegistryClient, Repository, refused
from assembler.registry.configuration import Endpoint

MAX_MANIFEST = 4 << 20  # distribution-spec: what registries should take
MAX_CONFIG = 8 << 20
MAX_DEPTH = 4
_ACCEPT = ", ".join((INDEX, MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a name means for a platform. `config_content` are the verified bytes."""

    reference: Reference
    manifest: Manifest
    config_content: bytes


def resolve(client: RegistryClient, reference: Reference, platform: Platform) -> Resolved:
    """Ask the mirrors of `reference` in order, then its registry. Raises RegistryError."""
    found: Resolved = _from_any(
        client, reference, lambda repository: _resolve(client, repository, reference, platform)
    )
    return found


def _from_any(
    client: RegistryClient, reference: Reference, ask: Callable[[Repository], Any]
) -> Any:
    """`ask` one endpoint after another; a mirror that has it not, or is down, is passed over."""
    failure: RegistryError | None = None
    for endpoint in client.configuration.endpoints(reference):
        try:
            return ask(_repository(client, endpoint, reference))
        except (NotFound, Unauthorized, Unreachable) as error:
            failure = failure or error
            if not endpoint.mirror:
                raise
    assert failure is not None
    raise failure


def _repository(client: RegistryClient, endpoint: Endpoint, reference: Reference) -> Repository:
    return client.repository(endpoint, reference)


def _resolve(
    client: RegistryClient, repository: Repository, reference: Reference, platform: Platform
) -> Resolved:
    wanted: Digest | None = reference.digest
    name = str(wanted) if wanted else reference.tag
    for _ in range(MAX_DEPTH):
        document = _manifest(client, repository, name, wanted)
        if isinstance(document, Manifest):
            content = _small_blob(client, repository, document.config)
            return Resolved(reference, document, content)
        chosen = document.select(platform)
        if chosen is None:
            offered = sorted({str(one.platform) for one in document.manifests if one.platform})
            raise NotFound(
                f"{reference.familiar} has no image for {platform}",
                registry=repository.registry,
                operation="the manifest",
                hint=f"it has {', '.join(offered)}" if offered else "",
            )
        wanted, name = chosen.digest, str(chosen.digest)
    raise ProtocolViolation(
        f"{reference.familiar}: indexes nested deeper than {MAX_DEPTH}",
        registry=repository.registry,
    )


def _manifest(
    client: RegistryClient, repository: Repository, name: str, wanted: Digest | None
) -> Manifest | Index:
    operation = f"the manifest {name}"
    request = Request(
        "GET",
        f"{repository.url}/manifests/{name}",
        repository.registry,
        operation,
        headers={"Accept": _ACCEPT},
    )
    response = client.send(repository, request, PULL, MAX_MANIFEST)
    if response.status != 200:
        raise refused(response, repository, operation)
    digest = wanted or Digest.of(response.body)
    said = response.header("docker-content-digest")
    if not digest.matches(response.body) or (
        said.startswith(f"{digest.algorithm}:") and said != str(digest)
    ):
        raise ProtocolViolation(
            f"{repository.registry}/{repository.name}: {operation} does not have its digest",
            registry=repository.registry,
            operation=operation,
            hint="a proxy or mirror in between changes content; ask the registry directly",
        )
    try:
        return parse(response.body, response.header("content-type"))
    except ValueError as error:
        raise ProtocolViolation(
            f"{repository.registry}/{repository.name}: {operation}: {error}",
            registry=repository.registry,
            operation=operation,
        ) from error


def _small_blob(client: RegistryClient, repository: Repository, blob: Descriptor) -> bytes:
    operation = f"the configuration {blob.digest}"
    if blob.size > MAX_CONFIG:
        raise ProtocolViolation(
            f"{repository.registry}/{repository.name}: {operation} has {blob.size} bytes, "
            f"more than {MAX_CONFIG}",
            registry=repository.registry,
        )
    url = f"{repository.url}/blobs/{blob.digest}"
    request = Request("GET", url, repository.registry, operation)
    response = client.send(repository, request, PULL, blob.size)
    if response.status != 200:
        raise refused(response, repository, operation)
    if len(response.body) != blob.size or not blob.digest.matches(response.body):
        raise _corrupt(repository, blob)
    return response.body


def fetch_blob(
    client: RegistryClient,
    reference: Reference,
    blob: Descriptor,
    write: Callable[[bytes], object],
    *,
    progress: Callable[[int, int], None],
    cancellation: Cancellation,
) -> None:
    """Hand the bytes of `blob` to `write`, size and digest verified at the end.

    A broken connection is taken up where it broke (RFC 9110 14). Raises RegistryError; what was
    written is to be thrown away then.
    """
    download = _Download(client, blob, write, progress, cancellation)
    _from_any(client, reference, download.run)


def fetch_part(
    client: RegistryClient, reference: Reference, blob: Descriptor, offset: int, size: int
) -> bytes | None:
    """`size` bytes of `blob` at `offset`, not verified; None from a registry that gives no parts.
    Raises RegistryError."""
    operation = f"a part of the blob {blob.digest}"

    def ask(repository: Repository) -> bytes | None:
        request = Request(
            "GET", f"{repository.url}/blobs/{blob.digest}", repository.registry, operation,
            headers={"Range": f"bytes={offset}-{offset + size - 1}"},
        )  # fmt: skip
        with client.stream(repository, request, PULL) as answer:
            expected = f"bytes {offset}-{offset + size - 1}/{blob.size}"
            if answer.status == 200 or answer.header("content-range") not in ("", expected):
                return None
            if answer.status != 206:
                raise refused(_read(answer), repository, operation)
            content = b""
            for piece in answer.pieces:
                content += piece
                if len(content) > size:
                    return None
            return content

    found: bytes | None = _from_any(client, reference, ask)
    return found


class _Download:
    """One blob's transfer; lives only inside `fetch_blob`."""

    def __init__(
        self,
        client: RegistryClient,
        blob: Descriptor,
        write: Callable[[bytes], object],
        progress: Callable[[int, int], None],
        cancellation: Cancellation,
    ) -> None:
        self._client = client
        self._blob = blob
        self._write = write
        self._progress = progress
        self._cancellation = cancellation
        self._hasher = hashlib.new(blob.digest.algorithm)
        self._received = 0

    def run(self, repository: Repository) -> None:
        attempt = 0
        while self._received < self._blob.size or self._blob.size == 0:
            before = self._received
            try:
                retry_after = self._attempt(repository)
            except Unreachable:
                retry_after = ""
                attempt = 0 if self._received > before else attempt
                if not self._client.http.pause(attempt):
                    raise
                attempt += 1
                continue
            if retry_after is None:
                break
            if not self._client.http.pause(attempt, retry_after):
                raise Unreachable(
                    f"{repository.registry} kept failing for blob {self._blob.digest}",
                    registry=repository.registry,
                    operation="a blob",
                    hint="try again later",
                )
            attempt += 1
        if self._hasher.hexdigest() != self._blob.digest.hex or self._received != self._blob.size:
            raise _corrupt(repository, self._blob)

    def _attempt(self, repository: Repository) -> str | None:
        """One request; None when it went to the end, else the Retry-After of a passing failure."""
        operation = f"the blob {self._blob.digest}"
        headers = {"Range": f"bytes={self._received}-"} if self._received else {}
        request = Request(
            "GET", f"{repository.url}/blobs/{self._blob.digest}", repository.registry, operation,
            headers=headers,
        )  # fmt: skip
        with self._client.stream(repository, request, PULL) as answer:
            if answer.status in RETRYABLE:
                return answer.header("retry-after")
            if answer.status not in (200, 206):
                raise refused(_read(answer), repository, operation)
            skip = self._resume_at(answer, repository)
            for piece in answer.pieces:
                self._cancellation.check()
                fresh = piece[skip:] if skip else piece
                skip = max(0, skip - len(piece))
                self._take(fresh, repository)
        if self._received < self._blob.size:
            raise Unreachable(
                f"{repository.registry} ended {operation} early",
                registry=repository.registry,
                operation=operation,
            )
        return None

    def _resume_at(self, answer: Stream, repository: Repository) -> int:
        """How many bytes of the answer are already here; a 200 starts from the beginning."""
        if answer.status == 200:
            return self._received
        expected = f"bytes {self._received}-{self._blob.size - 1}/{self._blob.size}"
        if answer.header("content-range") != expected:
            raise ProtocolViolation(
                f"{repository.registry} sent another range of blob {self._blob.digest} than asked",
                registry=repository.registry,
                operation="a blob",
            )
        return 0

    def _take(self, piece: bytes, repository: Repository) -> None:
        self._received += len(piece)
        if self._received > self._blob.size:
            raise _corrupt(repository, self._blob)
        self._hasher.update(piece)
        self._write(piece)
        self._progress(self._received, self._blob.size)


def _read(answer: Stream) -> Any:
    from assembler.net.client import MAX_ERROR_BODY, Response

    body = b""
    pieces: Iterator[bytes] = answer.pieces
    for piece in pieces:
        body += piece
        if len(body) > MAX_ERROR_BODY:
            break
    return Response(answer.status, answer.headers, body[:MAX_ERROR_BODY], "")


def _corrupt(repository: Repository, blob: Descriptor) -> ProtocolViolation:
    return ProtocolViolation(
        f"{repository.registry}/{repository.name}: blob {blob.digest} has other bytes than its digest",
        registry=repository.registry,
        operation="a blob",
        hint="a proxy or mirror in between changes content; ask the registry directly",
    )
