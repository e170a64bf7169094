"""An OCI image layout directory (image-layout.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from assembler.layer.write import nothing
from assembler.linux.claims import held, sweep
from assembler.oci.descriptor import REF_NAME, Descriptor
from assembler.oci.image import Image
from assembler.oci.reference import Reference
from assembler.output.base import Blobs, Check
from assembler.store.blobs import Blobs as BlobDirectory
from assembler.store.disk import Disk, Fsync, translated
from assembler.store.refs import read_index, replace_file, write_index

FULL_NAME = "io.containerd.image.name"


class LayoutDirectory:
    """Writes images into the layout at `path`, beside what it holds; a reader never sees half."""

    def __init__(
        self, path: str, reference: str = "", annotations: Mapping[str, str] | None = None
    ) -> None:
        self._path = path
        self._reference = reference
        self._annotations = annotations or {}
        self.name = f"exporting to OCI layout {path}"

    def write(self, image: Image, blobs: Blobs, check: Check = nothing) -> Descriptor:
        """See `output.base.Output.write`."""
        try:
            return self._write(image, blobs, check)
        except OSError as error:
            raise translated(error, _existing(self._path)) from error

    def reads(self, layer: Descriptor) -> bool:
        """Always: every layer is in what is written."""
        return True

    def _write(self, image: Image, blobs: Blobs, check: Check) -> Descriptor:
        os.makedirs(os.path.join(self._path, "blobs", "sha256"), exist_ok=True)
        with held(self._path, check):  # writers take turns: a reader sees one after the other
            self._put_blobs(image, blobs, check)
            replace_file(os.path.join(self._path, "oci-layout"), b'{"imageLayoutVersion":"1.0.0"}')
            entry = named(image, self._reference, self._annotations)
            index = os.path.join(self._path, "index.json")
            tag = entry.annotations.get(REF_NAME)
            kept = [old for old in read_index(index) if not _replaced(old, entry, tag)]
            write_index(index, [*kept, entry])
        return entry

    def _put_blobs(self, image: Image, blobs: Blobs, check: Check) -> None:
        """Blobs that are whole stay when one cannot be written, for the next writer to find."""
        target = BlobDirectory(self._path, check, disk=Disk(Fsync.BATCH))
        work = os.path.join(self._path, "ingest")
        try:
            self._put_layers(image, blobs, target)
            target.put(image.config_content, image.manifest.config.digest.algorithm)
            target.put(image.manifest.content)
            target.sync()
        finally:
            if os.path.isdir(work):
                sweep(work)
                os.rmdir(work)

    def _put_layers(self, image: Image, blobs: Blobs, target: BlobDirectory) -> None:
        for layer in image.manifest.layers:
            if not target.has(layer.digest):
                algorithm = layer.digest.algorithm
                with blobs(layer) as source, target.ingest(algorithm=algorithm) as ingest:
                    while chunk := source.read(1 << 20):
                        ingest.write(chunk)
                    ingest.commit(layer)


def named(image: Image, reference: str, asked: Mapping[str, str]) -> Descriptor:
    """The manifest's descriptor as an index entry: platform, the annotations `asked` for, and the
    names other tools look for."""
    annotations = dict(asked)
    if reference:
        annotations |= {FULL_NAME: reference, REF_NAME: Reference.parse(reference).tag}
    return replace(
        image.manifest.descriptor, annotations=annotations, platform=image.config.platform
    )


def _replaced(old: Descriptor, new: Descriptor, tag: str | None) -> bool:
    if tag:
        return old.annotations.get(REF_NAME) == tag
    return old.digest == new.digest and not old.annotations.get(REF_NAME)


def _existing(path: str) -> str:
    while not os.path.exists(path):
        path = os.path.dirname(path) or "."
    return path
