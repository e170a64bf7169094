"""The table of contents of a zstd:chunked layer as a file index: what is at each path is known from
a few bytes of the blob.

The layer's descriptor has the table's digest, so the table is as good as the manifest; but nothing
says that it tells the same as the tar. It is kept by its own digest, never by the layer's diff_id:
an image that lies about its layer changes no other image's.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from assembler.errors import BadArchive
from assembler.layer import overlay
from assembler.layer.changeset import Entry, Kind
from assembler.layer.fields import identity, node, normalise
from assembler.layer.index import LayerIndex, of_members
from assembler.layer.limits import DEFAULT_LIMITS
from assembler.layer.members import MemberBytes, Numbers, gather
from assembler.layer.tar_reader import SKIPPED, whiteout
from assembler.layer.tree import Lookup, resolve
from assembler.oci.descriptor import CHUNKED_CHECKSUM, CHUNKED_POSITION, Descriptor
from assembler.oci.digest import Digest
from assembler.values import value

_LARGEST = 64 << 20  # bytes of a table; where there are more, the layer itself is read
_CRFS = "1"
_UNREADABLE = (BadArchive, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
_DECODER = json.JSONDecoder()
_START = re.compile(r'"entries"\s*:\s*\[\s*')
_SEPARATOR = re.compile(r"\s*(?:,\s*(?=\{)|(?=\]))")
_KINDS = {
    "dir": Kind.DIRECTORY,
    "reg": Kind.FILE,
    "symlink": Kind.SYMLINK,
    "hardlink": Kind.HARDLINK,
    "char": Kind.CHARACTER,
    "block": Kind.BLOCK,
    "fifo": Kind.FIFO,
}


@value
class Table:
    """Where in its blob a layer's table is: `size` compressed bytes at `offset`."""

    digest: Digest
    offset: int
    size: int

    @classmethod
    def of(cls, layer: Descriptor) -> Table | None:
        """The table that the annotations of `layer` tell of, None where there is none to be read."""
        position = layer.annotations.get(CHUNKED_POSITION, "").split(":")
        try:
            digest = Digest.parse(layer.annotations.get(CHUNKED_CHECKSUM, ""))
            offset, size, plain = map(int, position[:3])
        except ValueError:
            return None
        inside = 0 <= offset <= offset + size <= layer.size
        if position[3:] != [_CRFS] or not inside or not 0 < plain <= _LARGEST:
            return None
        return cls(digest, offset, size)

    def index(self, content: bytes, spool: str = "") -> LayerIndex:
        """The index that the table, `content`, amounts to; members are numbered as in the table.
        `spool` as for `layer.index.index`. Raises ValueError for bytes that are not the table's, and
        for what cannot be read."""
        import zstandard

        if not self.digest.matches(content):
            raise ValueError("a table of contents with another digest")
        try:
            with zstandard.ZstdDecompressor().stream_reader(content) as stream:
                text = stream.read(_LARGEST + 1).decode()
            return of_members(_entries(text), self.digest, spool=spool)
        except _UNREADABLE as error:
            raise ValueError(f"an unreadable table of contents: {error}") from error
        except zstandard.ZstdError as error:
            raise ValueError(f"a damaged table of contents: {error}") from error


class MembersByPath:
    """The bytes of members of a table, which are those of the same paths in `tree`, made when one is
    asked for: the layer by its own index."""

    def __init__(self, index: LayerIndex, tree: Callable[[], Lookup]) -> None:
        self._index = index
        self._tree = tree
        self._lock = threading.Lock()
        self._made: Lookup | None = None
        self._paths: dict[int, str] = {}

    def take(self, numbers: Iterable[int]) -> None:
        """See `Members.take`."""
        wanted = list(numbers)
        self._find(wanted)
        gather(entry for number in wanted if (entry := self._entry(number)) is not None)

    def open(self, number: int) -> BinaryIO:
        """See `Members.open`. Raises BadArchive where the table tells of more than the layer."""
        entry = self._entry(number)
        if entry is None or entry.source is None:
            raise BadArchive(
                "a layer's table of contents names a file that the layer does not hold"
            )
        return entry.source.open()

    def _find(self, numbers: Iterable[int]) -> None:
        """Have the paths of `numbers` known, those of all of them in one pass."""
        with self._lock:
            missing = Numbers(number for number in numbers if number not in self._paths)
            if missing.last >= 0:
                self._paths |= self._index.paths_of(missing)

    def _entry(self, number: int) -> Entry | None:
        self._find((number,))
        with self._lock:
            if self._made is None:
                self._made = self._tree()
        return self._made.lookup(resolve(self._made, self._paths[number]))


def _rows(text: str) -> Iterator[dict[str, Any]]:
    """The rows one by one: all of them at once would take ten times the table's memory."""
    start = _START.search(text) if len(text) <= _LARGEST else None
    if start is None:
        raise ValueError("a table of contents without entries, or too large")
    at = start.end()
    while text[at : at + 1] != "]":
        row, at = _DECODER.raw_decode(text, at)
        if row["type"] != "chunk":
            yield row
        separator = _SEPARATOR.match(text, at)
        if separator is None:
            raise ValueError("a damaged table of contents")
        at = separator.end()


def _entries(text: str) -> Iterator[Entry]:
    for number, row in enumerate(_rows(text)):
        name = _text(row["name"])
        kind, path = _KINDS[row["type"]], normalise(name)
        marker = whiteout(path, name)
        if marker is not None:
            if marker.path != SKIPPED:
                yield marker
            continue
        device = node(int(row.get("devMajor", 0)), int(row.get("devMinor", 0)))
        if kind is Kind.CHARACTER and device == (0, 0):
            yield Entry(path, Kind.WHITEOUT)
            continue
        size = int(row.get("size", 0)) if kind is Kind.FILE else 0
        link = _text(row.get("linkName", ""))
        if size < 0 or (kind is Kind.SYMLINK and not link):
            raise BadArchive(f"{name!r} cannot be", name)
        pairs = row.get("xattrs") or {}
        xattrs = tuple(sorted((_text(key), base64.b64decode(text)) for key, text in pairs.items()))
        entry = Entry(
            path,
            kind,
            int(row.get("mode", 0)) & 0o7777,
            identity(int(row.get("uid", 0)), name),
            identity(int(row.get("gid", 0)), name),
            _nanoseconds(row.get("modtime", "")),
            size,
            normalise(link) if kind is Kind.HARDLINK else link,
            device,
            xattrs,
            MemberBytes(number, size) if kind is Kind.FILE else None,
        )
        yield overlay.shown(entry)


def _text(text: str) -> str:
    """`text` where it may be a name, as bytes too: what is no UTF-8 has no form in JSON, and a
    replacement character in its place. Raises ValueError, and TypeError for what is no text."""
    if "\0" in text or "\ufffd" in text or len(text.encode()) > DEFAULT_LIMITS.name:
        raise ValueError("a table of contents with an impossible name")
    return text


def _nanoseconds(text: str) -> int:
    """The time that RFC 3339 text tells. Raises ValueError."""
    from datetime import datetime

    if not text:
        return 0
    whole, point, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    moment = datetime.fromisoformat(whole + (rest[len(digits) :] if point else ""))
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    seconds = int(moment.timestamp())
    return seconds * 1_000_000_000 + int(digits[:9].ljust(9, "0") or 0)
