"""The content digest of a selection: names, kinds, modes, owners, links, bytes; never times (C21)."""

from __future__ import annotations

import hashlib
from typing import Any

from assembler.engine.selection import Selection
from assembler.errors import ContextChanged
from assembler.layer.changeset import Entry, Kind
from assembler.oci.digest import Digest

_CHUNK = 1 << 20


def digest(selection: Selection) -> Digest:
    """The digest of everything `selection` holds. Reads every selected file once.

    Raises ContextChanged when a file has another size than when it was seen.
    """
    hasher = hashlib.sha256(b"assemble/selection/1")
    buffer = bytearray(_CHUNK)
    for item in selection.items:
        for path, parent in item.parents:
            _add(hasher, "parent", path, parent, buffer)
        if item.entry.kind is Kind.DIRECTORY:
            _frame(hasher, b"directory", item.name.encode("utf-8", "surrogateescape"))
            if item.parents or "/" in item.name:
                _add(hasher, "itself", item.name, item.entry, buffer)
        else:
            _add(hasher, "file", item.name, item.entry, buffer)
        links: dict[tuple[int, int], str] = {}
        for path, entry in selection.below(item):
            first = links.setdefault(entry.inode, path) if entry.inode else path
            if first != path:
                _frame(hasher, b"link", f"{path}\0{first}".encode("utf-8", "surrogateescape"))
            else:
                _add(hasher, "below", path, entry, buffer)
    for inline in selection.inline:
        _frame(hasher, b"inline", inline.name.encode("utf-8", "surrogateescape"))
        _frame(hasher, b"text", inline.content.encode("utf-8", "surrogateescape"))
    return Digest("sha256", hasher.hexdigest())


def _add(hasher: Any, role: str, path: str, entry: Entry, buffer: bytearray) -> None:
    described = (
        role,
        path,
        entry.kind.value,
        str(entry.mode),
        str(entry.uid),
        str(entry.gid),
        entry.link,
        f"{entry.device[0]}:{entry.device[1]}",
    )
    for text in described:
        _frame(hasher, b"t", text.encode("utf-8", "surrogateescape"))
    for name, value in entry.xattrs:
        _frame(hasher, b"x", name.encode() + b"\0" + value)
    if entry.source is not None:
        _frame(hasher, b"c", _content(entry, buffer))


def _content(entry: Entry, buffer: bytearray) -> bytes:
    assert entry.source is not None
    hasher = hashlib.sha256()
    view = memoryview(buffer)
    total = 0
    with entry.source.open() as stream:
        while count := stream.readinto(view):  # type: ignore[attr-defined]
            hasher.update(view[:count])
            total += count
    if total != entry.size:
        raise ContextChanged(
            f"{entry.path} changed while it was read",
            hint="build again when nothing writes to the context",
        )
    return hasher.digest()


def _frame(hasher: Any, kind: bytes, content: bytes) -> None:
    hasher.update(b"%s%d:" % (kind, len(content)))
    hasher.update(content)
