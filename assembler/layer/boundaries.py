"""Where the members of a tar begin, found while it passes: for formats with a table of contents.

What such a table cannot say is `Untellable`: the tar is a good one all the same. Names and numbers
are told as Go's reader tells them, by which the readers of these formats compare.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from assembler.errors import BadArchive
from assembler.layer import fields
from assembler.layer.changeset import Kind

_BLOCK = 512
_RECORDS = 1 << 20
_HEADERS = 8 << 20  # bytes of what is before a member, all of which is held
_TYPES = {
    b"0": "reg",
    b"\0": "reg",
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "char",
    b"4": "block",
    b"5": "dir",
    b"6": "fifo",
}
_XATTR = b"SCHILY.xattr."
_YEARS = (-62_135_596_800, 253_402_300_799)  # seconds of the years 1 to 9999, RFC 3339's


class Untellable(Exception):
    """Something in a tar that a table of contents has no words for; the text names it."""


@dataclass(slots=True)
class Chunk:
    """A piece of a file's bytes: where it is in the file, its size and sha256, and from where to
    where its compressed form goes in the blob, once that is known."""

    at: int
    size: int
    digest: str = ""
    offset: int = -1
    end: int = -1


@dataclass(slots=True)
class Member:
    """A member as its header tells it. `name` and `link` are verbatim, times nanoseconds. `digest`
    is of a file's bytes."""

    name: str
    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    link: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()
    atime: int | None = None
    ctime: int | None = None
    digest: str = ""
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def placed(self) -> bool:
        """Whether all of its bytes have a place in the blob."""
        return not self.size or bool(
            self.chunks and self.chunks[-1].end >= 0 and _ends(self.chunks[-1]) == self.size
        )


def _ends(chunk: Chunk) -> int:
    return chunk.at + chunk.size


class Receiver(Protocol):
    """Is told of a tar piece by piece; what it is told makes up all of the tar."""

    def between(self, data: bytes) -> None:
        """Headers, padding and the end of the archive."""
        ...

    def member(self, member: Member) -> None:
        """The member whose header was the last of `between`. Raises Untellable."""
        ...

    def content(self, data: bytes) -> None:
        """More of the bytes of the last member, which was a file with a size."""
        ...

    def untellable(self, reason: str) -> None:
        """From here on all is `between`."""
        ...


class UntilEnd:
    """Hands on a tar up to its end mark, two blocks of zeros, and all of what cannot be told."""

    def __init__(self, take: Callable[[memoryview], object]) -> None:
        self._take = take
        self._left = -1
        self._lost = False

    def between(self, data: bytes) -> None:
        """See `Receiver`."""
        if self._left >= 0:
            data = data[: self._left]
            self._left -= len(data)
        elif not self._lost and len(data) >= _BLOCK and not data[-_BLOCK:].strip(b"\0"):
            self._left = _BLOCK
        if data:
            self._take(memoryview(data))

    def member(self, member: Member) -> None:
        """See `Receiver`."""

    def content(self, data: bytes) -> None:
        """See `Receiver`."""
        self._take(memoryview(data))

    def untellable(self, reason: str) -> None:
        """See `Receiver`. Zeros may be those of a file from here on."""
        self._left, self._lost = -1, True


