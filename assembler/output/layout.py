"""An OCI image layout directory (image-layout.md)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from assembler.cancellation import nothing
from assembler.errors import BlobCorrupt
from assembler.linux.claims import held, sweep
from assembler.oci.descriptor import REF_NAME, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Result
from assembler.oci.reference import Reference
from assembler.output.base import Blobs, Check, Refused
from assembler.store.blobs import Blobs as BlobDirectory
from assembler.store.disk import Disk, Fsync, translated
from assembler.store.refs import read_annotated, replace_file, write_index
from assembler.values import replace

AllOf = Callable[[Sequence[Callable[[Check], None]], Check], None]
"""Does several things that check, in whatever order."""

FULL_NAME = "io.containerd.image.name"


def one_by_one(tasks: Sequence[Callable[[Check], None]], check: Check) -> None:
    """Do `tasks` in order."""
    for task in tasks:
        task(check)


class LayoutDirectory:
    """Writes images into the layout at `path`, beside what it holds; a reader never sees half."""

    def __init__(
        self, path: str, reference: str = "", annotations: Mapping[str, str] | None = None
    ) -> None:
        self._path = path
        self._reference = reference
        self._annotations = annotations or {}
        self.name = f"exporting to OCI layout {path}"

    def begin(self, blobs: Blobs, refused: Refused) -> None:
        """None: layers are copied when all are there."""

    def write(self, image: Result, blobs: Blobs, check: Check = nothing) -> Descriptor:
        """See `output.base.Output.write`."""
        try:
            return self._write(image, blobs, check)
        except OSError as error:
            raise translated(error, existing(self._path)) from error

    def reads(self, layer: Descriptor) -> bool:
        """Always: every layer is in what is written."""
        return True

    def _write(self, image: Result, blobs: Blobs, check: Check) -> Descriptor:
        entry = named(image, self._reference, self._annotations)
        write_layout(self._path, entry, image.blobs, blobs, image.documents, check)
        return entry


def write_layout(
    path: str,
    entry: Descriptor,
    blobs: Sequence[Descriptor],
    open: Blobs,
    documents: Mapping[Digest, bytes],
    check: Check = nothing,
    all_of: AllOf = one_by_one,
    *,
    cache: bool = False,
    doubted: Callable[[Descriptor], bool] = lambda blob: False,
) -> None:
    """Have `entry` in the layout at `path`, with the `blobs` and `documents` that it leads to; it
    takes the place of what had its tag. `all_of` brings the blobs. A layout that begins with a
    `cache` is marked as such a one (see `superseded`). What is there already is believed by its size,
    or read where it is `doubted`. Raises OSError, BlobCorrupt, and what `open` raises."""
    os.makedirs(os.path.join(path, "blobs", "sha256"), exist_ok=True)
    with held(path, check):  # writers take turns: a reader sees one after the other
        target = BlobDirectory(path, check, disk=Disk(Fsync.BATCH))
        work = os.path.join(path, "ingest")
        for blob in filter(doubted, blobs):
            with suppress(BlobCorrupt):  # it is gone then
                target.condemn(blob.digest)
        try:  # blobs that are whole stay when one cannot be written, for the next writer to find
            all_of([partial(_put, target, blob, open) for blob in blobs], check)
            for digest, content in documents.items():
                target.put(content, digest.algorithm)
            target.sync()
        finally:
            if os.path.isdir(work):
                sweep(work)
                os.rmdir(work)
        replace_file(os.path.join(path, "oci-layout"), b'{"imageLayoutVersion":"1.0.0"}')
        index, tag = os.path.join(path, "index.json"), entry.annotations.get(REF_NAME)
        entries, annotations = read_annotated(index)
        if cache and not os.path.lexists(index):
            from assembler.output.superseded import CACHES, holds_only

            annotations = {CACHES: "true"} if holds_only(path, entry) else {}
        kept = [old for old in entries if not _replaced(old, entry, tag)]
        write_index(index, [*kept, entry], annotations)


def _put(target: BlobDirectory, blob: Descriptor, open: Blobs, check: Check) -> None:
    if target.size(blob.digest) == blob.size:  # else it was cut short
        return
    with open(blob) as source, target.ingest(algorithm=blob.digest.algorithm) as ingest:
        while chunk := source.read(1 << 20):
            check()
            ingest.write(chunk)
        ingest.commit(blob)


def named(image: Result, reference: str, asked: Mapping[str, str]) -> Descriptor:
    """The descriptor of an image or index as an entry of a layout's index: platform, the annotations
    `asked` for, and the names other tools look for."""
    annotations = dict(asked)
    if reference:
        annotations |= {FULL_NAME: reference, REF_NAME: Reference.parse(reference).tag}
    return replace(image.described, annotations=annotations)


def _replaced(old: Descriptor, new: Descriptor, tag: str | None) -> bool:
    if tag:
        return old.annotations.get(REF_NAME) == tag
    return old.digest == new.digest and not old.annotations.get(REF_NAME)


def existing(path: str) -> str:
    """`path`, or the directory nearest to it that exists."""
    while not os.path.exists(path):
        path = os.path.dirname(path) or "."
    return path
