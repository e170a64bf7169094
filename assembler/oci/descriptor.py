"""Descriptors and the media types they carry (image-spec descriptor.md, media-types.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.values import value

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_TAR = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"

MANIFESTS = frozenset({MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({INDEX, DOCKER_LIST})
REF_NAME = "org.opencontainers.image.ref.name"

ESTARGZ_TOC = "containerd.io/snapshot/stargz/toc.digest"
ESTARGZ_SIZE = "io.containers.estargz.uncompressed-size"
CHUNKED = "io.github.containers.zstd-chunked."
CHUNKED_CHECKSUM = f"{CHUNKED}manifest-checksum"
CHUNKED_POSITION = f"{CHUNKED}manifest-position"
CHUNKED_TAR_SPLIT = f"{CHUNKED}tarsplit-position"
CHUNKED_TAR_SPLIT_CHECKSUM = f"{CHUNKED}tarsplit-checksum"
_TOC = frozenset((ESTARGZ_TOC, ESTARGZ_SIZE))

_DOCKER = {
    CONFIG: DOCKER_CONFIG,
    LAYER_TAR: DOCKER_LAYER_TAR,
    LAYER_GZIP: DOCKER_LAYER_GZIP,
    LAYER_ZSTD: DOCKER_LAYER_ZSTD,
}
_OCI = {docker: oci for oci, docker in _DOCKER.items()}
_COMPRESSIONS = {LAYER_TAR: "uncompressed", LAYER_GZIP: "gzip", LAYER_ZSTD: "zstd"}


@value
class Descriptor:
    """What some bytes are, their digest, and their size in bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None

    @classmethod
    def from_document(cls, document: object) -> Descriptor:
        """The descriptor a parsed JSON object spells. Raises ValueError."""
        if not isinstance(document, dict):
            raise ValueError("descriptor is not an object")
        media_type, size = document.get("mediaType"), document.get("size")
        digest = document.get("digest")
        if not isinstance(media_type, str) or not isinstance(digest, str):
            raise ValueError("descriptor without mediaType or digest")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ValueError(f"descriptor of {digest[:80]} without a valid size")
        annotations = document.get("annotations") or {}
        if not isinstance(annotations, dict):
            raise ValueError("descriptor annotations are not an object")
        return cls(
            media_type,
            Digest.parse(digest),
            size,
            {str(key): str(value) for key, value in annotations.items()},
            _platform(document.get("platform")),
        )

    def to_document(self) -> dict[str, Any]:
        """The JSON object of this descriptor, keys in the specification's order."""
        document: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.annotations:
            document["annotations"] = dict(sorted(self.annotations.items()))
        if self.platform is not None:
            document["platform"] = {
                "architecture": self.platform.architecture,
                "os": self.platform.os,
            }
            if self.platform.variant:
                document["platform"]["variant"] = self.platform.variant
        return document


def _platform(document: object) -> Platform | None:
    if not isinstance(document, dict) or not document.get("os"):
        return None
    os, architecture = str(document["os"]), str(document.get("architecture", ""))
    if "unknown" in (os, architecture):  # attestation manifests (ecosystem: BuildKit)
        return Platform(os, architecture)
    return Platform.parse(
        "/".join(filter(None, (os, architecture, str(document.get("variant") or ""))))
    )


def in_oci(media_type: str) -> str:
    """The OCI media type that says what Docker's `media_type` says; others as they are."""
    return _OCI.get(media_type, media_type)


def in_docker(media_type: str) -> str:
    """Docker's media type that says what the OCI `media_type` says; others as they are."""
    return _DOCKER.get(media_type, media_type)


def toc_annotations(annotations: Mapping[str, str]) -> dict[str, str]:
    """Those of `annotations` without which a layer's table of contents is not found."""
    return {
        key: value for key, value in annotations.items() if key in _TOC or key.startswith(CHUNKED)
    }


def compression_of(layer: Descriptor) -> str:
    """The name of the compression a layer has, as `compression=` spells it (rule Z7); "" for what
    is no layer of a known kind, or one that is not to be distributed."""
    name = _COMPRESSIONS.get(in_oci(layer.media_type), "")
    if name == "gzip" and ESTARGZ_TOC in layer.annotations:
        return "estargz"
    if name == "zstd" and CHUNKED_CHECKSUM in layer.annotations:
        return "zstd:chunked"
    return name
