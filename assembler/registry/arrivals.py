"""Blobs that are read while they still arrive from a registry: what is copied to another one.

A file is the buffer, so that either side may break off, wait and begin anew by itself. The last byte
is given out when the digest of all is right: nobody completes anything that is not.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import BinaryIO, cast

from assembler.cancellation import NOTICING, Cancellation
from assembler.errors import AssemblerError, Cancelled
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.oci.reference import Reference
from assembler.registry.client import RegistryClient
from assembler.registry.download import fetch_blob


class Arrivals:
    """The blobs of one repository, by files in `directory`. With `keep` they stay there until the
    end, for a second reader. Use it with `with`; threads share it."""

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
        self._open: list[_Arriving] = []

    def __enter__(self) -> Arrivals:
        return self

    def __exit__(self, *_: object) -> None:
        for arriving in self._open:
            arriving.close()

    def open(self, blob: Descriptor) -> BinaryIO:
        """The blob for reading, from its start; its reader waits for what has not come. Raises
        RegistryError, also from reads."""
        with self._lock:
            arriving = self._arriving.get(blob.digest)
            if arriving is None or arriving.failed:
                path = os.path.join(self._directory, f"{blob.digest.algorithm}-{blob.digest.hex}")
                arriving = _Arriving(blob, path, self._cancellation)
                arriving.start(self._client, self._reference)
                self._arriving[blob.digest] = arriving
                self._open.append(arriving)
            arriving.readers += 1
        return cast(BinaryIO, _Reader(self, arriving))

    def left(self, arriving: _Arriving) -> None:
        """Take note that a reader is done."""
        with self._lock:
            arriving.readers -= 1
            over = not arriving.readers and not self._keep
            if over:
                self._open.remove(arriving)
            if over and self._arriving.get(arriving.blob.digest) is arriving:
                del self._arriving[arriving.blob.digest]
        if over:
            arriving.close()


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

    def _take(self, piece: bytes) -> None:
        if self._left:
            raise Cancelled("nobody reads it any more")
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        with self._came:
            self._received += len(piece)
            self._came.notify_all()

    def read(self, offset: int, most: int) -> bytes:
        """At most `most` bytes from `offset`, waited for; none only at the end."""
        with self._came:
            while not self._whole and offset >= min(self._received, self.blob.size - 1):
                self._cancellation.check()
                if self._error is not None:
                    raise self._error
                self._came.wait(NOTICING)
            there = self._received if self._whole else min(self._received, self.blob.size - 1)
        return os.pread(self._file, min(most, there - offset), offset) if offset < there else b""

    def close(self) -> None:
        """Give the file back; what still comes is not waited for."""
        self._left = True
        if self._thread is not None:
            self._thread.join()
        with suppress(OSError):
            os.close(self._file)


class _Reader:
    """A position in a blob that arrives."""

    def __init__(self, arrivals: Arrivals, arriving: _Arriving) -> None:
        self._arrivals = arrivals
        self._arriving = arriving
        self._at = 0
        self._closed = False

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, most: int) -> bytes:
        piece = self._arriving.read(self._at, most)
        self._at += len(piece)
        return piece

    def seek(self, offset: int) -> int:
        self._at = offset
        return offset

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._arrivals.left(self._arriving)
