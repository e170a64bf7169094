"""The store: one directory, an OCI layout with private parts beside it (reliability.md 1.1).

oci-layout index.json blobs/   what skopeo and others read
ingest/ scratch/               work of live processes, each part locked by its owner
layers/ mounts/                layer directories, cache mounts
groups/                        what live builds have made of cgroups
version                        the layout's version; a newer one is refused
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from assembler.errors import BlobCorrupt, StoreUnusable
from assembler.linux.claims import claim, sweep
from assembler.oci.descriptor import INDEXES, Descriptor
from assembler.oci.image import Image
from assembler.oci.manifest import Manifest, parse
from assembler.store.blobs import Blobs
from assembler.store.refs import Refs, replace_file

VERSION = 1


class Store:
    """An open store. Use it with `with`; several processes may have it open at once."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.blobs = Blobs(path)
        self.refs = Refs(path)
        self.layers_directory = os.path.join(path, "layers")
        self.groups_directory = os.path.join(path, "groups")
        self.cache_mounts_directory = os.path.join(path, "mounts")

    @classmethod
    def open(cls, path: str) -> Store:
        """The store at `path`, made if it is not there. Raises StoreUnusable."""
        path = os.path.abspath(path)
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            for name in ("blobs/sha256", "ingest", "scratch", "layers"):
                os.makedirs(os.path.join(path, name), mode=0o700, exist_ok=True)
            _check_version(path)
            sweep(os.path.join(path, "ingest"))
            sweep(os.path.join(path, "scratch"))
            _sweep_groups(os.path.join(path, "groups"))
        except OSError as error:
            raise StoreUnusable(
                f"the store {path} cannot be used: {error.strerror}",
                path,
                hint="set ASSEMBLE_STORE to a directory you can write",
            ) from error
        return cls(path)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held open between calls; for symmetry with `open`."""

    def image(self, descriptor: Descriptor) -> Image:
        """The image whose manifest is `descriptor`. Raises BlobMissing, BlobCorrupt."""
        if descriptor.media_type in INDEXES:
            raise BlobCorrupt(f"{descriptor.digest} is an image index, not an image")
        try:
            manifest = parse(self.blobs.read(descriptor), descriptor.media_type)
            if not isinstance(manifest, Manifest):
                raise ValueError("an index where a manifest was expected")
            return Image.read(manifest, self.blobs.read(manifest.config))
        except ValueError as error:
            raise BlobCorrupt(
                f"image {descriptor.digest} in the store: {error}",
                self.blobs.path(descriptor.digest),
            ) from error

    def put_image(self, image: Image) -> Descriptor:
        """Store configuration, then manifest; the manifest's descriptor."""
        self.blobs.put(image.config_content)
        self.blobs.put(image.manifest.content)
        return image.manifest.descriptor

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """A private directory that is removed when the block ends, or by a later process when
        this one dies."""
        with claim(os.path.join(self.path, "scratch")) as claimed:
            yield claimed.path


def _sweep_groups(records: str) -> None:
    if os.path.isdir(records) and os.listdir(records):
        from assembler.linux import cgroups

        cgroups.sweep(records)


def _check_version(path: str) -> None:
    marker = os.path.join(path, "version")
    try:
        with open(marker, encoding="ascii") as stream:
            text = stream.read().strip()
    except FileNotFoundError:
        layout = os.path.join(path, "oci-layout")
        replace_file(layout, b'{"imageLayoutVersion":"1.0.0"}')
        replace_file(marker, f"{VERSION}\n".encode())
        return
    if not text.isdigit() or int(text) > VERSION:
        raise StoreUnusable(
            f"the store {path} has version {text[:20]!r}, this assemble knows {VERSION}",
            path,
            hint="use a newer assemble, or set ASSEMBLE_STORE to another directory",
        )
