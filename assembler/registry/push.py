"""Images to a registry: blobs first, then the manifest by digest, then the tags (distribution-spec
"Push"). A blob that is there, or can be mounted, is not sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from assembler.cancellation import NOTICING, Cancellation
from assembler.errors import ProtocolViolation
from assembler.net.client import Request, Response
from assembler.oci.descriptor import Descriptor
from assembler.oci.image import Image
from assembler.oci.reference import Reference
from assembler.registry.client import PULL, PUSH, RegistryClient, Repository, refused
from assembler.registry.upload import Destination, Stored, upload
from assembler.store.uploads import Uploads

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
    uploads: Uploads | None = None

    @property
    def destination(self) -> Destination:
        return Destination(self.client, self.repository, self.uploads)


def push_image(
    client: RegistryClient,
    references: Sequence[Reference],
    image: Image,
    blobs: Blobs,
    *,
    mount_from: Sources = lambda blob: (),
    progress: Progress = lambda blob, current, total: None,
    cancellation: Cancellation,
    uploads: Uploads | None = None,
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
            uploads=uploads,
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
        if not any(_neighbours(push, blob)) and not push.destination.has(blob):
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
    with Stored(blob, push.blobs) as source:
        upload(
            push.destination,
            source,
            mount_from=list(dict.fromkeys(_neighbours(push, blob))),
            progress=partial(push.progress, blob),
        )


def _neighbours(push: _Push, blob: Descriptor) -> Iterator[str]:
    """The other repositories of the registry that `blob` may be in, be it as a mirror."""
    for reference in push.mount_from(blob):
        for endpoint in push.client.configuration.endpoints(reference):
            here = endpoint.host == push.repository.registry
            if here and endpoint.repository != push.repository.name:
                yield endpoint.repository


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
