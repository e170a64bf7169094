"""Blobs from a registry, taken up where a connection broke (distribution-spec "Pulling blobs").

A broken transfer goes on by a Range request, only if the answer is exactly the range that was asked
for. Everything else starts from the beginning, once, and what was handed on already is compared by
digest before anything follows it: two answers are never spliced unseen (rules R6, R7).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from assembler.cancellation import Cancellation
from assembler.errors import Unreachable
from assembler.net.body import MAX_ERROR_BODY
from assembler.net.client import Request, Response, Stream
from assembler.net.origin import root_of
from assembler.net.retry import RETRYABLE
from assembler.oci.descriptor import Descriptor
from assembler.oci.reference import Reference
from assembler.registry.client import PULL, RegistryClient, Repository, refused
from assembler.registry.documents import UNCHANGED, corrupt, violation
from assembler.registry.endpoints import from_any

PROGRESS = 1 << 20  # bytes after which a transfer that breaks has all of its attempts again


def fetch_blob(
    client: RegistryClient,
    reference: Reference,
    blob: Descriptor,
    write: Callable[[memoryview], object],
    *,
    progress: Callable[[int, int], None] = lambda current, total: None,
    cancellation: Cancellation,
) -> None:
    """Hand the bytes of `blob` to `write`, which keeps no view of them, each once and in order; size
    and digest are verified at the end. Raises RegistryError; what was written is to be thrown away then."""
    download = _Download(client, blob, write, progress, cancellation)
    if blob.data is not None:
        download.take(memoryview(blob.data))
    elif blob.size:
        from_any(client, reference, download.run)
    elif not blob.digest.matches(b""):
        raise violation(reference, f"the blob {blob.digest}", "it cannot have 0 bytes")


def fetch_part(
    client: RegistryClient, reference: Reference, blob: Descriptor, offset: int, size: int
) -> bytes | None:
    """`size` bytes of `blob` at `offset`, not verified; None from a registry that gives no parts.
    Raises RegistryError."""
    operation = f"a part of the blob {blob.digest}"

    def ask(repository: Repository) -> bytes | None:
        request = _request(repository, blob, operation, offset, offset + size - 1)
        with client.stream(repository, request, PULL) as answer:
            if answer.status == 206 and _is_range(answer, offset, offset + size - 1, blob.size):
                content = bytearray()
                for piece in answer.pieces:
                    content += piece
                    if len(content) > size:
                        return None
                return bytes(content)
            if answer.status in (200, 206, 416):
                return None
            raise refused(read_error(answer), repository, operation)

    return from_any(client, reference, ask)


def _request(
    repository: Repository, blob: Descriptor, operation: str, first: int = 0, last: int = -1
) -> Request:
    headers = dict(UNCHANGED)
    if first or last >= 0:
        headers["Range"] = f"bytes={first}-{last if last >= 0 else ''}"
    url = f"{repository.url}/blobs/{blob.digest}"
    return Request("GET", url, repository.registry, operation, headers=headers)


def _is_range(answer: Stream, first: int, last: int, total: int) -> bool:
    """Whether the answer says that it is this range, as it is, and has no other length."""
    span = answer.header("content-range").strip()
    length = answer.header("content-length") or str(last - first + 1)
    return (
        span in (f"bytes {first}-{last}/{total}", f"bytes {first}-{last}/*")
        and length == str(last - first + 1)
        and not _encoding(answer)
    )


def _encoding(answer: Stream) -> str:
    found = answer.header("content-encoding").strip().lower()
    return "" if found == "identity" else found


class _Passing(Exception):
    """A failure that may be gone at the next attempt; `answer` is the one that told so."""

    def __init__(self, error: Exception, answer: Stream | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.answer = answer
        self.unreachable = error if answer is None and isinstance(error, Unreachable) else None


class _Download:
    """One blob's transfer; lives only inside `fetch_blob`."""

    def __init__(
        self,
        client: RegistryClient,
        blob: Descriptor,
        write: Callable[[memoryview], object],
        progress: Callable[[int, int], None],
        cancellation: Cancellation,
    ) -> None:
        self._client = client
        self._blob = blob
        self._write = write
        self._progress = progress
        self._cancellation = cancellation
        self._operation = f"the blob {blob.digest}"
        self._hasher = hashlib.new(blob.digest.algorithm)
        self._received = 0
        self._ranges = True
        self._restarts = 1

    def run(self, repository: Repository) -> None:
        """Take the rest of the blob from `repository`."""
        http, mark = self._client.http, self._received
        attempts = http.attempts(brief=repository.mirror)
        self._ranges, self._restarts = True, 1
        while self._received < self._blob.size:
            try:
                self._attempt(repository)
            except _Passing as failure:
                if self._received == self._blob.size:
                    break  # all came, and then the end was missing
                if self._received - mark >= PROGRESS:
                    mark = self._received
                    http.moves_on(attempts)
                if not http.pause(
                    attempts, failure.unreachable, answer=failure.answer, why=str(failure.error)
                ):
                    # Not from `failure`, which came of it: a chain of causes must end.
                    raise failure.error from failure.error.__cause__
        if self._hasher.hexdigest() != self._blob.digest.hex:
            raise corrupt(repository, self._operation)

    def take(self, piece: memoryview) -> None:
        """Hand on the next bytes."""
        self._received += len(piece)
        self._hasher.update(piece)
        self._write(piece)
        self._progress(self._received, self._blob.size)

    def _attempt(self, repository: Repository) -> None:
        """One request, to its end. Raises _Passing."""
        first = self._received if self._ranges else 0
        request = _request(repository, self._blob, self._operation, first)
        try:
            with self._client.stream(repository, request, PULL) as answer:
                self._judge(answer, repository, first)
                if first and answer.status == 206:
                    self._go_on(answer, repository)
                else:
                    self._begin(answer, repository)
        except Unreachable as error:
            raise _Passing(error) from error
        if self._received < self._blob.size:
            early = Unreachable(
                f"{repository.registry} ended {self._operation} early, after "
                f"{self._received} of {self._blob.size} bytes",
                registry=repository.registry,
                operation=self._operation,
                hint="try again; a proxy in between may limit the time or size of downloads",
            )
            early.root = root_of(request.url)
            raise _Passing(early)

    def _judge(self, answer: Stream, repository: Repository, first: int) -> None:
        """Whether the body of the answer is of use. Raises _Passing, RegistryError."""
        if answer.status in RETRYABLE:
            error = refused(read_error(answer), repository, self._operation)
            raise _Passing(error, answer)
        if answer.status not in (200, 206, 416) or (answer.status == 416 and not first):
            raise refused(read_error(answer), repository, self._operation)
        size = self._blob.size
        if answer.status == 206 and _is_range(answer, first, size - 1, size):
            return
        if answer.status == 416:
            self._again(repository, f"it says that the blob ends before byte {first}")
        elif answer.status == 206:
            said = answer.header("content-range")[:80]
            self._again(repository, f"it sent another range than asked, {said!r}")
        elif (length := answer.header("content-length")) and length != str(size):
            encoding = _encoding(answer)
            how = f" in Content-Encoding {encoding[:40]!r}" if encoding else ""
            self._again(repository, f"it sends {length[:20]} bytes{how}, not {size}")
        elif _encoding(answer) and not length:
            self._again(repository, f"it sends Content-Encoding {_encoding(answer)[:40]!r}")
        elif first:
            self._count_restart(repository, "it gives no ranges, and the connection broke again")

    def _again(self, repository: Repository, found: str) -> None:
        """Ask for the whole blob once more. Raises _Passing, or ProtocolViolation the second time."""
        self._ranges = False
        self._count_restart(repository, found)
        raise _Passing(violation(repository, self._operation, found))

    def _count_restart(self, repository: Repository, found: str) -> None:
        if not self._restarts:
            raise violation(repository, self._operation, found)
        self._restarts -= 1

    def _go_on(self, answer: Stream, repository: Repository) -> None:
        for piece in answer.pieces:
            self._cancellation.check()
            if self._received + len(piece) > self._blob.size:
                raise corrupt(repository, self._operation, ": more of them")
            self.take(piece)

    def _begin(self, answer: Stream, repository: Repository) -> None:
        """Take an answer from byte 0; what was handed on already must be in it again."""
        before, self._ranges = self._received, True
        if not before:
            return self._go_on(answer, repository)
        repeated, seen = hashlib.new(self._blob.digest.algorithm), 0
        for piece in answer.pieces:
            self._cancellation.check()
            if seen + len(piece) > self._blob.size:
                raise corrupt(repository, self._operation, ": more of them")
            if seen < before:
                repeated.update(memoryview(piece)[: before - seen])
                if seen + len(piece) >= before:
                    if repeated.digest() != self._hasher.digest():
                        raise corrupt(repository, self._operation, ", others than before")
                    if rest := piece[before - seen :]:
                        self.take(rest)
            else:
                self.take(piece)
            seen += len(piece)
        return None


def read_error(answer: Stream) -> Response:
    """The answer with so much of its body as is shown."""
    body = bytearray()
    for piece in answer.pieces:
        body += piece
        if len(body) > MAX_ERROR_BODY:
            break
    return Response(answer.status, answer.headers, bytes(body[:MAX_ERROR_BODY]), answer.url)
