"""Basic credentials (RFC 7617)."""

from __future__ import annotations

from base64 import b64encode


def encoded(pair: str) -> str:
    """`NAME:PASSWORD` as it stands in a header or an auth file: the bytes that were given, in base64,
    be they UTF-8 or not."""
    return b64encode(pair.encode("utf-8", "surrogateescape")).decode()
