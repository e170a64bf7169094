"""Images and indexes to registries: blobs, then manifests by digest, then tags (distribution-spec
"Push"). A blob that is there, or can be mounted, is not sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import BinaryIO

from assembler.cancellation import Cancellation
from assembler.errors import (
    Cancelled,
    ProtocolViolation,
    RegistryError,
    Unauthorized,
    UsageError,
)
from assembler.net.client import Request
from assembler.oci.descriptor import Descriptor, is_blob
from assembler.oci.digest import Digest
from assembler.oci.manifest import MAX_DEPTH, Document, Index
from assembler.oci.reference import Reference
from assembler.registry.client import PULL, RegistryClient, Repository, refused
from assembler.registry.destination import Destination
from assembler.registry.parallel import JOBS, Check, all_at_once
from assembler.registry.publication import Publication
from assembler.registry.source import Stored
from assembler.registry.upload import upload
from assembler.store.uploads import Uploads
from assembler.values import value

Blobs = Callable[[Descriptor], BinaryIO]
Documents = Callable[[Descriptor], Document | None]
"""Reads what an index names; None for what only the registry has."""

Sources = Callable[[Descriptor], Sequence[Reference]]
"""The names in whose repositories a blob may be already."""

Progress = Callable[[Descriptor, int, int], None]
Sent = Callable[[Reference, Descriptor], bool]
"""Whether a blob went to the repository of a name already, waiting for it if it is on its way."""


def _unsent(reference: Reference, blob: Descriptor) -> bool:
    return False


def _nothing_below(entry: Descriptor) -> Document | None:
    raise AssertionError(f"an image has no {entry.digest} below it")


def push(
    client: RegistryClient,
    references: Sequence[Reference],
    document: Document,
    blobs: Blobs,
    *,
    documents: Documents = _nothing_below,
    mount_from: Sources = lambda blob: (),
    progress: Progress = lambda blob, current, total: None,
    cancellation: Cancellation,
    uploads: Uploads | None = None,
    sent: Sent = _unsent,
    jobs: int = JOBS,
) -> Descriptor:
    """The descriptor of `document`, which every one of `references` means afterwards. `documents`
    are needed for an index only.

    A blob is read only when it is not in the repository and cannot be mounted from one that
    `mount_from` names. Registries are pushed to at once, repositories of one after the other, so
    that blobs are mounted from the first. When one fails the others are completed. Raises
    RegistryError, UsageError for a digest in a name that is another one, and what `documents` and
    `blobs` raise; a tag has moved only where all that it leads to was there.
    """
    for reference in references:
        if reference.digest is not None and not reference.digest.matches(document.content):
            raise UsageError(
                f"{reference.familiar}: what is pushed has the digest {document.descriptor.digest}",
                hint="leave the digest out of the name",
            )
    parts = tuple(_parts(document, documents))
    pushed = _Pushed(client, parts, blobs, mount_from, progress, cancellation, uploads, sent, jobs)
    registries: dict[str, list[list[Reference]]] = {}
    for group in _by_repository(references):
        registries.setdefault(group[0].registry, []).append(group)
    failures: list[Exception] = []
    tasks = [partial(pushed.registry, groups, failures) for groups in registries.values()]
    all_at_once(tasks, cancellation.check, len(tasks))
    if failures:
        raise one_of(failures, sum(map(len, registries.values())))
    return document.descriptor


def means(client: RegistryClient, reference: Reference, document: Document) -> bool:
    """Whether the tag of `reference` is known to mean `document` already; it is not to who may only
    write. Raises RegistryError."""
    repository = _destination(client, reference, None).repository
    operation = f"the check of the tag {reference.tag}"
    url = f"{repository.url}/manifests/{reference.tag}"
    headers = {"Accept": document.media_type}
    request = Request("HEAD", url, repository.registry, operation, headers=headers)
    try:
        answer = client.send(repository, request, PULL)
    except Unauthorized:  # by the token server
        return False
    said = answer.header("docker-content-digest")
    return answer.status == 200 and said == str(document.descriptor.digest)


def would_send(
    client: RegistryClient,
    references: Sequence[Reference],
    blob: Descriptor,
    mount_from: Sources,
    cancellation: Cancellation,
) -> bool:
    """Whether a push to `references` will have to send `blob`, as far as can be told without writing:
    a repository has it not, and there is none beside it that should. Raises RegistryError."""
    for destination in destinations(client, references):
        cancellation.check()
        beside = neighbours(destination, mount_from(blob))
        if not any(beside) and not destination.has(blob):
            return True
    return False


def destinations(
    client: RegistryClient, references: Sequence[Reference], uploads: Uploads | None = None
) -> Iterator[Destination]:
    """The repositories of `references`, each once. Raises RegistryError."""
    for group in _by_repository(references):
        yield _destination(client, group[0], uploads)


def neighbours(destination: Destination, references: Iterable[Reference]) -> Iterator[str]:
    """The other repositories of the registry that are those of `references`, be it as a mirror."""
    for reference in references:
        for endpoint in destination.client.endpoints(reference):
            here = endpoint.host == destination.repository.registry
            if here and endpoint.repository != destination.repository.name:
                yield endpoint.repository


@value
class _Part:
    """A manifest or index of what is pushed; what is not `document` the registry must have."""

    entry: Descriptor
    document: Document | None

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The blobs that it names; an index may name some, as a cache does."""
        if isinstance(self.document, Index):
            return tuple(filter(is_blob, self.document.manifests))
        return self.document.blobs if self.document is not None else ()


