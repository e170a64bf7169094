"""What COPYs selected, file by file, by the digests of their selections: so that what changed since
can be named.

    listings/<hex>             paths and what they are, compressed
    listings/<hex>.imported    the same, as a shared cache told it: where this store has none of its own

Derived data, which may be deleted at any time. What was not used for longest goes when there are more
than MANY, or more than MOST bytes of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from assembler.linux.replacing import put, sweep

MANY, MOST = 2000, 256 << 20
IMPORTED = ".imported"
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
        self._put(path, packed(files))
        with suppress(OSError):
            os.unlink(path + IMPORTED)

    def take(self, digest: str, content: bytes) -> None:
        """Keep `content`, as `packed` gives it, as what somebody else says that the selection
        `digest` holds: as long as nothing is known of it here. Raises OSError."""
        path = self._path(digest)
        if not os.path.lexists(path):
            self._put(path + IMPORTED, content)

    def _put(self, path: str, content: bytes) -> None:
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        put(path, content)
        if not self._tidied:
            self._tidied = True
            self._tidy()

    def load(self, digest: str) -> dict[str, str] | None:
        """What the selection `digest` holds, None where that is not known."""
        found = self._read(digest, MOST)
        return None if found is None else unpacked(found[1])

    def content(self, digest: str, most: int) -> bytes | None:
        """What `packed` gave of it, None where that has more than `most` bytes, or is not known."""
        found = self._read(digest, most)
        return None if found is None else found[0]

    def _read(self, digest: str, most: int) -> tuple[bytes, bytes] | None:
        """What is kept of the selection, and the text that is in it."""
        own = self._path(digest)
        for path in (own, own + IMPORTED):
            try:
                with os.fdopen(os.open(path, _READ), "rb") as stream:
                    content = stream.read(most + 1)
            except OSError:
                continue
            if len(content) > most:
                return None
            text = inflated(content, _LARGEST)
            if text is None:  # garbled, or cut short by a power cut: it would never be made anew
                with suppress(OSError):
                    os.unlink(path)
                continue
            with suppress(OSError):  # a store that cannot be written
                os.utime(path)
            return content, text
        return None

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


def packed(files: Mapping[str, str]) -> bytes:
    """`files` as they are kept: the same bytes for the same files."""
    import zlib

    paths = sorted(files)
    text = "\0".join([*paths, *(files[path] for path in paths)])
    return zlib.compress(text.encode("utf-8", "surrogateescape"), 1)


def inflated(content: bytes, most: int) -> bytes | None:
    """The text in what `packed` gave; None for what is garbled, or has more than `most` bytes."""
    import zlib

    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(content, most)
    except zlib.error:
        return None
    return text if unpacking.eof and not unpacking.unused_data else None


def unpacked(text: bytes) -> dict[str, str]:
    """The files of which `text` tells."""
    words = text.decode("utf-8", "surrogateescape").split("\0") if text else []
    half = len(words) // 2
    return dict(zip(words[:half], words[half:], strict=False))
