"""Fetches of one build: each once, different ones side by side, few at a time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from assembler.cache.local import LocalCache
from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import AssemblerError
from assembler.events import discard
from assembler.oci.digest import Digest
from assembler.plan.steps import UrlSource
from assembler.remotes import DOWNLOADS, Remotes
from assembler.store.store import Store
from tests.answering import answering


@pytest.fixture
def remotes(tmp_path: Path) -> Iterator[Remotes]:
    environment = Environment.read({"HOME": str(tmp_path), "PATH": os.environ["PATH"]})
    with (
        Store.open(str(tmp_path / "store")) as store,
        LocalCache(str(tmp_path / "cache.db")) as cache,
        Cancellation() as cancellation,
        Remotes(
            store, environment, known=lambda: cache, secrets={}, sink=discard,
            cancellation=cancellation,
        ) as found,
    ):  # fmt: skip
        yield found


@contextmanager
def site(answer: Callable[[str], bytes | None]) -> Iterator[str]:
    """A web server's address; what `answer` gives for a path, 404 for None."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = answer(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as url:
        yield url


def identities(remotes: Remotes, urls: list[str]) -> list[Digest | None]:
    with ThreadPoolExecutor(len(urls)) as pool:
        return list(pool.map(lambda url: remotes.identity(UrlSource(url)), urls))


def test_S11_different_files_are_fetched_side_by_side(remotes: Remotes) -> None:
    both = threading.Barrier(2, timeout=60)

    def answer(path: str) -> bytes:
        both.wait()  # breaks unless the other one is asked for meanwhile
        return path.encode()

    with site(answer) as url:
        assert len(set(identities(remotes, [f"{url}/a", f"{url}/b"]))) == 2


def test_one_file_is_fetched_once_however_many_steps_want_it(remotes: Remotes) -> None:
    asked: list[str] = []

    def answer(path: str) -> bytes:
        asked.append(path)
        time.sleep(0.1)
        return b"content"

    with site(answer) as url:
        assert len(set(identities(remotes, [f"{url}/a"] * 8))) == 1
    assert asked == ["/a"]


def test_R15_a_server_is_asked_for_a_few_at_a_time(remotes: Remotes) -> None:
    lock = threading.Lock()
    now, most = 0, 0

    def answer(path: str) -> bytes:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1
        return path.encode()

    with site(answer) as url:
        identities(remotes, [f"{url}/{number}" for number in range(4 * DOWNLOADS)])
    assert most <= DOWNLOADS


def test_what_could_not_be_fetched_is_asked_for_again(remotes: Remotes) -> None:
    files: dict[str, bytes] = {}
    with site(files.get) as url:
        with pytest.raises(AssemblerError, match="invalid response status 404"):
            remotes.identity(UrlSource(f"{url}/a"))
        files["/a"] = b"there now"
        assert remotes.identity(UrlSource(f"{url}/a")) is not None