class Members:
    """Follows the tar that is given to `feed` in pieces of any size, and tells `receiver`."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._piece: bytes = b""
        self._at = 0
        self._ended = False
        self._header: list[bytes] = []
        self._work = self._follow()
        next(self._work)

    def feed(self, piece: bytes) -> None:
        """The next bytes of the tar; none of them is held back."""
        self._piece, self._at = piece, 0
        next(self._work)

    def end(self) -> None:
        """There is no more."""
        self._ended = True
        for _ in self._work:
            pass

    def _follow(self) -> Generator[None, None, None]:
        reason = ""
        try:
            yield from self._members()
        except (Untellable, BadArchive) as error:
            reason = str(error)
        if header := b"".join(self._header):
            self._receiver.between(header)
        if reason:
            self._receiver.untellable(reason)
        while True:
            if rest := self._piece[self._at :]:
                self._receiver.between(rest)
            self._at = len(self._piece)
            if self._ended:
                return
            yield

    def _members(self) -> Generator[None, None, None]:
        """Until the end mark. Raises Untellable, BadArchive."""
        receiver, header = self._receiver, self._header
        pax: dict[bytes, bytes] = {}
        name = link = b""
        held = 0
        while True:
            block = yield from self._take(_BLOCK)
            header.append(block)
            if len(block) < _BLOCK:
                raise Untellable("an archive without its end mark")
            if not block.strip(b"\0"):
                return
            fields.check_sum(block)
            kind = block[156:157]
            if kind in (b"x", b"L", b"K"):
                size = fields.number(block[124:136], "size")
                if not 0 <= size <= _RECORDS:
                    raise Untellable("an extended header of more than 1 MiB")
                content = yield from self._take(size + -size % _BLOCK)
                header.append(content)
                held += len(content) + _BLOCK
                if held > _HEADERS:
                    raise Untellable("extended headers of more than 8 MiB for one member")
                if kind == b"x":
                    pax = dict(_records(content[:size]))
                elif kind == b"L":
                    name = content.split(b"\0", 1)[0]
                else:
                    link = content.split(b"\0", 1)[0]
                continue
            member = _member(block, pax, name, link)
            pax, name, link, held = {}, b"", b"", 0
            receiver.between(b"".join(header))
            header.clear()
            receiver.member(member)
            yield from self._content(member.size)
            padding = yield from self._take(-member.size % _BLOCK)
            header.append(padding)

    def _content(self, size: int) -> Generator[None, None, None]:
        while size:
            if self._at == len(self._piece):
                if self._ended:
                    raise Untellable("an archive that ends in a file")
                yield
                continue
            data = self._piece[self._at : self._at + size]
            self._at += len(data)
            size -= len(data)
            self._receiver.content(data)

    def _take(self, size: int) -> Generator[None, None, bytes]:
        """Exactly `size` bytes; fewer at the end."""
        data = self._piece[self._at : self._at + size]
        self._at += len(data)
        while len(data) < size and not self._ended:
            yield
            more = self._piece[self._at : self._at + size - len(data)]
            self._at += len(more)
            data += more
        return data


def _records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(content):
        digits, _, _ = content[at : at + 20].partition(b" ")
        end = at + int(digits) if digits.isdigit() else 0
        key, equals, value = content[at + len(digits) + 1 : end - 1].partition(b"=")
        if not equals or end > len(content) or content[end - 1 : end] != b"\n":
            raise Untellable("a damaged pax header")
        yield key, value
        at = end


def _member(header: bytes, pax: dict[bytes, bytes], name: bytes, link: bytes) -> Member:
    raw = name or pax.get(b"path") or _ustar_name(header)
    shown = _text(raw)
    kind = _TYPES.get(header[156:157])
    if kind is None:
        raise Untellable(f"{shown!r}, a member of the type {header[156:157]!r}")
    if any(key.startswith(b"GNU.sparse.") for key in pax):
        raise Untellable(f"{shown!r}, a sparse file")
    if _has_old_times(header):
        raise Untellable(f"{shown!r}, whose times are in an old form")
    if kind == "reg" and raw.endswith(b"/"):
        raise Untellable(f"{shown!r}, a file whose name is a directory's")
    size = fields.decimal(pax, b"size", shown)
    size = fields.number(header[124:136], "size") if size is None else size
    if size < 0 or (size and kind != "reg"):
        raise Untellable(f"{shown!r} with a size of {size}")
    uid, gid = fields.decimal(pax, b"uid", shown), fields.decimal(pax, b"gid", shown)
    device = (0, 0)
    if kind in ("char", "block"):
        device = fields.device(header, Kind.CHARACTER)
    text = b""
    if kind in ("hardlink", "symlink"):
        text = link or pax.get(b"linkpath") or header[157:257].split(b"\0", 1)[0]
    return Member(
        name=shown,
        kind=kind,
        mode=fields.number(header[100:108], "mode"),
        uid=fields.number(header[108:116], "uid") if uid is None else uid,
        gid=fields.number(header[116:124], "gid") if gid is None else gid,
        mtime=_time(header, pax, b"mtime", shown),
        size=size,
        link=_text(text),
        device=device,
        xattrs=tuple(
            (_text(key[len(_XATTR) :]), value)
            for key, value in sorted(pax.items())
            if key.startswith(_XATTR)
        ),
        atime=_time(header, pax, b"atime", shown) if b"atime" in pax else None,
        ctime=_time(header, pax, b"ctime", shown) if b"ctime" in pax else None,
    )


def _ustar_name(header: bytes) -> bytes:
    path = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].split(b"\0", 1)[0]
        if prefix:
            return prefix + b"/" + path
    return path


def _has_old_times(header: bytes) -> bool:
    """GNU tar (--incremental) and star keep times of access in the header itself."""
    gnu = header[257:265] == b"ustar  \0" and header[345:369].strip(b"\0 0")
    return bool(gnu) or header[508:512] == b"tar\0"


def _time(header: bytes, pax: dict[bytes, bytes], key: bytes, shown: str) -> int:
    found = fields.mtime(header, {b"mtime": pax[key]} if key in pax else {}, shown)
    if not _YEARS[0] <= found // 1_000_000_000 <= _YEARS[1]:
        raise Untellable(f"{shown!r}, whose time has no date")
    return found


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        shown = raw.decode(errors="replace")
        raise Untellable(f"{shown!r}, a name that is not UTF-8") from error
