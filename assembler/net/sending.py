"""The bodies of requests on their way: read anew for each attempt, or handed to the kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import BinaryIO

import httpx

from assembler.errors import BlobCorrupt
from assembler.net.body import FileBody
from assembler.net.connection import PIECE, SocketStream


class Unsent(Exception):
    """The body of a request could not be read; its cause says why. The network is not to blame."""


class Sending(httpx.SyncByteStream):
    """The body of a request, sent from its beginning each time that it is iterated over."""

    def __init__(self, make: Callable[[], Iterable[bytes]], file: FileBody | None = None) -> None:
        self._make = make
        self.file = file

    def __iter__(self) -> Iterator[bytes]:
        return _blamed(self._make)

    def on(self, stream: SocketStream) -> Iterable[bytes]:
        """The same for `stream`: the system sends a file itself where it can."""
        if self.file is None or not stream.sends_files:
            return self
        return _blamed(partial(_send, self.file, stream))

    @classmethod
    def of_file(cls, body: FileBody) -> Sending:
        """A part of a file."""
        return cls(lambda: _read(body), body)


class _Sent(bytes):
    """Bytes that are on the wire already: they count, and nothing is left to write."""

    length = 0

    def __len__(self) -> int:
        return self.length


def _blamed(make: Callable[[], Iterable[bytes]]) -> Iterator[bytes]:
    try:
        yield from make()
    except OSError as error:
        raise Unsent from error


def _send(body: FileBody, stream: SocketStream) -> Iterator[bytes]:
    """Send the body on `stream`, and say so."""
    with body.open() as file:
        try:
            file.fileno()
        except OSError:  # not a file of the system
            yield from _read_from(file, body)
            return
        done = 0
        for count in stream.send_file(file, body.offset, body.length):
            if not count:
                raise _short(body, done)
            done += count
            sent = _Sent()
            sent.length = count
            yield sent
            body.progress(done)


def _read(body: FileBody) -> Iterator[bytes]:
    with body.open() as file:
        yield from _read_from(file, body)


def _read_from(file: BinaryIO, body: FileBody) -> Iterator[bytes]:
    file.seek(body.offset)
    done = 0
    while done < body.length:
        piece = file.read(min(PIECE, body.length - done))
        if not piece:
            raise _short(body, done)
        done += len(piece)
        yield piece
        body.progress(done)


def _short(body: FileBody, done: int) -> BlobCorrupt:
    return BlobCorrupt(f"only {done} of the {body.length} bytes that are to be sent are there")
