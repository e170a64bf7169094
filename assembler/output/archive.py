"""One tar that is an OCI layout, and for `docker` a docker archive too (ecosystem 1.6)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

from assembler.cancellation import nothing
from assembler.layer.changeset import ByteSource, Entry, InlineBytes, Kind
from assembler.layer.tar_writer import TarWriter
from assembler.oci.descriptor import INDEX, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Result
from assembler.oci.reference import Reference
from assembler.output.base import Blobs, Check, Refused
from assembler.output.layout import named
from assembler.output.stream import sink, written
from assembler.store.blobs import Verified


@dataclass(frozen=True, slots=True)
class _Blob:
    descriptor: Descriptor
    blobs: Blobs

    def open(self) -> BinaryIO:
        return cast(BinaryIO, Verified(self.blobs(self.descriptor), self.descriptor.digest))


class Archive:
    """Writes one image, or an index with its images, to the file `path`, or to stdout for `-`. Files
    appear whole or not at all."""

    def __init__(
        self,
        path: str,
        references: Sequence[str],
        *,
        docker: bool,
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        self._path = path
        self._references = tuple(references)
        self._docker = docker
        self._annotations = annotations or {}
        self.name = f"exporting to {'docker' if docker else 'OCI'} archive {path}"

    def begin(self, blobs: Blobs, refused: Refused) -> None:
        """None: an archive is written in one go."""

    def write(self, image: Result, blobs: Blobs, check: Check = nothing) -> Descriptor:
        """See `output.base.Output.write`."""
        written(self._path, lambda stream: self._pack(image, blobs, stream, check), check)
        return image.document.descriptor

    def reads(self, layer: Descriptor) -> bool:
        """Always: every layer is in what is written."""
        return True

    def _pack(self, image: Result, blobs: Blobs, stream: BinaryIO, check: Check) -> None:
        writer = TarWriter(sink(stream, check))
        for path in ("blobs", "blobs/sha256"):
            writer.add(Entry(path, Kind.DIRECTORY, mode=0o755))
        for digest, content in image.documents.items():
            writer.add(_file(_path(digest), len(content), InlineBytes(content)))
        for layer in image.blobs:
            writer.add(_file(_path(layer.digest), layer.size, _Blob(layer, blobs)))
        for name, content in self._documents(image).items():
            writer.add(_file(name, len(content), InlineBytes(content)))
        writer.close()

    def _documents(self, image: Result) -> dict[str, bytes]:
        entries = [
            named(image, name, self._annotations).to_document()
            for name in self._references or ("",)
        ]
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        documents = {
            "index.json": json.dumps(index, separators=(",", ":")).encode(),
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        }
        if self._docker:
            assert isinstance(image, Image)  # `cli.outputs` asks for no index here
            legacy = {
                "Config": _path(image.manifest.config.digest),
                "RepoTags": self._tags() or None,
                "Layers": [_path(layer.digest) for layer in image.manifest.layers],
            }
            documents["manifest.json"] = json.dumps([legacy], separators=(",", ":")).encode()
        return documents

    def _tags(self) -> list[str]:
        return [Reference.parse(name).familiar for name in self._references]


def _path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _file(path: str, size: int, source: ByteSource) -> Entry:
    return Entry(path, Kind.FILE, mode=0o644, size=size, source=source)
