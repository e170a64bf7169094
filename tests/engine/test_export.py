"""A build of which only the files are wanted: nothing is packed, and what was done is known later."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from assembler.cache.local import LocalCache
from assembler.cancellation import Cancellation
from assembler.dockerfile.parser import parse
from assembler.engine.execution import execute, export
from assembler.errors import ContextChanged, StepError
from assembler.events import VertexDone
from assembler.layer.changeset import Kind
from assembler.layer.tree import Tree, everything
from assembler.oci.image import Image
from assembler.oci.platform import Platform
from assembler.plan.make import PlanRequest, make
from assembler.source import Source
from assembler.store.store import Store
from assembler.values import replace
from tests.engine.test_execution import LINUX, Workshop


class Bench(Workshop):
    """A workshop that hands over files, which are read after what is to be done `first`, by somebody
    who writes `into` directories."""

    into: tuple[str, ...] = ()
    first: Callable[[], object] | None = None

    def files_of(self, text: str, *, image: bool = False) -> dict[str, str]:
        """The regular files of the target of `text`, by path; `image` makes its image too."""
        self.runtime.ran.clear()
        self.events.clear()
        found: dict[str, str] = {}

        def take(trees: Mapping[Platform, Tree]) -> None:
            if self.first is not None:
                self.first()
            (tree,) = trees.values()
            for entry in everything(tree):
                if entry.kind is Kind.FILE and entry.source is not None:
                    with entry.source.open() as stream:
                        found[entry.path] = stream.read().decode()

        asked = PlanRequest(
            dockerfile=parse(Source("Dockerfile", text)),
            platform=LINUX,
            build_platform=LINUX,
            epoch=self.epoch,
        )
        plan = make(asked, {})
        with (
            Store.open(str(self.directory / "store")) as store,
            LocalCache(str(self.directory / "cache.db")) as cache,
            Cancellation() as cancellation,
        ):
            services = self.services(store, cache, cancellation)
            services = replace(services, files_to=take, files_into=self.into)
            self.made: Image | None = execute(plan, services)[0] if image else None
            if not image:
                export(plan, services)
        return found

    @property
    def blobs(self) -> list[str]:
        """What the store holds."""
        path = self.directory / "store/blobs/sha256"
        return os.listdir(path) if path.exists() else []

    def cached(self) -> dict[str, bool]:
        """The steps of the last build, and whether they were known."""
        done = [event for event in self.events if isinstance(event, VertexDone)]
        return {event.name: event.cached for event in done if event.vertex[:1].isdigit()}


@pytest.fixture
def bench(tmp_path: Path, without_owners: None) -> Bench:
    found = Bench(tmp_path)
    (found.context / "f").write_text("file")
    return found


TEXT = """\
FROM scratch AS base
COPY f /f
RUN ["sh", "write /made here"]
FROM base AS target
COPY f /g
RUN ["sh", "write /f over"]
COPY --from=base /made /copied
WORKDIR /w
"""
FILES = {"f": "over", "g": "file", "made": "here", "copied": "here"}


def test_the_files_are_those_of_the_stage_and_nothing_is_packed(bench: Bench) -> None:
    assert bench.files_of(TEXT) == FILES
    assert bench.blobs == []
    assert bench.runtime.ran == ["write /made here", "write /f over"]


def test_what_ran_does_not_run_again_though_nothing_is_packed(bench: Bench) -> None:
    bench.files_of(TEXT)
    assert bench.files_of(TEXT) == FILES
    assert bench.runtime.ran == [] and bench.blobs == []
    assert set(bench.cached().values()) == {True}, bench.cached()


def test_an_image_that_is_made_later_runs_nothing(bench: Bench) -> None:
    bench.files_of(TEXT)
    assert bench.files(bench.build(TEXT)) == FILES
    assert bench.runtime.ran == []


@pytest.mark.parametrize("text", [TEXT, "FROM scratch\nCOPY f /f\n"])
def test_a_known_image_gives_its_files_without_a_namespace(bench: Bench, text: str) -> None:
    image = bench.build(text)
    expected = bench.files(image)
    entered = bench.entered
    assert bench.files_of(text) == expected
    assert (bench.runtime.ran, bench.entered) == ([], entered)


def test_files_of_files_need_no_namespace(bench: Bench) -> None:
    text = "FROM scratch AS a\nCOPY f /f\nFROM scratch\nCOPY --from=a /f /x/\nWORKDIR /w\n"
    for _ in range(2):
        assert bench.files_of(text) == {"x/f": "file"}
    assert bench.entered == 0 and bench.blobs == []


def test_an_image_and_its_files_from_one_build(bench: Bench) -> None:
    assert bench.files_of(TEXT, image=True) == FILES
    made = bench.made
    assert made is not None and bench.files(made) == FILES
    assert bench.files_of(TEXT, image=True) == FILES and bench.runtime.ran == []
    assert bench.made is not None and bench.made.digest == made.digest


def test_a_changed_file_is_seen(bench: Bench) -> None:
    bench.files_of(TEXT)
    (bench.context / "f").write_text("other")
    assert bench.files_of(TEXT) == FILES | {"g": "other"}
    assert bench.runtime.ran == ["write /made here", "write /f over"]


def test_a_stage_that_copies_more_than_once_is_read_whole(bench: Bench) -> None:
    """Results of COPY are in memory only; another build reads what they came from again."""
    text = "FROM scratch AS a\nCOPY f /1\nCOPY f /2\nFROM a\nCOPY --from=a / /all/\n"
    expected = {"1": "file", "2": "file", "all/1": "file", "all/2": "file"}
    assert bench.files_of(text) == expected
    os.utime(bench.context / "f")
    assert bench.files_of(text) == expected


def test_nothing_is_handed_over_of_a_build_that_failed(bench: Bench) -> None:
    with pytest.raises(StepError):
        assert bench.files_of('FROM scratch\nCOPY f /f\nRUN ["sh", "fail 3"]\n') == "never"


def test_files_that_will_be_written_over_are_read_first(bench: Bench, tmp_path: Path) -> None:
    """A directory below the context, or the context itself; nothing else is put aside."""
    bench.into = (str(bench.context),)
    (bench.context / "g").write_text("other")
    plan = "FROM scratch AS a\nCOPY f g /\nFROM scratch\nCOPY --from=a / /x/\n"
    before = {"x/f": "file", "x/g": "other"}

    def overwrite() -> None:
        (bench.context / "f").write_text("written over")
        (bench.context / "g").unlink()

    bench.first = overwrite
    assert bench.files_of(plan) == before
    bench.into = (str(tmp_path / "elsewhere"),)
    bench.first = (bench.context / "f").unlink
    with pytest.raises(ContextChanged):
        bench.files_of("FROM scratch\nCOPY f /f\n")
