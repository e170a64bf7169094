"""Tar bytes to entries, strictly: what cannot be trusted is BadArchive, never a silent end.

Reads ustar, pax, GNU and star archives with long names, base-256 numbers and sparse files (in
`sparse`). The standard library's reader stops without an error at a damaged header (reliability.md
0, finding 3), which would lose files; Go's reader, by which images are checked everywhere else, is
the model for what is accepted (T10 to T13).
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from assembler.errors import BadArchive
from assembler.layer import fields
from assembler.layer.changeset import Entry, Kind
from assembler.layer.decompression import Readable
from assembler.layer.fields import normalise
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.layer.sparse import Segments, SparseBody, check_holes, gnu_map, pax_map
from assembler.values import field, mutable

BLOCK = 512

_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"S": Kind.FILE,
    b"1": Kind.HARDLINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER,
    b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}
_XATTR = b"SCHILY.xattr."
_NAMES = frozenset((b"path", b"linkpath", b"GNU.sparse.name"))
_MAX_EXTENDED = 100


def read(
    stream: Readable, limits: Limits = DEFAULT_LIMITS, *, layers: bool = False
) -> Iterator[tuple[Entry, BinaryIO]]:
    """Each member of the tar in `stream` with its bytes, which can be read until the next step.

    Paths are normalised: no leading or trailing slash, no `.`, and `..` stops at the root; "" is
    the root directory. A symlink's text is verbatim, a hard link's is normalised. With `layers`,
    `.wh.` names become whiteouts and opaque marks (image-spec layer.md, "Whiteouts"). Global pax
    headers are checked and then, as by Docker, not applied. The end may be missing its zero blocks;
    what follows them is read to the end of `stream`, because a layer's digest covers it. Raises
    BadArchive.
    """
    source = _Source(stream)
    state = _Extensions(limits)
    count = extended = 0
    last = ""
    while (header := source.header(last)) is not None:
        kind = header[156:157]
        if kind in _EXTENSIONS:
            extended += 1
            if extended > _MAX_EXTENDED:
                raise BadArchive(f"more than {_MAX_EXTENDED} extended headers in a row")
            state.take(kind, source, header)
            continue
        extended = 0
        count += 1
        if count > limits.entries:
            raise too_many(f"more than {limits.entries} members")
        entry, body = _member(source, header, state, layers)
        state.clear()
        if entry is not None:
            last = entry.path
            yield entry, body
        source.finish_body(last)
    if not state.empty:
        raise BadArchive("an extended header at the end belongs to no member")
    source.drain()


def too_many(message: str) -> BadArchive:
    """The error of more `entries` than `Limits` has."""
    return BadArchive(message, hint="ASSEMBLE_MAX_ENTRIES allows more")


def _after(last: str) -> str:
    return f" after {last!r}" if last else ""


class _Source:
    """The archive as blocks, with the body of the current member."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._skip: Callable[[int], int] | None = getattr(stream, "skip", None)  # as `pipe.Ahead`
        self._left = 0
        self._padding = 0
        self._sparse = 0
        self._present = 0

    def header(self, last: str) -> bytes | None:
        """The next header; None at the end of the archive. Errors name the `last` member."""
        block = self._stream.read(BLOCK)
        if not block:
            return None
        if len(block) < BLOCK:
            block += self._stream.read(BLOCK - len(block))
        if len(block) < BLOCK:
            raise BadArchive(f"truncated in a header{_after(last)}", last)
        if block[:1] == b"\0" and not block.strip(b"\0"):
            if self._stream.read(BLOCK).strip(b"\0"):
                raise BadArchive(f"something follows a single block of zeros{_after(last)}", last)
            return None
        try:
            fields.check_sum(block)
        except BadArchive as error:
            raise BadArchive(f"{error.message}{_after(last)}", last) from error
        return block

    def count_holes(self, segments: Segments) -> None:
        """Raise BadArchive where all sparse members so far are too much."""
        self._sparse += segments.size
        self._present += segments.present
        check_holes(self._sparse, self._present)

    def start_body(self, size: int) -> None:
        self._left = size
        self._padding = -size % BLOCK

    def read(self, size: int) -> bytes:
        """Up to `size` bytes of the body; empty at its end."""
        if self._left <= 0 or size == 0:
            return b""
        data = self._stream.read(min(size, self._left))
        if not data:
            raise BadArchive("truncated in a member's bytes")
        self._left -= len(data)
        return data

    def readinto(self, view: memoryview) -> int:
        if self._left <= 0:
            return 0
        count: int = self._stream.readinto(view[: self._left])  # type: ignore[attr-defined]
        if not count and len(view):
            raise BadArchive("truncated in a member's bytes")
        self._left -= count
        return count

    def whole(self, size: int) -> bytes:
        """A body of exactly `size` bytes, which was checked to be small."""
        self.start_body(size)
        parts = []
        while part := self.read(size):
            parts.append(part)
        self.finish_body()
        return b"".join(parts)

    def finish_body(self, last: str = "") -> None:
        """Pass over what is left of the body, and its padding. Errors name the `last` member."""
        left = self._left + self._padding
        self._left = self._padding = 0
        while left > 0:
            passed = self._pass_over(left)
            if not passed:
                raise BadArchive(f"truncated in the bytes of {last!r}", last)
            left -= passed

    def drain(self) -> None:
        while self._pass_over(1 << 20):
            pass

    def _pass_over(self, size: int) -> int:
        if self._skip is not None:
            return self._skip(size)
        return len(self._stream.read(min(size, 1 << 20)))


