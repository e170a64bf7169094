"""What layers and archives may hold."""

from __future__ import annotations

from assembler.values import value

DEFAULT_LIMIT = 64 << 30
"""Bytes of what a compressed stream expands to."""


@value
class Limits:
    """What an archive may hold; beyond it is BadArchive (T10, T14, T15). `size` is of the tar, in
    bytes; it and `entries` are the user's to set."""

    size: int = DEFAULT_LIMIT
    entries: int = 5_000_000
    record: int = 1 << 20
    records: int = 1_000
    name: int = 4_096
    xattr: int = 64 << 10


DEFAULT_LIMITS = Limits()
