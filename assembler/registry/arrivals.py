"""Blobs that are read while they still arrive from a registry: what is copied to another one.

A file is the buffer, so that either side may break off, wait and begin anew by itself. The last byte
is given out when the digest of all is right: nobody completes anything that is not.
"""

from __future__ import annotations

import io
import os
import threading
from contextlib import suppress
from typing import Any, BinaryIO, cast

from assembler.cancellation import NOTICING, Cancellation
from assembler.errors import AssemblerError, Cancelled
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.oci.reference import Reference
from assembler.registry.client import RegistryClient
from assembler.registry.download import fetch_blob
from assembler.registry.parallel import JOBS

_PIECE = 256 << 10


class Arrivals:
    """The blobs of one repository, by files in `directory`. A blob that nobody reads just now may be
    read again soon, so a few of those stay, and all with `keep`: for several destinations. Use it
    with `with`; threads share it."""

    def __init__(
        self,
        client: RegistryClient,
        reference: Reference,
        directory: str,
        cancellation: Cancellation,
        *,
        keep: bool = False,
    ) -> None:
        self._client = client
        self._reference = reference
        self._directory = directory
        self._cancellation = cancellation
        self._keep = keep
        self._lock = threading.Lock()
        self._arriving: dict[Digest, _Arriving] = {}
        """The longest unread first."""
        self._failed: list[_Arriving] = []

    def __enter__(self) -> Arrivals:
        return self

    def __exit__(self, *_: object) -> None:
        for arriving in (*self._arriving.values(), *self._failed):
            arriving.close()

    def open(self, blob: Descriptor) -> BinaryIO:
        """The blob for reading, from its start; its reader waits for what has not come. Raises
        RegistryError, also from reads."""
        with self._lock:
            arriving = self._arriving.pop(blob.digest, None)
            if arriving is None or arriving.failed:
                self._failed += [] if arriving is None else [arriving]  # somebody may read it
                path = os.path.join(self._directory, f"{blob.digest.algorithm}-{blob.digest.hex}")
                arriving = _Arriving(blob, path, self._cancellation)
                arriving.start(self._client, self._reference)
            self._arriving[blob.digest] = arriving
            arriving.readers += 1
            unread = [one for one in self._arriving.values() if not one.readers]
            over = [] if self._keep else unread[:-JOBS]
            for one in over:
                del self._arriving[one.blob.digest]
        for one in over:
            one.close()
        return cast(BinaryIO, io.BufferedReader(_Reader(self, arriving), _PIECE))

    def left(self, arriving: _Arriving) -> None:
        """Take note that a reader is done."""
        with self._lock:
            arriving.readers -= 1


class _Arriving:
    """One blob on its way into a file without a name."""

    def __init__(self, blob: Descriptor, path: str, cancellation: Cancellation) -> None:
        self.blob = blob
        self.readers = 0
        self._cancellation = cancellation
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.unlink(path)
        self._came = threading.Condition()
        self._received = 0
        self._whole = self._left = False
        self._error: AssemblerError | OSError | None = None
        self._thread: threading.Thread | None = None

    @property
    def failed(self) -> bool:
        """Whether the rest will not come."""
        return self._error is not None

    def start(self, client: RegistryClient, reference: Reference) -> None:
        """Fetch it, in a thread of its own."""

        def run() -> None:
            try:
                fetch_blob(
                    client, reference, self.blob, self._take, cancellation=self._cancellation
                )
            except (AssemblerError, OSError) as error:
                with self._came:
                    self._error = error
                    self._came.notify_all()
            else:
                with self._came:
                    self._whole = True
                    self._came.notify_all()

        self._thread = threading.Thread(target=run, name=f"blob {self.blob.digest}")
        self._thread.start()

    def _take(self, piece: memoryview) -> None:
        if self._left:
            raise Cancelled("nobody reads it any more")
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        with self._came:
            self._received += len(piece)
            self._came.notify_all()

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """How many bytes from `offset` were put into `buffer`, waited for; none only at the end."""
        with self._came:
            while not self._whole and offset >= min(self._received, self.blob.size - 1):
                self._cancellation.check()
                if self._error is not None:
                    raise self._error
                self._came.wait(NOTICING)
            there = self._received if self._whole else min(self._received, self.blob.size - 1)
        if offset >= there:
            return 0
        return os.preadv(self._file, [buffer[: there - offset]], offset)

    def close(self) -> None:
        """Give the file back; what still comes is not waited for."""
        self._left = True
        if self._thread is not None:
            self._thread.join()
        with suppress(OSError):
            os.close(self._file)


class _Reader(io.RawIOBase):
    """A position in a blob that arrives."""

    def __init__(self, arrivals: Arrivals, arriving: _Arriving) -> None:
        self._arrivals = arrivals
        self._arriving = arriving
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        count = self._arriving.read_into(view, self._at)
        self._at += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._arriving.blob.size}
        self._at = start[whence] + offset
        return self._at

    def close(self) -> None:
        if not self.closed:
            self._arrivals.left(self._arriving)
        super().close()