class _Body(io.RawIOBase):
    """The bytes of one member."""

    def __init__(self, source: _Source) -> None:
        self._source: _Source | None = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._source.readinto(memoryview(buffer)) if self._source else 0

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            return self.readall() or b""
        return self._source.read(size) if self._source else b""


@mutable
class _Extensions:
    """What extended headers said about the member that follows them."""

    limits: Limits
    pax: dict[bytes, bytes] = field(default_factory=dict)
    sparse: list[tuple[bytes, bytes]] = field(default_factory=list)
    name: bytes = b""
    link: bytes = b""

    @property
    def empty(self) -> bool:
        return not (self.pax or self.name or self.link)

    def clear(self) -> None:
        if not self.empty:
            self.pax = {}
            self.sparse = []
            self.name = self.link = b""

    def take(self, kind: bytes, source: _Source, header: bytes) -> None:
        size = fields.number(header[124:136], "size")
        if not 0 <= size <= self.limits.record:
            raise BadArchive(f"an extended header of {size} bytes")
        content = source.whole(size)
        if kind in (b"L", b"K"):
            text = content.split(b"\0", 1)[0]
            if kind == b"L":
                self.name = text
            else:
                self.link = text
        elif kind in (b"x", b"X"):
            self.pax, self.sparse = {}, []
            for key, value in _records(content, self.limits):
                self.pax[key] = value
                if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                    self.sparse.append((key, value))
        elif kind == b"g":
            for _ in _records(content, self.limits):
                pass


_EXTENSIONS = frozenset((b"L", b"K", b"x", b"X", b"g", b"V"))


def _records(content: bytes, limits: Limits) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    count = 0
    while at < len(content):
        blank = content.find(b" ", at, at + 20)
        digits = content[at:blank] if blank > 0 else b""
        if not digits.isdigit():
            if not content[at:].strip(b"\0"):
                return  # padding inside the record area, as some writers leave it
            raise BadArchive("damaged pax header")
        end = at + int(digits)
        key, equals, value = content[blank + 1 : end - 1].partition(b"=")
        if end <= blank + 2 or end > len(content) or content[end - 1 : end] != b"\n":
            raise BadArchive("damaged pax header")
        if not equals or not key or b"\0" in key:
            raise BadArchive("damaged pax header")
        count += 1
        if count > limits.records:
            raise BadArchive(f"a pax header with more than {limits.records} records")
        if key in _NAMES and (b"\0" in value or len(value) > limits.name):
            raise BadArchive("a pax header with an impossible path")
        if key.startswith(_XATTR) and len(value) > limits.xattr:
            raise BadArchive(f"an extended attribute of {len(value)} bytes")
        yield key, value
        at = end


