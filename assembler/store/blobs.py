"""Content-addressed blobs: written once, verified, durable before they have their name.

Order of one write (reliability.md 1.1): exclusive file in a locked ingest directory, hash while
writing, compare, fsync, chmod 0444, rename, fsync of the directory. A small blob is in memory until
it is known whether it is here already.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from assembler.errors import BlobCorrupt, BlobMissing, NoSpace, StoreError
from assembler.linux.claims import Claim, claim
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest

MAX_DOCUMENT = 8 << 20  # bytes of a manifest or configuration
_HELD = 1 << 16  # bytes of a new blob that are in memory before they need a file


class Blobs:
    """The blobs below `directory` (`blobs/sha256/<hex>`, image-layout.md)."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def path(self, digest: Digest) -> str:
        """Where the blob `digest` is, or would be."""
        return os.path.join(self._directory, "blobs", digest.algorithm, digest.hex)

    def has(self, digest: Digest) -> bool:
        """Whether the blob is here."""
        return self.size(digest) is not None

    def size(self, digest: Digest) -> int | None:
        """The blob's size in bytes, None when it is not here."""
        try:
            found = os.lstat(self.path(digest))
        except FileNotFoundError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def open(self, digest: Digest) -> BinaryIO:
        """The blob for reading. Raises BlobMissing. Links are not followed (reliability M10)."""
        path = self.path(digest)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise BlobMissing(
                f"blob {digest} cannot be read: {error.strerror}",
                path,
                hint="build or pull it anew",
            ) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise BlobMissing(f"blob {digest} is not a regular file", path)
        return os.fdopen(descriptor, "rb")

    def read(self, descriptor: Descriptor, limit: int = MAX_DOCUMENT) -> bytes:
        """The verified bytes of a small blob. Raises BlobMissing, BlobCorrupt."""
        if descriptor.size > limit:
            raise BlobCorrupt(
                f"blob {descriptor.digest} has {descriptor.size} bytes, at most {limit} are read",
                self.path(descriptor.digest),
            )
        with self.open(descriptor.digest) as stream:
            content = stream.read(descriptor.size + 1)
        if len(content) != descriptor.size or not descriptor.digest.matches(content):
            raise BlobCorrupt(
                f"blob {descriptor.digest} in the store does not have its digest",
                self.path(descriptor.digest),
                hint="remove the file, and build or pull again",
            )
        return content

    def put(self, content: bytes) -> Digest:
        """Store `content`; its digest. Nothing is written when it is here."""
        digest = Digest.of(content)
        if not self.has(digest):
            with self.ingest() as ingest:
                ingest.write(content)
                ingest.commit(None)
        return digest

    def reserve(self, size: int) -> None:
        """Raise NoSpace when a blob of `size` bytes, 0 for not known, has no room here."""
        found = os.statvfs(self._directory)
        if size > found.f_bavail * found.f_frsize:
            raise translated(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), self._directory)

    @contextmanager
    def ingest(self) -> Iterator[Ingest]:
        """A new blob being written; what is not committed when the block ends is removed."""
        ingest = Ingest(self._directory)
        try:
            yield ingest
        except OSError as error:
            raise translated(error, self._directory) from error
        finally:
            ingest.close()


class Ingest:
    """One blob being written; usable as a binary sink. Made by `Blobs.ingest`."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._hasher = hashlib.sha256()
        self._size = 0
        self._held = bytearray()
        self._claim: Claim | None = None
        self._path = ""
        self._file = -1

    def write(self, chunk: bytes | bytearray | memoryview) -> int:
        """Append `chunk`; how many bytes that were."""
        view = memoryview(chunk)
        self._hasher.update(view)
        self._size += len(view)
        if self._claim is None and self._size <= _HELD:
            self._held += view
        else:
            self._spill()
            self._append(view)
        return len(view)

    def _spill(self) -> None:
        """Go on in a file, if that is not so already."""
        if self._claim is not None:
            return
        os.makedirs(os.path.join(self._directory, "ingest"), mode=0o700, exist_ok=True)
        self._claim = claim(os.path.join(self._directory, "ingest"))
        self._path = os.path.join(self._claim.path, "data")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o600)
        self._append(memoryview(self._held))

    def _append(self, rest: memoryview) -> None:
        while rest:
            rest = rest[os.write(self._file, rest) :]

    @property
    def digest(self) -> Digest:
        """The digest of what was written so far."""
        return Digest("sha256", self._hasher.hexdigest())

    def commit(self, expected: Descriptor | None = None) -> tuple[Digest, int]:
        """Give the blob its name; its digest and size. Raises BlobCorrupt unless it is `expected`."""
        digest = self.digest
        if expected is not None and (digest, self._size) != (expected.digest, expected.size):
            raise BlobCorrupt(
                f"expected blob {expected.digest} of {expected.size} bytes, "
                f"got {digest} of {self._size} bytes",
                self._path,
            )
        self.commit_as(digest, self._size)
        return digest, self._size

    def commit_as(self, digest: Digest, size: int) -> None:
        """Give the blob the name its writer computed. Raises BlobCorrupt when it is wrong."""
        if (digest.hex, size) != (self._hasher.hexdigest(), self._size):
            raise BlobCorrupt(f"blob {digest} was written with other bytes", self._path)
        target = os.path.join(self._directory, "blobs", digest.algorithm, digest.hex)
        if self._claim is None and _holds(target, self._held):
            return  # written before, and durable since: a step that changes nothing packs to this
        self._spill()
        os.fsync(self._file)
        os.fchmod(self._file, 0o444)
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        os.rename(self._path, target)
        sync_directory(os.path.dirname(target))

    def close(self) -> None:
        """Remove what was not committed."""
        if self._claim is not None:
            os.close(self._file)
            self._claim.close()


def _holds(path: str, content: bytearray) -> bool:
    """Whether there is a regular file with exactly these few bytes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        same_size = stat.S_ISREG(status.st_mode) and status.st_size == len(content)
        return same_size and stream.read(len(content)) == content


def sync_directory(path: str) -> None:
    """fsync(2) of a directory, so that a rename in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that cannot, keep nothing anyway
            raise
    finally:
        os.close(descriptor)


def translated(error: OSError, directory: str) -> StoreError:
    """`error` as the store's own, naming the file system when it is full."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        found = os.statvfs(directory)
        free = found.f_bavail * found.f_frsize
        return NoSpace(
            f"no space left on the file system of {directory} ({free} bytes free)",
            directory,
            hint="free space there, or set ASSEMBLE_STORE to another file system",
        )
    return StoreError(f"{error.filename or directory}: {error.strerror}", directory)
