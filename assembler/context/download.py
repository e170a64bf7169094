"""Files fetched over http, kept as blobs of the store (rule C27).

A file that was fetched before is asked for with its ETag and Last-Modified, and not sent again when
the server has nothing newer; one whose checksum is given and known is not asked for at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Protocol

from assembler.cancellation import Cancellation
from assembler.errors import NotFound, ProtocolViolation, RegistryError, Unauthorized, Unreachable
from assembler.net.client import HttpClient, Request, Stream
from assembler.net.origin import Origin
from assembler.net.retry import RETRYABLE
from assembler.oci.digest import Digest
from assembler.store.store import Store

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
        """Last-Modified in nanoseconds since the epoch, 0 when the server did not say."""
        try:
            return int(parsedate_to_datetime(self.modified).timestamp()) * 1_000_000_000
        except (ValueError, TypeError, OverflowError):
            return 0


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
    """Fetches into `store`. `secrets` authenticate: HTTP_AUTH_TOKEN_<host> and
    HTTP_AUTH_HEADER_<host>."""

    store: Store
    http: Callable[[], HttpClient]
    known: Downloads
    secrets: Mapping[str, Callable[[], bytes]]
    cancellation: Cancellation

    def fetch(self, url: str, checksum: str, progress: Progress) -> Download:
        """The file at `url`, its blob in the store. Raises RegistryError for a server that refuses
        or another digest than `checksum` (empty for any)."""
        before = self.known.downloaded(url)
        if before is not None and not self.store.blobs.has(before.digest):
            before = None
        if checksum and (size := self.store.blobs.size(Digest.parse(checksum))) is not None:
            if before is not None and str(before.digest) == checksum:
                return before
            return Download(Digest.parse(checksum), size)
        download = self._retried(url, before, progress)
        if checksum and str(download.digest) != checksum:
            raise ProtocolViolation(
                f"digest mismatch {checksum}: {download.digest}",
                registry=_host(url),
                operation=shown(url),
                hint="the server's file is another one than the checksum names",
            )
        if download != before:
            self.known.record_download(url, download)
        return download

    def _retried(self, url: str, before: Download | None, progress: Progress) -> Download:
        client = self.http()
        attempt = 0
        while True:
            self.cancellation.check()
            try:
                with client.stream(self._request(url, before)) as answer:
                    if answer.status not in RETRYABLE:
                        return self._taken(url, answer, before, progress)
                    wait = answer.header("retry-after")
            except Unreachable:
                if not client.pause(attempt):
                    raise
            else:
                if not client.pause(attempt, wait):
                    raise _refused(url, answer.status)
            attempt += 1

    def _request(self, url: str, before: Download | None) -> Request:
        headers = {"Accept-Encoding": "identity"}
        if before is not None and before.etag:
            headers["If-None-Match"] = before.etag
        elif before is not None and before.modified:
            headers["If-Modified-Since"] = before.modified
        return Request(
            "GET",
            url,
            _host(url),
            shown(url),
            headers=headers,
            private=self._private(url),
            hint="is the address right, and does this machine trust the server's certificate?",
        )

    def _private(self, url: str) -> dict[str, str]:
        host = _host(url)
        if header := self.secrets.get(f"HTTP_AUTH_HEADER_{host}"):
            return {"Authorization": _text(header())}
        if token := self.secrets.get(f"HTTP_AUTH_TOKEN_{host}"):
            return {"Authorization": f"Bearer {_text(token())}"}
        return {}

    def _taken(
        self, url: str, answer: Stream, before: Download | None, progress: Progress
    ) -> Download:
        if answer.status == 304 and before is not None:
            return before
        if answer.status != 200:
            raise _refused(url, answer.status)
        length = answer.header("content-length")
        total = int(length) if length.isdecimal() else 0
        with self.store.blobs.ingest() as ingest:
            received = 0
            for piece in answer.pieces:
                self.cancellation.check()
                ingest.write(piece)
                received += len(piece)
                progress(received, total)
            if total and received != total:
                raise Unreachable(
                    f"{_host(url)} ended {shown(url)} after {received} of {total} bytes",
                    registry=_host(url),
                    operation=shown(url),
                )
            digest, size = ingest.commit()
        return Download(digest, size, answer.header("etag"), answer.header("last-modified"))


def shown(url: str) -> str:
    """`url` as messages show it: no password, no query."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


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
