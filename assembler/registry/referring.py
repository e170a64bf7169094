"""Manifests that refer to another one, in registries without a referrers API: an index under a tag
made of the subject's digest lists them (distribution-spec "Referrers Tag Schema")."""

from __future__ import annotations

from assembler.errors import ProtocolViolation
from assembler.net.client import Request
from assembler.oci.descriptor import INDEX, Descriptor
from assembler.oci.manifest import Document, Index, Manifest, build_index, parse
from assembler.registry.client import PULL, PUSH, refused
from assembler.registry.destination import Destination
from assembler.registry.referrers import referrers_tag
from assembler.values import replace

MAX_INDEX = 4 << 20  # bytes, as for any manifest
_TRIES = 3  # another one may write the same index between our reading and writing (reliability M12)


def add_referrer(destination: Destination, document: Document, subject: Descriptor) -> None:
    """Have the index of what refers to `subject` list `document`. Raises RegistryError."""
    tag, entry = referrers_tag(subject.digest), _entry(document)
    for _ in range(_TRIES):
        listed = _listed(destination, tag)
        if any(one.digest == entry.digest for one in listed):
            return
        _write(destination, tag, build_index((*listed, entry)))
        if any(one.digest == entry.digest for one in _listed(destination, tag)):
            return
    raise _violation(destination, tag, "other writers kept replacing it")


def _entry(document: Document) -> Descriptor:
    entry = replace(document.descriptor, annotations=document.annotations)
    if isinstance(document, Manifest):
        kind = document.artifact_type or document.config.media_type
        entry = replace(entry, unknown={"artifactType": kind})
    return entry


def _listed(destination: Destination, tag: str) -> tuple[Descriptor, ...]:
    repository, operation = destination.repository, f"the referrers' index {tag}"
    request = Request(
        "GET",
        f"{repository.url}/manifests/{tag}",
        repository.registry,
        operation,
        headers={"Accept": INDEX},
    )
    answer = destination.client.send(repository, request, PULL, MAX_INDEX)
    if answer.status == 404:
        return ()
    if answer.status != 200:
        raise refused(answer, repository, operation)
    try:
        found = parse(answer.body, answer.header("content-type"))
    except ValueError as error:
        raise _violation(destination, tag, str(error)) from error
    if not isinstance(found, Index):
        raise _violation(destination, tag, "it is no index")
    return found.manifests


def _write(destination: Destination, tag: str, index: Index) -> None:
    repository, operation = destination.repository, f"the referrers' index {tag}"
    if len(index.content) > MAX_INDEX:
        raise _violation(destination, tag, f"it would have more than {MAX_INDEX} bytes")
    request = Request(
        "PUT",
        f"{repository.url}/manifests/{tag}",
        repository.registry,
        operation,
        headers={"Content-Type": INDEX},
        body=index.content,
        length=len(index.content),
    )
    answer = destination.client.send(repository, request, PUSH)
    if answer.status not in (200, 201, 202, 204):
        raise refused(answer, repository, operation)


def _violation(destination: Destination, tag: str, what: str) -> ProtocolViolation:
    repository = destination.repository
    return ProtocolViolation(
        f"{repository.registry}/{repository.name}: the referrers' index {tag}: {what}",
        registry=repository.registry,
        operation=f"the referrers' index {tag}",
    )
