"""Layers that are in a registry before their build is over, and builds that never get there."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from assembler.testing import Answer, MemoryRegistry

pytestmark = pytest.mark.integration

BIG = "RUN head -c 20000000 /dev/urandom > /big\n"
SECONDS = 60.0
SLOW_FAREWELL = """
from assembler.registry import client
client.FAREWELL = 60.0
from assembler.__main__ import process
process()
"""
"""The command line, which has more time than usual to give up uploads: this machine may be busy."""


def eventually(holds: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def uploading(registry: MemoryRegistry) -> list[int]:
    """The bytes of each open upload; others begin and end meanwhile."""
    return [one.content.size for one in list(registry.sessions.values())]


@pytest.fixture
def start(assemble: Any, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a build that is pushed; its stderr is in `tmp_path / "err"`."""
    every: list[subprocess.Popen[bytes]] = []

    def start(text: str, name: str) -> subprocess.Popen[bytes]:
        context = tmp_path / "context"
        context.mkdir()
        (context / "Dockerfile").write_text(text)
        command = assemble.command("build", "--push", "-t", name, context)
        command[1:3] = ["-c", SLOW_FAREWELL]
        with (tmp_path / "err").open("wb") as errors:
            every.append(
                subprocess.Popen(command, env=assemble.env, stdout=subprocess.PIPE, stderr=errors)
            )
        return every[-1]

    yield start
    for process in every:
        process.kill()
        process.communicate()


def leftovers(store: Path) -> list[str]:
    return [str(path) for name in ("ingest", "scratch") for path in (store / name).iterdir()]


def test_layers_and_the_base_are_there_while_a_step_runs_and_stay_when_that_is_cancelled(
    start: Any, assemble: Any, tmp_path: Path
) -> None:
    def has_both() -> bool:
        blobs = [one.size for one in list(registry.contents.values())]
        return len(blobs) == 2 and max(blobs) > 20_000_000

    with MemoryRegistry() as registry:
        process = start(f"FROM busybox\n{BIG}RUN sleep 1000\n", f"{registry.host}/app:1")
        eventually(has_both, process)
        assert not registry.tags("app")
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
        sent = len(registry.asked)
        (tmp_path / "context/Dockerfile").write_text(f"FROM busybox\n{BIG}")
        assemble("build", "--push", "-t", f"{registry.host}/app:1", tmp_path / "context")
        assert registry.tags("app") == ["1"]
        later = [one for one in registry.asked[sent:] if one.method in ("PATCH", "PUT")]
        assert sum(len(one.body) for one in later) < 100_000, "configuration and manifest"


def test_CN01_ctrl_c_leaves_no_upload_and_no_file(start: Any, tmp_path: Path) -> None:
    with MemoryRegistry() as registry:
        text = f"FROM busybox\n{BIG.replace('20000000', '300000000')}RUN sleep 1000\n"
        process = start(text, f"{registry.host}/app:1")
        # the base is there: no answer to its POST, which names the upload, is on its way
        eventually(
            lambda: registry.contents and max(uploading(registry), default=0) > 4 << 20, process
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
        begun = {one.upload for one in registry.asked if one.method == "PATCH"}
        assert begun & {one.upload for one in registry.asked if one.method == "DELETE"}
        assert not registry.uploads and not registry.tags("app")
    assert leftovers(tmp_path / "store") == []


def test_CN02_after_kill_9_the_same_command_gives_the_image(
    start: Any, assemble: Any, tmp_path: Path
) -> None:
    with MemoryRegistry() as registry:
        text = f"FROM busybox\n{BIG.replace('20000000', '60000000')}RUN sleep 1000\n"
        process = start(text, f"{registry.host}/app:1")
        eventually(lambda: any(uploading(registry)), process)
        process.kill()
        process.communicate(timeout=SECONDS)  # all that it began has its stdout
        (tmp_path / "context/Dockerfile").write_text(text.replace("RUN sleep 1000\n", ""))
        assemble("build", "--push", "-t", f"{registry.host}/app:1", tmp_path / "context")
        assert registry.tags("app") == ["1"]
        assert leftovers(tmp_path / "store") == []
        assemble("store", "check")


def test_a_registry_that_refuses_ends_the_build_before_its_last_step(
    start: Any, tmp_path: Path
) -> None:
    body = b'{"errors":[{"code":"DENIED","message":"not yours"}]}'
    with MemoryRegistry() as registry:
        registry.fault = lambda asked: Answer(403, {}, body) if asked.method == "POST" else None
        process = start(f"FROM busybox\n{BIG}RUN sleep 1000\n", f"{registry.host}/app:1")
        assert process.wait(SECONDS) == 1
        last = (tmp_path / "err").read_text().splitlines()[-1]
        assert last.startswith("ERROR: ") and "not yours" in last and registry.host in last


def test_who_may_not_push_learns_it_at_the_beginning_though_the_base_is_there(
    start: Any, assemble: Any, tmp_path: Path
) -> None:
    body = b'{"errors":[{"code":"DENIED","message":"not yours"}]}'
    (tmp_path / "base").mkdir()
    (tmp_path / "base/Dockerfile").write_text("FROM busybox\n")
    with MemoryRegistry() as registry:
        assemble("build", "--push", "-t", f"{registry.host}/app:base", tmp_path / "base")
        registry.fault = lambda asked: Answer(403, {}, body) if asked.method == "POST" else None
        process = start("FROM busybox\nRUN sleep 1000\n", f"{registry.host}/app:1")
        assert process.wait(SECONDS) == 1
        said = (tmp_path / "err").read_text()
        last = said.splitlines()[-1]
        assert last.startswith(f"ERROR: {registry.host}/app: the upload of a layer was answered")
        assert "403 (not yours)" in last and f"`assemble login {registry.host}`" in said
        assert not registry.uploads and registry.tags("app") == ["base"]
    assert leftovers(tmp_path / "store") == []


def test_a_cached_build_asks_nothing_more(start: Any, assemble: Any, tmp_path: Path) -> None:
    with MemoryRegistry() as registry:
        process = start("FROM busybox\nRUN echo x >/x\n", f"{registry.host}/app:1")
        assert process.wait(SECONDS) == 0
        assert not registry.uploads
        before = len(registry.asked)
        assemble("build", "--push", "-t", f"{registry.host}/app:2", tmp_path / "context")
        methods = [one.method for one in registry.asked[before:]]
        assert methods == ["HEAD", "HEAD", "HEAD", "PUT", "GET", "PUT"]
