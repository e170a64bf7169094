"""A layer's file index: what its tar says of every path, without the bytes of its files.

It answers what a layer directory answers (`layer.tree`), entry for entry, and nothing need be
unpacked for it. A layer whose names do not stand on their own, because parents or the targets of
hard links are in the layers below, keeps its members in the order of the tar; they are placed when
it is known what is below, by the rules of `layer.directory`.
"""

from __future__ import annotations

import hashlib
import json
import threading
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from assembler.cancellation import nothing
from assembler.errors import BadArchive
from assembler.layer import overlay
from assembler.layer.changeset import Entry, InlineBytes, Kind, walk_order
from assembler.layer.decompression import Readable, pieces
from assembler.layer.directory import nowhere
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.layer.members import MemberBytes, Members, Numbers
from assembler.layer.pipe import Ahead, Beside
from assembler.layer.placement import Placement
from assembler.layer.rows import Blocks, Names, encoded, entry_of, listed, parsed, row
from assembler.layer.tar_reader import read
from assembler.layer.tree import Lookup
from assembler.oci.digest import Digest
from assembler.values import value

_MAGIC = b"assemble layer index 2\n"
_LARGEST = 1 << 30  # bytes of the head of an index
_HELD = 48  # blocks of an index that are held as entries
_LOGGED = 50_000  # members, about, that are held as such until it is known whether they are settled

_KEPT = frozenset(("etc/passwd", "etc/group"))
"""Files whose bytes are in the index: what an owner by name needs (rules C17, K1)."""
_KEPT_SIZE = 64 << 10


@value
class LayerIndex:
    """The index of the layer `diff_id`. Where it is `settled`, `blocks` have the entries of each
    directory, and `starts` says with which of whose each begins, in the order of `walk_order` of the
    directory and then of names; else they have all members in the order of the tar."""

    diff_id: Digest
    settled: bool
    root: Entry | None
    opaque: frozenset[str]
    starts: tuple[tuple[str, str], ...]
    blocks: tuple[bytes | memoryview, ...]

    def serialise(self) -> Iterator[bytes | memoryview]:
        """The index as pieces of what `parse` takes and verifies."""
        head = {
            "diff_id": str(self.diff_id),
            "settled": self.settled,
            "root": None if self.root is None else row(self.root),
            "opaque": sorted(self.opaque),
            "starts": self.starts,
            "sizes": [len(block) for block in self.blocks],
        }
        packed = zlib.compress(encoded(head), 1)
        pieces = (b"%d\n" % len(packed), packed, *self.blocks)
        hasher = hashlib.sha256()
        for piece in pieces:
            hasher.update(piece)
        yield _MAGIC + hasher.digest()
        yield from pieces

    @classmethod
    def parse(cls, content: bytes, diff_id: Digest) -> LayerIndex:
        """The index of `diff_id` that was serialised. Raises ValueError for anything else."""
        magic, digest = content[: len(_MAGIC)], content[len(_MAGIC) : len(_MAGIC) + 32]
        rest = memoryview(content)[len(_MAGIC) + 32 :]
        if magic != _MAGIC or hashlib.sha256(rest).digest() != digest:
            raise ValueError(f"no index of the layer {diff_id}")
        size, _, _ = bytes(rest[:20]).partition(b"\n")
        at = len(size) + 1
        head = json.loads(zlib.decompressobj().decompress(rest[at : at + int(size)], _LARGEST))
        if head["diff_id"] != str(diff_id):
            raise ValueError(f"the index of another layer than {diff_id}")
        at += int(size)
        blocks = []
        for size in head["sizes"]:
            blocks.append(rest[at : at + size])
            at += size
        root = None if head["root"] is None else entry_of("", head["root"], None)
        starts = tuple((directory, name) for directory, name in head["starts"])
        opaque = frozenset(head["opaque"])
        return cls(diff_id, head["settled"], root, opaque, starts, tuple(blocks))

    def below(self, directory: str, members: Members | None) -> dict[str, Entry]:
        """What the settled layer has in `directory`, by name."""
        found: dict[str, Entry] = {}
        for number in self.holding(directory):
            found |= parsed(self.blocks[number], members).get(directory, {})
        return found

    def holding(self, directory: str) -> range:
        """The blocks in which something of `directory` may be, one after another."""
        above = walk_order(directory)
        first = bisect_left(self.starts, above, key=_directory) - 1
        return range(max(0, first), bisect_right(self.starts, above, key=_directory))

    def block_of(self, directory: str, name: str) -> int:
        """The block in which `name` in `directory` is, if it is there."""
        return max(0, bisect_right(self.starts, (walk_order(directory), name), key=_start) - 1)

    def paths_of(self, numbers: Numbers) -> dict[int, str]:
        """The paths of the files that are the members `numbers`, of each the first of several."""
        found: dict[int, str] = {}
        for entry in self.entries(None):
            if isinstance(entry.source, MemberBytes) and entry.source.number in numbers:
                found.setdefault(entry.source.number, entry.path)
        return found

    def entries(self, members: Members | None) -> Iterator[Entry]:
        """All there are: of a layer that is not settled, the members in the order of its tar."""
        for block in self.blocks:
            yield from listed(block, members)


