"""Debian's docker-registry, git's daemon, and a port in front of a registry that counts bytes.

Imports little: the memory of a process that a benchmark starts is at least the benchmark's own.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent


@contextmanager
def serving(
    directory: Path, data: Path | None = None, **more: Mapping[str, object]
) -> Iterator[str]:
    """Run docker-registry with its own files in `directory` and its storage in `data`. `more` goes
    into its configuration. Yields host:port."""
    with reserved_port() as port:
        yield from _serving(port, directory, data, more)


@contextmanager
def reserved_port() -> Iterator[int]:
    """A loopback port that nothing listens on, and that nobody is given who asks for any: it is bound,
    so that a connection is refused, and who names it may listen there (SO_REUSEADDR, socket(7))."""
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(("127.0.0.1", 0))
        yield place.getsockname()[1]


def _serving(
    port: int, directory: Path, data: Path | None, more: Mapping[str, Mapping[str, object]]
) -> Iterator[str]:
    host = f"127.0.0.1:{port}"
    files = {"rootdirectory": str(data or directory / "data")}
    config = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        **more,
        "storage": {
            "filesystem": files, "delete": {"enabled": True}, **more.get("storage", {}),
        },
        "http": {"addr": host, "secret": "of the tests", **more.get("http", {})},
    }  # fmt: skip
    path = directory / f"{port}.yml"
    path.write_text(json.dumps(config))  # which is YAML too
    with (directory / f"{port}.log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(path)], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _listening(port)
            yield host
        finally:
            process.terminate()
            process.wait()


def _listening(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextmanager
def git_serving(base: Path) -> Iterator[str]:
    """git's own daemon, serving everything below `base`. Yields its URL."""
    with reserved_port() as port:
        daemon = subprocess.Popen(
            ["git", "daemon", "--reuseaddr", f"--base-path={base}", "--export-all",
             "--listen=127.0.0.1", f"--port={port}", str(base)],
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            _listening(port)
            yield f"git://127.0.0.1:{port}"
        finally:
            os.killpg(daemon.pid, signal.SIGTERM)
            daemon.communicate()


class Relay:
    """fixtures/relay.py in front of the registry at `upstream`; it ends with the block."""

    def __init__(self, upstream: str) -> None:
        command = [sys.executable, str(ROOT / "fixtures/relay.py"), upstream]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.host = self._line()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.__exit__(None, None, None)

    def moved(self) -> dict[str, int]:
        """The bytes `sent` to the registry and `received` from it since the last call."""
        self._ask("")
        found: dict[str, int] = json.loads(self._line())
        return found

    def hold(self, method: str, number: int) -> Callable[[], None]:
        """Keep back the request `number` of `method`, counted from now; what is returned waits
        until that is there."""
        self._ask(f"hold {method} {number}")

        def wait() -> None:
            assert self._line() == "held"

        return wait

    def _ask(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()
