"""Files fetched over http, kept as blobs of the store (rule C27).

A file that was fetched before is asked for with its ETag and Last-Modified, and not sent again when
the server has nothing newer; one whose checksum is given and known is not asked for at all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Protocol

from assembler.cancellation import Cancellation
from assembler.errors import NotFound, ProtocolViolation, RegistryError, Unauthorized, Unreachable
from assembler.net.basic import encoded
from assembler.net.client import HttpClient, Request, Stream
from assembler.net.origin import Origin
from assembler.net.retry import RETRYABLE
from assembler.oci.digest import Digest
from assembler.store.ingest import Ingest
from assembler.store.store import Store
from assembler.store.working import Tell

Progress = Callable[[int, int], None]
"""Told the bytes that are here and the bytes expected, 0 for not known."""


@dataclass(frozen=True, slots=True)
class Download:
    """A fetched file: the blob with its bytes, its size in bytes, and the server's own headers."""

    digest: Digest
    size: int
    etag: str = ""
    modified: str = ""

    @property
    def mtime(self) -> int:
        """Last-Modified in nanoseconds since the epoch, 0 when the server did not say. A date
        without a zone is of Greenwich (RFC 9110 5.6.7), wherever this machine stands."""
        try:
            when = parsedate_to_datetime(self.modified)
            known = when.replace(tzinfo=UTC) if when.tzinfo is None else when
            return max(0, int(known.timestamp())) * 1_000_000_000
        except (ValueError, TypeError, OverflowError):
            return 0

    @property
    def validator(self) -> str:
        """What says that the rest is of the same file, empty when nothing does: If-Range takes a
        strong ETag or a date (RFC 9110 13.1.5)."""
        return self.modified if self.etag.startswith("W/") else self.etag or self.modified


