"""Content-addressed blobs: written once, verified, durable before something durable names them.

How one is written: `store.ingest`. In batches the fsync of all of them is when `sync` is called,
before a name is given: until then a blob has mode 0400, and whoever finds one that another process
left so reads it before believing it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from assembler.errors import AssemblerError, BlobCorrupt, BlobMissing, Cancelled
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.store.disk import Disk, Fsync, translated
from assembler.store.ingest import OPEN_FILES, Draft, Ingest

if TYPE_CHECKING:
    from assembler.store.growing import Growing

MAX_DOCUMENT = 8 << 20  # bytes of a manifest or configuration
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_PIECE = 1 << 20
_SMALL = 1 << 20  # bytes of a blob that is not asked room for first
_DURABLE, _NAMED = 0o444, 0o400


class Blobs:
    """The blobs below `directory` (`blobs/sha256/<hex>`, image-layout.md). `check` is called for
    each piece that is written, and may raise; `hold` is given the paths in `directory` of blobs that
    are used, before they are looked for."""

    def __init__(
        self,
        directory: str,
        check: Callable[[], None] = lambda: None,
        hold: Callable[..., None] = lambda *items: None,
        disk: Disk | None = None,
    ) -> None:
        self._directory = directory
        self._check = check
        self._hold = hold
        self._disk = disk or Disk()
        self._guard = threading.Lock()
        self._pending: set[str] = set()
        self._verified: set[Digest] = set()
        self.links_open_files = os.path.isdir(OPEN_FILES)
        """Whether a file that is open can be given a name."""

    def path(self, digest: Digest) -> str:
        """Where the blob `digest` is, or would be."""
        return os.path.join(self._directory, "blobs", digest.algorithm, digest.hex)

    def has(self, digest: Digest) -> bool:
        """Whether the blob is here."""
        return self.size(digest) is not None

    def missing(self, blobs: Iterable[Descriptor]) -> list[Descriptor]:
        """Those of `blobs` that are not here, each digest once."""
        once = {blob.digest: blob for blob in blobs}
        self._hold(*map(_item, once))
        return [blob for digest, blob in once.items() if not self.has(digest)]

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
        self._hold(_item(digest))
        return self.path(digest)

    def _believed(self, digest: Digest, path: str, size: int) -> int | None:
        """`size` of a blob that its writer has not synced yet, or never did: a power cut may have
        left anything under its name."""
        try:
            file = os.open(path, _READ)
        except FileNotFoundError:  # another has found it damaged
            return None
        try:
            if self._taken_away(digest, file):
                return None
        finally:
            os.close(file)
        with self._guard:
            self._pending.add(path)
        return size

    def _taken_away(self, digest: Digest, file: int) -> bool:
        """Whether the blob that is open as `file` is damaged; it is removed then, but not what has its
        name by now: others find the damage too, and the first has the blob again meanwhile."""
        hasher = hashlib.new(digest.algorithm)
        buffer, offset = memoryview(bytearray(_PIECE)), 0
        while count := os.preadv(file, [buffer], offset):
            self._check()
            hasher.update(buffer[:count])
            offset += count
        if hasher.hexdigest() == digest.hex:
            return False
        path = self.path(digest)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.lstat(path)):
                os.unlink(path)
        return True

    def open(self, digest: Digest) -> BinaryIO:
        """The blob for reading. Raises BlobMissing. Links are not followed (reliability M10)."""
        path = self._held(digest)
        try:
            descriptor = os.open(path, _READ)
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
                if stream.closed:
                    self.condemn(digest, error)
                elif self._taken_away(digest, stream.fileno()):
                    raise self._damaged(digest) from error
                raise

    def verify(self, digest: Digest) -> None:
        """Read the blob, unless that was done or it was written by this process, and `condemn` it:
        for whoever reads a part of it only. Raises BlobCorrupt."""
        if digest not in self._verified:
            self.condemn(digest)
            self._verified.add(digest)

    def condemn(self, digest: Digest, cause: Exception | None = None) -> None:
        """Take the blob away if it is damaged, and raise BlobCorrupt then."""
        try:
            file = os.open(self.path(digest), _READ)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):  # a link is no blob
                raise
            return
        try:
            damaged = self._taken_away(digest, file)
        finally:
            os.close(file)
        if damaged:
            raise self._damaged(digest) from cause

    def _damaged(self, digest: Digest) -> BlobCorrupt:
        self._verified.discard(digest)
        error = BlobCorrupt(
            f"blob {digest} in the store was damaged, and has been removed",
            self.path(digest),
            hint="build or pull again; `assemble store check` looks for more of them",
        )
        error.removed = True
        return error

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
        if size > _SMALL:  # a smaller one is soon written, or there was no room
            self.reserve(size)
        hasher = algorithm if hashed else ""
        ingest = Ingest(self, self._directory, self._check, self._disk, hasher, follow)
        try:
            yield ingest
        except OSError as error:
            raise translated(error, self._directory, max(size, ingest.written)) from error
        finally:
            ingest.close()

    def named(self, digest: Digest, draft: Draft) -> None:
        """Give `draft`, whole and with the bytes of `digest`, its name."""
        target = self._held(digest)
        batch = self._disk.policy is Fsync.BATCH
        if not batch:
            self._disk.sync(draft.file)
        os.fchmod(draft.file, _NAMED if batch else _DURABLE)
        try:
            draft.publish(target, self._disk)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            draft.publish(target, self._disk)
        self._verified.add(digest)
        if batch:
            with self._guard:
                self._pending.add(target)
        else:
            self._disk.sync_directory(os.path.dirname(target))

    def holds(self, digest: Digest, content: bytearray) -> bool:
        """Whether there is a regular file with exactly these few bytes under their digest."""
        try:
            stream = self.open(digest)
        except BlobMissing:
            return False
        with stream:
            status = os.fstat(stream.fileno())
            if status.st_size != len(content) or stream.read(len(content)) != content:
                return False
        if status.st_mode & 0o777 == _NAMED:
            with self._guard:
                self._pending.add(self.path(digest))
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


def _item(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


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
