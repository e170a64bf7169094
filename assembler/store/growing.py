"""A blob while it is being written, for whoever sends it on meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from assembler.errors import Cancelled
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest

WORTHWHILE = 8 << 20
"""Bytes after which a blob is worth following: a smaller one is soon whole, and whoever knows its
digest can ask first whether it is there already."""
_ANY = "application/octet-stream"
_GIVEN_UP = "a blob was given up by its writer"


class Growing:
    """What one writer has written of a blob so far, in a file, for any number of readers.

    Any part may be read again, also after the blob has its name. When its writer gave up, readers
    are told so by Cancelled.
    """

    def __init__(self, file: int, open_blob: Callable[[Digest], BinaryIO]) -> None:
        self._open_blob = open_blob
        self._changed = threading.Condition()
        self._file = os.dup(file)
        self._size = 0
        self._blob: Descriptor | None = None
        self._ended = False

    @property
    def blob(self) -> Descriptor | None:
        """What it is, None until it is whole; the media type is any."""
        return self._blob

    def available(self, least: int) -> int:
        """How many bytes there are, as soon as that is `least` or all. Raises Cancelled."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._size >= least)
            if self._ended and self._blob is None:
                raise Cancelled(_GIVEN_UP)
            return self._size

    def read(self, offset: int, most: int) -> bytes:
        """At most `most` bytes from `offset` on, waiting until there are some; none only at the end
        of the blob. Raises Cancelled, BlobMissing, OSError."""
        self.available(offset + 1)
        with self._opened() as file:
            return os.pread(file, most, offset)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        with self._changed:
            file = -1 if self._ended else os.dup(self._file)
        if file >= 0:
            try:
                yield file
            finally:
                os.close(file)
        elif self._blob is not None:
            with self._open_blob(self._blob.digest) as stream:
                yield stream.fileno()
        else:
            raise Cancelled(_GIVEN_UP)

    def grown(self, size: int) -> None:
        """The writer's: `size` bytes are in the file."""
        with self._changed:
            self._size = size
            self._changed.notify_all()

    def end(self, digest: Digest | None) -> None:
        """The writer's: the blob is whole and has its name, or never will be (None). Only the first
        call counts."""
        with self._changed:
            if not self._ended:
                self._ended = True
                if digest is not None:
                    self._blob = Descriptor(_ANY, digest, self._size)
                os.close(self._file)
                self._changed.notify_all()
