"""Content-addressed blobs: written once, verified, durable before something durable names them.

Order of one write (reliability.md 1.1): exclusive file in a locked ingest directory, hash while
writing, compare, fsync, chmod 0444, rename, fsync of the directory. In batches the fsync of all of
them is when `sync` is called, before a name is given: until then a blob has mode 0400, and whoever
finds one that another process left so reads it before believing it. A small blob is in memory until
it is known whether it is here already.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from assembler.errors import AssemblerError, BlobCorrupt, BlobMissing, Cancelled
from assembler.linux.claims import Claim, claim
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.store.disk import Disk, Fsync, translated

if TYPE_CHECKING:
    from assembler.store.growing import Growing

MAX_DOCUMENT = 8 << 20  # bytes of a manifest or configuration
_HELD = 1 << 16  # bytes of a new blob that are in memory before they need a file
_STRETCH = 16 << 20  # bytes of which the writing to disk begins at once
_PIECE = 1 << 20
_DURABLE, _NAMED = 0o444, 0o400


class Blobs:
    """The blobs below `directory` (`blobs/sha256/<hex>`, image-layout.md). `check` is called for
    each piece that is written, and may raise; `hold` is given the path in `directory` of each blob
    that is used, before it is looked for."""

    def __init__(
        self,
        directory: str,
        check: Callable[[], None] = lambda: None,
        hold: Callable[[str], None] = lambda item: None,
        disk: Disk | None = None,
    ) -> None:
        self._directory = directory
        self._check = check
        self._hold = hold
        self._disk = disk or Disk()
        self._guard = threading.Lock()
        self._pending: set[str] = set()
        self._verified: set[Digest] = set()

    def path(self, digest: Digest) -> str:
        """Where the blob `digest` is, or would be."""
        return os.path.join(self._directory, "blobs", digest.algorithm, digest.hex)

    def has(self, digest: Digest) -> bool:
        """Whether the blob is here."""
        return self.size(digest) is not None

    def size(self, digest: Digest) -> int | None:
        """The blob's size in bytes, None when it is not here."""
        path = self._held(digest)
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        if found.st_mode & 0o777 == _NAMED and path not in self._pending:
            return self._believed(digest, path, found.st_size)
        return found.st_size

    def _held(self, digest: Digest) -> str:
        self._hold(f"blobs/{digest.algorithm}/{digest.hex}")
        return self.path(digest)

    def _believed(self, digest: Digest, path: str, size: int) -> int | None:
        """`size` of a blob that its writer has not synced yet, or never did: a power cut may have
        left anything under its name."""
        if self._digest(path, digest.algorithm) != digest.hex:
            with suppress(FileNotFoundError):
                os.unlink(path)
            return None
        with self._guard:
            self._pending.add(path)
        return size

    def _digest(self, path: str, algorithm: str) -> str:
        hasher = hashlib.new(algorithm)
        with suppress(FileNotFoundError), open(path, "rb", buffering=0) as stream:
            buffer = memoryview(bytearray(_PIECE))
            while count := stream.readinto(buffer):
                self._check()
                hasher.update(buffer[:count])
        return hasher.hexdigest()

    def open(self, digest: Digest) -> BinaryIO:
        """The blob for reading. Raises BlobMissing. Links are not followed (reliability M10)."""
        path = self._held(digest)
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

    @contextmanager
    def reading(self, digest: Digest) -> Iterator[BinaryIO]:
        """The blob for reading. Where the block fails because the blob is damaged, the blob is
        taken away, so that it is fetched or made anew, and BlobCorrupt is raised instead."""
        with self.open(digest) as stream:
            try:
                yield stream
            except Cancelled:
                raise
            except (AssemblerError, OSError, ValueError, EOFError) as error:
                self.condemn(digest, error)
                raise

    def verify(self, digest: Digest) -> None:
        """Read the blob, unless that was done or it was written by this process, and `condemn` it:
        for whoever reads a part of it only. Raises BlobCorrupt."""
        if digest not in self._verified:
            self.condemn(digest)
            self._verified.add(digest)

    def condemn(self, digest: Digest, cause: Exception | None = None) -> None:
        """Take the blob away if it is damaged, and raise BlobCorrupt then."""
        path = self.path(digest)
        if not os.path.lexists(path) or self._digest(path, digest.algorithm) == digest.hex:
            return
        self._verified.discard(digest)
        os.unlink(path)
        error = BlobCorrupt(
            f"blob {digest} in the store was damaged, and has been removed",
            path,
            hint="build or pull again; `assemble store check` looks for more of them",
        )
        error.removed = True
        raise error from cause

    def read(self, descriptor: Descriptor, limit: int = MAX_DOCUMENT) -> bytes:
        """The verified bytes of a small blob. Raises BlobMissing, BlobCorrupt."""
        if descriptor.size > limit:
            raise BlobCorrupt(
                f"blob {descriptor.digest} has {descriptor.size} bytes, at most {limit} are read",
                self.path(descriptor.digest),
            )
        with self.open(descriptor.digest) as stream:
            content = stream.read(descriptor.size + 1)
        if len(content) == descriptor.size and descriptor.digest.matches(content):
            return content
        self.condemn(descriptor.digest)
        raise BlobCorrupt(
            f"blob {descriptor.digest} does not have the {descriptor.size} bytes it is said to have",
            self.path(descriptor.digest),
        )

    def put(self, content: bytes, algorithm: str = "sha256") -> Digest:
        """Store `content`; its digest. A small one that is here, undamaged, is not written."""
        with self.ingest(algorithm=algorithm) as ingest:
            ingest.write(content)
            return ingest.commit(None)[0]

    def reserve(self, size: int) -> None:
        """Raise NoSpace when a blob of `size` bytes, 0 for not known, has no room here."""
        found = os.statvfs(self._directory)
        if size > found.f_bavail * found.f_frsize:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise translated(full, self._directory, size)

    @contextmanager
    def ingest(
        self,
        size: int = 0,
        *,
        hashed: bool = True,
        algorithm: str = "sha256",
        follow: Callable[[Growing], None] | None = None,
    ) -> Iterator[Ingest]:
        """A new blob being written, of `size` bytes where that is known; what is not committed when
        the block ends is removed. Without `hashed` its writer hashes what it writes, and commits it
        by `commit_as`. A blob of some size is given to `follow` while it is being written.
        Raises NoSpace, StoreError."""
        self.reserve(size)
        hasher = algorithm if hashed else ""
        ingest = Ingest(self, self._directory, self._check, self._disk, hasher, follow)
        try:
            yield ingest
        except OSError as error:
            raise translated(error, self._directory, max(size, ingest.written)) from error
        finally:
            ingest.close()

    def named(self, digest: Digest, file: int, temporary: str) -> None:
        """Give the file `temporary`, open as `file`, whole and with the bytes of `digest`, its
        name."""
        target = self._held(digest)
        batch = self._disk.policy is Fsync.BATCH
        if not batch:
            self._disk.sync(file)
        os.fchmod(file, _NAMED if batch else _DURABLE)
        try:
            os.rename(temporary, target)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            os.rename(temporary, target)
        self._verified.add(digest)
        if batch:
            with self._guard:
                self._pending.add(target)
        else:
            self._disk.sync_directory(os.path.dirname(target))

    def holds(self, digest: Digest, content: bytearray) -> bool:
        """Whether there is a regular file with exactly these few bytes under their digest."""
        path = self._held(digest)
        try:
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(path, flags)
        except OSError:
            return False
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            same_size = stat.S_ISREG(status.st_mode) and status.st_size == len(content)
            if not same_size or stream.read(len(content)) != content:
                return False
        if status.st_mode & 0o777 == _NAMED:
            with self._guard:
                self._pending.add(path)
        return True

    def sync(self) -> None:
        """Have every blob on disk that got its name since the last time. Raises StoreError: nothing
        durable may name them then."""
        with self._guard:
            pending, self._pending = self._pending, set()
        try:
            for path in sorted(pending):
                with suppress(FileNotFoundError):  # it was damaged, and somebody removed it
                    self._sync(path)
            for directory in {os.path.dirname(path) for path in pending}:
                self._disk.sync_directory(directory)
        except OSError as error:
            with self._guard:
                self._pending |= pending
            raise translated(error, self._directory) from error

    def _sync(self, path: str) -> None:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._disk.sync(file)
            os.fchmod(file, _DURABLE)
        finally:
            os.close(file)


