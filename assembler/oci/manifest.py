"""Manifests and indexes: exact bytes, and a view of them (image-spec manifest.md, image-index.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from assembler.oci.descriptor import (
    DOCKER_MANIFEST,
    INDEX,
    INDEXES,
    MANIFEST,
    MANIFESTS,
    Descriptor,
    annotations_of,
    in_docker,
    in_oci,
    toc_annotations,
)
from assembler.oci.digest import Digest
from assembler.oci.document import load
from assembler.oci.platform import Platform
from assembler.values import field, replace, value

MAX_INDEX_ENTRIES = 1000
MAX_DEPTH = 4
"""How many indexes may be in each other (reliability M5)."""
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"


@value
class Manifest:
    """An image manifest; `content` are the bytes its digest covers. `subject` is what it is about,
    where it is an artifact that refers to another manifest."""

    content: bytes = field(repr=False)
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str = ""
    subject: Descriptor | None = None

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor of this manifest."""
        return Descriptor(self.media_type, Digest.of(self.content), len(self.content))

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The configuration and the layers, each blob once."""
        return tuple({blob.digest: blob for blob in (self.config, *self.layers)}.values())


@value
class Index:
    """An image index (or Docker manifest list); `content` are the bytes its digest covers."""

    content: bytes = field(repr=False)
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor of this index."""
        return Descriptor(self.media_type, Digest.of(self.content), len(self.content))

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms that it says it has images for."""
        found = {entry.platform for entry in self.manifests if entry.platform is not None}
        return tuple(sorted(one for one in found if one.os != "unknown"))

    def select(self, platform: Platform) -> Descriptor | None:
        """The best entry for `platform`, the first of those that are as good; None when no entry
        says that it runs there."""
        ranked = [
            (rank, number)
            for number, entry in enumerate(self.manifests)
            if entry.platform and (rank := platform.rank(entry.platform)) is not None
        ]
        return self.manifests[min(ranked)[1]] if ranked else None


Document = Manifest | Index


def parse(content: bytes, media_type: str = "") -> Document:
    """The document in `content`. `media_type` is what the transport or a descriptor said.

    Raises ValueError for schema 1, for a document that could be read as both kinds
    (CVE-2021-41190), and for one whose media types disagree with each other or with it.
    """
    document = load(content, "the manifest")
    said = media_type.partition(";")[0].strip().lower()
    version = document.get("schemaVersion")
    if version == 1 or "fsLayers" in document or said.startswith(_SCHEMA_1):
        raise ValueError(
            "it is a manifest of Docker's schema 1, which is not supported: push the image anew"
        )
    if version != 2:
        raise ValueError(f"its schemaVersion is {str(version)[:20]!r}, not 2")
    own = document.get("mediaType") or ""
    if not isinstance(own, str) or (own and own not in MANIFESTS | INDEXES):
        raise ValueError(f"it is no image, but {str(own)[:100]!r}")
    if own and said in MANIFESTS | INDEXES and own != said:
        raise ValueError(f"it is not what its media type says: {said} of {own}")
    kind = own or said
    if "manifests" in document and ("layers" in document or "config" in document):
        raise ValueError("ambiguous document: both an index and a manifest")
    if "manifests" in document:
        entries = tuple(map(Descriptor.from_document, _items(document, "manifests")))
        if len(entries) > MAX_INDEX_ENTRIES:
            raise ValueError(f"an index with more than {MAX_INDEX_ENTRIES} entries")
        return Index(content, _kind(kind, INDEXES, INDEX), entries, annotations_of(document))
    subject = document.get("subject")
    return Manifest(
        content,
        _kind(kind, MANIFESTS, MANIFEST),
        Descriptor.from_document(document.get("config")),
        tuple(map(Descriptor.from_document, _items(document, "layers"))),
        annotations_of(document),
        str(document.get("artifactType") or ""),
        None if subject is None else Descriptor.from_document(subject),
    )


def build_index(
    entries: Iterable[Descriptor],
    annotations: Mapping[str, str] | None = None,
    *,
    media_type: str = INDEX,
) -> Index:
    """A new index of `entries`, serialised once; they may be indexes themselves, or blobs."""
    entries = tuple(entries)
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [entry.to_document() for entry in entries],
    }
    if annotations:
        document["annotations"] = dict(sorted(annotations.items()))
    content = json.dumps(document, separators=(",", ":")).encode()
    return Index(content, media_type, entries, dict(annotations or {}))


def build(
    config: Descriptor,
    layers: Iterable[Descriptor],
    annotations: Mapping[str, str] | None = None,
    *,
    docker: bool = False,
) -> Manifest:
    """A new manifest (document shape by pyoci), serialised once: an OCI one, or with `docker` of
    Docker's schema 2. All media types are of that kind; of the layers' annotations, those stay that
    a table of contents is found by."""
    from pyoci.oci import OCILayer, build_manifest_json

    kind, spell = (DOCKER_MANIFEST, in_docker) if docker else (MANIFEST, in_oci)
    config = replace(config, media_type=spell(config.media_type))
    layers = tuple(
        replace(
            layer,
            media_type=spell(layer.media_type),
            annotations={} if docker else toc_annotations(layer.annotations),
        )
        for layer in layers
    )
    document: dict[str, Any] = build_manifest_json(
        str(config.digest),
        config.size,
        [OCILayer(layer.media_type, str(layer.digest), layer.size, "") for layer in layers],
    )
    document["mediaType"], document["config"]["mediaType"] = kind, config.media_type
    for layer, described in zip(layers, document["layers"], strict=True):
        if layer.annotations:
            described["annotations"] = dict(sorted(layer.annotations.items()))
    if annotations:
        document["annotations"] = dict(sorted(annotations.items()))
    content = json.dumps(document, separators=(",", ":")).encode()
    return Manifest(content, kind, config, layers, dict(annotations or {}))


def _kind(kind: str, right: frozenset[str], default: str) -> str:
    if kind in MANIFESTS | INDEXES and kind not in right:
        raise ValueError(f"it is not what its media type {kind} says")
    return kind if kind in right else default


def _items(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        raise ValueError(f"manifest: {key} is not a list")
    return value
