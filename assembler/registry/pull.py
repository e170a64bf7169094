"""What a name means: manifests by platform, and all that an index leads to (distribution-spec
"Pull", image-spec image-index.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from assembler.errors import NotFound, ProtocolViolation
from assembler.oci.descriptor import INDEXES, MANIFESTS, Descriptor, is_blob
from assembler.oci.digest import Digest
from assembler.oci.image import Image
from assembler.oci.manifest import MAX_DEPTH, Document, Index, Manifest
from assembler.oci.platform import Platform
from assembler.oci.reference import Reference
from assembler.registry.client import RegistryClient
from assembler.registry.documents import configuration, described, named, violation
from assembler.values import mutable, value

MAX_CHILDREN = 1000
_SHOWN = 20  # platforms that an error lists

Ask = Callable[[Descriptor], Document]
Wanted = Callable[[Descriptor], bool]


@value
class Resolved:
    """What a name means for a platform. `top` is what the name itself means: the manifest, or the
    index that it is in. `platform` is what that index says of it, None outside of one."""

    reference: Reference
    image: Image
    top: Digest
    platform: Platform | None = None

    @property
    def manifest(self) -> Manifest:
        """The image's manifest."""
        return self.image.manifest


def resolve(
    client: RegistryClient, reference: Reference, platform: Platform, top: Document | None = None
) -> Resolved:
    """The image `reference` means for `platform`; `top` is what it means, if that was asked for
    already. Raises NotFound, which says what platforms there are, and RegistryError."""
    top = named(client, reference) if top is None else top
    digest = reference.digest or top.descriptor.digest
    if isinstance(top, Manifest):
        return Resolved(reference, image_of(client, reference, top), digest)
    found = _Search(client, reference, platform).within(top, 1)
    if found is None:
        raise NotFound(
            f"{reference.familiar} has no image for {platform}",
            registry=reference.registry,
            operation="the manifest",
            hint=_offers(top),
        )
    image, claimed = found
    return Resolved(reference, image, digest, claimed)


def image_of(client: RegistryClient, reference: Reference, manifest: Manifest) -> Image:
    """The image of a manifest that was found in the repository of `reference`. Raises
    RegistryError."""
    content = configuration(client, reference, manifest.config)
    try:
        return Image.read(manifest, content)
    except ValueError as error:
        operation = f"the image {manifest.descriptor.digest}"
        raise violation(reference, operation, str(error)) from error


@mutable
class _Search:
    """For one platform, through indexes in indexes."""

    client: RegistryClient
    reference: Reference
    platform: Platform
    seen: set[Digest] | None = None

    def within(self, index: Index, depth: int) -> tuple[Image, Platform | None] | None:
        _bound_depth(self.reference, depth)
        entry = index.select(self.platform)
        silent = [
            one
            for one in index.manifests
            if one.platform is None and one.media_type in MANIFESTS | INDEXES
        ]
        for candidate in silent if entry is None else [entry]:
            self.seen = self.seen or set()
            if candidate.digest in self.seen:
                continue
            self.seen.add(candidate.digest)
            _bound_number(self.reference, len(self.seen))
            document = described(self.client, self.reference, candidate)
            if isinstance(document, Index):
                found = self.within(document, depth + 1)
                if found is not None:
                    return found
                continue
            image = image_of(self.client, self.reference, document)
            if entry is not None or self.platform.matches(image.config.platform):
                return image, candidate.platform
        return None


@value
class Closure:
    """An index with what it leads to, or a manifest alone. `documents` has every document once, by
    the digest it goes by, and children before the index that names them: `digest`, that of `top`,
    is the last."""

    top: Document
    digest: Digest
    documents: Mapping[Digest, Document]

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        """The manifests among the documents."""
        return tuple(one for one in self.documents.values() if isinstance(one, Manifest))

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Every blob of the manifests, and what indexes name that is one, once."""
        found: dict[Digest, Descriptor] = {}
        for document in self.documents.values():
            named = document.manifests if isinstance(document, Index) else ()
            blobs = document.blobs if isinstance(document, Manifest) else filter(is_blob, named)
            found |= {blob.digest: blob for blob in blobs}
        return tuple(found.values())


def closure(where: Reference, top: Document, ask: Ask, wanted: Wanted | None = None) -> Closure:
    """All that `top` leads to, as `ask` gives it; of the entries of indexes only those that are
    `wanted`. Entries for no platform, as attestations are, belong to it. Raises RegistryError and
    what `ask` raises."""
    digest = where.digest or top.descriptor.digest
    below = _below(where, top, digest, ask, wanted or (lambda entry: True), {}, 1)
    return Closure(top, digest, dict(below))


def selection(where: Reference, top: Index, platforms: Sequence[Platform]) -> Wanted | None:
    """Which entries are wanted for `platforms`; None for all, when none is named. Raises NotFound
    for a platform that there is nothing for."""
    if not platforms:
        return None
    chosen = {platform: top.select(platform) for platform in platforms}
    nested = any(entry.platform is None for entry in top.manifests)
    missing = [platform for platform, entry in chosen.items() if entry is None]
    if missing and not nested:
        raise NotFound(
            f"{where.familiar} has no image for {', '.join(map(str, missing))}",
            registry=where.registry,
            operation="the manifest",
            hint=_offers(top),
        )
    digests = {entry.digest for entry in chosen.values() if entry is not None}

    def wanted(entry: Descriptor) -> bool:
        if entry.platform is None:
            return bool(missing)
        found = entry.platform
        return entry.digest in digests or any(platform.matches(found) for platform in missing)

    return wanted


def _offers(index: Index) -> str:
    offered = list(map(str, index.platforms))
    more = f" and {len(offered) - _SHOWN} more" if len(offered) > _SHOWN else ""
    return f"it has {', '.join(offered[:_SHOWN])}{more}" if offered else ""


def _below(
    where: Reference,
    document: Document,
    digest: Digest,
    ask: Ask,
    wanted: Wanted,
    seen: dict[Digest, None],
    depth: int,
) -> Iterator[tuple[Digest, Document]]:
    if isinstance(document, Index):
        _bound_depth(where, depth)
        for entry in document.manifests:
            if is_blob(entry) or entry.digest in seen or not wanted(entry):
                continue
            seen[entry.digest] = None
            _bound_number(where, len(seen))
            yield from _below(where, ask(entry), entry.digest, ask, wanted, seen, depth + 1)
    yield digest, document


def _bound_depth(reference: Reference, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ProtocolViolation(
            f"{reference.familiar}: indexes nested deeper than {MAX_DEPTH}",
            registry=reference.registry,
        )


def _bound_number(reference: Reference, number: int) -> None:
    if number > MAX_CHILDREN:
        raise ProtocolViolation(
            f"{reference.familiar}: an index that leads to more than {MAX_CHILDREN} manifests",
            registry=reference.registry,
        )
