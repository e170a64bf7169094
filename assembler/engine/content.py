"""The content digest of a selection: names, kinds, modes, owners, links, bytes; never times (C21)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from assembler.engine.selection import Selection
from assembler.layer.changeset import Entry, Kind
from assembler.layer.reading import Reading
from assembler.layer.write import nothing
from assembler.oci.digest import Digest

_CHUNK = 1 << 20


def digest(selection: Selection, check: Callable[[], None] = nothing) -> Digest:
    """The digest of everything `selection` holds. Reads every selected file once.

    Raises ContextChanged when a file has another size than when it was seen. `check` is called for
    each entry and MiB and may raise.
    """
    hasher = hashlib.sha256(b"assemble/selection/2")
    reader = _Reader(check, bytearray(_CHUNK))
    for item in selection.items:
        if item.entry.kind is not Kind.DIRECTORY:
            _add(hasher, "file", item.name, item.entry, reader)
            continue
        # neither its name nor its own metadata reaches the destination (rules C8, C13)
        _frame(hasher, b"directory", b"")
        links: dict[tuple[int, int], str] = {}
        for below in selection.below(item):
            path, entry = below.path, below.entry
            first = links.setdefault(entry.inode, path) if entry.inode else path
            if first != path:
                _frame(hasher, b"link", f"{path}\0{first}".encode("utf-8", "surrogateescape"))
            else:
                _add(hasher, "implied" if below.implied else "below", path, entry, reader)
    for inline in selection.inline:
        _frame(hasher, b"inline", inline.name.encode("utf-8", "surrogateescape"))
        _frame(hasher, b"text", inline.content.encode("utf-8", "surrogateescape"))
    return Digest("sha256", hasher.hexdigest())


def _add(hasher: Any, role: str, path: str, entry: Entry, reader: _Reader) -> None:
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
        _frame(hasher, b"x", name.encode("utf-8", "surrogateescape") + b"\0" + value)
    reader.check()
    if entry.source is not None:
        _frame(hasher, b"c", reader.content(entry))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Hashes files through one buffer."""

    check: Callable[[], None]
    buffer: bytearray

    def content(self, entry: Entry) -> bytes:
        hasher = hashlib.sha256()
        view = memoryview(self.buffer)
        total = 0
        with Reading(entry) as source:
            while count := source.readinto(view):
                hasher.update(view[:count])
                total += count
                self.check()
            if total != entry.size:
                raise source.changed("shorter" if total < entry.size else "longer")
        return hasher.digest()


def _frame(hasher: Any, kind: bytes, content: bytes) -> None:
    hasher.update(b"%s%d:" % (kind, len(content)))
    hasher.update(content)
