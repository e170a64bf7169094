"""Whatever happens to the bytes of cache.db: a build gives the same image (CR08)."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assembler.cache.local import LocalCache, damage
from assembler.cancellation import Cancellation
from assembler.engine import execution
from assembler.engine.services import Sandbox, Services
from assembler.linux.cgroups import unlimited
from assembler.oci.digest import Digest
from assembler.store.store import Store
from tests.cache.test_local import sqlite_error
from tests.engine.test_execution import PlainDirectories, Workshop

TEXT = """\
FROM scratch AS a
COPY f /f
RUN ["sh", "write /made 1"]
FROM scratch
WORKDIR /w
COPY --from=a /made /made
COPY . /all
ADD https://example.invalid/f /fetched
LABEL a=b
"""


class FirstKept(PlainDirectories):
    """As `OverlaySnapshotter` does, what is published under an id first stays."""

    @contextmanager
    def create(self, id: str) -> Iterator[str]:
        with super().create(f"{id}.new") as work:
            yield work
        made = self.directory / f"{id}.new"
        try:
            made.rename(self.directory / id)
        except OSError:
            shutil.rmtree(made)


class Keeping(Workshop):
    """A workshop with such directories."""

    def services(self, store: Store, cache: LocalCache, cancellation: Cancellation) -> Services:
        @contextmanager
        def sandbox() -> Iterator[Sandbox]:
            directories = FirstKept(self.directory / "layers")
            yield Sandbox(directories, self.runtime, unlimited(), (), "full")

        return replace(super().services(store, cache, cancellation), sandbox=sandbox)


class Damaged:
    """A workshop with a store where TEXT was built, and the database as it was then: `files` are
    those of it when it was closed, and with a log when its owner was killed."""

    def __init__(self, directory: Path) -> None:
        self.workshop = Keeping(directory)
        self.workshop.remote.files["https://example.invalid/f"] = b"fetched"
        for name in ("f", "g"):
            (self.workshop.context / name).write_text(name * 100)
        self.digest = self.workshop.build(TEXT).digest
        self.path = directory / "cache.db"
        closed = {"cache.db": self.path.read_bytes()}
        with LocalCache(str(self.path)) as cache:
            cache._database.execute("PRAGMA wal_autocheckpoint = 0")
            for number in range(20):
                key = Digest.of(f"{number}".encode())
                found = cache._database.execute("SELECT key FROM steps LIMIT 1").fetchone()
                record = cache.lookup(Digest.parse(found[0]))
                assert record is not None
                cache.record(key, record)
            killed = {one.name: one.read_bytes() for one in directory.glob("cache.db*")}
        self.files = (closed, killed)
        self.kept = directory / "kept"
        for name in ("store", "layers"):
            shutil.copytree(directory / name, self.kept / name, copy_function=os.link)

    def build(self, files: dict[str, bytes]) -> Digest:
        """The image of a build with these files as its database, on the store as it was."""
        directory = self.workshop.directory
        for one in directory.glob("cache.db*"):
            one.unlink()
        for name in ("store", "layers"):
            shutil.rmtree(directory / name)
            shutil.copytree(self.kept / name, directory / name, copy_function=os.link)
        for name, content in files.items():
            (directory / name).write_bytes(content)
        return self.workshop.build(TEXT).digest


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    os.umask(0o022)
    with pytest.MonkeyPatch.context() as patch:
        if os.getuid() != 0:
            patch.setattr(os, "fchown", lambda *arguments: None)
            patch.setattr(os, "chown", lambda *arguments, **options: None)
        return Damaged(tmp_path_factory.mktemp("damaged"))


@pytest.fixture(autouse=True)
def own_files(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getuid() != 0:  # no namespace here: owners are what the layer tests are about
        monkeypatch.setattr(os, "fchown", lambda *arguments: None)
        monkeypatch.setattr(os, "chown", lambda *arguments, **options: None)


Change = Callable[[bytearray], bytearray]


def flipped(place: float, bit: int) -> Change:
    def change(content: bytearray) -> bytearray:
        content[int(place * (len(content) - 1))] ^= 1 << bit
        return content

    return change


def overwritten(place: float, text: bytes) -> Change:
    def change(content: bytearray) -> bytearray:
        start = int(place * len(content))
        content[start : start + len(text)] = text
        return content

    return change


def truncated(place: float) -> Change:
    return lambda content: content[: int(place * len(content))]


def copied(source: float, target: float, size: int) -> Change:
    """Bytes from elsewhere in the file: a page that was written to the wrong place, say."""

    def change(content: bytearray) -> bytearray:
        start, end = int(source * len(content)), int(target * len(content))
        content[end : end + size] = content[start : start + size]
        return content

    return change


def character(which: int, at: int, text: bytes) -> Change:
    """One character of a digest, which stays one: SQLite sees nothing wrong with it."""

    def change(content: bytearray) -> bytearray:
        found = [match.end() for match in re.finditer(b"sha256:", content)]
        if found:
            place = found[which % len(found)] + at
            content[place : place + 1] = text
        return content

    return change


PLACE = st.integers(0, 1 << 20).map(lambda part: part / (1 << 20))
DIGIT = st.sampled_from([b"%x" % digit for digit in range(16)])
CHANGES = st.one_of(
    st.builds(flipped, PLACE, st.integers(0, 7)),
    st.builds(overwritten, PLACE, st.binary(min_size=1, max_size=60)),
    st.builds(overwritten, PLACE, st.integers(1, 9000).map(bytes)),
    st.builds(truncated, PLACE),
    st.builds(copied, PLACE, PLACE, st.sampled_from([8, 100, 4096, 8192])),
    st.builds(character, st.integers(0, 9999), st.integers(0, 63), DIGIT),
    st.builds(character, st.integers(0, 9999), st.integers(0, 63), DIGIT),
)


@settings(max_examples=60, deadline=None)
@given(
    state=st.integers(0, 1),
    changes=st.lists(
        st.tuples(st.sampled_from(["", "-wal", "-shm"]), CHANGES), min_size=1, max_size=6
    ),
)
def test_CR08_a_damaged_database_never_changes_an_image(
    damaged: Damaged, state: int, changes: list[tuple[str, Change]]
) -> None:
    files = {name: bytearray(content) for name, content in damaged.files[state].items()}
    for suffix, change in changes:
        name = f"cache.db{suffix}"
        if files.get(name):
            files[name] = change(files[name])
    assert damaged.build({name: bytes(one) for name, one in files.items()}) == damaged.digest
    again = [damaged.workshop.build(TEXT).digest for _ in range(2)]
    assert again == [damaged.digest] * 2
    assert damaged.workshop.runtime.ran == [], "the third build finds what the others made"


def test_CR08_a_database_that_is_lost_in_the_middle_of_a_build_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was seen that nothing is to run, and no namespace was entered."""
    caches: list[LocalCache] = []

    class Noting(Keeping):
        def services(self, store: Store, cache: LocalCache, cancellation: Cancellation) -> Services:
            caches.append(cache)
            return super().services(store, cache, cancellation)

    workshop = Noting(tmp_path)
    workshop.remote.files["https://example.invalid/f"] = b"fetched"
    (workshop.context / "f").write_text("f")
    first = workshop.build(TEXT)
    decide = execution.needs_sandbox

    def then_lost(*given: Any) -> bool:
        needed = decide(*given)
        caches[-1]._lose(sqlite_error(sqlite3.SQLITE_CORRUPT))
        return needed

    monkeypatch.setattr(execution, "needs_sandbox", then_lost)
    (workshop.context / "g").write_text("new")
    second = workshop.build(TEXT)
    assert workshop.runtime.ran == []
    assert [a == b for a, b in zip(first.layers, second.layers, strict=True)] == [
        True, True, False, True,
    ]  # fmt: skip


def test_CR08_without_damage_nothing_runs(damaged: Damaged) -> None:
    for files in damaged.files:
        assert damaged.build(files) == damaged.digest
        assert damaged.workshop.runtime.ran == [] and damage(str(damaged.path)) == ""
