"""Manifests and indexes: exact bytes, and a view of them (image-spec manifest.md, image-index.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from typing import Any

from assembler.oci.descriptor import (
    DOCKER_MANIFEST,
    INDEX,
    INDEXES,
    MANIFEST,
    MANIFESTS,
    Descriptor,
    in_docker,
    in_oci,
    toc_annotations,
)
from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.values import value

MAX_INDEX_ENTRIES = 1000


@value
class Manifest:
    """An image manifest; `content` are the bytes its digest covers."""

    content: bytes = field(repr=False)
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor of this manifest."""
        return Descriptor(self.media_type, Digest.of(self.content), len(self.content))


@value
class Index:
    """An image index (or Docker manifest list)."""

    content: bytes = field(repr=False)
    media_type: str
    manifests: tuple[Descriptor, ...]

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor of this index."""
        return Descriptor(self.media_type, Digest.of(self.content), len(self.content))

    def select(self, platform: Platform) -> Descriptor | None:
        """The best manifest for `platform`: an equal one before a compatible one, else None."""
        fitting = [
            entry for entry in self.manifests if entry.platform and platform.matches(entry.platform)
        ]
        exact = [entry for entry in fitting if entry.platform == platform]
        ranked = exact or sorted(
            fitting, key=lambda e: e.platform.variant if e.platform else "", reverse=True
        )
        return ranked[0] if ranked else None


def parse(content: bytes, media_type: str = "") -> Manifest | Index:
    """The document in `content`. `media_type` is what the transport or descriptor said.

    Raises ValueError for schema 1, for a document that could be read as both kinds
    (CVE-2021-41190), and for one whose own media type disagrees.
    """
    document = json.loads(content)
    if not isinstance(document, dict):
        raise ValueError("manifest is not an object")
    if document.get("schemaVersion") != 2:
        raise ValueError("manifest schema 1 (or unknown) is not supported: push the image anew")
    own = document.get("mediaType") or ""
    kind = own or media_type.partition(";")[0].strip()
    if "manifests" in document and ("layers" in document or "config" in document):
        raise ValueError("ambiguous document: both an index and a manifest")
    if "manifests" in document:
        kind = kind if kind in INDEXES else _same(kind, INDEX)
        entries = tuple(map(Descriptor.from_document, _items(document, "manifests")))
        if len(entries) > MAX_INDEX_ENTRIES:
            raise ValueError(f"index with more than {MAX_INDEX_ENTRIES} entries")
        return Index(content, kind, entries)
    kind = kind if kind in MANIFESTS else _same(kind, MANIFEST)
    annotations = document.get("annotations") or {}
    return Manifest(
        content,
        kind,
        Descriptor.from_document(document.get("config")),
        tuple(map(Descriptor.from_document, _items(document, "layers"))),
        {str(key): str(value) for key, value in annotations.items()},
    )


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


def _same(kind: str, default: str) -> str:
    if kind and kind in MANIFESTS | INDEXES:
        raise ValueError(f"document is not what its media type {kind} says")
    return default


def _items(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        raise ValueError(f"manifest: {key} is not a list")
    return value
