"""A packed layer to a layer directory, verified on the way (image-spec layer.md, "Applying")."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Set
from typing import BinaryIO

from assembler.cancellation import nothing
from assembler.errors import BadArchive
from assembler.layer.changeset import Entry, Kind
from assembler.layer.decompression import pieces
from assembler.layer.directory import LayerDirectory, Lower, nowhere
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.layer.pipe import Ahead
from assembler.layer.realise import fill_from_source
from assembler.layer.sparse import SparseBody
from assembler.layer.tar_reader import read, too_many
from assembler.oci.digest import Digest
from assembler.values import value

_PIECE = 1 << 20
EVERY_KIND = frozenset(Kind)


@value
class Unpacked:
    """The number of entries."""

    entries: int


def unpack(
    blob: BinaryIO,
    into: str,
    *,
    diff_id: Digest | None = None,
    check: Callable[[], None] = nothing,
    lower: Lower = nowhere,
    limits: Limits = DEFAULT_LIMITS,
    kinds: Set[Kind] = EVERY_KIND,
    whiteouts: bool = True,
) -> Unpacked:
    """Fill the existing, empty directory `into` with the layer in `blob`, compressed or not.

    `lower` tells what the layers below have at a path: the attributes of directories and the links
    that this layer's names go through without naming them, and the files that its hard links mean.
    `check` is called for each entry and MiB and may raise. Without `whiteouts` it is no layer of an
    image: names that mean some are names of files. Raises BadArchive, also when an entry is
    of none of `kinds` or the tar's digest is not `diff_id` (T17), and what `LayerDirectory` raises;
    `into` is to be thrown away then.
    """
    tar = hashlib.new(diff_id.algorithm if diff_id else "sha256")
    decompressed = pieces(blob, limits.size, check)

    def produce() -> bytes:
        piece = next(decompressed, b"")
        tar.update(piece)
        return piece

    count = 0
    with Ahead(produce, "unpack") as ahead, LayerDirectory(into, lower) as directory:
        for entry, body in read(io.BufferedReader(ahead, _PIECE), limits, layers=whiteouts):
            check()
            if entry.kind not in kinds:
                raise BadArchive(f"{entry.path!r} is a {entry.kind.value}", entry.path)
            directory.place(entry, _filler(entry, body, check))
            count += 1
            if count + directory.implied > limits.entries:
                raise too_many(f"more than {limits.entries} files and directories")
        directory.finish()
    if diff_id is not None and tar.hexdigest() != diff_id.hex:
        raise BadArchive(
            f"a layer's content is not what the image configuration says: it has the digest "
            f"{diff_id.algorithm}:{tar.hexdigest()}, not {diff_id}"
        )
    return Unpacked(count)


def _filler(
    member: Entry, body: BinaryIO, check: Callable[[], None]
) -> Callable[[int, Entry], None]:
    def fill(descriptor: int, entry: Entry) -> None:
        if entry.source is not None:  # a lower layer's file, for a hard link to it
            fill_from_source(descriptor, entry, check)
        elif isinstance(body, SparseBody):
            for offset, piece in body.parts(_PIECE):
                check()
                os.lseek(descriptor, offset, os.SEEK_SET)
                _write(descriptor, piece)
            os.ftruncate(descriptor, member.size)
        else:
            left = member.size
            while left:
                piece = body.read(min(left, _PIECE))
                if not piece:
                    raise BadArchive(f"{member.path!r} has fewer bytes than it says", member.path)
                left -= len(piece)
                _write(descriptor, piece)
                if left:
                    check()

    return fill


def _write(descriptor: int, piece: bytes) -> None:
    written = os.write(descriptor, piece)
    if written < len(piece):
        rest = memoryview(piece)[written:]
        while rest:
            rest = rest[os.write(descriptor, rest) :]
