"""What a selection holds, file by file, as `plan.differences` compares it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from assembler.layer.changeset import Entry, Kind
from assembler.oci.digest import Digest
from assembler.plan.differences import LARGEST_LISTING, File, Listing

_HEX = 32  # of a digest: enough to tell files apart, and half of what a listing is
_LETTERS: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.DIRECTORY: "d",
        Kind.FILE: "-",
        Kind.SYMLINK: "l",
        Kind.FIFO: "p",
        Kind.CHARACTER: "c",
        Kind.BLOCK: "b",
    }
)


@dataclass(slots=True)
class Files:
    """A listing that is being made. Of more than LARGEST_LISTING files there is none."""

    seen: int = 0
    _listing: dict[str, str] = field(default_factory=dict)

    def see(self, path: str, entry: Entry, content: bytes) -> None:
        """Note what is at `path`; see `engine.content.Seen`."""
        self.seen += 1
        if self.seen > LARGEST_LISTING:
            self._listing.clear()
            return
        letter = _LETTERS.get(entry.kind, "?")
        told = content.hex()[:_HEX] if entry.kind is Kind.FILE else entry.link
        if letter in "cb":
            told = "{}:{}".format(*entry.device)
        rest = ""
        if entry.xattrs:
            rest = hashlib.sha256(repr(entry.xattrs).encode()).hexdigest()[:8]
        owner = f"{entry.uid}:{entry.gid}"
        self._listing[path] = str(File(letter, f"{entry.mode:o}", owner, told, rest))

    def of(self, selection: Digest) -> dict[str, Listing]:
        """What `selection` holds, if it can be told, by its digest."""
        return {} if self.seen > LARGEST_LISTING else {str(selection): self._listing}
