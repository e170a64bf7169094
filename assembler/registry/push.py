"""Images to a registry: blobs first, then the manifest by digest, then the tags (distribution-spec
"Push"). A blob that is there, or can be mounted, is not sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO
from urllib.parse import urlencode, urljoin

from assembler.cancellation import NOTICING, Cancellation
from assembler.errors import ProtocolViolation, Unreachable
from assembler.net.client import Request, Response
from assembler.net.retry import RETRYABLE
from assembler.oci.descriptor import Descriptor
from assembler.oci.image import Image
from assembler.oci.reference import Reference
from assembler.registry.client import PULL, PUSH, RegistryClient, Repository, refused

CHUNK = 256 << 10
Blobs = Callable[[Descriptor], BinaryIO]
Sources = Callable[[Descriptor], Sequence[Reference]]
"""The names in whose repositories a blob may be already."""

Progress = Callable[[Descriptor, int, int], None]


@dataclass(frozen=True, slots=True)
class _Push:
    client: RegistryClient
    repository: Repository
    blobs: Blobs
    mount_from: Sources
    progress: Progress
    cancellation: Cancellation


def push_image(
    client: RegistryClient,
    references: Sequence[Reference],
    image: Image,
    blobs: Blobs,
    *,
    mount_from: Sources = lambda blob: (),
    progress: Progress = lambda blob, current, total: None,
    cancellation: Cancellation,
    jobs: int = 4,
) -> Descriptor:
    """The descriptor of the manifest, which every one of `references` means afterwards.

    A blob is read only when it is not in the repository and cannot be mounted from one that
    `mount_from` names. Raises RegistryError; no tag has moved then unless all blobs and the manifest
    were there.
    """
    descriptor = image.manifest.descriptor
    pushed: tuple[Reference, ...] = ()
    for group in _by_repository(references):
        push = _Push(
            client=client,
            repository=client.repository(client.configuration.endpoint(group[0]), group[0]),
            blobs=blobs,
            mount_from=partial(_sources, mount_from, pushed),
            progress=progress,
            cancellation=cancellation,
        )
        layers = list({layer.digest: layer for layer in image.manifest.layers}.values())
        _all_at_once([partial(_blob, push, layer) for layer in layers], jobs, cancellation)
        _blob(push, image.manifest.config)
        _manifest(push, image, str(descriptor.digest))
        _read_back(push, image)
        for reference in group:
            if reference.tag:
                _manifest(push, image, reference.tag)
        pushed += (group[0],)
    return descriptor


def would_send(
    client: RegistryClient,
    references: Sequence[Reference],
    blob: Descriptor,
    mount_from: Sources,
    cancellation: Cancellation,
) -> bool:
    """Whether a push to `references` will have to send `blob`, as far as can be told without writing:
    a repository has it not, and there is none beside it that should. Raises RegistryError."""
    for group in _by_repository(references):
        push = _Push(
            client=client,
            repository=client.repository(client.configuration.endpoint(group[0]), group[0]),
            blobs=_unread,
            mount_from=mount_from,
            progress=lambda blob, current, total: None,
            cancellation=cancellation,
        )
        if not any(_neighbours(push, blob)) and not _has(push, blob):
            return True
    return False


def _unread(blob: Descriptor) -> BinaryIO:
    raise AssertionError(f"{blob.digest} is not to be read")


def _by_repository(references: Sequence[Reference]) -> Iterable[list[Reference]]:
    found: dict[tuple[str, str], list[Reference]] = {}
    for reference in references:
        found.setdefault((reference.registry, reference.repository), []).append(reference)
    return found.values()


def _sources(
    asked: Sources, pushed: tuple[Reference, ...], blob: Descriptor
) -> tuple[Reference, ...]:
    return (*pushed, *asked(blob))


def _all_at_once(
    tasks: Sequence[Callable[[], None]], jobs: int, cancellation: Cancellation
) -> None:
    """Run `tasks` in threads; the first failure keeps the waiting ones from starting."""
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        futures = [pool.submit(task) for task in tasks]
        while True:
            done, waiting = wait(futures, NOTICING, FIRST_EXCEPTION)
            if not waiting or any(future.exception() for future in done):
                break
        for future in waiting:
            future.cancel()
        for future in done:
            future.result()
    cancellation.check()


def _blob(push: _Push, blob: Descriptor) -> None:
    push.cancellation.check()
    if _has(push, blob):
        push.progress(blob, blob.size, blob.size)
        return
    location = _mount(push, blob)
    if location is not None:
        _upload(push, blob, location)
    push.progress(blob, blob.size, blob.size)


def _has(push: _Push, blob: Descriptor) -> bool:
    """Whether `blob` is in the repository."""
    operation = f"the check for blob {blob.digest}"
    url = f"{push.repository.url}/blobs/{blob.digest}"
    response = _send(push, Request("HEAD", url, push.repository.registry, operation), PULL)
    if response.status not in (200, 404):
        raise refused(response, push.repository, operation)
    return response.status == 200


def _mount(push: _Push, blob: Descriptor) -> str | None:
    """Mount `blob` from another repository if one has it: None then, else an upload's location."""
    for source in _neighbours(push, blob):
        query = urlencode({"mount": str(blob.digest), "from": source})
        response = _start(push, f"?{query}", f"the mount of blob {blob.digest}")
        if response.status == 201:
            return None
        if response.status == 202:
            return _location(push, response)
    response = _start(push, "", f"the upload of blob {blob.digest}")
    if response.status != 202:
        raise refused(response, push.repository, f"the upload of blob {blob.digest}")
    return _location(push, response)


