"""A changeset to a packed layer in one pass: read, tar, hash, compress, hash, write (decision 1)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from operator import lt
from typing import TYPE_CHECKING, BinaryIO, Protocol

from assembler.cancellation import nothing
from assembler.errors import BadArchive
from assembler.layer.changeset import Entry, Kind, walk_order
from assembler.layer.compression import Compression, Ending, Plain
from assembler.layer.entry_map import SpilledChangeset
from assembler.layer.pipe import Ahead, Behind
from assembler.layer.tar_writer import ARENA, Seen, TarWriter
from assembler.linux.beneath import Openings
from assembler.oci.digest import Digest
from assembler.values import field, value

if TYPE_CHECKING:
    from assembler.layer.boundaries import Members

_PIECE = 1 << 20


class Writable(Protocol):
    """Where the packed bytes go."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take `data`, and keep nothing of it; an int is the number of bytes taken, anything else
        means all of them."""
        ...


@value
class Packed:
    """What was written: `digest` and `size` of the blob, `diff_id` and `uncompressed_size` of the
    tar inside it, the number of entries, the `annotations` that its descriptor must have, and a
    `note` for the user where the format fell short (see `compression.Ending`)."""

    diff_id: Digest
    digest: Digest
    size: int
    entries: int
    uncompressed_size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def pack(
    entries: Iterable[Entry],
    sink: Writable,
    compression: Compression,
    *,
    epoch: int | None = None,
    check: Callable[[], None] = nothing,
    seen: Seen | None = None,
) -> Packed:
    """Write `entries` as a layer to `sink`; the order they come in does not show in the bytes.

    Modification times later than `epoch` (seconds) become it. `check` is called for each MiB
    of the tar and may raise. `seen` is told the digest of each file's bytes. Raises what
    `TarWriter.add_all`, `sink` and `check` raise; no thread is left then, and what reached `sink`
    is to be thrown away.
    """
    ordered = entries if isinstance(entries, SpilledChangeset) else canonical(entries)
    check()
    return pack_ordered(ordered, sink, compression, epoch=epoch, check=check, seen=seen)


def pack_ordered(
    entries: Iterable[Entry],
    sink: Writable,
    compression: Compression,
    *,
    epoch: int | None = None,
    fractions: bool = False,
    check: Callable[[], None] = nothing,
    seen: Seen | None = None,
    whiteouts: bool = True,
) -> Packed:
    """As `pack`, of entries that come in canonical order: each is asked for when it is written.
    With `fractions`, modification times have nanoseconds; without `whiteouts` no name means one."""
    blob = _Blob(sink, compression, check)
    count = 0

    def counted() -> Iterator[Entry]:
        nonlocal count
        for entry in entries:
            count += 1
            yield entry

    try:
        with Openings() as near, Behind(blob.take, "pack", ARENA) as behind:

            def hand_over(piece: memoryview) -> None:
                check()
                behind.put(piece)

            writer = TarWriter(
                hand_over,
                arena=behind.arena,
                epoch=epoch,
                fractions=fractions,
                near=near,
                seen=seen,
                whiteouts=whiteouts,
            )
            writer.add_all(counted())
            writer.close()
        return blob.finish(count)
    finally:
        blob.abort()


def repack(
    tar: BinaryIO,
    sink: Writable,
    compression: Compression,
    *,
    diff_id: Digest,
    check: Callable[[], None] = nothing,
    ended: bool = False,
) -> Packed:
    """Write the tar in `tar` as a layer to `sink`, byte for byte; `Packed.entries` is 0. With `ended`
    it ends where its end mark says, as before eStargz put its table behind that. Otherwise as `pack`.
    Raises BadArchive where it has not the digest `diff_id` (T17)."""
    blob = _Blob(sink, compression, check)
    found = hashlib.new(diff_id.algorithm)
    members = _until_its_end(blob) if ended else None
    known = members is None and diff_id.algorithm == "sha256"  # to the blob
    try:
        with Ahead(lambda: tar.read(_PIECE), "unpack") as ahead:
            while piece := ahead.read(_PIECE):
                check()
                if not known:
                    found.update(piece)
                if members is None:
                    blob.take(memoryview(piece))
                else:
                    members.feed(piece)
        if members is not None:
            members.end()
        whole = blob.tar_digest if known else Digest(diff_id.algorithm, found.hexdigest())
        if whole != diff_id:
            raise BadArchive(
                f"a layer's content is not what the image configuration says: it has the digest "
                f"{whole}, not {diff_id}"
            )
        return blob.finish(0)
    finally:
        blob.abort()


def _until_its_end(blob: _Blob) -> Members:
    from assembler.layer.boundaries import Members, UntilEnd

    return Members(UntilEnd(blob.take))


def canonical(entries: Iterable[Entry]) -> list[Entry]:
    """The entries in the order of a sorted walk: each directory before what is in it.

    At one path a whiteout comes before what replaces it, and an opaque mark after its directory.
    Of several entries for a path the last one counts. Of a file's hard links the first one in this
    order carries the data, whichever did before.
    """
    result = list(entries)
    keys = [walk_order(entry.path) for entry in result]
    if not all(map(lt, keys, islice(keys, 1, None))):  # walks give them sorted, each path once
        ordered = {(key, _rank(entry.kind)): entry for key, entry in zip(keys, result, strict=True)}
        result = [ordered[place] for place in sorted(ordered)]
    links = [entry for entry in result if entry.kind is Kind.HARDLINK]
    return _with_data_first(result, links) if links else result


def _rank(kind: Kind) -> int:
    return 0 if kind is Kind.WHITEOUT else 2 if kind is Kind.OPAQUE else 1


def _with_data_first(result: list[Entry], links: list[Entry]) -> list[Entry]:
    place = {
        entry.path: number
        for number, entry in enumerate(result)
        if entry.kind not in (Kind.WHITEOUT, Kind.OPAQUE)
    }
    groups: dict[str, list[int]] = {}
    for link in links:
        target = link.link
        for _ in links:  # a link may name another link
            found = place.get(target)
            if found is None or result[found].kind is not Kind.HARDLINK:
                break
            target = result[found].link
        if target in place:
            groups.setdefault(target, []).append(place[link.path])
    original = list(result)
    for target, numbers in groups.items():
        data = original[place[target]]
        if data.kind is Kind.HARDLINK:  # links in a circle: left as they are
            continue
        first, *rest = sorted([place[target], *numbers])
        result[first] = data._replace(path=original[first].path)
        for number in rest:
            result[number] = data._replace(
                path=original[number].path,
                kind=Kind.HARDLINK,
                link=original[first].path,
                size=0,
                xattrs=(),
                source=None,
            )
    return result


class _Blob:
    """The worker's side: hash, compress, hash, write."""

    def __init__(self, sink: Writable, compression: Compression, check: Callable[[], None]) -> None:
        self._sink = sink
        self._tar = hashlib.sha256()
        self._plain = isinstance(compression, Plain)  # then both digests are one
        self._blob = self._tar if self._plain else hashlib.sha256()
        self._tar_size = 0
        self._blob_size = 0
        self._stream = compression.writer(self._write, check)

    def take(self, piece: memoryview) -> None:
        self._tar.update(piece)
        self._tar_size += len(piece)
        self._stream.write(piece)

    @property
    def tar_digest(self) -> Digest:
        return Digest("sha256", self._tar.hexdigest())

    def finish(self, entries: int) -> Packed:
        ending = self._stream.close() or Ending()
        ending.added(self._take_added)
        return Packed(
            diff_id=self.tar_digest,
            digest=Digest("sha256", self._blob.hexdigest()),
            size=self._blob_size,
            entries=entries,
            uncompressed_size=self._tar_size,
            annotations=ending.annotations,
            note=ending.note,
        )

    def _take_added(self, piece: bytes | memoryview) -> None:
        self._tar.update(piece)
        self._tar_size += len(piece)

    def abort(self) -> None:
        self._stream.abort()

    def _write(self, data: bytes | memoryview) -> None:
        if not self._plain:
            self._blob.update(data)
        self._blob_size += len(data)
        rest = memoryview(data)
        while rest:
            taken = self._sink.write(rest)
            if not isinstance(taken, int) or taken >= len(rest):
                return
            rest = rest[taken:]
