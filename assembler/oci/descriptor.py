"""Descriptors and the media types they carry (image-spec descriptor.md, media-types.md)."""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Any

from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.values import field, value

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

CACHE_CONFIG = "application/vnd.assemble.cache.v1+json"
"""What a shared cache has in place of an image's configuration (`cache.document`)."""
CACHE_LISTINGS = "application/vnd.assemble.cache.listings.v1"
"""What its COPYs selected, file by file (`cache.listings`)."""

FOREIGN_CACHE = "application/vnd.buildkit.cacheconfig."
"""What the type of a BuildKit cache has there begins with."""

CONFIGS = frozenset({CONFIG, DOCKER_CONFIG})
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
_KNOWN = frozenset(("mediaType", "digest", "size", "annotations", "platform"))
_LARGEST = (1 << 63) - 1
MAX_DATA = 64 << 10  # bytes that a descriptor may hold of what it describes (rule M9)
_COMPRESSIONS = {LAYER_TAR: "uncompressed", LAYER_GZIP: "gzip", LAYER_ZSTD: "zstd"}


@value
class Descriptor:
    """What some bytes are, their digest, and their size in bytes.

    `data` are these bytes themselves where the document had them, verified (rule M9). `unknown` is
    what else it had, kept for who writes it anew.
    """

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    data: bytes | None = field(default=None, repr=False, compare=False)
    unknown: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def artifact_type(self) -> str:
        """What an entry of an index says of the artifact it describes, empty when nothing."""
        found = self.unknown.get("artifactType")
        return found if isinstance(found, str) else ""

    @classmethod
    def from_document(cls, document: object) -> Descriptor:
        """The descriptor a parsed JSON object spells. Raises ValueError."""
        if not isinstance(document, dict):
            raise ValueError("descriptor is not an object")
        media_type, size = document.get("mediaType"), document.get("size")
        text = document.get("digest")
        if not isinstance(media_type, str) or not isinstance(text, str):
            raise ValueError("descriptor without mediaType or digest")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _LARGEST:
            raise ValueError(f"descriptor of {text[:80]!r} without a valid size")
        digest = Digest.parse(text)
        platform = _platform(document.get("platform"))
        unknown = {key: value for key, value in document.items() if key not in _KNOWN}
        spelled = None if platform is None else _spelled(platform)
        if document.get("platform") not in (None, spelled):
            unknown["platform"] = document["platform"]
        return cls(
            media_type,
            digest,
            size,
            annotations_of(document),
            platform,
            _data(unknown.get("data"), digest, size),
            unknown,
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
            document["platform"] = _spelled(self.platform)
        return {**document, **self.unknown}


def annotations_of(document: Mapping[str, Any]) -> dict[str, str]:
    """The annotations of a parsed JSON object. Raises ValueError."""
    found = document.get("annotations") or {}
    if not isinstance(found, dict):
        raise ValueError("annotations are not an object")
    return {key: str(value) for key, value in found.items()}


def _spelled(platform: Platform) -> dict[str, str]:
    document = {"architecture": platform.architecture, "os": platform.os}
    if platform.os_version:
        document["os.version"] = platform.os_version
    if platform.variant:
        document["variant"] = platform.variant
    return document


def _platform(document: object) -> Platform | None:
    """The platform of an entry; None for one that means none, which no build selects."""
    if not isinstance(document, dict) or not document.get("os"):
        return None
    os, architecture = str(document["os"]), str(document.get("architecture", ""))
    if "unknown" in (os, architecture):  # attestation manifests (ecosystem: BuildKit)
        return Platform("unknown", "unknown")
    version = str(document.get("os.version") or "") if os == "windows" else ""
    system = f"{os}({version})" if version else os
    parts = (system, architecture, str(document.get("variant") or ""))
    try:
        return Platform.parse("/".join(parts[: 3 if parts[2] else 2]))
    except ValueError:
        return Platform("unknown", "unknown")


def _data(text: object, digest: Digest, size: int) -> bytes | None:
    """The bytes in `text`; None where they are too many or not what is described: they are asked
    for then, as by a client that does not know the field."""
    if not isinstance(text, str) or size > MAX_DATA or len(text) > 2 * MAX_DATA:
        return None
    try:
        content = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # not ASCII, or not base64
        return None
    return content if len(content) == size and digest.matches(content) else None


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


def is_blob(entry: Descriptor) -> bool:
    """Whether what an index names is no manifest: a layer, or what only caches have. Shared caches
    may be such indexes, of BuildKit too."""
    kind = entry.media_type
    of_caches = kind in (CACHE_CONFIG, CACHE_LISTINGS) or kind.startswith(FOREIGN_CACHE)
    return of_caches or bool(compression_of(entry))
