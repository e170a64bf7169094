"""One blob to one repository (distribution-spec "Pushing blobs"): looked for, mounted, or sent by
chunks and taken up where the registry says it stands.

Nothing is sent twice on a guess: after an answer that did not come, the registry is asked. What it
says of an upload is believed only if it can be true; else the upload is begun anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from urllib.parse import urlencode

from assembler.errors import (
    BlobCorrupt,
    ProtocolViolation,
    RegistryError,
    Unreachable,
)
from assembler.net.body import FileBody
from assembler.net.client import Body, Request, Response
from assembler.net.retry import RETRYABLE
from assembler.oci.descriptor import Descriptor
from assembler.registry.client import PUSH, refused
from assembler.registry.destination import CHUNK, Destination
from assembler.registry.locations import located, stands, violation, with_digest
from assembler.registry.source import Source, Stored
from assembler.store.uploads import OpenUpload

_READY = 4 << 20  # bytes of a growing source that are worth a request
_SMALLEST = 1 << 20  # no registry that refuses chunks as small as this is tried with smaller ones
_PIECE = 256 << 10  # speed.md 8: of all sizes the cheapest for httpx
_TURNS = 8  # other ways that are tried
_LOST = 2  # uploads that broke and were gone then, after which a blob is sent by one request
_ANSWER = 64 << 10

Progress = Callable[[int, int], None]
"""Told the bytes that are there or on their way, and how many it will be, 0 if nobody knows."""


def upload(
    destination: Destination,
    source: Source,
    *,
    mount_from: Iterable[str] = (),
    progress: Progress = lambda current, total: None,
) -> None:
    """Have the bytes of `source` in the repository, if they are not there already.

    `mount_from` are other repositories of the registry that may have them: from those they are
    mounted, and nothing is read. A source that still grows is sent as it does. Raises RegistryError,
    and what reading the source raises.
    """
    with ExitStack() as stack:
        source.available(min(_READY, destination.chunk))
        if source.blob is not None and destination.has(source.blob):
            progress(source.blob.size, source.blob.size)
            return
        sending = _Sending(destination, source, progress, stack)
        try:
            if not sending.mounted(mount_from):
                sending.run()
        except BaseException:
            sending.give_up()
            raise


class _Sending:
    """One upload: where it stands, by what the registry said last."""

    def __init__(
        self, destination: Destination, source: Source, progress: Progress, stack: ExitStack
    ) -> None:
        self._to = destination
        self._client = destination.client
        self._repository = destination.repository
        self._source = source
        self._progress = progress
        self._stack = stack
        self._entry: OpenUpload | None = None
        self._location = ""
        self._offset = 0  # that the registry has, of this upload
        self._sent = 0  # that it may have
        self._least, self._most = 1, destination.chunk
        self._largest = destination.largest
        self._refused = -1  # the offset at which it would take nothing
        self._lost = 0
        self._resumed = self._whole = self._failed = self._ahead = False

    @property
    def _operation(self) -> str:
        blob = self._source.blob
        return f"the upload of blob {blob.digest}" if blob else "the upload of a layer"

    def mounted(self, names: Iterable[str]) -> bool:
        """Whether the blob could be mounted. A registry that begins an upload instead said where."""
        self._remember()
        blob = self._source.blob
        if blob is None:
            return False
        for name in self._to.holders(blob, tuple(dict.fromkeys(names))):
            query = urlencode({"mount": str(blob.digest), "from": name})
            operation = f"the mount of blob {blob.digest} from {name}"
            response = self._post(f"?{query}", operation)
            if response.status == 201:
                self._finished()
                return True
            if response.status == 202:
                self._began(response)
                return False
        return False

    def run(self) -> None:
        """Send what is missing, as often as the policy of the client allows without progress."""
        if not self._known() and not self._location:
            self._begin()
        http, turns, reached = self._client.http, 0, 0
        attempts = http.attempts()
        while True:
            answer, unreachable, waits, before = None, None, True, self._offset
            try:
                answer = self._step()
                if answer is None:
                    break
                if answer.status < 300 and self._offset > before:
                    if self._offset > reached:
                        reached = self._offset
                        http.moves_on(attempts)
                    continue
                failure: RegistryError = self._failure(answer)
                waits = answer.status in RETRYABLE
                if answer.status >= 300 and not waits and not self._otherwise(answer.status):
                    raise failure
            except Unreachable as error:
                failure = unreachable = error
            turns += not waits
            if turns > _TURNS:
                raise failure
            if waits and not http.pause(attempts, unreachable, answer=answer, why=str(failure)):
                raise failure
            # What broke off might not have been so long: from now on no request is longer.
            self._failed = True
            self._most = self._largest = max(self._least, min(self._most, self._to.chunk))
            if self._recovered():
                break
            if self._offset > reached:  # what broke off had moved bytes all the same
                reached = self._offset
                http.moves_on(attempts)
        self._finished()

    def give_up(self) -> None:
        """Have the registry forget an upload that nobody can go on with: what would have become of
        it is not known (end-14)."""
        if self._source.blob is None and self._location:
            repository, operation = self._repository, f"the end of {self._operation}"
            request = Request("DELETE", self._location, repository.registry, operation)
            self._client.farewell(repository, request)

    def _failure(self, answer: Response) -> RegistryError:
        if answer.status < 300:
            return self._violation("does not go on")
        return refused(answer, self._repository, self._operation)

    def _step(self) -> Response | None:
        """One request: the next chunk, or the end. None once the registry has it all."""
        there = self._source.available(self._offset + max(min(_READY, self._most), self._least))
        if self._whole:
            while self._source.blob is None:
                there = self._source.available(there + CHUNK)
        blob = self._source.blob
        self._remember()
        if blob is None:
            return self._patch(min(there - self._offset, self._most))
        rest = blob.size - self._offset
        last = rest <= self._most + (0 if self._failed else self._most // 8)  # a request less
        if self._whole or rest == 0 or (self._offset == 0 and last):
            return self._put(blob, rest)
        return self._patch(rest if last else self._most)

    def _patch(self, length: int) -> Response:
        end = self._offset + length
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{self._offset}-{end - 1}",
        }
        answer = self._once("PATCH", self._location, headers, length)
        if answer.status < 300:
            self._location = self._located(answer, self._location)
            there = stands(answer)
            self._offset = min(end, there) if there else end
            self._ahead = False
            self._most = max(self._most, min(self._offset, self._largest))
            self._note()
        return answer

    def _put(self, blob: Descriptor, length: int) -> Response | None:
        headers = {"Content-Type": "application/octet-stream"}
        answer = self._once("PUT", with_digest(self._location, blob), headers, length)
        if answer.status >= 300:
            return answer
        said = answer.header("docker-content-digest")
        if said and said != str(blob.digest):
            raise self._violation("was stored under another digest")
        if answer.status != 201 and self._to.has(blob) is False:
            raise self._violation(f"was answered with status {answer.status}, and is not there")
        return None

    def _otherwise(self, status: int) -> bool:
        """Whether the upload can be done in another way after the refusal `status`."""
        length = self._sent - self._offset
        if self._ahead:  # it was opened long ago, and may have ended since
            self._ahead, self._location = False, ""
            return True
        if status == 413 and length > max(_SMALLEST, self._least):
            self._most = max(length // 4, _SMALLEST, self._least)
            return True
        if status == 400 and self._resumed:  # the registry had other bytes than it said
            self._location = ""
            return True
        if status in (405, 501) or (status in (404, 416) and self._offset == 0):
            whole, self._whole = self._whole, True  # a registry without chunks
            return not whole
        if status in (404, 410, 416):
            if self._refused == self._offset:  # whatever it says of the upload is not so
                self._abandon()
            self._refused = self._offset
            return True
        return False

    def _abandon(self) -> None:
        self._location = ""
        self._lost += 1
        self._whole = self._whole or self._lost >= _LOST

    def _recovered(self) -> bool:
        """Find out where the upload stands, or begin anew. True when the blob is there."""
        if self._location and not self._whole and self._asked(self._sent):
            return False
        blob = self._source.blob
        if blob is not None and self._to.has(blob):  # the answer to the last request was lost
            return True
        self._begin()
        return False

    def _asked(self, most: int) -> bool:
        """Whether the registry knows the upload, at an offset of at most `most` (end-13)."""
        request = Request(
            "GET", self._location, self._repository.registry, f"the state of {self._operation}"
        )
        answer = self._client.send(self._repository, request, PUSH)
        there = stands(answer)
        if answer.status in (200, 202, 204) and there is not None and there <= most:
            self._location = self._located(answer, self._location)
            self._offset = self._sent = there
            self._resumed = True
            self._note()
            return True
        if answer.status not in (200, 202, 204) or there is not None:
            self._abandon()
        return False

    def _known(self) -> bool:
        """Whether an earlier command began this upload, and the registry still knows it."""
        blob, entry = self._source.blob, self._entry
        if blob is None or entry is None or not entry.location:
            return False
        begun, self._location = self._location, entry.location
        try:
            if self._asked(blob.size):
                return True
        except RegistryError:  # an old location proves nothing about the registry
            pass
        self._location, self._lost, self._whole = begun, 0, False
        return False

    def _begin(self) -> None:
        """Open the upload, or take the one that was opened ahead."""
        ahead = self._client.ahead.pop(self._repository.url, None)
        self._began(self._opened() if ahead is None else ahead[1])
        self._ahead = ahead is not None

    def _opened(self) -> Response:
        operation = self._operation
        response = self._post("", operation)
        if response.status != 202:
            raise refused(response, self._repository, operation)
        return response

    def _post(self, query: str, operation: str) -> Response:
        url = f"{self._repository.url}/blobs/uploads/{query}"
        request = Request("POST", url, self._repository.registry, operation, length=0)
        return self._client.send(self._repository, request, PUSH)

    def _began(self, response: Response) -> None:
        if not response.header("location"):
            raise self._violation("was given no location")
        self._location = self._located(response, f"{self._repository.url}/blobs/uploads/")
        least = response.header("oci-chunk-min-length").strip()
        self._least = int(least[:18]) if least.isdigit() else 1
        self._most = max(self._most, self._least)
        self._offset = self._sent = 0
        self._resumed = False
        self._note()

    def _once(self, method: str, url: str, headers: dict[str, str], length: int) -> Response:
        """One attempt: what may have been received is not sent again without asking."""
        self._sent = self._offset + length
        request = Request(
            method, url, self._repository.registry, self._operation,
            headers=headers, body=self._body(length), length=length,
        )  # fmt: skip
        with self._client.stream(self._repository, request, PUSH) as answer:
            text = b""
            for piece in answer.pieces:
                text += piece
                if len(text) > _ANSWER:
                    break
            return Response(answer.status, answer.headers, text[:_ANSWER], answer.url)

    def _body(self, length: int) -> Body:
        source, offset = self._source, self._offset
        total = source.blob.size if source.blob else 0
        if not length:
            return b""
        if isinstance(source, Stored):
            return FileBody(
                source.open, offset, length, lambda sent: self._progress(offset + sent, total)
            )

        def pieces() -> Iterator[bytes]:
            at = offset
            while at < offset + length:
                self._client.cancellation.check()
                piece = source.read(at, min(_PIECE, offset + length - at))
                if not piece:
                    raise BlobCorrupt(f"{self._operation}: only {at} of its bytes are there", "")
                at += len(piece)
                yield piece
                self._progress(at, total)

        return pieces

    def _located(self, answer: Response, base: str) -> str:
        return located(answer, base, self._repository, self._operation)

    def _violation(self, what: str) -> ProtocolViolation:
        return violation(self._repository, self._operation, what)

    def _remember(self) -> None:
        """Have an entry for the upload in the store, as soon as its digest is known."""
        blob, uploads = self._source.blob, self._to.uploads
        if self._entry is None and blob is not None and uploads is not None:
            self._entry = self._stack.enter_context(
                uploads.entry(self._repository.registry, self._repository.name, blob.digest)
            )
            if self._location:
                self._note()

    def _note(self) -> None:
        if self._entry is not None:
            self._entry.note(self._location, self._offset)

    def _finished(self) -> None:
        if self._entry is not None:
            self._entry.finished()
        if self._source.blob is not None:
            self._progress(self._source.blob.size, self._source.blob.size)
