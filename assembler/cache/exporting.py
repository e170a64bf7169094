"""A shared cache as it is written: the document of what a build knows, and what names its blobs."""

from __future__ import annotations

from assembler.oci.descriptor import CACHE_CONFIG, DOCKER_LIST, INDEX, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.manifest import Document, build, build_index
from assembler.oci.reference import Reference
from assembler.values import value

MODES = ("min", "max")


@value(kw_only=True)
class CacheTarget:
    """One `--cache-to`. `reference` is of a registry; without it `path` is a layout in which it gets
    the tag `tag`, and without either it is in the image (inline).

    `mode` says whose layers: those of the image, or of every stage. `manifest` says that it is an
    image manifest, else an index of blobs. Layers that are in no blob yet are packed in
    `compression` at `level`; with `force` all of them are in it, with `docker` the index is
    Docker's manifest list. What fails is an error unless `ignore_error`. With `mounts`, cache mounts
    go along, each of at most `largest_mount` bytes, 0 for the usual number.
    """

    reference: Reference | None = None
    path: str = ""
    tag: str = "latest"
    mode: str = "min"
    manifest: bool = True
    compression: str = "gzip"
    level: int | None = None
    force: bool = False
    docker: bool = False
    ignore_error: bool = False
    mounts: bool = False
    largest_mount: int = 0

    @property
    def inline(self) -> bool:
        """Whether it is in the image."""
        return self.reference is None and not self.path

    @property
    def name(self) -> str:
        """What people call it."""
        if self.reference is not None:
            return self.reference.familiar
        return self.path or "inline"


def described(content: bytes) -> Descriptor:
    """The descriptor of a serialised cache document."""
    return Descriptor(CACHE_CONFIG, Digest.of(content), len(content))


def document_of(target: CacheTarget, content: bytes, blobs: tuple[Descriptor, ...]) -> Document:
    """What the tag of `target` is to mean: it names the document `content`, and `blobs`."""
    config = described(content)
    if target.manifest:
        return build(config, blobs)
    return build_index((*blobs, config), media_type=DOCKER_LIST if target.docker else INDEX)
