"""Files over http: resumed, restarted, verified, refused (rules C27, C28; reliability.md 1.2, R1-R7).

The server says what a script tells it, byte by byte.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from assembler.cache.local import LocalCache
from assembler.cancellation import Cancellation
from assembler.context.download import Download, Fetcher
from assembler.errors import (
    AssemblerError,
    Cancelled,
    NoSpace,
    NotFound,
    ProtocolViolation,
    RegistryError,
    Unauthorized,
    Unreachable,
)
from assembler.net.client import HttpClient
from assembler.net.limits import Limits
from assembler.net.retry import RetryPolicy
from assembler.oci.digest import Digest
from assembler.store.store import Store
from tests.bounds import watchdog

CONTENT = bytes(range(256)) * 64
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
Reply = Callable[[socket.socket, dict[str, str]], None]


@dataclass
class Server:
    """Answers the first connection with the first of `replies`, and so on; the last one stays."""

    replies: list[Reply] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/p/file"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as found:
        yield found


class serving:
    """A server of its own, for tests that need two."""

    def __enter__(self) -> Server:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server = Server(port=self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self._server

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._open:
            connection.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            try:
                headers = _headers(connection)
                self._server.asked.append(headers)
                replies = self._server.replies
                reply = replies.pop(0) if len(replies) > 1 else replies[0]
                reply(connection, headers)
            except OSError:
                continue  # the client went away, as some tests want


def _headers(connection: socket.socket) -> dict[str, str]:
    text = b""
    while b"\r\n\r\n" not in text:
        more = connection.recv(65536)
        if not more:
            raise ConnectionError("it asked for nothing")
        text += more
    first, *lines = text.decode().strip().split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    return {"path": first.split()[1], **{name.lower(): value for name, value in pairs}}


def answer(
    body: bytes = CONTENT, status: int = 200, *, sent: int | None = None, **headers: str
) -> Reply:
    """A whole answer, or one that ends after `sent` bytes of the body. A header whose value is
    empty is left out."""

    def reply(connection: socket.socket, _: dict[str, str]) -> None:
        given = {"Content-Length": str(len(body)), "Connection": "close"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"HTTP/1.1 {status} X", *(f"{k}: {v}" for k, v in given.items() if v)]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body[:sent])
        connection.close()

    return reply


def rest(*, start: int | None = None, total: int | None = None, **headers: str) -> Reply:
    """The part that the Range header asks for, or says that it is another one."""

    def reply(connection: socket.socket, asked: dict[str, str]) -> None:
        first = int(asked["range"].removeprefix("bytes=").removesuffix("-"))
        told = first if start is None else start
        size = len(CONTENT) if total is None else total
        place = f"bytes {told}-{len(CONTENT) - 1}/{size}"
        answer(CONTENT[first:], 206, Content_Range=place, **headers)(connection, asked)

    return reply


def hang(connection: socket.socket, _: dict[str, str]) -> None:
    """Say nothing, and do not hang up either."""


@dataclass
class Fetch:
    """Fetches with nothing but a store and a cache of its own."""

    store: Store
    cache: LocalCache
    cancellation: Cancellation
    client: HttpClient
    secrets: dict[str, Callable[[], bytes]] = field(default_factory=dict)
    told: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, url: str, checksum: str = "", credentials: str = "") -> Download:
        fetcher = Fetcher(
            self.store, lambda: self.client, self.cache, self.secrets, self.cancellation
        )
        return fetcher.fetch(url, checksum, lambda *at: self.told.append(at), credentials)

    def content(self, download: Download) -> bytes:
        with self.store.blobs.open(download.digest) as stream:
            return stream.read()

    def blobs(self) -> list[str]:
        return [path.name for path in Path(self.store.path, "blobs/sha256").iterdir()]


@pytest.fixture
def warned() -> list[str]:
    return []


@pytest.fixture
def fetch(tmp_path: Path, warned: list[str]) -> Iterator[Fetch]:
    policy = RetryPolicy(first=0.001)
    with (
        Store.open(str(tmp_path / "store")) as store,
        LocalCache(str(tmp_path / "cache.db")) as cache,
        Cancellation() as cancellation,
        HttpClient(cancellation=cancellation, policy=policy, warn=warned.append) as client,
    ):
        yield Fetch(store, cache, cancellation, client)


# What a file is ----------------------------------------------------------------------------------


def test_C27_content_size_and_time(fetch: Fetch, server: Server) -> None:
    server.replies = [answer(Last_Modified=DATE, ETag='"1"')]
    found = fetch(server.url)
    assert fetch.content(found) == CONTENT
    assert (found.size, found.mtime) == (len(CONTENT), 1_700_000_000_000_000_000)
    assert fetch.told[-1] == (len(CONTENT), len(CONTENT))


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        (DATE, 1_700_000_000),
        ("Tuesday, 14-Nov-23 22:13:20 GMT", 1_700_000_000),
        ("Tue Nov 14 22:13:20 2023", 1_700_000_000),  # no zone: not this machine's
        ("Tue, 14 Nov 2023 22:13:20 -0000", 1_700_000_000),
        ("Wed, 31 Dec 1969 23:00:00 GMT", 0),
        ("yesterday", 0),
        ("Tue, 14 Nov 99999 22:13:20 GMT", 0),
        ("", 0),
    ],
)
def test_C27_the_time_of_a_file(monkeypatch: pytest.MonkeyPatch, date: str, seconds: int) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert Download(Digest.of(b""), 0, modified=date).mtime == seconds * 1_000_000_000
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


def test_a_large_file_is_not_held_in_memory(fetch: Fetch, server: Server) -> None:
    block, count = bytes(1 << 20), 64

    def reply(connection: socket.socket, _: dict[str, str]) -> None:
        connection.sendall(b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n" % (count << 20))
        for _ in range(count):
            connection.sendall(block)

    server.replies = [reply]
    tracemalloc.start()
    try:
        assert fetch(server.url).size == count << 20
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, RegistryError), (401, Unauthorized), (403, Unauthorized), (404, NotFound),
     (410, NotFound), (413, RegistryError), (507, RegistryError), (500, RegistryError)],
)  # fmt: skip
def test_C27_a_refusal_says_its_number(
    fetch: Fetch, server: Server, status: int, kind: type[RegistryError]
) -> None:
    server.replies = [answer(b"", status)]
    with pytest.raises(kind) as raised:
        fetch(server.url)
    assert f"invalid response status {status} for {server.url}" in str(raised.value)
    assert len(server.asked) == (6 if status == 500 else 1)


def test_C27_nothing_is_a_file_too(fetch: Fetch, server: Server) -> None:
    server.replies = [answer(b"", 204, Content_Length="")]
    assert fetch(server.url).size == 0


def test_a_server_that_is_not_there_is_not_asked_for_long(fetch: Fetch, free_port: int) -> None:
    with pytest.raises(Unreachable, match="cannot reach 127"):
        fetch(f"http://127.0.0.1:{free_port}/x")


# A connection that breaks ------------------------------------------------------------------------


def test_R6_a_broken_transfer_goes_on_where_it_broke(fetch: Fetch, server: Server) -> None:
    server.replies = [answer(sent=5000, ETag='"1"'), rest()]
    assert fetch.content(fetch(server.url)) == CONTENT
    assert server.asked[1]["range"] == "bytes=5000-" and server.asked[1]["if-range"] == '"1"'


def test_R6_again_and_again(fetch: Fetch, server: Server) -> None:
    def some(connection: socket.socket, asked: dict[str, str]) -> None:
        first = int(asked["range"].removeprefix("bytes=").removesuffix("-"))
        place = f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}"
        answer(CONTENT[first:], 206, sent=1000, Content_Range=place)(connection, asked)

    # more breaks than a transfer without progress has tries
    server.replies = [answer(sent=1000, ETag='"1"'), *[some] * 15, rest()]
    assert fetch.content(fetch(server.url)) == CONTENT


def test_R6_by_date_where_the_etag_is_weak(fetch: Fetch, server: Server) -> None:
    server.replies = [answer(sent=5000, ETag='W/"1"', Last_Modified=DATE), rest()]
    assert fetch.content(fetch(server.url)) == CONTENT
    assert server.asked[1]["if-range"] == DATE


def test_R6_from_the_beginning_where_nothing_says_it_is_the_same(
    fetch: Fetch, server: Server
) -> None:
    server.replies = [answer(b"x" * len(CONTENT), sent=5000), answer()]
    assert fetch.content(fetch(server.url)) == CONTENT
    assert "range" not in server.asked[1]


def test_R7_a_file_that_changed_meanwhile_comes_whole(fetch: Fetch, server: Server) -> None:
    server.replies = [answer(b"x" * 9000, sent=5000, ETag='"1"'), answer(ETag='"2"')]
    found = fetch(server.url)
    assert fetch.content(found) == CONTENT and found.etag == '"2"'


@pytest.mark.parametrize(
    "wrong",
    [rest(start=4999), rest(total=len(CONTENT) + 1), answer(CONTENT[5000:], 206), answer(b"", 416)],
    ids=["another start", "another size", "no range said", "416"],
)
def test_R7_another_range_is_never_spliced(fetch: Fetch, server: Server, wrong: Reply) -> None:
    server.replies = [answer(sent=5000, ETag='"1"'), wrong, answer(ETag='"2"')]
    assert fetch.content(fetch(server.url)) == CONTENT
    assert "range" not in server.asked[2]


def test_R7_a_size_that_is_none_is_not_believed(fetch: Fetch, server: Server) -> None:
    def half(connection: socket.socket, _: dict[str, str]) -> None:
        head = b'HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\nETag: "1"\r\n\r\n'
        connection.sendall(head + b"1388\r\n" + CONTENT[:5000] + b"\r\n")
        connection.close()

    place = f"bytes 5000-{len(CONTENT) - 1}/{'9' * 5000}"
    server.replies = [half, answer(CONTENT[5000:], 206, Content_Range=place)]
    assert fetch.content(fetch(server.url)) == CONTENT
    assert server.asked[1]["range"] == "bytes=5000-"


def test_R7_a_chunked_answer_that_ends_early(fetch: Fetch, server: Server) -> None:
    def half(connection: socket.socket, _: dict[str, str]) -> None:
        connection.sendall(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n")
        connection.close()

    server.replies = [half, answer()]
    assert fetch.content(fetch(server.url)) == CONTENT


def test_R5_a_busy_server_is_waited_for(fetch: Fetch, server: Server, warned: list[str]) -> None:
    server.replies = [answer(b"", 503, Retry_After="0"), answer(b"", 429), answer()]
    assert fetch.content(fetch(f"{server.url}?token=secret")) == CONTENT
    assert [one.partition(" was answered with ")[2][:10] for one in warned] == [
        "status 503", "status 429"
    ]  # fmt: skip
    assert all("; trying again in " in one and "secret" not in one for one in warned)


def test_what_stays_broken_is_reported_and_leaves_nothing(fetch: Fetch, server: Server) -> None:
    server.replies = [answer(sent=0)]
    with pytest.raises(Unreachable):
        fetch(server.url)
    assert fetch.blobs() == []
    assert not list(Path(fetch.store.path, "ingest").rglob("data"))


def test_a_file_that_does_not_fit_is_not_begun(fetch: Fetch, server: Server) -> None:
    server.replies = [answer(b"x", Content_Length=str(1 << 60))]
    with pytest.raises(NoSpace):
        fetch(server.url)
    assert len(server.asked) == 1


@pytest.mark.parametrize("headers", [b"", b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nabc"])
def test_a_cancelled_fetch_waits_for_no_server(
    fetch: Fetch, server: Server, headers: bytes
) -> None:
    later = threading.Timer(0.2, fetch.cancellation.cancel, [2])

    def silent(connection: socket.socket, _: dict[str, str]) -> None:
        connection.sendall(headers)
        later.start()

    server.replies = [silent]
    limits = Limits(head=3600, window=3600)
    patient = HttpClient(cancellation=fetch.cancellation, limits=limits)
    with watchdog(), patient as fetch.client, pytest.raises(Cancelled):
        fetch(server.url)
    later.join()


# A digest that is given --------------------------------------------------------------------------


def test_C28_another_file_than_the_checksum_names_is_not_kept(fetch: Fetch, server: Server) -> None:
    server.replies = [answer()]
    wrong = f"sha256:{'0' * 64}"
    with pytest.raises(ProtocolViolation, match=f"digest mismatch {wrong}: sha256:"):
        fetch(server.url, wrong)
    assert fetch.blobs() == []


def test_C28_a_broken_transfer_is_still_verified(fetch: Fetch, server: Server) -> None:
    server.replies = [answer(b"x" * len(CONTENT), sent=5000, ETag='"1"'), rest()]
    with pytest.raises(ProtocolViolation, match="digest mismatch"):
        fetch(server.url, str(Digest.of(CONTENT)))


def test_C28_a_known_file_is_not_asked_for(fetch: Fetch, server: Server) -> None:
    server.replies = [answer(Last_Modified=DATE)]
    first = fetch(server.url, str(Digest.of(CONTENT)))
    assert fetch(server.url, str(Digest.of(CONTENT))) == first and len(server.asked) == 1


def test_C28_the_same_bytes_from_elsewhere_have_their_own_time(
    fetch: Fetch, server: Server
) -> None:
    """The time is part of the image: it may not depend on what the store held before."""
    fetch.store.blobs.put(CONTENT)
    server.replies = [answer(Last_Modified=DATE)]
    assert fetch(server.url, str(Digest.of(CONTENT))).mtime > 0


# What was fetched before -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "value", "asked"),
    [("ETag", '"1"', "if-none-match"), ("Last_Modified", DATE, "if-modified-since")],
)
def test_C27_what_did_not_change_is_not_sent_again(
    fetch: Fetch, server: Server, header: str, value: str, asked: str
) -> None:
    server.replies = [answer(**{header: value}), answer(b"", 304, Content_Length="")]
    first = fetch(server.url)
    assert fetch(server.url) == first
    assert server.asked[1][asked] == value


def test_C27_a_blob_that_is_gone_is_fetched_again(fetch: Fetch, server: Server) -> None:
    server.replies = [answer(ETag='"1"')]
    first = fetch(server.url)
    Path(fetch.store.blobs.path(first.digest)).unlink()
    assert fetch.content(fetch(server.url)) == CONTENT
    assert "if-none-match" not in server.asked[1]


# Redirects and secrets ---------------------------------------------------------------------------


def redirect(location: str, status: int = 302) -> Reply:
    return answer(b"", status, Location=location)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_R1_a_secret_never_reaches_another_origin(
    fetch: Fetch, server: Server, status: int
) -> None:
    fetch.secrets = {"HTTP_AUTH_TOKEN_127.0.0.1": lambda: b"s3cret\n"}
    with serving() as other:
        other.replies = [answer()]
        server.replies = [redirect(other.url, status)]
        assert fetch.content(fetch(server.url)) == CONTENT
        assert server.asked[0]["authorization"] == "Bearer s3cret"
        assert "s3cret" not in str(other.asked)


def test_R1_another_name_of_the_host_is_another_origin(fetch: Fetch, server: Server) -> None:
    fetch.secrets = {"HTTP_AUTH_HEADER_127.0.0.1": lambda: b"Basic s3cret"}
    with serving() as other:
        other.replies = [redirect(f"http://localhost:{server.port}/back")]
        server.replies = [redirect(other.url), answer()]
        assert fetch.content(fetch(server.url)) == CONTENT
        assert "authorization" not in server.asked[1]


def test_C27_a_redirect_inside_an_origin_keeps_the_secret(fetch: Fetch, server: Server) -> None:
    fetch.secrets = {f"HTTP_AUTH_TOKEN_127.0.0.1:{server.port}": lambda: b"t"}
    server.replies = [redirect("/elsewhere"), answer()]
    fetch(server.url)
    assert [(one["path"], one["authorization"]) for one in server.asked] == [
        ("/p/file", "Bearer t"),
        ("/elsewhere", "Bearer t"),
    ]


@pytest.mark.parametrize(
    ("location", "problem"),
    [("file:///etc/passwd", "no URL"), ("ftp://h/x", "no URL"), ("/p/file", "more than 10 times")],
)
def test_B8_redirects_that_lead_nowhere(
    fetch: Fetch, server: Server, location: str, problem: str
) -> None:
    server.replies = [redirect(location)]
    with pytest.raises(ProtocolViolation, match=problem):
        fetch(server.url)


def test_R3_https_never_leads_to_http(
    fetch: Fetch, server: Server, tmp_path: Path, require: Callable[..., None]
) -> None:
    require("openssl")
    server.replies = [answer()]
    with secure(tmp_path, redirect(server.url)) as port:
        host = f"127.0.0.1:{port}"
        trusting = HttpClient(cancellation=fetch.cancellation, unverified=frozenset({host}))
        with trusting as fetch.client, pytest.raises(ProtocolViolation, match="https to http"):
            fetch(f"https://{host}/x")
    assert server.asked == []


@contextmanager
def secure(directory: Path, reply: Reply) -> Iterator[int]:
    """A server behind TLS, that answers once; its port."""
    names = ["-keyout", f"{directory}/key", "-out", f"{directory}/certificate"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", *names]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{directory}/certificate", f"{directory}/key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            plain, _ = listener.accept()
            with context.wrap_socket(plain, server_side=True) as connection:
                reply(connection, _headers(connection))

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_18_4_credentials_of_a_url_are_sent_and_not_kept(
    fetch: Fetch, server: Server, tmp_path: Path
) -> None:
    server.replies = [answer(ETag='"1"')]
    fetch(f"{server.url}?signature=s3cret", credentials="user:pa:ss")
    assert server.asked[0]["authorization"] == "Basic dXNlcjpwYTpzcw=="
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"s3cret" not in path.read_bytes() and b"pa:ss" not in path.read_bytes()


def test_what_is_no_utf_8_is_sent_as_it_is(fetch: Fetch, server: Server) -> None:
    """A Dockerfile may be in another encoding."""
    server.replies = [answer()]
    fetch(f"{server.url}/\udce9?\udcff", credentials="user:\udce9")
    assert server.asked[0]["path"] == "/p/file/%E9?%FF"
    assert base64.b64decode(server.asked[0]["authorization"].removeprefix("Basic ")) == b"user:\xe9"


def test_18_4_no_message_shows_a_query(fetch: Fetch, server: Server) -> None:
    server.replies = [answer(b"", 403)]
    with pytest.raises(AssemblerError) as raised:
        fetch(f"{server.url}?X-Signature=s3cret")
    assert "s3cret" not in f"{raised.value} {raised.value.hint}"


def test_two_urls_of_one_path_are_two_files(fetch: Fetch, server: Server) -> None:
    server.replies = [answer(ETag='"1"'), answer(b"two", ETag='"1"')]
    fetch(f"{server.url}?id=1")
    assert fetch.content(fetch(f"{server.url}?id=2")) == b"two"
    assert "if-none-match" not in server.asked[1]
    assert hashlib.sha256(b"two").hexdigest() in fetch.blobs()
