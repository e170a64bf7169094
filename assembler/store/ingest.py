"""One blob being written, and the file that it is written to.

The order (reliability.md 1.1): a file that nobody sees, hash while writing, compare, fsync, chmod,
name, fsync of the directory; with batches the two fsyncs are later (`Blobs.sync`). The file has no
name (open(2), O_TMPFILE), so that nothing is left of it when its process dies. It has one, in a
locked directory below `ingest`, where the file system has no such files, and where the fsync comes
before the name: the first link of a file changes what of it must be on disk. A blob that takes the
place of another, which may be durable, is on disk before that, with batches too. A small one is in
memory until it is known whether it is here already.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

from assembler.errors import BlobCorrupt
from assembler.linux.claims import Claim, claim
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.store.disk import Disk, Fsync
from assembler.store.growing import WORTHWHILE, Growing

if TYPE_CHECKING:
    from assembler.store.blobs import Blobs

_HELD = 1 << 16  # bytes of a new blob that are in memory before they need a file
_STRETCH = 16 << 20  # bytes of which the writing to disk begins at once
_OPEN = os.O_RDWR | os.O_CLOEXEC
_NAMED_ONLY = frozenset((errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL))
OPEN_FILES = "/proc/self/fd"


class Draft:
    """A file in the store at `directory` that nobody sees before it is published; `nameless` if that
    can be. Raises OSError."""

    def __init__(self, directory: str, *, nameless: bool) -> None:
        self._ingests = os.path.join(directory, "ingest")
        self._claim: Claim | None = None
        self._path = ""
        try:
            self.file = self._opened(nameless)
        except FileNotFoundError:
            os.makedirs(self._ingests, mode=0o700, exist_ok=True)
            self.file = self._opened(nameless)

    def _opened(self, nameless: bool) -> int:
        if nameless:
            try:
                return os.open(self._ingests, _OPEN | os.O_TMPFILE, 0o600)
            except OSError as error:
                if error.errno not in _NAMED_ONLY:
                    raise
        path = self._claimed()
        try:
            return os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
        except BaseException:
            self._end_claim()
            raise

    def _claimed(self) -> str:
        """A name for the file that goes with this process."""
        self._claim = claim(self._ingests)
        self._path = os.path.join(self._claim.path, "data")
        return self._path

    def append(self, rest: memoryview) -> None:
        """Write all of `rest`."""
        while rest:
            rest = rest[os.write(self.file, rest) :]

    def publish(self, target: str, disk: Disk) -> None:
        """Give the file the name `target`, in place of what has it: that may be named by something
        durable, so this is on `disk` before. Raises OSError."""
        if not self._path:
            try:
                # With a descriptor, linkat(2) is told to follow the link that this is.
                os.link(f"{OPEN_FILES}/{self.file}", target, src_dir_fd=self.file)
                return
            except FileExistsError:  # a link cannot replace
                os.link(f"{OPEN_FILES}/{self.file}", self._claimed(), src_dir_fd=self.file)
        if os.path.lexists(target):
            disk.sync(self.file)
        os.rename(self._path, target)

    def close(self) -> None:
        """Give the file up, unless it was published."""
        os.close(self.file)
        self._end_claim()

    def _end_claim(self) -> None:
        if self._claim is not None:
            self._claim.close()


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
        self._draft: Draft | None = None
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
        if self._draft is None and self._size <= _HELD:
            self._held += view
            return len(view)
        draft = self._spilled()
        draft.append(view)
        if self._size - self._started >= _STRETCH:
            self._disk.start(draft.file, self._started, self._size - self._started)
            self._started = self._size
        if self._follow is not None:
            self._tell_followers(draft, self._follow)
        return len(view)

    def _tell_followers(self, draft: Draft, follow: Callable[[Growing], None]) -> None:
        if self._growing is None and self._size >= WORTHWHILE:
            self._growing = Growing(draft.file, self._blobs.open)
            follow(self._growing)
        if self._growing is not None:
            self._growing.grown(self._size)

    def _spilled(self) -> Draft:
        """The file that has what was written until now, made if there is none yet."""
        if self._draft is None:
            nameless = self._disk.policy is not Fsync.FULL and self._blobs.links_open_files
            self._draft = Draft(self._directory, nameless=nameless)
            if self._held:
                self._draft.append(memoryview(self._held))
        return self._draft

    def content(self) -> BinaryIO:
        """What was written, from its start; nothing more can be written then."""
        if self._draft is None:
            return BytesIO(self._held)
        os.lseek(self._draft.file, 0, os.SEEK_SET)
        return os.fdopen(os.dup(self._draft.file), "rb")

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
                self._directory,
            )
        self.commit_as(digest, self._size)
        return digest, self._size

    def commit_as(self, digest: Digest, size: int) -> None:
        """Give the blob the name its writer computed. Raises BlobCorrupt when it is wrong."""
        own = digest if self._hasher is None else self.digest
        if (digest, size) != (own, self._size):
            raise BlobCorrupt(f"blob {digest} was written with other bytes", self._directory)
        if self._draft is None and self._blobs.holds(digest, self._held):
            return  # a step that changes nothing packs to what is here
        draft = self._spilled()
        self._disk.start(draft.file, self._started, self._size - self._started)
        self._blobs.named(digest, draft)
        if self._growing is not None:
            self._growing.end(digest)

    def close(self) -> None:
        """Remove what was not committed."""
        if self._growing is not None:
            self._growing.end(None)
        if self._draft is not None:
            self._draft.close()
