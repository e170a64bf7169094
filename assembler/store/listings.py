"""What COPYs selected, file by file, by the digests of their selections: so that what changed since
can be named.

    listings/<hex>    paths and what they are, compressed

Derived data, which may be deleted at any time. What was not used for longest goes when there are more
than MANY, or more than MOST bytes of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from assembler.linux.replacing import put, sweep

MANY, MOST = 2000, 256 << 20
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_LARGEST = 1 << 30  # bytes of a listing's text
_HEX = 64


class Listings:
    """The listings in `directory`, which need not be there."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._tidied = False

    def save(self, digest: str, files: Mapping[str, str]) -> None:
        """Keep `files`, texts by path, as those of the selection `digest`. Raises OSError."""
        path = self._path(digest)
        with suppress(OSError):
            os.utime(path)
            return
        import zlib

        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        text = "\0".join([*files, *files.values()])
        put(path, zlib.compress(text.encode("utf-8", "surrogateescape"), 1))
        if not self._tidied:
            self._tidied = True
            self._tidy()

    def load(self, digest: str) -> dict[str, str] | None:
        """What the selection `digest` holds, None where that is not known."""
        import zlib

        path = self._path(digest)
        unpacking = zlib.decompressobj()
        try:
            with os.fdopen(os.open(path, _READ), "rb") as stream:
                text = unpacking.decompress(stream.read(MOST), _LARGEST)
        except OSError:
            return None
        except zlib.error:
            text = b""
        if not unpacking.eof:  # garbled, or cut short by a power cut: it would never be made anew
            with suppress(OSError):
                os.unlink(path)
            return None
        with suppress(OSError):  # a store that cannot be written
            os.utime(path)
        words = text.decode("utf-8", "surrogateescape").split("\0") if text else []
        half = len(words) // 2
        return dict(zip(words[:half], words[half:], strict=False))

    def _path(self, digest: str) -> str:
        name = digest.rpartition(":")[2]
        if len(name) != _HEX or not name.isalnum():
            name = "none"
        return os.path.join(self._directory, name)

    def _tidy(self) -> None:
        """Remove what is too much, and what killed writers left."""
        found = []
        with suppress(OSError):
            sweep(self._directory)
            with os.scandir(self._directory) as names:
                for one in names:
                    if not one.name.startswith("."):
                        status = one.stat(follow_symlinks=False)
                        found.append((status.st_mtime_ns, status.st_size, one.path))
            count, total = len(found), sum(size for _, size, _ in found)
            for _, size, path in sorted(found):
                if count <= MANY and total <= MOST:
                    return
                os.unlink(path)
                count, total = count - 1, total - size
