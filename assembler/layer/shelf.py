"""What many directories hold, by name: the ones in use as they are, the others packed away.

An entry takes some 600 bytes; packed with its siblings it takes about twenty.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

from assembler.layer.changeset import Entry
from assembler.layer.members import MemberBytes, Members

Names = dict[str, Entry]

_SOURCE = Entry._fields.index("source")
_WARM = 100_000  # entries, about, that are not packed
_LAST = 64  # directories that are never packed: whoever asked for one may still change it


class Shelf:
    """Directories by path. What `shelf[path]` gives may be changed until as many others as `_LAST`
    were asked for. Entries name bytes of the members of one layer at most."""

    def __init__(self, warm: int = _WARM) -> None:
        self._limit = warm
        self._warm: dict[str, Names] = {}  # in the order in which they were asked for
        self._cold: dict[str, bytes] = {}
        self._members: Members | None = None
        self._count = 0
        self._path = ""
        self._names: Names | None = None
        self._counted = 0

    def __getitem__(self, path: str) -> Names:
        if self._names is not None and path == self._path:
            return self._names
        self._leave()
        found = self._warm.pop(path, None)
        if found is None:
            found = self._unpacked(self._cold.pop(path))
            self._count += len(found)
        self._enter(path, found)
        return found

    def add(self, path: str) -> None:
        """Have a directory at `path`, an empty one if there is none."""
        if path not in self:
            self._leave()
            self._enter(path, {})

    def get(self, path: str) -> Names | None:
        """What the directory `path` holds, None where there is none."""
        try:
            return self[path]
        except KeyError:
            return None

    def pop(self, path: str) -> Names:
        """What the directory `path` held, which is no more."""
        self._leave()
        found = self._warm.pop(path, None)
        if found is None:
            return self._unpacked(self._cold.pop(path))
        self._count -= len(found)
        return found

    def put(self, path: str, names: Names) -> None:
        """Let the directory at `path`, which is not there, hold `names`."""
        self._leave()
        self._count += len(names)
        self._enter(path, names)

    def __contains__(self, path: str) -> bool:
        return path in self._warm or path in self._cold

    def items(self) -> Iterator[tuple[str, Names]]:
        """Every directory with what it holds, in the order of their paths; none changes meanwhile."""
        for path in sorted((*self._warm, *self._cold)):
            found = self._warm.get(path)
            yield path, self._unpacked(self._cold[path]) if found is None else found

    def _enter(self, path: str, names: Names) -> None:
        self._warm[path] = names
        self._path, self._names, self._counted = path, names, len(names)

    def _leave(self) -> None:
        """Count what came to the directory that was asked for last, and make room."""
        if self._names is None:
            return
        self._count += len(self._names) - self._counted
        self._names = None
        if self._count <= self._limit:
            return
        for path in list(self._warm)[:-_LAST]:
            if self._count <= self._limit // 2:
                break
            names = self._warm.pop(path)
            self._count -= len(names)
            self._cold[path] = self._packed(names)

    def _packed(self, names: Names) -> bytes:
        import pickle  # the common index is never packed

        return zlib.compress(pickle.dumps([self._told(one) for one in names.values()], 5), 1)

    def _told(self, entry: Entry) -> tuple[Any, ...]:
        source = entry.source
        if isinstance(source, MemberBytes):
            self._members = source.members
            return (*entry[:_SOURCE], source.number, *entry[_SOURCE + 1 :])
        return tuple(entry)

    def _unpacked(self, packed: bytes) -> Names:
        import pickle

        found: Names = {}
        for told in pickle.loads(zlib.decompress(packed)):
            entry = Entry(*told)
            if isinstance(told[_SOURCE], int):
                source = MemberBytes(told[_SOURCE], entry.size, self._members)
                entry = entry._replace(source=source)
            found[entry.name] = entry
        return found
