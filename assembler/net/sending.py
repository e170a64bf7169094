"""The bodies of requests on their way, read anew for each attempt."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import cast

import httpx

from assembler.errors import BlobCorrupt
from assembler.net.body import FileBody, Pieces

_PIECE = 256 << 10  # what stays in the processor's cache until a receiver on this machine has it


class Unsent(Exception):
    """The body of a request could not be read; its cause says why. The network is not to blame."""


class Sending(httpx.SyncByteStream):
    """The body of a request, sent from its beginning each time that it is iterated over. A piece is
    good until the next one is asked for."""

    def __init__(self, make: Callable[[], Pieces]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[bytes]:
        return cast(Iterator[bytes], self.pieces())

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The body. Raises Unsent for an OSError."""
        try:
            yield from self._make()
        except OSError as error:
            raise Unsent from error

    @classmethod
    def of_file(cls, body: FileBody) -> Sending:
        """A part of a file."""
        return cls(lambda: _read(body))


def _read(body: FileBody) -> Iterator[memoryview]:
    """The body. sendfile(2) would be less work here and more for who receives on this machine, who
    waits for every page to come from memory then (docs/benchmarks.md)."""
    buffer, done = memoryview(bytearray(min(_PIECE, body.length))), 0
    with body.open() as file:
        file.seek(body.offset)
        while done < body.length:
            count = cast(io.BufferedIOBase, file).readinto(buffer[: body.length - done])
            if not count:
                raise BlobCorrupt(
                    f"only {done} of the {body.length} bytes that are to be sent are there"
                )
            done += count
            yield buffer[:count]
            body.progress(done)
