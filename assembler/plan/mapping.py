"""A mapping that grows without copying: each state of a fold shares what came before."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import TypeVar

Value = TypeVar("Value")


class _Entries(dict[str, list[tuple[int, tuple[str, Value]]]]):
    """What versions of one mapping share: each key's pairs, and since which version they hold."""

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
        self._entries = _Entries((pair[0], [(0, pair)]) for pair in pairs)
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
        found.append((made._version, (key, value)))
        return made

    @property
    def pairs(self) -> tuple[tuple[str, Value], ...]:
        """Keys and values, always the same tuple."""
        if self._pairs is None:
            self._pairs = tuple(self._pair(key) for key in self)
        return self._pairs

    def __getitem__(self, key: str) -> Value:
        return self._pair(key)[1]

    def _pair(self, key: str) -> tuple[str, Value]:
        held = self._entries[key]
        since, pair = held[-1]
        if since <= self._version:
            return pair
        number = bisect_right(held, self._version, key=itemgetter(0))
        if not number:
            raise KeyError(key)
        return held[number - 1][1]

    def __iter__(self) -> Iterator[str]:
        for key, values in self._entries.items():
            if values[0][0] <= self._version:
                yield key

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"PersistentMap({dict(self)!r})"