def _member(
    source: _Source, header: bytes, state: _Extensions, layers: bool
) -> tuple[Entry | None, BinaryIO]:
    raw, link_text = _names(header, state)
    shown = os.fsdecode(raw)
    if len(raw) > state.limits.name or len(link_text) > state.limits.name:
        raise BadArchive(f"a name of {max(len(raw), len(link_text))} bytes", shown[:200])
    kind = _KINDS.get(header[156:157])
    if kind is None:
        raise BadArchive(f"{shown!r} has an unknown member type {header[156:157]!r}", shown)
    directory = kind is Kind.FILE and raw.endswith(b"/")  # as archives before ustar have them
    size = fields.decimal(state.pax, b"size", shown)
    if size is None:
        size = fields.number(header[124:136], "size")
    if size < 0:
        raise BadArchive(f"{shown!r} has a negative size", shown)
    if directory:
        if size:
            raise BadArchive(f"{shown!r} is a directory with {size} bytes", shown)
        kind = Kind.DIRECTORY
    if kind is not Kind.FILE:
        size = 0  # such members have no bytes, whatever the field says (as Go reads them)
    source.start_body(size)
    body: Any = _Body(source)
    if kind is Kind.FILE and (segments := _sparse(source, header, state, size)) is not None:
        source.count_holes(segments)
        body = SparseBody(source, segments)
        size = segments.size
        if b"GNU.sparse.name" in state.pax:
            shown = os.fsdecode(state.pax[b"GNU.sparse.name"])
    path = normalise(shown)
    if not path and kind is not Kind.DIRECTORY:
        raise BadArchive(f"{shown!r} would replace the root directory", shown)
    mode = fields.number(header[100:108], "mode") & 0o7777
    link = os.fsdecode(link_text) if kind in (Kind.SYMLINK, Kind.HARDLINK) else ""
    if kind is Kind.SYMLINK and not link:
        raise BadArchive(f"{shown!r} is a symbolic link to nothing", shown)
    if layers:
        marker = whiteout(path, shown)
        if marker is not None:
            return marker if marker.path != SKIPPED else None, body
    uid = fields.decimal(state.pax, b"uid", shown)
    gid = fields.decimal(state.pax, b"gid", shown)
    entry = Entry(
        path,
        kind,
        mode,
        fields.identity(fields.number(header[108:116], "uid") if uid is None else uid, shown),
        fields.identity(fields.number(header[116:124], "gid") if gid is None else gid, shown),
        fields.mtime(header, state.pax, shown),
        size,
        normalise(link) if kind is Kind.HARDLINK else link,
        fields.device(header, kind),
        _xattrs(state.pax) if state.pax else (),
    )
    if layers and kind is Kind.CHARACTER and entry.device == (0, 0):
        entry = Entry(path, Kind.WHITEOUT)
    return entry, body


def _names(header: bytes, state: _Extensions) -> tuple[bytes, bytes]:
    """The path and the link text, as raw bytes. Where GNU's and pax's headers have both, GNU's wins,
    as for Go."""
    path = state.name or state.pax.get(b"path")
    if not path:
        path = header[:100].split(b"\0", 1)[0]
        if header[257:263] == b"ustar\0":
            width = 131 if header[508:512] == b"tar\0" else 155  # star keeps times behind it
            prefix = header[345 : 345 + width].split(b"\0", 1)[0]
            if prefix:
                path = prefix + b"/" + path
    link = state.link or state.pax.get(b"linkpath") or header[157:257].split(b"\0", 1)[0]
    return path, link


def _sparse(source: _Source, header: bytes, state: _Extensions, size: int) -> Segments | None:
    """The segments of a sparse file, None for an ordinary one."""
    if header[156:157] == b"S":
        return gnu_map(header, source, size, fields.number)
    if any(key.startswith(b"GNU.sparse.") for key in state.pax):
        return pax_map(state.pax, state.sparse, source, size)
    return None


SKIPPED = "\0"
"""The path of what `whiteout` finds to mean nothing."""


def whiteout(path: str, shown: str) -> Entry | None:
    """The whiteout or opaque mark a layer's member means; None for an ordinary member. Raises
    BadArchive.

    Members below or named like `.wh..wh.x` are notes of an old storage driver, and are passed over.
    """
    if ".wh." not in path:
        return None
    parent, slash, name = path.rpartition("/")
    for part in parent.split("/"):
        if part.startswith(".wh..wh."):
            return Entry(SKIPPED, Kind.WHITEOUT)
        if part.startswith(".wh."):
            raise BadArchive(f"{shown!r} lies below a whiteout", shown)
    if not name.startswith(".wh."):
        return None
    if name == ".wh..wh..opq":
        return Entry(parent, Kind.OPAQUE)
    if name.startswith(".wh..wh."):
        return Entry(SKIPPED, Kind.WHITEOUT)
    hidden = name[4:]
    if hidden in ("", ".", ".."):
        raise BadArchive(f"{shown!r} is no valid whiteout", shown)
    return Entry(f"{parent}{slash}{hidden}", Kind.WHITEOUT)


def _xattrs(pax: dict[bytes, bytes]) -> tuple[tuple[str, bytes], ...]:
    found = [
        (os.fsdecode(key[len(_XATTR) :].replace(b"%3D", b"=").replace(b"%25", b"%")), value)
        for key, value in pax.items()
        if key.startswith(_XATTR)
    ]
    return tuple(sorted(found))
