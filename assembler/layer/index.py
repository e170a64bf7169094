"""A layer's file index: what its tar says of every path, without the bytes of its files.

It answers what a layer directory answers (`layer.tree`), entry for entry, and nothing need be
unpacked for it. A layer whose names do not stand on their own, because parents or the targets of
hard links are in the layers below, keeps its members in the order of the tar; they are placed when
it is known what is below, by the rules of `layer.directory`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import queue
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, BinaryIO

from assembler.cancellation import nothing
from assembler.errors import BadArchive
from assembler.layer import overlay
from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.decompression import Readable, pieces
from assembler.layer.directory import nowhere
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.layer.members import MemberBytes, Members
from assembler.layer.pipe import DEPTH, Ahead, Beside
from assembler.layer.placement import Placement
from assembler.layer.shelf import Names, Shelf
from assembler.layer.tar_reader import read
from assembler.layer.tree import Lookup, join
from assembler.oci.digest import Digest
from assembler.values import value

_MAGIC = b"assemble layer index 1\n"
_GATHERED = 256 << 10
_LARGEST = 1 << 30  # bytes of an index that is not compressed
_HELD = 100_000  # entries, about, that are held as such
_STRETCH = 4 << 20  # bytes, more than any row has

_KEPT = frozenset(("etc/passwd", "etc/group"))
"""Files whose bytes are in the index: what an owner by name needs (rules C17, K1)."""
_KEPT_SIZE = 64 << 10

_LETTERS = {
    Kind.DIRECTORY: "d",
    Kind.FILE: "f",
    Kind.SYMLINK: "l",
    Kind.HARDLINK: "h",
    Kind.CHARACTER: "c",
    Kind.BLOCK: "b",
    Kind.FIFO: "p",
    Kind.WHITEOUT: "w",
    Kind.OPAQUE: "o",
}
_KINDS = {letter: kind for kind, letter in _LETTERS.items()}

_ENCODER = json.JSONEncoder(separators=(",", ":"))


@value
class LayerIndex:
    """The index of the layer `diff_id`. Where it is `settled`, `blocks` says where in `rows` the
    entries of each directory are; else the only block has all members in the order of the tar."""

    diff_id: Digest
    settled: bool
    root: Entry | None
    opaque: frozenset[str]
    blocks: Mapping[str, tuple[int, int]]
    rows: bytes

    def serialise(self) -> bytes:
        """The index as bytes that `parse` takes and verifies."""
        head = {
            "diff_id": str(self.diff_id),
            "settled": self.settled,
            "root": None if self.root is None else _row(self.root),
            "opaque": sorted(self.opaque),
            "blocks": self.blocks,
        }
        text = _json(head)
        packer = zlib.compressobj(1)
        parts = [packer.compress(b"%d\n%s" % (len(text), text)), packer.compress(self.rows)]
        content = b"".join((*parts, packer.flush()))
        return _MAGIC + hashlib.sha256(content).digest() + content

    @classmethod
    def parse(cls, content: bytes, diff_id: Digest) -> LayerIndex:
        """The index of `diff_id` that was serialised. Raises ValueError for anything else."""
        magic, digest = content[: len(_MAGIC)], content[len(_MAGIC) : len(_MAGIC) + 32]
        packed = memoryview(content)[len(_MAGIC) + 32 :]
        if magic != _MAGIC or hashlib.sha256(packed).digest() != digest:
            raise ValueError(f"no index of the layer {diff_id}")
        unpacker = zlib.decompressobj()
        begin = unpacker.decompress(packed, 20)
        size, _, begin = begin.partition(b"\n")
        left = int(size) - len(begin)
        if left > 0:
            begin += unpacker.decompress(unpacker.unconsumed_tail, min(left, _LARGEST))
        head = json.loads(begin[: int(size)])
        if head["diff_id"] != str(diff_id):
            raise ValueError(f"the index of another layer than {diff_id}")
        root = None if head["root"] is None else _entry("", head["root"], None)
        blocks = {path: (first, last) for path, (first, last) in head["blocks"].items()}
        opaque = frozenset(head["opaque"])
        rows = begin[int(size) :] + unpacker.decompress(unpacker.unconsumed_tail, _LARGEST)
        return cls(diff_id, head["settled"], root, opaque, blocks, rows)

    def below(self, directory: str, members: Members | None) -> dict[str, Entry]:
        """What the settled layer has in `directory`, by name."""
        rows = _parsed(self.rows, *self.blocks.get(directory, (0, 0)))
        return {row[0]: _entry(join(directory, row[0]), row, members) for row in rows}

    def path_of(self, number: int) -> str:
        """The path of the file that is the member `number`, the first of several. Raises KeyError."""
        entries: Iterable[Entry]
        if self.settled:
            entries = (one for path in self.blocks for one in self.below(path, None).values())
        else:
            entries = self.entries(None)
        for entry in entries:
            if isinstance(entry.source, MemberBytes) and entry.source.number == number:
                return entry.path
        raise KeyError(number)

    def entries(self, members: Members | None) -> Iterator[Entry]:
        """The members of a layer that is not settled, in the order of its tar."""
        for row in _parsed(self.rows, 0, len(self.rows)):
            yield _entry(row[0], row, members)


class IndexTree:
    """A layer as its index has it, a `layer.tree.LayerTree`. `lower` are the layers below."""

    def __init__(self, index: LayerIndex, members: Members, lower: Lookup) -> None:
        self._index = index
        self._members = members
        self._lower = lower
        self._guard = threading.Lock()
        self._directories: Shelf | None = None
        self._read: dict[str, Names] = {}
        self._held = 0
        self._opaque: frozenset[str] | set[str] = index.opaque
        self._root = index.root
        if not index.settled:
            placement = Placement(lower.lookup)
            for entry in index.entries(members):
                placement.place(entry)
            self._directories, self._opaque = placement.directories, placement.opaque
            self._root = placement.root

    def lookup(self, path: str) -> Entry | None:
        """See `Tree.lookup`. Parents of `path` must be directories of this layer."""
        if path == "":
            return self._root or self._lower.lookup("")
        directory, _, name = path.rpartition("/")
        return self._below(directory).get(name)

    def children(self, path: str) -> Iterable[Entry]:
        """See `Tree.children`; whiteouts are among them."""
        return [entry for _, entry in sorted(self._below(path).items())]

    def opaque(self, path: str) -> bool:
        """See `LayerTree.opaque`."""
        return path in self._opaque

    def _below(self, directory: str) -> Names:
        with self._guard:
            if self._directories is not None:
                return self._directories.get(directory) or {}
            found = self._read.get(directory)
            if found is None:
                if self._held > _HELD:
                    self._read.clear()
                    self._held = 0
                found = self._read[directory] = self._index.below(directory, self._members)
                self._held += 1 + len(found)
            return found


def index(
    blob: Readable,
    diff_id: Digest,
    *,
    check: Callable[[], None] = nothing,
    limits: Limits = DEFAULT_LIMITS,
) -> LayerIndex:
    """The index of the layer in `blob`, compressed or not, read once to its end.

    `check` is called for each entry and may raise. Raises BadArchive, also when the tar's digest
    is not `diff_id` (T17).
    """
    tar = hashlib.new(diff_id.algorithm)
    decompressed = pieces(blob, limits.size)

    def produce() -> bytes:
        piece = next(decompressed, b"")
        beside.put(piece)
        return piece

    with Beside(tar.update, "digest") as beside, Ahead(produce, "index") as ahead:
        members = read(ahead, limits, layers=True)
        described = (_described(entry, n, body) for n, (entry, body) in enumerate(members))
        made = of_members(described, diff_id, check)
    if tar.hexdigest() != diff_id.hex:
        raise BadArchive(
            f"a layer's content is not what the image configuration says: it has the digest "
            f"{diff_id.algorithm}:{tar.hexdigest()}, not {diff_id}"
        )
    return made


def of_members(
    members: Iterable[Entry], id: Digest, check: Callable[[], None] = nothing
) -> LayerIndex:
    """The index, kept by `id`, of a layer with these members in the order of its tar, each as
    `overlay.shown` has it. Raises BadArchive."""
    placement: Placement | None = Placement(nowhere)
    log = _Rows()
    for entry in members:
        check()
        log.add(entry)
        if placement is not None:
            try:
                placement.place(entry)
            except BadArchive:  # where it matters what is below, it may be no mistake
                if placement.settled:
                    raise
            placement = placement if placement.settled else None
    if placement is None:
        rows = log.whole()
        return LayerIndex(id, False, None, frozenset(), {"": (0, len(rows))}, rows)
    del log
    blocks, rows = _blocks(placement.directories)
    return LayerIndex(id, True, placement.root, frozenset(placement.opaque), blocks, rows)


class Indexer:
    """Indexes a layer while its blob passes through `write`, in a thread of its own.

    Use it with `with`; when the block ends no thread is left. `check` and `limits` as for `index`.
    """

    def __init__(
        self,
        diff_id: Digest,
        check: Callable[[], None] = nothing,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._diff_id = diff_id
        self._check = check
        self._limits = limits
        self._pieces = _Pieces()
        self._index: LayerIndex | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="indexer", daemon=True)

    def write(self, piece: bytes | memoryview) -> None:
        """Take the next bytes of the blob, and keep no view of them. Raises what `index` raised."""
        if self._failure is not None:
            raise self._failure
        if piece:
            self._pieces.put(piece)

    def result(self) -> LayerIndex:
        """The index, once all of the blob was written. Raises what `index` raises."""
        self._end()
        if self._failure is not None:
            raise self._failure
        assert self._index is not None
        return self._index

    def __enter__(self) -> Indexer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pieces.broken = error is not None
        self._end()

    def _end(self) -> None:
        if self._thread.is_alive():
            self._pieces.put(b"")
            self._thread.join()

    def _work(self) -> None:
        try:
            self._index = index(self._pieces, self._diff_id, check=self._check, limits=self._limits)
        except BaseException as error:  # for the thread that writes
            self._failure = error
        finally:
            self._pieces.drain()


class _Pieces(io.RawIOBase):
    """What was put, as a stream; an empty piece is its end."""

    def __init__(self) -> None:
        self._queue: queue.Queue[bytes] = queue.Queue(DEPTH)
        self._gathered: list[bytes] = []
        self._size = 0
        self._rest = b""
        self._ended = False
        self.broken = False

    def put(self, piece: bytes | memoryview) -> None:
        """Little pieces are gathered: each that is handed to another thread has its price."""
        self._gathered.append(bytes(piece))  # a view may change
        self._size += len(piece)
        if self._size >= _GATHERED or not piece:
            self._queue.put(b"".join(self._gathered))
            if not piece and self._size:
                self._queue.put(b"")
            self._gathered.clear()
            self._size = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """What came last, `size` bytes of it at most."""
        if not self._rest and not self._ended:
            self._rest = self._queue.get()
            self._ended = not self._rest
        if self.broken:
            raise BadArchive("the layer did not come to its end")
        found = self._rest if size is None or size < 0 else self._rest[:size]
        self._rest = self._rest[len(found) :]
        return found

    def drain(self) -> None:
        """Take everything up to the end, so that `put` never waits for ever."""
        while not self._ended:
            self._ended = not self._queue.get()


def _described(entry: Entry, number: int, body: BinaryIO) -> Entry:
    """`entry` as a layer directory would show it, its bytes those of the member `number`."""
    entry = overlay.shown(entry)
    if entry.kind is not Kind.FILE:
        return entry
    if entry.path in _KEPT and entry.size <= _KEPT_SIZE:
        return entry._replace(source=InlineBytes(body.read(entry.size)))
    return entry._replace(source=MemberBytes(number, entry.size))


def _blocks(directories: Shelf) -> tuple[dict[str, tuple[int, int]], bytes]:
    blocks: dict[str, tuple[int, int]] = {}
    content = bytearray()
    for path, below in directories.items():
        if below:
            rows, start = _Rows(), len(content)
            for name in sorted(below):
                rows.add(below[name], name)
            content += rows.whole()
            blocks[path] = (start, len(content))
    return blocks, bytes(content)


class _Rows:
    """Entries that become one list of JSON; many are kept as such, and packed: as entries they take
    ten times as much memory."""

    def __init__(self) -> None:
        self._entries: list[tuple[Entry, str]] = []
        self._pieces: list[bytes] = []

    def add(self, entry: Entry, name: str | None = None) -> None:
        self._entries.append((entry, entry.path if name is None else name))
        if len(self._entries) >= _HELD:
            self._pack()

    def _pack(self) -> None:
        for start in range(0, len(self._entries), 1_000):
            some = self._entries[start : start + 1_000]
            self._pieces.append(zlib.compress(_json([_row(*one) for one in some])[1:-1], 1))
        self._entries.clear()

    def whole(self) -> bytes:
        """All of them; none is added any more."""
        if not self._pieces:
            return _json([_row(*one) for one in self._entries])
        self._pack()
        content = bytearray(b"[")
        for piece in self._pieces:
            content += zlib.decompress(piece)
            content += b","
        content[-1:] = b"]"
        return bytes(content)


def _parsed(rows: bytes, first: int, last: int) -> Iterator[list[Any]]:
    """The rows of the list at `rows[first:last]`, one by one: parsed at once, they take more memory
    than their entries. Raises ValueError."""
    decode = json.JSONDecoder().raw_decode
    at = first + 1
    while at < last - 1:
        end = min(at + _STRETCH, last - 1)
        text = rows[at:end].decode("ascii")
        within = 0
        while within < len(text):
            try:
                row, within = decode(text, within)
            except ValueError:
                if end == last - 1 or not within:
                    raise
                break  # the rest of it is in the next stretch
            yield row
            within += 1  # the comma
        at += within


def _row(entry: Entry, name: str = "") -> list[object]:
    """`entry` as JSON: what is usual as a list, the rest by name."""
    row: list[object] = [name, _LETTERS[entry.kind], entry.mode, entry.uid, entry.gid, entry.mtime]
    rest: dict[str, object] = {}
    source = entry.source
    if isinstance(source, InlineBytes):
        rest["bytes"] = base64.b64encode(source.content).decode()
    elif isinstance(source, MemberBytes):
        rest["member"] = source.number
    if entry.size:
        rest["size"] = entry.size
    if entry.link:
        rest["link"] = entry.link
    if entry.inode is not None:
        rest["inode"] = entry.inode[1]
    if entry.device != (0, 0):
        rest["device"] = entry.device
    if entry.xattrs:
        pairs = [(key, base64.b64encode(value).decode()) for key, value in entry.xattrs]
        rest["xattrs"] = pairs
    return [*row, rest] if rest else row


def _entry(path: str, row: list[Any], members: Members | None) -> Entry:
    _, letter, mode, uid, gid, mtime, *more = row
    rest = more[0] if more else {}
    kind, size = _KINDS[letter], rest.get("size", 0)
    source: InlineBytes | MemberBytes | None = None
    if "bytes" in rest:
        source = InlineBytes(base64.b64decode(rest["bytes"]))
    elif "member" in rest:
        source = MemberBytes(rest["member"], size, members)
    inode = (-id(members), rest["inode"]) if "inode" in rest else None
    pairs = [(key, base64.b64decode(value)) for key, value in rest.get("xattrs", ())]
    device = tuple(rest.get("device", (0, 0)))
    link, xattrs = rest.get("link", ""), tuple(pairs)
    return Entry(path, kind, mode, uid, gid, mtime, size, link, device, xattrs, source, inode)


def _json(value: object) -> bytes:
    return _ENCODER.encode(value).encode("ascii")
