"""Images from elsewhere into the store: OCI layouts, OCI archives, docker archives.

Names inside an archive are looked up in the archive only (reliability M11); blobs of a layout are
opened without following links (M10); every byte is verified on the way in.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from typing import Any, BinaryIO

from assembler.errors import BadArchive, BlobMissing, NotFound, StoreError
from assembler.layer.changeset import Kind
from assembler.layer.decompression import reader
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.layer.tar_reader import read
from assembler.oci.config import ImageConfig
from assembler.oci.descriptor import CONFIG, LAYER_GZIP, LAYER_TAR, LAYER_ZSTD, REF_NAME, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image
from assembler.oci.manifest import Document, Index, build, parse
from assembler.oci.platform import Platform
from assembler.store.store import Store

MAX_DOCUMENT = 8 << 20
MAX_INDEX_DEPTH = 4
_PIECE = 1 << 20
_DOCUMENTS = frozenset({"index.json", "manifest.json"})


def import_image(
    store: Store, path: str, name: str, platform: Platform, limits: Limits = DEFAULT_LIMITS
) -> Image:
    """The image in the layout directory or archive at `path`, all its blobs in the store.

    `name` selects among several (a tag or full name), empty takes the only one. Raises NotFound,
    BadArchive, StoreError.
    """
    try:
        if os.path.isdir(path):
            return _import_layout(store, path, name, platform)
    except (ValueError, RecursionError) as error:  # of documents that are none
        raise BadArchive(f"{path}: {error}") from error
    return image_of(store, path, import_top(store, path, name, platform, limits), platform)


def import_top(
    store: Store, path: str, name: str, platform: Platform | None, limits: Limits = DEFAULT_LIMITS
) -> Descriptor:
    """What `name` means in the archive at `path`, be it an index; everything of the archive is in
    the store. Of several images without a name it is the one for `platform`. Raises as `import_image`
    does."""
    try:
        members, documents = _members(store, path, limits)
        if "index.json" in documents:
            index = parse(documents["index.json"])
            if isinstance(index, Index):
                return _choose(index, name, platform, path)
        return _unpacked(store, members, documents, name, path).manifest.descriptor
    except (ValueError, RecursionError) as error:
        raise BadArchive(f"{path}: {error}") from error


def image_of(store: Store, path: str, entry: Descriptor, platform: Platform) -> Image:
    """The image for `platform` of what `import_top` found in the archive at `path`. Raises NotFound,
    BadArchive, StoreError."""
    try:
        return _from_descriptor(
            store, entry, platform, path, lambda blob: _present(store, blob, path)
        )
    except (ValueError, RecursionError) as error:
        raise BadArchive(f"{path}: {error}") from error


class LayoutFiles:
    """The layout directory at `path`, read in place. Links are not followed (rule M10)."""

    def __init__(self, path: str) -> None:
        self._path = path

    def entry(self, name: str) -> Descriptor:
        """What `name` means, be it an index. Raises NotFound, BadArchive, StoreError."""
        try:
            index = self.index()
            found = _of_digest(self._path, name, index)
            return found or _choose(index, name, None, self._path)
        except ValueError as error:
            raise BadArchive(f"{self._path}: {error}") from error

    def index(self) -> Index:
        """What the layout holds. Raises BadArchive, StoreError, ValueError."""
        with _open_regular(os.path.join(self._path, "index.json")) as stream:
            index = parse(_bounded(stream))
        if not isinstance(index, Index):
            raise BadArchive(f"{self._path}: index.json is not an image index")
        return index

    def document(self, entry: Descriptor) -> Document:
        """The manifest or index that `entry` describes, verified. Raises BadArchive, StoreError."""
        with self.open(entry) as stream:
            content = _bounded(stream)
        if len(content) != entry.size or not entry.digest.matches(content):
            raise BadArchive(f"{self._path}: {entry.digest} has other bytes than its digest says")
        try:
            return parse(content, entry.media_type)
        except ValueError as error:
            raise BadArchive(f"{self._path}: {entry.digest}: {error}") from error

    def open(self, blob: Descriptor) -> BinaryIO:
        """The file of a blob, for reading. Raises StoreError."""
        return _open_regular(
            os.path.join(self._path, "blobs", blob.digest.algorithm, blob.digest.hex)
        )


def _import_layout(store: Store, path: str, name: str, platform: Platform) -> Image:
    layout = LayoutFiles(path)

    def fetch(descriptor: Descriptor) -> None:
        if store.blobs.has(descriptor.digest):
            return
        ingesting = store.blobs.ingest(descriptor.size, algorithm=descriptor.digest.algorithm)
        with layout.open(descriptor) as stream, ingesting as ingest:
            while ingest.written <= descriptor.size and (chunk := stream.read(_PIECE)):
                ingest.write(chunk)  # of a longer file no more than shows that it is one (rule M1)
            ingest.commit(descriptor)

    index = layout.index()
    found = _of_digest(path, name, index) or _choose(index, name, platform, path)
    return _from_descriptor(store, found, platform, path, fetch)


def _of_digest(path: str, name: str, index: Index) -> Descriptor | None:
    """The image of the layout that has the digest `name` and no line of its own in the index."""
    try:
        digest = Digest.parse(name)
    except ValueError:
        return None
    source = os.path.join(path, "blobs", digest.algorithm, digest.hex)
    if any(entry.digest == digest for entry in index.manifests) or not os.path.lexists(source):
        return None
    with _open_regular(source) as stream:
        content = _bounded(stream)
    return Descriptor(parse(content).media_type, digest, len(content))


def _from_descriptor(
    store: Store, descriptor: Descriptor, platform: Platform, path: str, fetch: Any
) -> Image:
    for _ in range(MAX_INDEX_DEPTH):
        fetch(descriptor)
        document = parse(store.blobs.read(descriptor, MAX_DOCUMENT), descriptor.media_type)
        if not isinstance(document, Index):
            for blob in (document.config, *document.layers):
                fetch(blob)
            return store.image(document.descriptor)
        descriptor = _choose(document, "", platform, path)
    raise BadArchive(f"{path}: indexes nested deeper than {MAX_INDEX_DEPTH}")


def _choose(index: Index, name: str, platform: Platform | None, path: str) -> Descriptor:
    names = {entry.annotations.get(REF_NAME, ""): entry for entry in index.manifests}
    full = {
        entry.annotations.get("io.containerd.image.name", ""): entry for entry in index.manifests
    }
    if name:
        digests = {str(entry.digest): entry for entry in index.manifests}
        found = full.get(name) or names.get(name) or digests.get(name)
        if found is None:
            raise NotFound(
                f"{path} holds no image named {name}",
                hint=f"it holds: {', '.join(sorted(filter(None, names))) or 'one without a name'}",
            )
        return found
    if len(index.manifests) == 1:
        return index.manifests[0]
    selected = index.select(platform) if platform else None
    if selected is None or len(set(names)) > 1:
        raise NotFound(
            f"{path} holds {len(index.manifests)} images; say which",
            hint=", ".join(sorted(filter(None, names))),
        )
    return selected


def _unpacked(
    store: Store,
    members: Mapping[str, Descriptor],
    documents: Mapping[str, bytes],
    name: str,
    path: str,
) -> Image:
    if "manifest.json" in documents:
        return _docker_archive(store, json.loads(documents["manifest.json"]), members, name, path)
    raise BadArchive(f"{path}: neither an OCI layout nor a docker archive")


def _members(
    store: Store, path: str, limits: Limits
) -> tuple[dict[str, Descriptor], dict[str, bytes]]:
    """The files of the archive at `path`, all in the store, and those that say what it holds. Names
    mean what is in the archive only (rule M11)."""
    members: dict[str, Descriptor] = {}
    documents: dict[str, bytes] = {}
    with _open_regular(path) as stream:
        for entry, body in read(reader(stream, limits.size), limits):
            if entry.kind is Kind.FILE and entry.path.endswith(".json") and "/" not in entry.path:
                content = _bounded(body)
                members[entry.path] = Descriptor("", store.blobs.put(content), len(content))
                if entry.path in _DOCUMENTS:
                    documents[entry.path] = content
            elif entry.kind is Kind.FILE:
                with store.blobs.ingest() as ingest:
                    while chunk := body.read(_PIECE):
                        ingest.write(chunk)
                    digest, size = ingest.commit()
                members[entry.path] = Descriptor("", digest, size)
            elif entry.kind in (Kind.SYMLINK, Kind.HARDLINK):
                target = os.path.normpath(os.path.join(entry.parent, entry.link))
                target = entry.link if entry.kind is Kind.HARDLINK else target
                if target in members:
                    members[entry.path] = members[target]
    return members, documents


def _docker_archive(
    store: Store, document: Any, members: Mapping[str, Descriptor], name: str, path: str
) -> Image:
    images = [one for one in _list(document) if isinstance(one, dict)]
    if name:
        images = [one for one in images if name in _list(one.get("RepoTags"))]
    if len(images) != 1:
        raise NotFound(f"{path} holds {len(images)} images that match; say which by its full name")
    config = _member(members, images[0].get("Config"), path)
    content = store.blobs.read(Descriptor(CONFIG, config.digest, config.size), MAX_DOCUMENT)
    ImageConfig.parse(content)
    layers = [
        _layer(store, _member(members, layer, path)) for layer in _list(images[0].get("Layers"))
    ]
    manifest = build(Descriptor(CONFIG, config.digest, config.size), layers)
    image = Image.read(manifest, content)
    store.put_image(image)
    return image


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _layer(store: Store, member: Descriptor) -> Descriptor:
    with store.blobs.open(member.digest) as stream:
        magic = stream.read(4)
    media_type = LAYER_TAR
    if magic[:2] == b"\x1f\x8b":
        media_type = LAYER_GZIP
    elif magic == b"\x28\xb5\x2f\xfd":
        media_type = LAYER_ZSTD
    return Descriptor(media_type, member.digest, member.size)


def _member(members: Mapping[str, Descriptor], name: object, path: str) -> Descriptor:
    found = members.get(name) if isinstance(name, str) else None
    if found is None:
        raise BadArchive(f"{path}: manifest.json names {name!r}, which the archive does not hold")
    return found


def _present(store: Store, descriptor: Descriptor, path: str) -> None:
    if not store.blobs.has(descriptor.digest):
        raise BlobMissing(f"{path} does not hold the blob {descriptor.digest} it names", path)


def _open_regular(path: str) -> BinaryIO:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}", path) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StoreError(f"{path} is not a regular file", path)
    return os.fdopen(descriptor, "rb")


def _bounded(stream: BinaryIO) -> bytes:
    content = stream.read(MAX_DOCUMENT + 1)
    if len(content) > MAX_DOCUMENT:
        raise BadArchive(f"a JSON document larger than {MAX_DOCUMENT} bytes")
    return content
