"""Listings (`store.listings`) that travel with a shared cache, so that a machine that knows nothing else
can name the files that changed.

All of a cache are in one blob, one after the other, each as the store keeps it; the document says
which are there. Whoever reads it believes no more of them than that they have the shape of listings:
they give words, and never a key or a file.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping

from assembler.cache.document import MANY_LISTINGS, MAX_LISTINGS, CachedListings
from assembler.oci.descriptor import CACHE_LISTINGS, Descriptor
from assembler.oci.digest import Digest
from assembler.plan.differences import LARGEST_LISTING
from assembler.store.listings import inflated, unpacked
from assembler.values import value

PATIENCE = 5.0
"""Seconds that all listings of one build may take to come: a build can do without."""
_LARGEST = 64 << 20  # bytes of one's text
_LONGEST = 4096  # characters of a path
_FILE = re.compile(r"[-dlpcb?] [0-7]{1,7} \d{1,10}:\d{1,10} [0-9a-f]{0,8} [^\0]{0,4096}", re.ASCII)


def bundled(contents: Mapping[Digest, bytes]) -> tuple[CachedListings, bytes] | None:
    """The packed listings `contents` as one blob, the same for the same ones; None for none. Those
    that have no room in it are left out, the largest first."""
    chosen: list[Digest] = []
    room = MAX_LISTINGS
    for size, digest in sorted((len(content), one) for one, content in contents.items()):
        if size > room or len(chosen) == MANY_LISTINGS:
            break
        chosen.append(digest)
        room -= size
    if not chosen:
        return None
    parts = {digest: contents[digest] for digest in sorted(chosen)}
    content = b"".join(parts.values())
    blob = Descriptor(CACHE_LISTINGS, Digest.of(content), len(content))
    return CachedListings(blob, {digest: len(part) for digest, part in parts.items()}), content


def part(listings: CachedListings, content: bytes, selection: Digest) -> bytes:
    """What is in the blob's `content` of `selection`, which is one of `listings`."""
    begin = 0
    for digest, size in listings.sizes.items():
        if digest == selection:
            return content[begin : begin + size]
        begin += size
    raise KeyError(selection)


def parsed(content: bytes) -> dict[str, str] | None:
    """The listing in `content`, None where that is none that `engine.files` makes (rule M7)."""
    text = inflated(content, _LARGEST)
    if text is None or (words := text.count(b"\0") + 1) > 2 * LARGEST_LISTING:
        return None
    files = unpacked(text)
    if text and 2 * len(files) != words:  # one is missing, or there twice
        return None
    right = all(map(_is_path, files)) and all(map(_FILE.fullmatch, files.values()))
    return files if right else None


def _is_path(path: str) -> bool:
    """Whether `path` is one in a tree."""
    if len(path) > _LONGEST:
        return False
    return not path or {"", ".", ".."}.isdisjoint(path.split("/"))


@value
class Offer:
    """The listings of a cache at `place`, whose document was read. `fetch` gives the bytes of their
    blob if it comes within as many seconds."""

    place: str
    listings: CachedListings
    fetch: Callable[[float], bytes | None]


class Offers:
    """The listings that caches have, those that `known` gives now. A blob is asked for once. When
    `PATIENCE` is at its end there are none any more. Not for several threads at once."""

    def __init__(
        self,
        known: Callable[[], Iterable[Offer]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._known = known
        self._clock = clock
        self._left = PATIENCE
        self._fetched: dict[tuple[str, Digest], bytes | None] = {}

    def find(self, selection: Digest) -> tuple[bytes, dict[str, str]] | None:
        """The listing of `selection`, packed and not; None where nobody has it."""
        for offer in self._known():
            if selection in offer.listings.sizes and self._left > 0:
                began = self._clock()
                found = self._found(offer, selection)
                self._left -= self._clock() - began
                if found is not None:
                    return found
        return None

    def _found(self, offer: Offer, selection: Digest) -> tuple[bytes, dict[str, str]] | None:
        key = offer.place, offer.listings.blob.digest
        if key not in self._fetched:
            self._fetched[key] = offer.fetch(self._left)
        content = self._fetched[key]
        if content is None:
            return None
        packed = part(offer.listings, content, selection)
        files = parsed(packed)
        return None if files is None else (packed, files)