class Downloads(Protocol):
    """Remembers what a URL led to."""

    def downloaded(self, url: str) -> Download | None:
        """What was fetched from `url` last, None if nothing was."""
        ...

    def record_download(self, url: str, download: Download) -> None:
        """Remember what was fetched."""
        ...


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches into `store`. `secrets` authenticate: HTTP_AUTH_HEADER_<host> and
    HTTP_AUTH_TOKEN_<host>, the host with or without its port."""

    store: Store
    http: Callable[[], HttpClient]
    known: Downloads
    secrets: Mapping[str, Callable[[], bytes]]
    cancellation: Cancellation

    def fetch(
        self,
        url: str,
        checksum: str,
        progress: Progress,
        credentials: str = "",
        *,
        tell: Tell = lambda output: None,
        at_once: AbstractContextManager[object] | None = None,
    ) -> Download:
        """The file at `url`, its blob in the store. `credentials` are `user:password`. `tell` shows
        which other build is waited for, that fetches it; `at_once` is held while this one does.

        What another build fetched meanwhile is what this one asked for, unless it would have to say
        who it is: requests are collapsed (RFC 9111 section 4). Raises RegistryError for a server
        that refuses or another digest than `checksum` (empty for any), NoSpace for a file that does
        not fit.
        """
        name, private = _name(url), self._private(url, credentials)
        first = self._known(name)
        if first is not None and checksum == str(first.digest):
            return first
        with self.store.working.claim(f"url {name}", tell), at_once or nullcontext():
            before = self._known(name)
            if before is not None and (
                checksum == str(before.digest) or (before != first and not (private or checksum))
            ):
                return before
            transfer = _Transfer(self, url, private, before, progress)
            download = transfer.run(checksum)
            if download != before:
                self.known.record_download(name, download)
            return download

    def _known(self, name: str) -> Download | None:
        known = self.known.downloaded(name)
        return known if known is not None and self.store.blobs.has(known.digest) else None

    def _private(self, url: str, credentials: str) -> dict[str, str]:
        host = Origin.of(url).host
        for place in (_host(url), host):
            if header := self.secrets.get(f"HTTP_AUTH_HEADER_{place}"):
                return {"Authorization": _text(header())}
            if token := self.secrets.get(f"HTTP_AUTH_TOKEN_{place}"):
                return {"Authorization": f"Bearer {_text(token())}"}
        if credentials:
            return {"Authorization": f"Basic {encoded(credentials)}"}
        return {}


class _Transfer:
    """One file on its way: a connection that breaks is taken up where it broke, where the server
    can; what arrives is put into the store in one piece."""

    def __init__(
        self,
        fetcher: Fetcher,
        url: str,
        private: Mapping[str, str],
        before: Download | None,
        progress: Progress,
    ) -> None:
        self._fetcher = fetcher
        self._url = url
        self._private = private
        self._before = before
        self._progress = progress
        self._stack = ExitStack()
        self._ingest: Ingest | None = None
        self._begun: Download | None = None  # etag and modified of what is half here
        self._received = 0
        self._total = 0

    def run(self, checksum: str) -> Download:
        """The file. What arrives is not kept unless it is of the digest `checksum`."""
        with self._stack:
            download = self._retried(checksum)
        if download is self._before and checksum and str(download.digest) != checksum:
            raise self._mismatch(checksum, download.digest)
        return download

    def _retried(self, checksum: str) -> Download:
        client = self._fetcher.http()
        attempts = client.attempts()
        while True:
            self._fetcher.cancellation.check()
            received = self._received
            try:
                with client.stream(self._request()) as answer:
                    if answer.status not in RETRYABLE:
                        return self._taken(answer, checksum)
            except Unreachable as error:
                if self._received > received:
                    client.moves_on(attempts)
                if not client.pause(attempts, error):
                    raise
            else:
                why = f"{shown(self._url)} was answered with status {answer.status}"
                if not client.pause(attempts, answer=answer, why=why):
                    raise _refused(self._url, answer.status)

    def _request(self) -> Request:
        headers = {"Accept-Encoding": "identity"}
        begun, before = self._begun, self._before
        if begun is not None and self._received and begun.validator:
            headers["Range"] = f"bytes={self._received}-"
            headers["If-Range"] = begun.validator
        elif before is not None and before.etag:
            headers["If-None-Match"] = before.etag
        elif before is not None and before.modified:
            headers["If-Modified-Since"] = before.modified
        return Request(
            "GET",
            _quoted(self._url),
            _host(self._url),
            shown(self._url),
            headers=headers,
            private=self._private,
            hint="is the address right, and does this machine trust the server's certificate?",
        )

    def _taken(self, answer: Stream, checksum: str) -> Download:
        if answer.status == 304 and self._before is not None:
            return self._before
        if answer.status == 206 and self._received:
            self._resumed(answer)
        elif 200 <= answer.status < 300 and answer.status != 206:
            self._started(answer)
        elif answer.status == 416 and self._received:
            self._forget()
            raise self._broken("refused the rest of")
        else:
            raise _refused(self._url, answer.status)
        assert self._ingest is not None and self._begun is not None
        for piece in answer.pieces:
            self._fetcher.cancellation.check()
            self._ingest.write(piece)
            self._received += len(piece)
            self._progress(self._received, self._total)
        if self._total and self._received != self._total:
            if self._received > self._total:
                self._forget()
            raise self._broken(f"ended after {self._received} of {self._total} bytes of")
        found = self._ingest.digest
        if checksum and str(found) != checksum:
            raise self._mismatch(checksum, found)
        digest, size = self._ingest.commit()
        return Download(digest, size, self._begun.etag, self._begun.modified)

    def _started(self, answer: Stream) -> None:
        """A whole answer: begin anew."""
        self._forget()
        length = answer.header("content-length")
        self._total = int(length) if _is_size(length) else 0
        self._fetcher.store.blobs.reserve(self._total)
        self._ingest = self._stack.enter_context(self._fetcher.store.blobs.ingest())
        modified = answer.header("last-modified")
        self._begun = Download(self._ingest.digest, 0, answer.header("etag"), modified)

    def _resumed(self, answer: Stream) -> None:
        """The rest of what is half here; anything else is not spliced to it (reliability R7)."""
        expected = f"bytes {self._received}-"
        given = answer.header("content-range")
        total = given.rpartition("/")[2]
        if not given.startswith(expected) or (self._total and total != str(self._total)):
            self._forget()
            raise self._broken("sent another range than asked of")
        if _is_size(total):
            self._total = int(total)

    def _forget(self) -> None:
        self._stack.close()
        self._ingest, self._begun, self._received, self._total = None, None, 0, 0

    def _broken(self, what: str) -> Unreachable:
        host, item = _host(self._url), shown(self._url)
        return Unreachable(f"{host} {what} {item}", registry=host, operation=item)

    def _mismatch(self, checksum: str, found: Digest) -> ProtocolViolation:
        return ProtocolViolation(
            f"digest mismatch {checksum}: {found}",
            registry=_host(self._url),
            operation=shown(self._url),
            hint="the server's file is another one than the checksum names",
        )


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 20


def shown(url: str) -> str:
    """`url` as messages show it: without its query, which may be a signature."""
    return url.partition("#")[0].partition("?")[0]


def _quoted(url: str) -> str:
    """`url` with bytes that are no UTF-8 as a request has them."""
    return re.sub("[\udc80-\udcff]", lambda found: f"%{ord(found[0]) - 0xDC00:02X}", url)


def _name(url: str) -> str:
    """What a URL is remembered by: a query may be a signature, so not by its text."""
    return f"sha256:{hashlib.sha256(url.encode('utf-8', 'surrogateescape')).hexdigest()}"


def _host(url: str) -> str:
    origin = Origin.of(url)
    return origin.host if origin.port in (80, 443) else f"{origin.host}:{origin.port}"


def _text(secret: bytes) -> str:
    return secret.decode("utf-8", "surrogateescape").strip()


def _refused(url: str, status: int) -> RegistryError:
    kind = {401: Unauthorized, 403: Unauthorized, 404: NotFound, 410: NotFound}.get(
        status, RegistryError
    )
    hint = f"give --secret id=HTTP_AUTH_TOKEN_{_host(url)}" if kind is Unauthorized else ""
    return kind(
        f"invalid response status {status} for {shown(url)}",
        registry=_host(url),
        operation=shown(url),
        status=status,
        hint=hint,
    )
