"""Sparse members of a tar: the maps GNU tar writes, and the bytes they stand for.

Maps are bounded, ordered and inside the file, or the archive is refused (reliability.md T11). Here
holes stay holes, but an image has none: they would become zeros on some disk. So those of a file, and
those of all files of an archive up to any of them, may not exceed a hundred times the bytes that are
there plus 1 GiB, as for compression (T14).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from assembler.errors import BadArchive
from assembler.layer.decompression import ALLOWANCE, RATIO
from assembler.values import value

MAX_SEGMENTS = 1 << 17
_BLOCK = 512


class Blocks(Protocol):
    """The body of the member being read."""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; empty at the end."""
        ...

    def start_body(self, size: int) -> None:
        """Set how many bytes are still to come."""
        ...


@value
class Segments:
    """Where the bytes that are there belong: (offset, size), ascending; the file's whole size."""

    parts: tuple[tuple[int, int], ...]
    size: int

    @property
    def present(self) -> int:
        """How many bytes are there."""
        return sum(size for _, size in self.parts)


class SparseBody(io.RawIOBase):
    """The bytes of a sparse member, holes read as zeros."""

    def __init__(self, source: Blocks, segments: Segments) -> None:
        self._source = source
        self._parts = [(segments.size, 0), *reversed(segments.parts)]
        self._at = 0

    def readable(self) -> bool:
        """True."""
        return True

    def parts(self, most: int) -> Iterator[tuple[int, bytes]]:
        """What is there, as (offset, up to `most` bytes); instead of reading."""
        for offset, size in reversed(self._parts):
            end = offset + size
            while offset < end:
                piece = self._piece(min(most, end - offset))
                yield offset, piece
                offset += len(piece)

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` up to the next border between bytes and a hole."""
        view = memoryview(buffer).cast("B")
        while self._parts:
            offset, size = self._parts[-1]
            if self._at < offset:
                count = min(len(view), offset - self._at)
                view[:count] = bytes(count)
            elif self._at < offset + size:
                data = self._piece(min(len(view), offset + size - self._at))
                count = len(data)
                view[:count] = data
            else:
                self._parts.pop()
                continue
            self._at += count
            return count
        return 0

    def _piece(self, size: int) -> bytes:
        data = self._source.read(size)
        if not data and size:
            raise BadArchive("a sparse member with fewer bytes than its map says")
        return data


def gnu_map(header: bytes, source: Any, size: int, number: Callable[[bytes, str], int]) -> Segments:
    """The map of an old GNU sparse member: four pairs in the header, then blocks of 21."""
    pairs: list[tuple[int, int]] = []
    whole = number(header[483:495], "size")
    blocks = 0
    area, more = header[386:482], header[482]
    while True:
        for at in range(0, len(area) - 23, 24):
            if area[at : at + 24].strip(b"\0"):
                offset = number(area[at : at + 12], "sparse map")
                pairs.append((offset, number(area[at + 12 : at + 24], "sparse map")))
        if not more:
            break
        source.start_body(_BLOCK)
        block = _exactly(source, _BLOCK)
        area, more = block[:504], block[504]
        blocks += 1
        if blocks > MAX_SEGMENTS // 21:
            raise BadArchive("a sparse map that is too long")
    source.start_body(size)
    return _checked(pairs, whole, size)


def pax_map(
    pax: Mapping[bytes, bytes],
    repeated: Sequence[tuple[bytes, bytes]],
    source: Any,
    size: int,
) -> Segments | None:
    """The map of a pax sparse member, formats 0.0, 0.1 and 1.0 of GNU tar."""
    whole = pax.get(b"GNU.sparse.realsize") or pax.get(b"GNU.sparse.size")
    if whole is None:
        return None
    if pax.get(b"GNU.sparse.major") == b"1":
        return _map_in_body(source, size, _integer(whole))
    if b"GNU.sparse.map" in pax:
        numbers = [_integer(text) for text in pax[b"GNU.sparse.map"].split(b",") if text]
    else:
        keys = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
        if any(key != keys[n % 2] for n, (key, _) in enumerate(repeated)):
            raise BadArchive("a sparse map out of order")
        numbers = [_integer(value) for _, value in repeated]
    if len(numbers) % 2:
        raise BadArchive("a sparse map that ends in the middle")
    return _checked(list(zip(numbers[::2], numbers[1::2], strict=True)), _integer(whole), size)


def _map_in_body(source: Any, size: int, whole: int) -> Segments:
    """Format 1.0: the map is decimal lines before the bytes, padded to a block."""
    lines: list[bytes] = []
    text = b""
    taken = 0
    wanted = 1
    while len(lines) < wanted:
        block = _exactly(source, _BLOCK)
        taken += _BLOCK
        *found, text = (text + block).split(b"\n")
        if len(text) > 20 + _BLOCK:
            raise BadArchive("damaged sparse map")
        lines += found
        if lines and wanted == 1:
            wanted = 1 + 2 * _integer(lines[0])
            if wanted > 2 * MAX_SEGMENTS:
                raise BadArchive("a sparse map that is too long")
    numbers = [_integer(line) for line in lines[1:wanted]]
    return _checked(list(zip(numbers[::2], numbers[1::2], strict=True)), whole, size - taken)


def _checked(pairs: list[tuple[int, int]], whole: int, present: int) -> Segments:
    if len(pairs) > MAX_SEGMENTS:
        raise BadArchive("a sparse map that is too long")
    if whole < 0:
        raise BadArchive("a sparse member with a negative size")
    at = total = 0
    for offset, size in pairs:
        if offset < at or size < 0 or offset + size > whole:
            raise BadArchive("a sparse map with impossible segments")
        at = offset + size
        total += size
    if total != present:
        raise BadArchive("a sparse map that does not fit the member's bytes")
    check_holes(whole, total)
    return Segments(tuple(pair for pair in pairs if pair[1]), whole)


def check_holes(whole: int, present: int) -> None:
    """Raise BadArchive where `whole` bytes are too many for the `present` ones."""
    if whole > RATIO * present + ALLOWANCE:
        raise BadArchive(f"sparse files of {whole} bytes of which only {present} are there")


def _exactly(source: Any, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        data = source.read(size - len(parts))
        if not data:
            raise BadArchive("truncated in a sparse map")
        parts += data
    return bytes(parts)


def _integer(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise BadArchive("damaged sparse map")
    return int(text)
