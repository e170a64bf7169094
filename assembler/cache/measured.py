"""What a store was found to hold when it was last looked through, so that not every build must.

    measured   first a line: version, fingerprint, counted bytes, when the longest unused was used;
               then a line for each layer directory: its change time, its bytes, its path

The fingerprint tells whether blobs, layers, mounts, repositories or images have come or gone since.
Layer directories do not change once they are there, so their files are counted only once. It is
derived data: without it everything is counted again.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from assembler.linux.replacing import replacing
from assembler.values import value

if TYPE_CHECKING:
    from assembler.cache.usage import Usage

_NAME = "measured"
_VERSION = "1"
_PLACES = ("blobs", "layers", "mounts")
_YOUNG = 60  # seconds in which file systems may not have settled on the blocks of a file
_DIGEST = re.compile(rb"[a-z0-9]+:[0-9a-f]{32,}")


@value
class Measured:
    """`counted` bytes are those that caps are for; `oldest` is when what could be removed was last
    used, the longest ago of it, in seconds since the epoch."""

    fingerprint: str
    counted: int
    oldest: float


def read(store: str) -> Measured | None:
    """What was last found in the store at `store`, None where that is not known."""
    with suppress(OSError, ValueError), open(os.path.join(store, _NAME), "rb") as stream:
        version, fingerprint, counted, oldest = stream.readline(200).decode("ascii").split()
        if version == _VERSION:
            return Measured(fingerprint, int(counted), float(oldest))
    return None


def sizes(store: str) -> dict[str, tuple[int, int]]:
    """Change time and bytes of the layer directories that are known, by their paths."""
    found: dict[str, tuple[int, int]] = {}
    if read(store) is not None:
        with suppress(OSError), open(os.path.join(store, _NAME), "rb") as stream:
            for line in stream.read().decode("utf-8", "surrogateescape").splitlines()[1:]:
                with suppress(ValueError):
                    changed, size, path = line.split(" ", 2)
                    found[path] = int(changed), int(size)
    return found


def write(store: str, seen: str, left: Iterable[Usage], counted: int, now: float) -> None:
    """Note that `left` is there, of which `counted` bytes count. `seen` is the `fingerprint` from
    before it was looked for. Nothing is noted where nothing can be written."""
    oldest, lines = math.inf, []
    for one in left:
        oldest = oldest if one.shared else min(oldest, one.last_used)
        if one.path.startswith("layers/"):
            with suppress(FileNotFoundError):
                changed = os.lstat(os.path.join(store, one.path)).st_ctime_ns
                if now - changed / 1e9 >= _YOUNG:
                    lines.append(f"{changed} {one.size} {one.path}\n")
    head = f"{_VERSION} {seen} {counted} {oldest!r}\n"
    with suppress(OSError), replacing(os.path.join(store, _NAME), 0o600) as stream:
        stream.write("".join((head, *lines)).encode("utf-8", "surrogateescape"))


def fingerprint(store: str) -> str:
    """What changes with what the store at `store` holds, but for files that are derived and small."""
    parts = [f"{path} {_changed(os.path.join(store, path))}" for path in sorted(_places(store))]
    with suppress(OSError), open(os.path.join(store, "index.json"), "rb") as stream:
        # by name an image is written anew with each build, and is still the same
        parts += sorted({found.decode() for found in _DIGEST.findall(stream.read())})
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def _places(store: str) -> Iterable[str]:
    yield "git"
    for name in _PLACES:
        with suppress(OSError), os.scandir(os.path.join(store, name)) as found:
            yield from (f"{name}/{one.name}" for one in found)


def _changed(path: str) -> int:
    try:
        return os.lstat(path).st_mtime_ns
    except OSError:
        return 0