class Verified(io.RawIOBase):
    """The bytes of `stream`, which is closed with this; at their end BlobCorrupt is raised unless
    they have `digest`."""

    def __init__(self, stream: BinaryIO, digest: Digest) -> None:
        self._stream = stream
        self._digest = digest
        self._hasher = hashlib.new(digest.algorithm)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        piece = self._stream.read(len(view))
        view[: len(piece)] = piece
        self._hasher.update(piece)
        if not piece and len(view) and self._hasher.hexdigest() != self._digest.hex:
            raise BlobCorrupt(f"blob {self._digest} in the store is damaged", str(self._digest))
        return len(piece)

    def close(self) -> None:
        self._stream.close()
        super().close()


class Ingest:
    """One blob being written; usable as a binary sink. Made by `Blobs.ingest`."""

    def __init__(
        self,
        blobs: Blobs,
        directory: str,
        check: Callable[[], None],
        disk: Disk,
        algorithm: str,
        follow: Callable[[Growing], None] | None,
    ) -> None:
        self._blobs = blobs
        self._directory = directory
        self._check = check
        self._disk = disk
        self._algorithm = algorithm
        self._hasher = hashlib.new(algorithm) if algorithm else None
        self._size = self._started = 0
        self._held = bytearray()
        self._claim: Claim | None = None
        self._path = ""
        self._file = -1
        self._follow = follow
        self._growing: Growing | None = None

    @property
    def written(self) -> int:
        """Bytes so far."""
        return self._size

    def write(self, chunk: bytes | bytearray | memoryview) -> int:
        """Append `chunk`; how many bytes that were."""
        self._check()
        view = memoryview(chunk)
        if self._hasher is not None:
            self._hasher.update(view)
        self._size += len(view)
        if self._claim is None and self._size <= _HELD:
            self._held += view
        else:
            self._spill()
            self._append(view)
            if self._size - self._started >= _STRETCH:
                self._disk.start(self._file, self._started, self._size - self._started)
                self._started = self._size
            self._tell_followers()
        return len(view)

    def _tell_followers(self) -> None:
        if self._follow is not None and self._growing is None:
            from assembler.store.growing import WORTHWHILE, Growing

            if self._size >= WORTHWHILE:
                self._growing = Growing(self._file, self._blobs.open)
                self._follow(self._growing)
        if self._growing is not None:
            self._growing.grown(self._size)

    def _spill(self) -> None:
        """Go on in a file, if that is not so already."""
        if self._claim is not None:
            return
        ingests = os.path.join(self._directory, "ingest")
        try:
            self._claim = claim(ingests)
        except FileNotFoundError:
            os.makedirs(ingests, mode=0o700, exist_ok=True)
            self._claim = claim(ingests)
        self._path = os.path.join(self._claim.path, "data")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o600)
        self._append(memoryview(self._held))

    def _append(self, rest: memoryview) -> None:
        while rest:
            rest = rest[os.write(self._file, rest) :]

    @property
    def digest(self) -> Digest:
        """The digest of what was written so far."""
        assert self._hasher is not None  # else its writer knows
        return Digest(self._algorithm, self._hasher.hexdigest())

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
        own = digest if self._hasher is None else self.digest
        if (digest, size) != (own, self._size):
            raise BlobCorrupt(f"blob {digest} was written with other bytes", self._path)
        if self._claim is None and self._blobs.holds(digest, self._held):
            return  # a step that changes nothing packs to what is here
        self._spill()
        self._disk.start(self._file, self._started, self._size - self._started)
        self._blobs.named(digest, self._file, self._path)
        if self._growing is not None:
            self._growing.end(digest)

    def close(self) -> None:
        """Remove what was not committed."""
        if self._growing is not None:
            self._growing.end(None)
        if self._claim is not None:
            if self._file >= 0:
                os.close(self._file)
            self._claim.close()