def _directory(start: tuple[str, str]) -> str:
    return walk_order(start[0])


def _start(start: tuple[str, str]) -> tuple[str, str]:
    return walk_order(start[0]), start[1]


class IndexTree:
    """A layer as its index has it, a `layer.tree.LayerTree`. `lower` are the layers below, `spool` is
    a directory for what is too much for memory."""

    def __init__(self, index: LayerIndex, members: Members, lower: Lookup, spool: str = "") -> None:
        self._index = index
        self._members = members
        self._lower = lower
        self._guard = threading.Lock()
        self._held: dict[int, dict[str, Names]] = {}
        self._opaque: frozenset[str] | set[str] = index.opaque
        self._root = index.root
        self._find: Callable[[str], Entry | None] = self._indexed
        self._list: Callable[[str], Iterable[Entry]] = self._listed
        if not index.settled:
            placement = Placement(lower.lookup, spool)
            for entry in index.entries(members):
                placement.place(entry)
            self._opaque, self._root = placement.opaque, placement.root
            self._list, self._find = placement.entries.children(), placement.entries.get

    def lookup(self, path: str) -> Entry | None:
        """See `Tree.lookup`. Parents of `path` must be directories of this layer."""
        return self._find(path) if path else self._root or self._lower.lookup("")

    def children(self, path: str) -> Iterable[Entry]:
        """See `Tree.children`; whiteouts are among them."""
        return self._list(path)

    def opaque(self, path: str) -> bool:
        """See `LayerTree.opaque`."""
        return path in self._opaque

    def _indexed(self, path: str) -> Entry | None:
        directory, _, name = path.rpartition("/")
        if not self._index.blocks:
            return None
        block = self._block(self._index.block_of(directory, name))
        return block.get(directory, {}).get(name)

    def _listed(self, path: str) -> Iterator[Entry]:
        for number in self._index.holding(path):
            yield from self._block(number).get(path, {}).values()

    def _block(self, number: int) -> dict[str, Names]:
        with self._guard:
            found = self._held.pop(number, None)
            if found is None:
                found = parsed(self._index.blocks[number], self._members)
                if len(self._held) >= _HELD:
                    del self._held[next(iter(self._held))]
            self._held[number] = found
            return found


def index(
    blob: Readable,
    diff_id: Digest,
    *,
    check: Callable[[], None] = nothing,
    limits: Limits = DEFAULT_LIMITS,
    spool: str = "",
) -> LayerIndex:
    """The index of the layer in `blob`, compressed or not, read once to its end.

    `check` is called for each entry and MiB and may raise. What is too much for memory goes into
    the directory `spool` meanwhile. Raises BadArchive, also when the tar's digest is not `diff_id`
    (T17).
    """
    tar = hashlib.new(diff_id.algorithm)
    decompressed = pieces(blob, limits.size, check)

    def produce() -> bytes:
        piece = next(decompressed, b"")
        beside.put(piece)
        return piece

    with Beside(tar.update, "digest") as beside, Ahead(produce, "index") as ahead:
        members = read(ahead, limits, layers=True)
        described = (_described(entry, n, body) for n, (entry, body) in enumerate(members))
        made = of_members(described, diff_id, check, spool)
    if tar.hexdigest() != diff_id.hex:
        raise BadArchive(
            f"a layer's content is not what the image configuration says: it has the digest "
            f"{diff_id.algorithm}:{tar.hexdigest()}, not {diff_id}"
        )
    return made


def of_members(
    members: Iterable[Entry],
    id: Digest,
    check: Callable[[], None] = nothing,
    spool: str = "",
) -> LayerIndex:
    """The index, kept by `id`, of a layer with these members in the order of its tar, each as
    `overlay.shown` has it; `spool` as for `index`. Raises BadArchive."""
    placement: Placement | None = Placement(nowhere, spool)
    log = Blocks(_LOGGED)
    for entry in members:
        check()
        log.add("", entry.path, entry)
        if placement is not None:
            try:
                placement.place(entry)
            except BadArchive:  # where it matters what is below, it may be no mistake
                if placement.settled:
                    raise
            placement = placement if placement.settled else None
    if placement is None:
        return LayerIndex(id, False, None, frozenset(), (), log.whole())
    del log
    made = Blocks()
    for entry in placement.entries.entries():
        made.add(*entry.path.rpartition("/")[::2], entry)
    placement.entries.close()
    opaque, blocks = frozenset(placement.opaque), made.whole()
    return LayerIndex(id, True, placement.root, opaque, tuple(made.starts), blocks)


def _described(entry: Entry, number: int, body: BinaryIO) -> Entry:
    """`entry` as a layer directory would show it, its bytes those of the member `number`."""
    entry = overlay.shown(entry)
    if entry.kind is not Kind.FILE:
        return entry
    if entry.path in _KEPT and entry.size <= _KEPT_SIZE:
        return entry._replace(source=InlineBytes(body.read()))
    return entry._replace(source=MemberBytes(number, entry.size))
