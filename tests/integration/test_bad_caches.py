"""Registries of caches that fail in every way that networks have: the build is right, one line says why,
and nothing wrong is kept (the issue of the cache, "Bad input"; reliability B14)."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from assembler.testing.server import Answer
from tests.conftest import Assemble, environment
from tests.registry.faulty import FaultyRegistry
from tests.registry.rules import MANIFEST, UPLOAD, Action, Case, cut, redirect, reply

pytestmark = pytest.mark.integration

DOCKERFILE = "FROM scratch\nCOPY a /a\nWORKDIR /made\nCOPY b /b\n"


@dataclass
class Site:
    """A registry with a cache, and machines that build the context it is of."""

    registry: FaultyRegistry
    directory: Path
    image: str = ""

    @property
    def ref(self) -> str:
        return f"{self.registry.host}/team/cache:main"

    def path(self, what: str) -> str:
        """The path of the cache's "manifest", of its "document", or of a "layer"."""
        if what == "manifest":
            return MANIFEST
        manifest = json.loads(self.registry.manifests["team/cache", "main"][1])
        found = manifest["config"] if what == "document" else manifest["layers"][0]
        return f"/v2/team/cache/blobs/{found['digest']}"

    def build(self, machine: str, *options: str, code: int = 0) -> Any:
        """Build on `machine`."""
        env = environment(self.directory / machine, SOURCE_DATE_EPOCH="1700000000")
        command = ("build", "--progress", "plain", *options, str(self.directory / "context"))
        return Assemble(env)(*command, code=code)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    context = directory / "context"
    context.mkdir()
    for name in "ab":
        (context / name).write_bytes(os.urandom(30_000))
    (context / "Dockerfile").write_text(DOCKERFILE)
    with FaultyRegistry() as registry:
        made = Site(registry, directory)
        done = made.build("one", "--cache-to", f"type=registry,ref={made.ref},mode=max")
        made.image = done.stdout.strip()
        yield made


@pytest.fixture
def site(made: Site, tmp_path: Path) -> Iterator[Site]:
    """The registry that was filled once, without its faults, and new machines."""
    (tmp_path / "context").symlink_to(made.directory / "context")
    yield replace(made, directory=tmp_path)
    made.registry.rules.clear()


def warnings(done: Any) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("WARNING")]


def endless(case: Case) -> Answer:
    """The right answer, whose body never ends."""
    answer = case.honest()
    return replace(answer, body=itertools.repeat(b" " * 65536), length=None)


def page(case: Case) -> Answer:
    """What a network says that wants a login first."""
    case.honest()
    return Answer(200, {"Content-Type": "text/html"}, b"<html>Welcome to our network</html>")


@pytest.mark.parametrize(
    ("what", "answer"),
    [
        ("manifest", redirect("http://127.0.0.1:1")),
        ("manifest", endless),
        ("document", cut(100)),
        ("document", page),
        ("layer", reply(500)),
        ("layer", reply(403)),
        ("layer", redirect("http://127.0.0.1:1")),
        ("layer", cut(0)),
        ("layer", endless),
    ],
    ids=[
        "manifest-elsewhere", "manifest-endless", "document-cut", "document-page",
        "layer-500", "layer-403", "layer-elsewhere", "layer-cut", "layer-endless",
    ],
)  # fmt: skip
def test_B14_whatever_it_answers_the_build_is_right(site: Site, what: str, answer: Action) -> None:
    site.registry.on("GET", site.path(what), answer)
    done = site.build("two", "--cache-from", site.ref)
    assert done.stdout.strip() == site.image
    (line,) = warnings(done)
    assert re.search(f"the cache {site.ref} is not used( any more)?: ", line), line
    assert ("any more" in line) == (what == "layer")
    if what == "layer":
        site.registry.rules.clear()
        again = site.build("two", "--cache-from", site.ref)
        assert (again.stdout.strip(), warnings(again)) == (site.image, [])


def test_B14_an_export_that_fails_again_and_again_is_one_line_too(site: Site) -> None:
    site.registry.on("PATCH|PUT", UPLOAD, reply(500))
    name = f"{site.registry.host}/team/other:1"
    target = f"type=registry,ref={name},ignore-error=true"
    done = site.build("two", "--retry", "1", "--cache-to", target)
    assert done.stdout.strip() == site.image
    (line,) = warnings(done)
    assert f"the cache could not be exported to {name}: " in line and "500" in line
