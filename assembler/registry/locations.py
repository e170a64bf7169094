"""Where an upload is, and how far, by what the registry says of it (distribution-spec "Pushing blobs")."""

from __future__ import annotations

from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

from assembler.errors import ProtocolViolation
from assembler.net.client import Response
from assembler.net.origin import Origin
from assembler.oci.descriptor import Descriptor
from assembler.registry.repository import Repository


def located(answer: Response, base: str, repository: Repository, operation: str) -> str:
    """The upload's location by `answer`, `base` if it says none. No https becomes http. Raises
    ProtocolViolation."""
    location = answer.header("location")
    if not location:
        return base
    try:
        found = urljoin(base, location)
        scheme = Origin.of(found).scheme
    except ValueError as error:
        what = "was given a location that is no URL"
        raise violation(repository, operation, what) from error
    if scheme == "http" and Origin.of(repository.url).scheme == "https":
        what = "was given a location over plain http; refused"
        raise violation(repository, operation, what)
    return found


def violation(repository: Repository, operation: str, what: str) -> ProtocolViolation:
    """The error for an upload of which the registry says `what` cannot be."""
    return ProtocolViolation(
        f"{repository.registry}/{repository.name}: {operation} {what}",
        registry=repository.registry,
        operation=operation,
    )


def stands(answer: Response) -> int | None:
    """The offset a Range header says, None if that cannot be told: `0-0` is what distribution says
    of no byte, and others of one."""
    first, _, last = answer.header("range").removeprefix("bytes=").partition("-")
    if first != "0" or not last.isdigit() or len(last) > 18 or int(last) == 0:
        return None
    return int(last) + 1


def with_digest(location: str, blob: Descriptor) -> str:
    """The URL that ends the upload at `location` as `blob`."""
    parts = urlsplit(location)
    digest = urlencode({"digest": str(blob.digest)})
    query = f"{parts.query}&{digest}" if parts.query else digest
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))
