"""The bytes of some files of a layer, taken out of its blob: in one pass, and only those."""

from __future__ import annotations

import errno
import os
import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

from assembler.cancellation import nothing
from assembler.errors import BlobMissing, NoSpace
from assembler.layer.changeset import Entry, RangeBytes
from assembler.layer.decompression import reader
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.layer.tar_reader import read
from assembler.values import NamedTuple, field, value

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
        self._taken: list[_Taken] = []

    def take(self, numbers: Iterable[int]) -> None:
        """See `Members.take`. Raises BadArchive, NoSpace, and what opens the blob raises."""
        with self._lock:
            missing = Numbers(n for n in numbers if self._range(n) is None)
            if missing.last >= 0:
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
        found = self._range(number)
        assert found is not None
        return found.open()

    def _range(self, number: int) -> RangeBytes | None:
        for taken in self._taken:
            at = bisect_left(taken.numbers, number)
            if at < len(taken.numbers) and taken.numbers[at] == number:
                start, end = taken.ends[at], taken.ends[at + 1]
                return RangeBytes(taken.path, start, end - start)
        return None

    def _read(self, missing: Numbers) -> None:
        """Read the blob up to the last of the `missing` members. That it has the bytes it should
        was seen when it came into the store."""
        import tempfile

        descriptor, path = tempfile.mkstemp(prefix="members-", dir=self._spool)
        taken = _Taken(path, array("Q"), array("Q", [0]))
        with os.fdopen(descriptor, "wb") as out, self._blob() as blob:
            tar = reader(blob, self._limits.size)
            for number, (_, body) in enumerate(read(tar, self._limits, layers=True)):
                self._check()
                if number in missing:
                    taken.numbers.append(number)
                    taken.ends.append(taken.ends[-1] + self._copied(body, out))
                if number == missing.last:
                    break
        self._taken.append(taken)

    def _copied(self, body: BinaryIO, out: BinaryIO) -> int:
        """How many bytes of `body` were copied."""
        size = 0
        while piece := body.read(_PIECE):
            out.write(piece)
            size += len(piece)
            self._check()
        return size


class _Taken(NamedTuple):
    """Which members are in the file at `path`, in their order, and where each ends, after a zero."""

    path: str
    numbers: array[int]
    ends: array[int]


class Numbers:
    """A set of numbers of members, of which there may be millions: a bit for each."""

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._bits = bytearray()
        self.last = -1
        """The highest."""
        for number in numbers:
            self.add(number)

    def add(self, number: int) -> None:
        """Have `number` in the set."""
        if number > self.last:
            self.last = number
            self._bits.extend(bytes((number >> 3) + 1 - len(self._bits)))
        self._bits[number >> 3] |= 1 << (number & 7)

    def __contains__(self, number: int) -> bool:
        return number <= self.last and bool(self._bits[number >> 3] >> (number & 7) & 1)

    def __iter__(self) -> Iterator[int]:
        return (number for number in range(self.last + 1) if number in self)


def gather(entries: Iterable[Entry]) -> None:
    """Have the bytes of `entries` at hand as far as they are in layers' blobs, each blob being read
    once."""
    wanted: dict[int, tuple[Members, Numbers]] = {}
    for entry in entries:
        source = entry.source
        if isinstance(source, MemberBytes) and source.members is not None:
            _, numbers = wanted.setdefault(id(source.members), (source.members, Numbers()))
            numbers.add(source.number)
    for members, numbers in wanted.values():
        members.take(numbers)
