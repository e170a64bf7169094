"""A push that was killed is finished by the same command, with docker-registry."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHUNK = 32 << 20
SIZE = 2 * CHUNK + (8 << 20)


@pytest.fixture
def killed(assemble: Any, relay: Any, tmp_path: Path) -> Iterator[str]:
    """The name of an image of one layer, whose push was killed when the registry had two chunks."""
    name = f"{relay.host}/app:1"
    context = tmp_path / "context"
    context.mkdir()
    (context / "data").write_bytes(os.urandom(SIZE))
    (context / "Dockerfile").write_text("FROM scratch\nCOPY data /\n")
    output = "type=image,compression=uncompressed"
    assemble("build", "-q", "-o", output, "-t", name, context)
    relay.moved()
    there = relay.hold("PATCH", 3)
    process = subprocess.Popen(
        assemble.command("push", name), env=assemble.env, stderr=subprocess.DEVNULL
    )
    there()
    process.kill()
    process.wait()
    yield name


def test_a_push_that_was_killed_goes_on_with_what_the_registry_has(
    assemble: Any, relay: Any, killed: str
) -> None:
    before = relay.moved()["sent"]
    assemble("push", killed)
    after = relay.moved()["sent"]
    assert before >= 2 * CHUNK
    assert before + after <= SIZE + CHUNK, "at most a chunk went twice"
    assert after < CHUNK
    uploads = Path(assemble.env["ASSEMBLE_STORE"], "uploads")
    assert list(uploads.iterdir()) == [], "nothing is left to go on with"


def test_an_upload_that_the_registry_has_thrown_away_is_begun_anew(
    assemble: Any, relay: Any, own_registry: tuple[str, Path], killed: str
) -> None:
    uploads = own_registry[1] / "docker/registry/v2/repositories/app/_uploads"
    for data in uploads.glob("*/data"):
        data.write_bytes(b"broken off")  # which docker-registry 2 answers as if there were none
    assemble("push", killed)
    assert relay.moved()["sent"] > SIZE
    assemble("pull", killed)


def test_R9_what_was_pushed_under_another_name_is_mounted_from_there(
    assemble: Any, relay: Any, tmp_path: Path
) -> None:
    """Of three names, two of which were never pushed."""
    context = tmp_path / "context"
    context.mkdir()
    (context / "data").write_bytes(os.urandom(1 << 20))
    (context / "Dockerfile").write_text("FROM scratch\nCOPY data /\n")
    names = [f"{relay.host}/{name}:1" for name in ("one", "two", "three")]
    tags = [word for name in names for word in ("-t", name)]
    assemble("build", "-q", *tags, context)
    assemble("push", names[1])
    relay.moved()
    assemble("push", names[1], f"{relay.host}/four:1")
    assert relay.moved()["sent"] < 100_000
