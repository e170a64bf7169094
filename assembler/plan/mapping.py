"""A mapping that grows without copying: each state of a fold shares what came before."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import TypeVar

Value = TypeVar("Value")


class _Entries(dict[str, list[tuple[int, Value]]]):
    """What versions of one mapping share: for each key, its values and since which version."""

    newest = 0


class PersistentMap(Mapping[str, Value]):
    """An immutable mapping from text, in order of first setting.

    `with_item` gives another one: in constant time and memory from the newest that was made, by a
    copy from an older one.
    """

    __slots__ = ("_entries", "_pairs", "_size", "_version")

    _entries: _Entries[Value]
    _version: int
    _size: int
    _pairs: tuple[tuple[str, Value], ...] | None

    def __init__(self, items: Mapping[str, Value] | None = None) -> None:
        pairs = () if items is None else tuple(items.items())
        self._entries = _Entries((key, [(0, value)]) for key, value in pairs)
        self._version = 0
        self._size = len(pairs)
        self._pairs = pairs

    def with_item(self, key: str, value: Value) -> PersistentMap[Value]:
        """This with `key` at `value`, in its old place if it has one."""
        if self._version != self._entries.newest:
            return PersistentMap(self).with_item(key, value)
        made = PersistentMap.__new__(PersistentMap)
        made._entries = self._entries
        made._version = self._entries.newest = self._version + 1
        found = self._entries.setdefault(key, [])
        made._size = self._size + (not found)
        made._pairs = None
        found.append((made._version, value))
        return made

    @property
    def pairs(self) -> tuple[tuple[str, Value], ...]:
        """Keys and values, always the same tuple."""
        if self._pairs is None:
            self._pairs = tuple((key, self[key]) for key in self)
        return self._pairs

    def __getitem__(self, key: str) -> Value:
        values = self._entries[key]
        since, value = values[-1]
        if since <= self._version:
            return value
        found = bisect_right(values, self._version, key=itemgetter(0))
        if not found:
            raise KeyError(key)
        return values[found - 1][1]

    def __iter__(self) -> Iterator[str]:
        for key, values in self._entries.items():
            if values[0][0] <= self._version:
                yield key

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"PersistentMap({dict(self)!r})"