def _neighbours(push: _Push, blob: Descriptor) -> Iterator[str]:
    """The other repositories of the registry that `blob` may be in, be it as a mirror."""
    for reference in push.mount_from(blob):
        for endpoint in push.client.configuration.endpoints(reference):
            here = endpoint.host == push.repository.registry
            if here and endpoint.repository != push.repository.name:
                yield endpoint.repository


def _start(push: _Push, query: str, operation: str) -> Response:
    url = f"{push.repository.url}/blobs/uploads/{query}"
    return _send(push, Request("POST", url, push.repository.registry, operation, length=0), PUSH)


def _upload(push: _Push, blob: Descriptor, location: str) -> None:
    """Send the blob's bytes, taking up a broken upload where the registry says it stands."""
    operation = f"the upload of blob {blob.digest}"
    offset, attempt = 0, 0
    while True:
        try:
            response = _put(push, blob, location, offset)
        except Unreachable:
            if not push.client.http.pause(attempt):
                raise
        else:
            if response.status == 201:
                return
            if response.status not in RETRYABLE and response.status not in (404, 416):
                raise refused(response, push.repository, operation)
            if not push.client.http.pause(attempt, response.header("retry-after")):
                raise refused(response, push.repository, operation)
        attempt += 1
        location, offset = _resume(push, blob, location)


def _put(push: _Push, blob: Descriptor, location: str, offset: int) -> Response:
    """The rest of the blob from `offset`: one PUT, or PATCH and then PUT when resuming."""
    length = blob.size - offset
    repository = push.repository

    def pieces() -> Iterable[bytes]:
        with push.blobs(blob) as stream:
            stream.seek(offset)
            sent = offset
            while piece := stream.read(CHUNK):
                push.cancellation.check()
                sent += len(piece)
                yield piece
                push.progress(blob, sent, blob.size)

    operation = f"the upload of blob {blob.digest}"
    headers = {"Content-Type": "application/octet-stream"}
    if offset:
        headers["Content-Range"] = f"{offset}-{blob.size - 1}"
        patch = Request(
            "PATCH", location, repository.registry, operation,
            headers=headers, body=pieces, length=length,
        )  # fmt: skip
        response = _once(push, patch)
        if response.status not in (202, 204):
            return response
        location, length = _location(push, response), 0
        headers = {"Content-Type": "application/octet-stream"}
    joint = "&" if "?" in location else "?"
    url = f"{location}{joint}{urlencode({'digest': str(blob.digest)})}"
    body = pieces if length else b""
    put = Request(
        "PUT", url, repository.registry, operation, headers=headers, body=body, length=length
    )
    return _once(push, put)


def _resume(push: _Push, blob: Descriptor, location: str) -> tuple[str, int]:
    """Where the upload stands: its location and offset; a new upload when it is lost."""
    operation = f"the state of the upload of blob {blob.digest}"
    request = Request("GET", location, push.repository.registry, operation)
    response = _send(push, request, PUSH)
    if response.status == 204:
        _, _, last = response.header("range").partition("-")
        if last.isdigit() and int(last) < blob.size:
            offset = int(last) + 1 if int(last) else 0
            return _location(push, response, location), offset
    fresh = _start(push, "", operation)
    if fresh.status != 202:
        raise refused(fresh, push.repository, operation)
    return _location(push, fresh), 0


def _manifest(push: _Push, image: Image, name: str) -> None:
    operation = f"the manifest {name}"
    request = Request(
        "PUT",
        f"{push.repository.url}/manifests/{name}",
        push.repository.registry,
        operation,
        headers={"Content-Type": image.manifest.media_type},
        body=image.manifest.content,
        length=len(image.manifest.content),
    )
    response = _send(push, request, PUSH)
    if response.status not in (200, 201, 202, 204):
        raise refused(response, push.repository, operation)
    said = response.header("docker-content-digest")
    if said and said != str(image.digest):
        raise ProtocolViolation(
            f"{push.repository.registry} stored {operation} under another digest",
            registry=push.repository.registry,
            operation=operation,
        )


def _read_back(push: _Push, image: Image) -> None:
    """Success means that the registry gives back what it was given."""
    operation = f"the check of manifest {image.digest}"
    request = Request(
        "GET",
        f"{push.repository.url}/manifests/{image.digest}",
        push.repository.registry,
        operation,
        headers={"Accept": image.manifest.media_type},
    )
    response = _send(push, request, PULL)
    if response.status != 200:
        raise refused(response, push.repository, operation)
    if response.body != image.manifest.content:
        raise ProtocolViolation(
            f"{push.repository.registry} gives back other bytes for {operation}",
            registry=push.repository.registry,
            operation=operation,
        )


def _send(push: _Push, request: Request, actions: str) -> Response:
    return push.client.send(push.repository, request, actions)


def _once(push: _Push, request: Request) -> Response:
    """One attempt of a request whose body must not be sent twice without asking."""
    with push.client.stream(push.repository, request, PUSH) as answer:
        body = b"".join(piece for _, piece in zip(range(16), answer.pieces, strict=False))
        return Response(answer.status, answer.headers, body[:4096], "")


def _location(push: _Push, response: Response, default: str = "") -> str:
    found = response.header("location") or default
    if not found:
        raise ProtocolViolation(
            f"{push.repository.registry} gave no location for an upload",
            registry=push.repository.registry,
            operation="an upload",
        )
    return urljoin(push.repository.url, found)
