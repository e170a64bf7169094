"""Entries as rows of JSON, in blocks that are packed one by one: twenty bytes for each, or thirty.

A block is a list of directories, each with the rows of what it holds, sorted by name. A directory may
go on in the next block.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.members import MemberBytes, Members
from assembler.layer.tree import join

_MOST = 500  # rows of a block

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

Names = dict[str, Entry]


class Blocks:
    """Entries that become blocks, those that come last only when they are more than `held`. `starts`
    are the directory and the name with which each block begins."""

    def __init__(self, held: int = 0) -> None:
        self.starts: list[tuple[str, str]] = []
        self._held = held
        self._entries: list[tuple[str, str, Entry]] = []
        self._packed: list[bytes] = []

    def add(self, directory: str, name: str, entry: Entry) -> None:
        """Append `entry`, called `name` in `directory`."""
        self._entries.append((directory, name, entry))
        if len(self._entries) >= self._held + _MOST:
            self._pack()

    def _pack(self) -> None:
        for start in range(0, len(self._entries), _MOST):
            some = self._entries[start : start + _MOST]
            self.starts.append(some[0][:2])
            directories = [
                (directory, [row(entry, name) for _, name, entry in found])
                for directory, found in groupby(some, itemgetter(0))
            ]
            self._packed.append(zlib.compress(encoded(directories), 1))
        self._entries.clear()

    def whole(self) -> tuple[bytes, ...]:
        """All of them; nothing is added any more."""
        self._pack()
        return tuple(self._packed)


def parsed(block: bytes | memoryview, members: Members | None) -> dict[str, Names]:
    """What `block` holds of directories. Raises ValueError."""
    return {
        directory: {one[0]: entry_of(join(directory, one[0]), one, members) for one in rows}
        for directory, rows in json.loads(zlib.decompress(block))
    }


def listed(block: bytes | memoryview, members: Members | None) -> Iterator[Entry]:
    """The entries of `block` in their order, whatever is there twice. Raises ValueError."""
    for directory, rows in json.loads(zlib.decompress(block)):
        for one in rows:
            yield entry_of(join(directory, one[0]), one, members)


def encoded(value: object) -> bytes:
    """`value` as JSON."""
    return _ENCODER.encode(value).encode("ascii")


def row(entry: Entry, name: str = "") -> list[object]:
    """`entry` as JSON: what is usual as a list, the rest by name."""
    told: list[object] = [name, _LETTERS[entry.kind], entry.mode, entry.uid, entry.gid, entry.mtime]
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
    return [*told, rest] if rest else told


def entry_of(path: str, row: list[Any], members: Members | None) -> Entry:
    """The entry at `path` of a row."""
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
