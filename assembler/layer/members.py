"""The bytes of some files of a layer, taken out of its blob: in one pass, and only those."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

from assembler.cancellation import nothing
from assembler.errors import BlobMissing, NoSpace
from assembler.layer.changeset import Entry, RangeBytes
from assembler.layer.decompression import reader
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.layer.tar_reader import read
from assembler.values import field, value

_PIECE = 1 << 20
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))


class Members(Protocol):
    """The members of a layer's tar, by their number in it."""

    def take(self, numbers: Iterable[int]) -> None:
        """Have the bytes of these members at hand, those of all of them in one pass."""
        ...

    def open(self, number: int) -> BinaryIO:
        """The bytes of a member, taken now if they are not at hand."""
        ...


@value
class MemberBytes:
    """The bytes of the member `number` of a layer's tar."""

    number: int
    size: int
    members: Members | None = field(default=None, repr=False)

    def open(self) -> BinaryIO:
        """See `ByteSource.open`."""
        if self.members is None:
            raise BlobMissing(f"the layer of member {self.number} is not at hand", "")
        return self.members.open(self.number)


class SpooledMembers:
    """Members of the layer whose blob `blob` opens, put one after another into files in the
    directory `spool`. Threads share it. `check` is called for each member and MiB and may raise."""

    def __init__(
        self,
        blob: Callable[[], AbstractContextManager[BinaryIO]],
        spool: str,
        check: Callable[[], None] = nothing,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._blob = blob
        self._spool = spool
        self._limits = limits
        self._check = check
        self._lock = threading.Lock()
        self._taken: dict[int, RangeBytes] = {}

    def take(self, numbers: Iterable[int]) -> None:
        """See `Members.take`. Raises BadArchive, NoSpace, and what opens the blob raises."""
        with self._lock:
            missing = set(numbers) - self._taken.keys()
            if missing:
                try:
                    self._read(missing)
                except OSError as error:
                    if error.errno not in _FULL:
                        raise
                    raise NoSpace(
                        f"no space left for files of a layer in {self._spool}",
                        self._spool,
                        hint="free space there, or set ASSEMBLE_STORE to another file system",
                    ) from error

    def open(self, number: int) -> BinaryIO:
        """See `Members.open`."""
        self.take((number,))
        return self._taken[number].open()

    def _read(self, missing: set[int]) -> None:
        """Read the blob up to the last of the `missing` members. That it has the bytes it should
        was seen when it came into the store."""
        last = max(missing)
        import tempfile

        descriptor, path = tempfile.mkstemp(prefix="members-", dir=self._spool)
        found: dict[int, RangeBytes] = {}
        with os.fdopen(descriptor, "wb") as out, self._blob() as blob:
            tar = reader(blob, self._limits.size)
            for number, (_, body) in enumerate(read(tar, self._limits, layers=True)):
                self._check()
                if number in missing:
                    found[number] = self._copy(body, out, path)
                if number == last:
                    break
        self._taken |= found

    def _copy(self, body: BinaryIO, out: BinaryIO, path: str) -> RangeBytes:
        start = end = out.tell()
        while piece := body.read(_PIECE):
            out.write(piece)
            end += len(piece)
            self._check()
        return RangeBytes(path, start, end - start)


def gather(entries: Iterable[Entry]) -> None:
    """Have the bytes of `entries` at hand as far as they are in layers' blobs, each blob being read
    once."""
    wanted: dict[int, tuple[Members, set[int]]] = {}
    for entry in entries:
        source = entry.source
        if isinstance(source, MemberBytes) and source.members is not None:
            _, numbers = wanted.setdefault(id(source.members), (source.members, set()))
            numbers.add(source.number)
    for members, numbers in wanted.values():
        members.take(numbers)
