"""Caches in a directory that is exported to again and again, as a CI runner does: it does not grow, and
nobody misses what went (the issue of the cache, 4). A machine is a store of its own."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Assemble, environment

pytestmark = pytest.mark.integration

DOCKERFILE = "FROM scratch\nCOPY a /a\nWORKDIR /made\nCOPY b /b\n"


class Machines:
    """Machines that build the same context, whose file `b` is given, with the cache in `directory`."""

    def __init__(self, path: Path) -> None:
        self.directory = path / "cache"
        self._path = path
        self._context = path / "context"
        self._context.mkdir()
        (self._context / "Dockerfile").write_text(DOCKERFILE)
        (self._context / "a").write_bytes(os.urandom(10_000))

    def build(self, machine: str, content: str, *options: str, tag: str = "") -> Any:
        """Build; with a `tag` that is what the cache is taken from, and left under."""
        (self._context / "b").write_text(content)
        if tag:
            options += ("--cache-from", f"type=local,src={self.directory},tag={tag}")
            options += ("--cache-to", f"type=local,dest={self.directory},tag={tag},mode=max")
        env = environment(self._path / machine, SOURCE_DATE_EPOCH="1700000000")
        return Assemble(env)("build", "--progress", "plain", *options, self._context)

    @property
    def blobs(self) -> set[str]:
        """The names of what is in the directory."""
        return set(os.listdir(self.directory / "blobs/sha256"))

    @property
    def needed(self) -> set[str]:
        """The names of what its tags lead to."""
        index = json.loads((self.directory / "index.json").read_text())
        found = [entry["digest"] for entry in index["manifests"]]
        for digest in tuple(found):
            path = self.directory / "blobs" / digest.replace(":", "/")
            manifest = json.loads(path.read_text())
            found += [one["digest"] for one in (manifest["config"], *manifest["layers"])]
        return {digest.removeprefix("sha256:") for digest in found}


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    return Machines(tmp_path)


def cached(done: Any) -> int:
    """How many steps were taken from a cache."""
    return len(re.findall(r"^#\d+ CACHED \(", done.stderr, re.MULTILINE))


def warnings(done: Any) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("WARNING")]


def test_75_a_directory_does_not_grow_with_every_export(machines: Machines) -> None:
    machines.build("first", "0", tag="main")
    machines.build("first", "other", tag="branch")
    sizes = set()
    for number in (1, 2):
        done = machines.build(f"runner-{number}", str(number), tag="main")
        assert (cached(done), warnings(done)) == (2, [])
        assert machines.blobs == machines.needed
        sizes.add(len(machines.blobs))
    assert len(sizes) == 1
    assert machines.build("alone", "2").stdout == done.stdout
    branch = machines.build("runner-3", "other", tag="branch")
    assert (cached(branch), warnings(branch)) == (3, [])


def test_75_who_knew_of_what_went_does_it_again_and_uses_the_rest(machines: Machines) -> None:
    first = machines.build("one", "1", tag="main")
    taken = machines.build("two", "1", "-o", "type=cacheonly", tag="main")  # none of its layers
    assert cached(taken) == 3
    machines.build("one", "2", tag="main")
    again = machines.build("two", "1")
    assert (again.stdout, warnings(again)) == (first.stdout, [])
    pulled = re.findall(r"^#(\d+) \[internal\] pull ", again.stderr, re.MULTILINE)
    assert len(set(pulled)) == 2, "what is still there is taken from there"


def test_B14_a_layer_that_proved_wrong_is_left_right(machines: Machines) -> None:
    first = machines.build("one", "1", tag="main")
    blob = max((machines.directory / "blobs/sha256").iterdir(), key=lambda one: one.stat().st_size)
    content = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    second = machines.build("two", "1", tag="main")
    assert (second.stdout, len(warnings(second))) == (first.stdout, 1)
    assert blob.read_bytes() == content
    third = machines.build("three", "1", tag="main")
    assert (third.stdout, warnings(third)) == (first.stdout, [])