@value
class _Pushed:
    """What is pushed, to whatever registry."""

    client: RegistryClient
    parts: tuple[_Part, ...]
    blobs: Blobs
    mount_from: Sources
    progress: Progress
    cancellation: Cancellation
    uploads: Uploads | None
    sent: Sent
    jobs: int

    def registry(
        self, groups: Sequence[Sequence[Reference]], failures: list[Exception], check: Check
    ) -> None:
        """Push to the repositories `groups` of one registry; what fails is added to `failures`."""
        done: tuple[Reference, ...] = ()
        for group in groups:
            check()
            try:
                destination = _destination(self.client, group[0], self.uploads)
                _Repository(self, destination, done).push([one.tag for one in group if one.tag])
                done += (group[0],)
            except Cancelled:
                raise
            except Exception as error:  # is raised when the others are done
                failures.append(error)


@value
class _Repository:
    """One repository that is pushed to; `others` have it all already."""

    pushed: _Pushed
    destination: Destination
    others: tuple[Reference, ...]

    def push(self, tags: Sequence[str]) -> None:
        parts = self.pushed.parts
        self._all(blob for part in parts for blob in part.blobs)
        for part in parts:
            self.pushed.cancellation.check()
            if part.document is None:
                _expect(self.destination, part.entry)
            else:
                self._publication(part, part.document).publish()
        last = parts[-1]
        if last.document is not None:
            for tag in tags:
                self._publication(last, last.document).tag(tag)

    def _all(self, blobs: Iterable[Descriptor]) -> None:
        each = {blob.digest: blob for blob in blobs}.values()
        tasks = [partial(self._send, blob) for blob in each]
        all_at_once(tasks, self.pushed.cancellation.check, self.pushed.jobs)

    def _publication(self, part: _Part, document: Document) -> Publication:
        complete = partial(self._complete, part)
        return Publication(self.destination, document, part.entry.digest, complete)

    def _complete(self, part: _Part) -> None:
        for blob in part.blobs:
            self._blob(blob, self.pushed.cancellation.check)
        if isinstance(part.document, Index):
            below = {entry.digest for entry in part.document.manifests}
            for one in self.pushed.parts:
                if one.entry.digest in below and one.document is not None:
                    self._publication(one, one.document).publish()

    def _send(self, blob: Descriptor, check: Check) -> None:
        if not self.pushed.sent(self.destination.repository.reference, blob):
            self._blob(blob, check)

    def _blob(self, blob: Descriptor, check: Check) -> None:
        def progress(current: int, total: int) -> None:
            check()
            self.pushed.progress(blob, current, total)

        def beside() -> Iterator[str]:
            yield from neighbours(self.destination, self.others)
            yield from neighbours(self.destination, self.pushed.mount_from(blob))

        check()
        source = Stored(blob, self.pushed.blobs)
        upload(self.destination, source, mount_from=beside(), progress=progress)


def _parts(document: Document, documents: Documents) -> Iterator[_Part]:
    """Everything that is pushed, what is named before what names it. Raises ProtocolViolation for
    indexes that are nested too deep."""
    seen: set[Digest] = set()

    def below(entry: Descriptor, document: Document | None, depth: int) -> Iterator[_Part]:
        seen.add(entry.digest)
        if depth > MAX_DEPTH:
            raise ProtocolViolation(f"{entry.digest}: indexes nested deeper than {MAX_DEPTH}")
        if isinstance(document, Index):
            for one in document.manifests:
                if one.digest not in seen and not is_blob(one):
                    yield from below(one, documents(one), depth + 1)
        yield _Part(entry, document)

    yield from below(document.descriptor, document, 1)


def _expect(destination: Destination, entry: Descriptor) -> None:
    """Raise NotFound unless the repository has the manifest that is not to be had here."""
    repository, operation = destination.repository, f"the check for manifest {entry.digest}"
    url = f"{repository.url}/manifests/{entry.digest}"
    headers = {"Accept": entry.media_type}
    request = Request("HEAD", url, repository.registry, operation, headers=headers)
    answer = destination.client.send(repository, request, PULL)
    if answer.status != 200:
        raise refused(answer, repository, operation)


def _destination(
    client: RegistryClient, reference: Reference, uploads: Uploads | None
) -> Destination:
    endpoint = client.configuration.endpoint(reference)
    repository: Repository = client.repository(endpoint, reference)
    return Destination(client, repository, uploads)


def _by_repository(references: Sequence[Reference]) -> Iterable[list[Reference]]:
    found: dict[tuple[str, str], list[Reference]] = {}
    for reference in references:
        found.setdefault((reference.registry, reference.repository), []).append(reference)
    return found.values()


def one_of(failures: Sequence[Exception], among: int) -> Exception:
    """`failures` as one error, which names every one of several."""
    first = failures[0]
    if len(failures) == 1 or not isinstance(first, RegistryError):
        return first
    texts = "; ".join(str(error) for error in failures)
    return type(first)(
        f"{len(failures)} of {among} repositories could not be pushed to: {texts}",
        registry=first.registry,
        operation=first.operation,
        status=first.status,
        hint=first.hint,
    )
