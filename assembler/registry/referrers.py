"""What refers to a manifest: signatures, attestations (distribution-spec "Listing Referrers")."""

from __future__ import annotations

from urllib.parse import quote, urljoin

from assembler.errors import NotFound
from assembler.net.client import Request
from assembler.net.origin import Origin
from assembler.oci.descriptor import INDEX, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.manifest import Document, Index, parse
from assembler.oci.reference import Reference
from assembler.registry.client import PULL, RegistryClient, Repository, refused
from assembler.registry.documents import MAX_MANIFEST, UNCHANGED, named, violation
from assembler.registry.endpoints import from_any

MAX_PAGES = 100
_ABSENT = frozenset({400, 404, 405, 501})
"""What registries answer that know nothing of referrers."""


def referrers(
    client: RegistryClient, reference: Reference, subject: Digest, artifact_type: str = ""
) -> tuple[Descriptor, ...]:
    """The manifests in the repository of `reference` that refer to `subject`, of one type if that is
    asked for; where a registry does not list them, those of the fall-back tag. All pages together
    have at most 4 MiB (rule M12). Raises RegistryError."""

    def ask(repository: Repository) -> tuple[Descriptor, ...]:
        listed = _listed(client, repository, subject, artifact_type)
        return _of_tag(client, reference, subject) if listed is None else listed

    found = from_any(client, reference, ask)
    if artifact_type:
        found = tuple(one for one in found if one.artifact_type == artifact_type)
    return tuple({one.digest: one for one in found}.values())


def referrers_tag(subject: Digest) -> str:
    """The tag of the index of referrers where a registry does not list them."""
    return f"{subject.algorithm[:32]}-{subject.hex[:64]}"


def _listed(
    client: RegistryClient, repository: Repository, subject: Digest, artifact_type: str
) -> tuple[Descriptor, ...] | None:
    """What the registry lists, page after page; None where it cannot."""
    operation = f"the referrers of {subject}"
    query = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type else ""
    url = f"{repository.url}/referrers/{subject}{query}"
    found: list[Descriptor] = []
    left = MAX_MANIFEST
    for page in range(MAX_PAGES):
        headers = {"Accept": INDEX, **UNCHANGED}
        request = Request("GET", url, repository.registry, operation, headers=headers)
        response = client.send(repository, request, PULL, left)
        if not page and response.status in _ABSENT:
            return None
        if response.status != 200:
            raise refused(response, repository, operation)
        kind = response.header("content-type")
        if not page and kind.partition(";")[0].strip().lower() != INDEX:
            return None  # a page for people, for instance
        try:
            document: Document | None = parse(response.body, kind)
        except ValueError as error:
            raise violation(repository, operation, str(error)) from error
        if not isinstance(document, Index):
            raise violation(repository, operation, "it is no index")
        found += document.manifests
        left -= len(response.body)
        following = _next(response.header("link"))
        if not following:
            return tuple(found)
        url = urljoin(url, following)
        if Origin.of(url) != Origin.of(repository.url):
            raise violation(repository, operation, "its next page is at another host")
        if left <= 0:
            break
    raise violation(repository, operation, f"more than {MAX_MANIFEST} bytes, or {MAX_PAGES} pages")


def _of_tag(
    client: RegistryClient, reference: Reference, subject: Digest
) -> tuple[Descriptor, ...]:
    tagged = Reference(reference.registry, reference.repository, referrers_tag(subject))
    try:
        document = named(client, tagged)
    except NotFound:
        return ()
    return document.manifests if isinstance(document, Index) else ()


def _next(header: str) -> str:
    """The URL of `<URL>; rel="next"` in a Link header (RFC 8288), empty for none."""
    for link in header.split(","):
        target, _, parameters = link.strip().partition(">")
        words = {word.strip().replace('"', "").lower() for word in parameters.split(";")}
        if target.startswith("<") and "rel=next" in words:
            return target[1:]
    return ""
