"""What is not to be shown, replaced in a stream of bytes by `***`.

Every byte that belongs to an occurrence of a pattern is hidden, whatever other occurrences it belongs
to, and a run of hidden bytes becomes one mark: how the stream is cut into pieces changes nothing.
Where nothing occurs, which is nearly always, a few calls say so: of few patterns each is searched for;
of many, the text is cut into blocks of some bytes, and one of them is the first whole block of a
pattern, if there is one (Wu and Manber). So the time is that of the text, not of the patterns.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

MARK = b"***"
_Kind = Literal["Q", "I", "H"]  # of what a block is to `memoryview`
LEAST = 4
"""Bytes of a pattern. What is shorter is in every text."""
_BLOCKS: tuple[tuple[int, _Kind], ...] = ((8, "Q"), (4, "I"), (2, "H"))  # bytes, and their name
_FEW = 3  # patterns for each byte of a block that are found sooner one by one

Span = tuple[int, int]


class Masks:
    """Hides `patterns`, each of at least LEAST bytes and without an end of line."""

    def __init__(self, patterns: Iterable[bytes]) -> None:
        self._patterns = sorted(set(patterns))
        self._most = max(map(len, self._patterns), default=0)
        self._below = _prefixes(self._patterns)
        # where one pattern begins with another, so does each of its occurrences
        heads = [one for one, at in zip(self._patterns, self._below, strict=True) if at < 0]
        self._finders: list[Callable[[bytes], Iterable[int]]] = []
        longest = sys.maxsize
        for size, kind in _BLOCKS:
            shortest = 2 * size - 1  # a block is whole in them, wherever they begin
            group = [one for one in heads if shortest <= len(one) < longest]
            longest = shortest
            if len(group) > _FEW * size:
                self._finders.append(_Blocks(group, size, kind).starts)
            elif group:
                self._finders.append(_Few(group).starts)
        firsts = b"".join(map(re.escape, {one[:1] for one in self._patterns}))
        self._first = re.compile(b"[%b]" % firsts if firsts else b"(?!)")

    @contextmanager
    def masked(self, output: Callable[[bytes], None]) -> Iterator[Callable[[bytes], None]]:
        """What takes a stream, and hands it to `output` masked. What may be the beginning of a
        pattern waits for what follows, or for the end of the block."""
        stream = _Stream(self, output)
        try:
            yield stream.write
        finally:
            stream.end()

    def text(self, text: str) -> str:
        """`text`, masked."""
        said: list[bytes] = []
        with self.masked(said.append) as write:
            write(text.encode("utf-8", "surrogateescape"))
        return b"".join(said).decode("utf-8", "surrogateescape")

    def spans(self, text: bytes) -> list[Span]:
        """Where in `text` patterns occur, in order of their beginning; they may overlap."""
        found = []
        for starts in self._finders:
            for start in starts(text):
                if size := self._longest(text, start):
                    found.append((start, start + size))
        found.sort()
        return found

    def beginning(self, text: bytes) -> int:
        """Where in `text` the last bytes begin that may become a pattern; its length if none may."""
        low = max(0, len(text) - self._most + 1)
        low = max(low, text.rfind(b"\n", low) + 1)
        for match in self._first.finditer(text, low):
            start = match.start()
            at = bisect_right(self._patterns, text[start:])
            if at < len(self._patterns) and self._patterns[at].startswith(text[start:]):
                return start
        return len(text)

    def _longest(self, text: bytes, start: int) -> int:
        """The length of the longest pattern that begins there, 0 for none."""
        text = text[start : start + self._most]
        # what begins the text and is not the last pattern before it, begins that one
        at = bisect_right(self._patterns, text) - 1
        while at >= 0 and not text.startswith(self._patterns[at]):
            at = self._below[at]
        return len(self._patterns[at]) if at >= 0 else 0


def _prefixes(patterns: Sequence[bytes]) -> list[int]:
    """Of each of the sorted `patterns` the longest other one that it begins with, -1 for none."""
    found: list[int] = []
    for at, pattern in enumerate(patterns):
        below = at - 1
        while below >= 0 and not pattern.startswith(patterns[below]):
            below = found[below]
        found.append(below)
    return found


class _Few:
    """Finds few patterns."""

    def __init__(self, patterns: Sequence[bytes]) -> None:
        self._patterns = patterns

    def starts(self, text: bytes) -> Iterator[int]:
        """Where they begin in `text`."""
        for pattern in self._patterns:
            start = text.find(pattern)
            while start >= 0:
                yield start
                start = text.find(pattern, start + 1)


class _Blocks:
    """Finds any number of patterns, of at least `2 * size - 1` bytes."""

    def __init__(self, patterns: Iterable[bytes], size: int, kind: _Kind) -> None:
        self._size = size
        self._kind = kind
        self._offsets: dict[int, int] = {}
        """Of a block, at which offsets of patterns it is: the bits of a number."""
        for pattern in patterns:
            for offset in range(size):
                block = int.from_bytes(pattern[offset : offset + size], sys.byteorder)
                self._offsets[block] = self._offsets.get(block, 0) | 1 << offset

    def starts(self, text: bytes) -> Iterator[int]:
        """Where they may begin in `text`."""
        whole = len(text) - len(text) % self._size
        blocks = memoryview(text)[:whole].cast(self._kind)
        if self._offsets.keys().isdisjoint(blocks):
            return
        known = self._offsets.get
        for number, block in enumerate(blocks):
            if offsets := known(block):
                place = number * self._size
                for offset in range(min(self._size, place + 1)):
                    if offsets >> offset & 1:
                        yield place - offset


class _Stream:
    """One stream on its way to `output`."""

    def __init__(self, masks: Masks, output: Callable[[bytes], None]) -> None:
        self._masks = masks
        self._output = output
        self._held = b""
        self._hidden = 0
        """How many of the held bytes belong to what began before them."""
        self._marked = False
        """Whether the last byte that is gone was hidden."""

    def write(self, piece: bytes) -> None:
        """Take some bytes."""
        text = self._held + piece if self._held else piece
        self._pass(text, self._masks.beginning(text))

    def end(self) -> None:
        """Give out what is held."""
        self._pass(self._held, len(self._held))

    def _pass(self, text: bytes, until: int) -> None:
        """Give out the first `until` bytes of `text`, and hold the others."""
        self._held = text[until:]
        if not until:
            return
        spans = self._masks.spans(text)
        if self._hidden:
            spans.insert(0, (0, self._hidden))
        out, shown = [], 0  # `shown`: up to where it is settled
        for start, stop in spans:
            if start >= until:
                break
            if start > shown:
                out.append(text[shown:start])
                self._marked = False
            if not self._marked:
                out.append(MARK)
                self._marked = True
            shown = max(shown, stop)
        self._hidden = max(0, shown - until)
        if shown < until:
            out.append(text[shown:until])
            self._marked = False
        if out:
            self._output(b"".join(out))
