"""Manifests, indexes and configurations from a registry, verified on the way (reliability M1-M9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from assembler.errors import ProtocolViolation
from assembler.net.client import Request, Response
from assembler.oci.config import MAX_CONFIG
from assembler.oci.descriptor import DOCKER_LIST, DOCKER_MANIFEST, INDEX, MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.manifest import Document, parse
from assembler.oci.reference import Reference
from assembler.registry.client import PULL, RegistryClient, Repository, refused
from assembler.registry.endpoints import ContentChanged, from_any

MAX_MANIFEST = 4 << 20  # bytes; distribution-spec: what registries should take
ACCEPT = ", ".join((INDEX, MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))
UNCHANGED = {"Accept-Encoding": "identity"}
"""What digests are of is not to be compressed on its way."""

Read = TypeVar("Read")


def named(client: RegistryClient, reference: Reference) -> Document:
    """What the tag, or else the digest, of `reference` means. Raises RegistryError."""
    return from_any(client, reference, lambda repository: _named(client, repository, reference))


def described(client: RegistryClient, reference: Reference, entry: Descriptor) -> Document:
    """The manifest or index that `entry` describes, in the repository of `reference`. Raises
    RegistryError."""
    operation = f"the manifest {entry.digest}"
    if entry.data is not None:
        return _parsed(lambda: parse(entry.data or b"", entry.media_type), reference, operation)

    def ask(repository: Repository) -> Document:
        if entry.size > MAX_MANIFEST:
            raise violation(repository, operation, f"it has {entry.size} bytes, too many")
        response = _get(client, repository, str(entry.digest), operation, entry.size)
        _check(repository, operation, response, entry.digest)
        if len(response.body) != entry.size:
            found = f"it has {len(response.body)} bytes, not {entry.size}"
            raise violation(repository, operation, found)

        def read() -> Document:
            parse(response.body, entry.media_type)
            return parse(response.body, response.header("content-type"))

        return _parsed(read, repository, operation)

    return from_any(client, reference, ask)


def current(client: RegistryClient, reference: Reference) -> Digest | None:
    """The digest of what the tag of `reference` means, by HEAD, which counts against no limit of
    Docker Hub's; None where the registry does not say. Raises RegistryError."""
    return from_any(client, reference, lambda repository: _current(client, repository, reference))


def configuration(client: RegistryClient, reference: Reference, config: Descriptor) -> bytes:
    """The bytes of the configuration that `config` describes. Raises RegistryError."""
    if config.data is not None:
        return config.data
    operation = f"the configuration {config.digest}"

    def ask(repository: Repository) -> bytes:
        if config.size > MAX_CONFIG:
            found = f"it has {config.size} bytes, more than {MAX_CONFIG}"
            raise violation(repository, operation, found)
        url = f"{repository.url}/blobs/{config.digest}"
        request = Request("GET", url, repository.registry, operation, headers=UNCHANGED)
        response = client.send(repository, request, PULL, config.size)
        if response.status != 200:
            raise refused(response, repository, operation)
        if len(response.body) != config.size or not config.digest.matches(response.body):
            raise corrupt(repository, operation)
        return response.body

    return from_any(client, reference, ask)


def _named(client: RegistryClient, repository: Repository, reference: Reference) -> Document:
    wanted = reference.digest
    operation = f"the manifest {wanted or reference.tag}"
    response = _get(client, repository, str(wanted or reference.tag), operation, MAX_MANIFEST)
    _check(repository, operation, response, wanted)
    return _parsed(
        lambda: parse(response.body, response.header("content-type")), repository, operation
    )


def _current(client: RegistryClient, repository: Repository, reference: Reference) -> Digest | None:
    operation = f"the check of the tag {reference.tag}"
    url = f"{repository.url}/manifests/{reference.tag}"
    request = Request(
        "HEAD", url, repository.registry, operation, headers={"Accept": ACCEPT, **UNCHANGED}
    )
    response = client.send(repository, request, PULL)
    if response.status != 200:
        return None  # GET says why
    try:
        return Digest.parse(response.header("docker-content-digest"))
    except ValueError:
        return None


def _get(
    client: RegistryClient, repository: Repository, name: str, operation: str, limit: int
) -> Response:
    request = Request(
        "GET",
        f"{repository.url}/manifests/{name}",
        repository.registry,
        operation,
        headers={"Accept": ACCEPT, **UNCHANGED},
    )
    response = client.send(repository, request, PULL, limit)
    if response.status != 200:
        raise refused(response, repository, operation)
    return response


def _check(
    repository: Repository, operation: str, response: Response, wanted: Digest | None
) -> None:
    """The bytes count; what a header says of them must be true (rule M2)."""
    try:
        said = Digest.parse(response.header("docker-content-digest"))
    except ValueError:  # none, or one that nobody can check
        said = None
    for digest in (wanted, said):
        if digest is not None and not digest.matches(response.body):
            raise corrupt(repository, operation)


def _parsed(read: Callable[[], Read], where: Repository | Reference, operation: str) -> Read:
    try:
        return read()
    except ValueError as error:
        raise violation(where, operation, str(error)) from error


def violation(where: Repository | Reference, operation: str, found: str) -> ProtocolViolation:
    """The error for an answer that breaks the specification."""
    message = f"{_place(where)}: {operation}: {found}"
    return ProtocolViolation(message, registry=where.registry, operation=operation)


def corrupt(repository: Repository, operation: str, more: str = "") -> ContentChanged:
    """The error for bytes that are not those of their digest."""
    return ContentChanged(
        f"{_place(repository)}: {operation}: it has other bytes than its digest says{more}",
        registry=repository.registry,
        operation=operation,
        hint="a proxy or mirror in between changes content; ask the registry directly",
    )


def _place(where: Repository | Reference) -> str:
    return where.familiar if isinstance(where, Reference) else f"{where.registry}/{where.name}"
