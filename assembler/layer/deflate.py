"""Deflate by the best library there is for a level, in blocks that threads can share (speed.md 2).

The bytes depend on the engine, which the identity of a compression therefore names.
"""

from __future__ import annotations

import zlib
from typing import Any

from assembler.values import value

GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # deflate, no name, no time, unknown OS


@value
class Engine:
    """A deflate library with a level of its own. `identity` names library, version and level."""

    module: Any
    level: int
    identity: str

    @classmethod
    def of(cls, level: int) -> Engine:
        """The engine for `level` 0 to 9: for 1 isal, which is faster and smaller there than the
        others (never its level 3, whose bytes the processor decides); else zlib-ng; where a library
        is missing, the next one, and the standard library's in the end."""
        if level == 1:
            try:
                from isal import ISAL_VERSION, isal_zlib
            except ImportError:
                pass
            else:
                return cls(isal_zlib, 1, f"isal-{ISAL_VERSION} level=1")
        try:
            from zlib_ng import zlib_ng
        except ImportError:
            return cls(zlib, level, f"zlib-{zlib.ZLIB_RUNTIME_VERSION} level={level}")
        return cls(zlib_ng, level, f"zlib-ng-{zlib_ng.ZLIBNG_VERSION} level={level}")

    def block(self, data: bytes, window: bytes = b"", *, last: bool) -> bytes:
        """`data` as raw deflate that refers back to at most `window`; it ends the stream if `last`,
        else on a byte boundary."""
        if window:
            stream = self.module.compressobj(self.level, zlib.DEFLATED, -15, 8, 0, window)
        else:
            stream = self.module.compressobj(self.level, zlib.DEFLATED, -15, 8, 0)
        head: bytes = stream.compress(data)
        tail: bytes = stream.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
        return head + tail

    def member(self, data: bytes) -> bytes:
        """`data` as a gzip member of its own (RFC 1952)."""
        return GZIP_HEADER + self.block(data, last=True) + gzip_trailer(zlib.crc32(data), len(data))


def gzip_trailer(crc: int, size: int) -> bytes:
    """The end of a gzip member whose `size` bytes have the checksum `crc`."""
    return crc.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little")
