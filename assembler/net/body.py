"""Bodies: parts of files that are sent, and answers that are read within bounds."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable
from typing import BinaryIO

from assembler.values import value

MAX_ERROR_BODY = 64 << 10  # bytes of a refusal that are read, and that somebody may be shown
_GZIP = 16 + zlib.MAX_WBITS

Pieces = Iterable[bytes | memoryview]
"""A body that is sent; each piece is good until the next one is asked for."""


@value
class FileBody:
    """A body of `length` bytes of a file from `offset`, opened anew for each attempt. `progress` is
    told how many have been sent."""

    open: Callable[[], BinaryIO]
    offset: int
    length: int
    progress: Callable[[int], object] = lambda sent: None


def decoded(body: bytes, encoding: str, limit: int) -> bytes:
    """`body` without its Content-Encoding, which nobody asked for; one byte more than `limit` at
    most. Raises ValueError for one that is not known, and for what is not so encoded."""
    names = [one.strip().lower() for one in encoding.split(",") if one.strip()]
    if not body or all(name == "identity" for name in names):
        return body
    if names not in (["gzip"], ["x-gzip"]):
        raise ValueError(f"Content-Encoding {encoding[:40]!r}")
    reader = zlib.decompressobj(_GZIP)
    try:
        return reader.decompress(body, limit + 1)
    except zlib.error as error:
        raise ValueError("what is not gzip as Content-Encoding gzip") from error


def parsed(body: bytes) -> object:
    """`body` as JSON. Raises ValueError, also for what is nested too deep to be read."""
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deep") from error
