"""Whole builds over a runtime that is a Python function: what runs, what is cached, what is kept."""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from assembler.cache.local import LocalCache
from assembler.cancellation import Cancellation
from assembler.context.directory import DirectoryContext
from assembler.context.files import ContextBytes
from assembler.dockerfile.ignore import IgnoreRules
from assembler.dockerfile.parser import parse
from assembler.engine.execution import execute
from assembler.engine.realisation import Realisation
from assembler.engine.services import Sandbox, Services
from assembler.engine.sources import Sources
from assembler.engine.stage import StageBuilder
from assembler.errors import AssemblerError, ContextChanged, CopySourceMissing, ProcessFailed
from assembler.events import Event, VertexDone, VertexStarted
from assembler.layer.changeset import Changeset
from assembler.layer.compression import by_name
from assembler.linux.beneath import Openings
from assembler.linux.cgroups import unlimited
from assembler.oci.image import Image
from assembler.oci.platform import Platform
from assembler.plan.make import PlanRequest, make, needs
from assembler.plan.plan import ResolvedImage
from assembler.runtime.base import BindSource, Process, Root, RunMount
from assembler.source import Source
from assembler.store.store import Store
from assembler.testing import MemoryRemote
from tests.engine.runtimes import FakeRuntime

LINUX = Platform("linux", "amd64")


class PlainDirectories:
    """A snapshotter without mounts: enough for a runtime that only looks at `upper`."""

    name = "plain"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)

    def find(self, id: str) -> str | None:
        path = self.directory / id
        return str(path) if path.is_dir() else None

    @contextmanager
    def create(self, id: str) -> Iterator[str]:
        work = self.directory / f"{id}.work"
        work.mkdir()
        try:
            yield str(work)
            work.rename(self.directory / id)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @contextmanager
    def prepare(self, id: str, lowers: Sequence[str]) -> Iterator[Root]:
        with self.create(id) as upper:
            yield Root(tuple(lowers), upper, upper, upper)

    @contextmanager
    def writable(self, id: str) -> Iterator[str | None]:
        yield None

    def remove(self, id: str) -> None:
        shutil.rmtree(self.directory / id, ignore_errors=True)


class ScriptedRuntime(FakeRuntime):
    """A runtime whose commands are `write PATH TEXT`, `fail N` and `meet`; it records argv."""

    def __init__(self) -> None:
        super().__init__()
        self.mounts: list[RunMount] = []
        self.meeting = threading.Barrier(2, timeout=60)

    def execute(
        self,
        process: Process,
        root: Root,
        mounts: Sequence[RunMount],
        output: Callable[[bytes], None],
    ) -> int:
        words = process.argv[-1].split()
        self.mounts += mounts
        output(b"+ " + process.argv[-1].encode() + b"\n")
        if words[0] == "fail":
            return int(words[1])
        if words[0] == "meet":
            self.meeting.wait()
        path = Path(root.upper, words[1].lstrip("/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(" ".join(words[2:]))
        return 0


class Workshop:
    """A store, a context directory, and `build`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.context = directory / "context"
        self.context.mkdir()
        self.runtime = ScriptedRuntime()
        self.remote = MemoryRemote({})
        self.images: dict[str, ResolvedImage] = {}
        self.rules = ""
        self.events: list[Event] = []
        self.entered = 0
        self.epoch: int | None = 1_700_000_000
        self.time = 1_700_000_000.0

    def build(self, text: str, *, no_cache: bool | frozenset[str] = False, **request: Any) -> Image:
        self.runtime.ran.clear()
        self.events.clear()
        every = frozenset("*" if no_cache else "")
        request["no_cache"] = every if isinstance(no_cache, bool) else no_cache
        asked = PlanRequest(
            dockerfile=parse(Source("Dockerfile", text)),
            platform=LINUX,
            build_platform=LINUX,
            epoch=self.epoch,
            **request,
        )
        plan = make(asked, {need.key: self.images[need.image] for need in needs(asked, {})})
        with (
            Store.open(str(self.directory / "store")) as store,
            LocalCache(str(self.directory / "cache.db")) as cache,
            Cancellation() as cancellation,
        ):
            return execute(plan, self.services(store, cache, cancellation))[0]

    def services(self, store: Store, cache: LocalCache, cancellation: Cancellation) -> Services:
        return Services(
            store=store,
            cache=cache,
            packed=cache,
            contexts={"": DirectoryContext(str(self.context), self._rules())},
            remote=self.remote,
            sandbox=self.sandbox,
            fetch=lambda image, layer, take: pytest.fail("nothing is pulled"),
            stream=lambda image, layer, take: pytest.fail("nothing is pulled"),
            part=lambda image, layer, offset, size: pytest.fail("nothing is pulled"),
            compression=by_name("uncompressed", None),
            sink=self.events.append,
            cancellation=cancellation,
            clock=lambda: self.time,
            secrets={},
        )

    @contextmanager
    def sandbox(self) -> Iterator[Sandbox]:
        self.entered += 1
        directories = PlainDirectories(self.directory / "layers")
        yield Sandbox(directories, self.runtime, unlimited(), (), "full")

    def _rules(self) -> IgnoreRules | None:
        return IgnoreRules.parse(Source(".dockerignore", self.rules)) if self.rules else None

    def owners(self, image: Image) -> dict[str, tuple[int, int]]:
        """Paths of the image's last layer to owners."""
        with Store.open(str(self.directory / "store")) as store:
            content = store.blobs.read(image.manifest.layers[-1])
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            return {member.name: (member.uid, member.gid) for member in archive}

    def files(self, image: Image) -> dict[str, str]:
        """Paths to contents of the image's regular files, later layers winning."""
        found: dict[str, str] = {}
        with Store.open(str(self.directory / "store")) as store:
            for layer in image.manifest.layers:
                content = store.blobs.read(layer)
                with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                    for member in archive.getmembers():
                        stream = archive.extractfile(member) if member.isfile() else None
                        if stream is not None:
                            found[member.name] = stream.read().decode()
        return found


@pytest.fixture
def workshop(tmp_path: Path, without_owners: None) -> Workshop:
    return Workshop(tmp_path)


TWO_BRANCHES = """\
FROM scratch AS base
RUN ["sh", "write /base 1"]
FROM base AS foo
RUN ["sh", "meet /foo made-of-foo"]
FROM base AS bar
RUN ["sh", "meet /bar made-of-bar"]
FROM scratch AS unused
RUN ["sh", "fail 1"]
FROM scratch
COPY --from=foo /foo /out/
COPY --from=bar /bar /out/
CMD ["/out/foo"]
"""


def test_branches_run_at_once_and_only_their_files_reach_the_image(workshop: Workshop) -> None:
    image = workshop.build(TWO_BRANCHES)  # `meet` passes only when both branches are inside
    assert workshop.files(image) == {"out/foo": "made-of-foo", "out/bar": "made-of-bar"}
    assert len(image.layers) == 2
    assert image.config.execution.cmd == ("/out/foo",)


def test_S11_stages_nobody_needs_are_not_built(workshop: Workshop) -> None:
    workshop.build(TWO_BRANCHES)
    assert "fail 1" not in workshop.runtime.ran


def test_the_second_build_runs_nothing_and_enters_no_namespace(workshop: Workshop) -> None:
    first = workshop.build(TWO_BRANCHES)
    entered = workshop.entered
    second = workshop.build(TWO_BRANCHES)
    assert second.digest == first.digest
    assert workshop.runtime.ran == []
    assert workshop.entered == entered
    done = [event for event in workshop.events if isinstance(event, VertexDone)]
    assert done and all(event.cached for event in done)


def test_no_cache_runs_everything_and_gives_the_same_image(workshop: Workshop) -> None:
    text = 'FROM scratch\nRUN ["sh", "write /a 1"]\n'
    first = workshop.build(text)
    second = workshop.build(text, no_cache=True)
    assert workshop.runtime.ran == ["write /a 1"]
    assert second.digest == first.digest


def test_a_changed_context_file_runs_exactly_what_sees_it(workshop: Workshop) -> None:
    text = """\
FROM scratch AS one
COPY a /a
RUN ["sh", "write /one 1"]
FROM scratch AS two
COPY b /b
RUN ["sh", "write /two 2"]
FROM scratch
COPY --from=one /one /
COPY --from=two /two /
"""
    (workshop.context / "a").write_text("a")
    (workshop.context / "b").write_text("b")
    workshop.build(text)
    (workshop.context / "b").write_text("changed")
    workshop.build(text)
    assert workshop.runtime.ran == ["write /two 2"]


def test_18_3_another_file_of_the_same_stage_is_another_copy(workshop: Workshop) -> None:
    text = "FROM scratch AS one\nCOPY a b /\nFROM scratch\nCOPY --from=one /{} /x\n"
    (workshop.context / "a").write_text("a")
    (workshop.context / "b").write_text("b")
    assert workshop.files(workshop.build(text.format("a"))) == {"x": "a"}
    assert workshop.files(workshop.build(text.format("b"))) == {"x": "b"}
    assert workshop.files(workshop.build(text.format("[ab]"))) == {"x": "b"}


def test_S7_scratch_has_no_files(workshop: Workshop) -> None:
    image = workshop.build('FROM scratch\nCOPY --from=scratch / /x\nRUN ["sh", "write /y 1"]\n')
    assert workshop.files(image) == {"y": "1"}
    with pytest.raises(CopySourceMissing, match='"/f": not found'):
        workshop.build("FROM scratch\nCOPY --from=scratch /f /x\n")


def test_R4_a_failure_tells_the_process_and_the_lines(workshop: Workshop) -> None:
    text = 'FROM scratch\nENV a=b\nRUN ["sh", \\\n  "fail 3"]\n'
    with pytest.raises(ProcessFailed) as caught:
        workshop.build(text)
    message = 'process "sh fail 3" did not complete successfully: exit code: 3'
    assert (caught.value.message, caught.value.exit_code) == (message, 3)
    assert caught.value.span is not None
    assert (caught.value.span.start, caught.value.span.end) == (3, 4)


def test_a_rebuilt_stage_with_the_same_files_still_hits(workshop: Workshop) -> None:
    text = """\
FROM scratch AS one
COPY a /a
RUN ["sh", "write /one same"]
FROM scratch
COPY --from=one /one /
RUN ["sh", "write /late 1"]
"""
    (workshop.context / "a").write_text("a")
    first = workshop.build(text)
    (workshop.context / "a").write_text("other")
    second = workshop.build(text)
    assert workshop.runtime.ran == ["write /one same"]
    assert second.digest == first.digest


def test_a_failing_run_names_its_line_and_leaves_no_layer(workshop: Workshop) -> None:
    with pytest.raises(ProcessFailed) as caught:
        workshop.build('FROM scratch\nRUN ["sh", "fail 3"]\n')
    assert caught.value.exit_code == 3
    assert caught.value.span is not None and caught.value.span.start == 2
    assert "did not complete successfully: exit code: 3" in caught.value.message
    assert list((workshop.directory / "layers").iterdir()) == []


def test_C6_a_missing_source_names_its_line(workshop: Workshop) -> None:
    with pytest.raises(CopySourceMissing) as caught:
        workshop.build("FROM scratch\nCOPY nope /\n")
    assert caught.value.span is not None and caught.value.span.start == 2


def test_a_step_sees_files_of_the_steps_before_it(workshop: Workshop) -> None:
    (workshop.context / "f").write_text("content")
    image = workshop.build(
        "FROM scratch AS a\nCOPY f /d/f\nFROM a AS b\nWORKDIR /d\nFROM scratch\nCOPY --from=b /d /\n"
    )
    assert workshop.files(image) == {"f": "content"}
    assert workshop.entered == 0, "no RUN, no base image: no namespace"


def test_events_tell_the_start_and_end_of_every_step(workshop: Workshop) -> None:
    workshop.build(TWO_BRANCHES)
    started = {event.vertex for event in workshop.events if isinstance(event, VertexStarted)}
    done = {event.vertex for event in workshop.events if isinstance(event, VertexDone)}
    assert started == done
    assert any("RUN" in e.name for e in workshop.events if isinstance(e, VertexStarted))


def test_the_store_survives_a_failed_build(workshop: Workshop) -> None:
    with pytest.raises(AssemblerError):
        workshop.build('FROM scratch\nRUN ["sh", "fail 1"]\n')
    image = workshop.build('FROM scratch\nRUN ["sh", "write /a 1"]\n')
    assert workshop.files(image) == {"a": "1"}


def test_C6_a_missing_source_names_the_stage(workshop: Workshop) -> None:
    text = """\
FROM scratch AS builder
RUN ["sh", "write /out/app 1"]
FROM scratch
COPY --from=builder /out/ap /
"""
    with pytest.raises(CopySourceMissing) as caught:
        workshop.build(text)
    assert caught.value.message.endswith('"/out/ap": not found in the stage builder')
    assert caught.value.hint == "did you mean /out/app?"
    assert caught.value.span is not None
    assert (caught.value.span.start, caught.value.span.word) == (4, "/out/ap")


def test_C17_accounts_made_by_a_run_of_the_very_stage(workshop: Workshop) -> None:
    (workshop.context / "f").write_text("")
    image = workshop.build(
        """\
FROM scratch
RUN ["sh", "write /etc/passwd ann:x:70:71:::"]
COPY --chown=ann f /f
"""
    )
    assert workshop.owners(image) == {"f": (70, 71)}


def test_C30_one_instruction_is_one_layer(workshop: Workshop) -> None:
    for name in "abc":
        (workshop.context / name).write_text(name)
    image = workshop.build("FROM scratch\nCOPY a b c <<d /x/\ntext\nd\n")
    assert len(image.layers) == 1 and len(workshop.files(image)) == 4


def test_X2_only_what_is_copied_is_read(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("src/a", "src/ignored", "big/b", "mounted/c"):
        (workshop.context / name).parent.mkdir(exist_ok=True)
        (workshop.context / name).write_text(name)
    workshop.rules = "src/ignored\n"
    opened: set[str] = set()
    original = ContextBytes.descriptor

    def watched(source: ContextBytes, near: Openings) -> int:
        opened.add(source.path)
        return original(source, near)

    names: set[str] = set()
    really = os.open

    def named(path: Any, *args: Any, **keywords: Any) -> int:
        names.add(str(path))
        return really(path, *args, **keywords)

    monkeypatch.setattr(ContextBytes, "descriptor", watched)
    monkeypatch.setattr(os, "open", named)
    workshop.build(
        """\
FROM scratch
COPY src /x/
RUN --mount=type=bind,source=mounted,target=/m ["sh", "write /y 1"]
"""
    )
    assert opened == {"src/a", "mounted/c"}
    assert {"a", "c"} <= names and not {"ignored", "b", "big"} & names


def test_G7_rules_hold_for_bind_mounts_of_the_context_and_not_for_stages(
    workshop: Workshop,
) -> None:
    for name in ("d/keep", "d/secret"):
        (workshop.context / name).parent.mkdir(exist_ok=True)
        (workshop.context / name).write_text(name)
    workshop.rules = "**/secret\n"
    image = workshop.build(
        """\
FROM scratch AS one
RUN ["sh", "write /d/secret 1"]
FROM scratch
RUN --mount=type=bind,source=d,target=/m ["sh", "write /y 1"]
RUN --mount=type=bind,from=one,source=/d,target=/m ["sh", "write /z 1"]
COPY --from=one /d /d
"""
    )
    mounted = [os.listdir(mount.source) for mount in workshop.runtime.mounts]  # type: ignore[union-attr]
    assert mounted == [["keep"], ["secret"]]
    assert set(workshop.files(image)) == {"y", "z", "d/secret"}


def test_M6_no_character_means_anything_in_the_source_of_a_bind_mount(workshop: Workshop) -> None:
    for name in ("a[1]*", "a1"):
        (workshop.context / name).mkdir()
        (workshop.context / name / "f").write_text(name)
    workshop.build(
        'FROM scratch\nRUN --mount=type=bind,source=a[1]*,target=/m ["sh", "write /y 1"]\n'
    )
    (mount,) = workshop.runtime.mounts
    assert isinstance(mount, BindSource)
    assert Path(mount.source, "f").read_text() == "a[1]*"


@pytest.mark.parametrize("what", ["log", "."])
def test_B2_a_context_file_that_changes_during_the_build_is_named(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    (workshop.context / "log").write_text("1")
    original = os.open

    def written(*args: Any, **keywords: Any) -> int:
        if "log" in args:
            (workshop.context / "log").write_bytes(b"22")
        return original(*args, **keywords)

    monkeypatch.setattr(os, "open", written)
    with pytest.raises(ContextChanged, match="log in the build context changed") as caught:
        workshop.build(f"FROM scratch\nCOPY {what} /x/\n")
    assert caught.value.span is not None and caught.value.span.start == 2


def test_C25_a_linked_copy_does_not_depend_on_what_is_below(workshop: Workshop) -> None:
    (workshop.context / "f").write_text("content")
    for flags, cached in (("--link", True), ("", False)):
        text = 'FROM scratch\nRUN ["sh", "write /base {}"]\nCOPY {} f /x\n'
        workshop.build(text.format(1, flags))
        workshop.build(text.format(2, flags))
        (done,) = (
            event
            for event in workshop.events
            if isinstance(event, VertexDone) and "COPY" in event.name
        )
        assert done.cached == cached


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were opened, one for each time."""
    names: list[str] = []
    original = os.open

    def noted(path: Any, *arguments: Any, **keywords: Any) -> int:
        names.append(str(path))
        return original(path, *arguments, **keywords)

    monkeypatch.setattr(os, "open", noted)
    return names


@pytest.mark.parametrize(
    "copies",
    [
        "FROM scratch\nCOPY data two /x/\n",
        "FROM scratch\nCOPY d* /\n",
        "FROM scratch\nCOPY . /\n",
        "FROM scratch\nADD . /x\n",
        "FROM scratch\nCOPY --link --chown=1:2 --chmod=0600 . /x/\n",
        "FROM scratch\nCOPY --exclude=none . /x/\n",
        "FROM scratch\nCOPY --parents data t* /x/\n",
    ],
)
def test_a_file_that_goes_into_the_image_is_read_once(
    workshop: Workshop, opened: list[str], copies: str
) -> None:
    (workshop.context / "data").write_text("1")
    (workshop.context / "two").write_text("2")
    image = workshop.build(copies)
    assert opened.count("data") == 1
    assert workshop.build(copies).digest == image.digest
    assert opened.count("data") == 2, "what may be known is read to learn whether it is"
    assert all(event.cached for event in workshop.events if isinstance(event, VertexDone))


def test_a_file_that_a_stage_gives_to_the_image_is_read_once(
    workshop: Workshop, opened: list[str]
) -> None:
    text = """\
FROM scratch AS one
RUN ["sh", "write /out/payload 1"]
FROM scratch
COPY --from=one /out /
"""
    image = workshop.build(text)
    assert workshop.files(image) == {"payload": "1"} and _count(opened, "payload") == 1
    assert workshop.build(text).digest == image.digest
    assert workshop.runtime.ran == []
    # where there was a result of it, what may be known is read to learn whether it is
    workshop.build(text.replace("payload 1", "payload  1"))
    done = {one.name: one for one in workshop.events if isinstance(one, VertexDone)}
    assert done["[stage-1 1/1] COPY --from=one /out /"].cached
    assert _count(opened, "payload") == 2


def _count(opened: list[str], name: str) -> int:
    return sum(os.path.basename(path) == name for path in opened)


def test_an_archive_is_hashed_while_it_is_extracted(workshop: Workshop, opened: list[str]) -> None:
    (workshop.context / "data").write_text("1")
    with tarfile.open(workshop.context / "files.tar.gz", "w:gz") as archive:
        archive.add(workshop.context / "data", "data")
    image = workshop.build("FROM scratch\nADD files.tar.gz /x/\n")
    assert workshop.files(image) == {"x/data": "1"}
    assert _count(opened, "files.tar.gz") == 2, "its first bytes say what it is"
    workshop.build("FROM scratch\nADD files.tar.gz /x/\n")
    assert all(event.cached for event in workshop.events if isinstance(event, VertexDone))


def test_reading_once_gives_what_reading_twice_gives(tmp_path: Path) -> None:
    """In the first workshop the second build looks for a result: one with other bytes is there."""
    copies = "FROM scratch\nCOPY data /x/\nCOPY data two /y/\n"
    images = []
    for earlier in (True, False):
        (tmp_path / str(earlier)).mkdir()
        workshop = Workshop(tmp_path / str(earlier))
        (workshop.context / "two").write_text("2")
        if earlier:
            (workshop.context / "data").write_text("0")
            workshop.build(copies)
        (workshop.context / "data").write_text("1")
        os.utime(workshop.context / "data", (5, 5))
        os.utime(workshop.context / "two", (5, 5))
        images.append(workshop.build(copies))
    assert images[0].digest == images[1].digest


@pytest.mark.parametrize(
    "copies",
    [
        "COPY . /\n",
        "COPY a b /x/\n",
        "COPY data a [b]* /x/\nCOPY a /y\n",
        "COPY a /\nADD b /\n",
        "ADD data b files.tar /x/\nADD data /y\n",
        "COPY --chmod=u=rwX,go= . /\n",
        "COPY --exclude=**/f . /\nCOPY --exclude=g --exclude=x.o a b /x/\n",
        "COPY --parents a/d b/[fgh] /x/\n",
        "COPY --parents --exclude=**/g . /x/\nADD data files.tar /y/\n",
        "COPY --from=one /a /b /x/\nCOPY --link --exclude=f --from=one / /y/\n",
        "COPY --from=one /l* /b/h /\nCOPY --from=one --parents /a/d /b /z/\n",
    ],
)
def test_reading_directories_once_gives_what_reading_them_twice_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copies: str
) -> None:
    """The same layers, and the same keys: the context of one build is that of the other."""
    workshop = Workshop(tmp_path)
    workshop.rules = "**/*.o\n!a/kept.o"
    for name in ("a/f", "a/d/f", "a/x.o", "a/kept.o", "b/f", "b/g", "data"):
        (workshop.context / name).parent.mkdir(parents=True, exist_ok=True)
        (workshop.context / name).write_text(name)
    with tarfile.open(workshop.context / "files.tar", "w") as archive:
        archive.add(workshop.context / "data", "packed")
    (workshop.context / "b/empty").mkdir()
    (workshop.context / "b/l").symlink_to("../a/f")
    (workshop.context / "a/f").chmod(0o755)
    os.link(workshop.context / "a/f", workshop.context / "a/d/0")
    os.link(workshop.context / "a/f", workshop.context / "b/h")
    images, keys = [], []
    for once in (True, False):
        with monkeypatch.context() as patched:
            if not once:
                patched.setattr(Sources, "unread", lambda *_: None)
                patched.setattr(StageBuilder, "_copy_tree_once", lambda *_: None)
            stage = "FROM scratch AS one\nCOPY . /\n"
            images.append(workshop.build(f"{stage}FROM scratch\n{copies}"))
        cache = sqlite3.connect(workshop.directory / "cache.db")
        keys.append(set(cache.execute("SELECT key, identity FROM steps")))
        cache.close()
        shutil.rmtree(workshop.directory / "store")
        for path in workshop.directory.glob("cache.db*"):
            path.unlink()
    assert images[0].digest == images[1].digest and keys[0] == keys[1]


def test_a_copy_whose_bytes_were_given_up_is_put_together_again(workshop: Workshop) -> None:
    """It is known, so it is not done anew, and keeps its time."""
    (workshop.context / "data").write_text("1")
    text = "FROM scratch\nWORKDIR /d\nCOPY data /\n"
    workshop.epoch, workshop.time = None, 1_600_000_000.0
    first = workshop.build(text)
    shutil.rmtree(workshop.directory / "store")
    workshop.time += 3600
    again = workshop.build(text)
    done = {one.vertex: one for one in workshop.events if isinstance(one, VertexDone)}
    assert done["0/0"].cached and done["0/1"].cached and not done["export"].cached
    assert again.config.history == first.config.history
    assert workshop.files(again) == {"data": "1"}


MOUNTS = """\
FROM scratch AS one
RUN ["sh", "write /o/{}"]
FROM scratch
RUN --mount=type=bind,from=one,source=/o,target=/m ["sh", "write /y 1"]
RUN ["sh", "write /late 1"]
"""


def test_R7_a_mount_of_a_rebuilt_stage_with_the_same_files_still_hits(workshop: Workshop) -> None:
    first = workshop.build(MOUNTS.format("a 1"))
    second = workshop.build(MOUNTS.format("a  1"))
    assert workshop.runtime.ran == ["write /o/a  1"]
    assert second.digest == first.digest
    workshop.build(MOUNTS.format("a 2"))
    assert workshop.runtime.ran == ["write /o/a 2", "write /y 1", "write /late 1"]


def test_R7_S12_what_was_run_anew_is_found_by_what_its_mounts_show(workshop: Workshop) -> None:
    workshop.build(MOUNTS.format("a 1"))
    workshop.build(MOUNTS.format("a 1"), no_cache=frozenset({"1"}))
    assert workshop.runtime.ran == ["write /y 1", "write /late 1"]
    workshop.build(MOUNTS.format("a 1"))
    assert workshop.runtime.ran == []
    workshop.build(MOUNTS.format("a  1"))
    assert workshop.runtime.ran == ["write /o/a  1"], "the newest result is taken, and all above it"


def test_R7_a_mounted_file_counts_by_what_it_holds_not_by_its_name(workshop: Workshop) -> None:
    text = 'FROM scratch\nRUN --mount=type=bind,source={},target=/m ["sh", "write /y 1"]\n'
    for name in "ab":
        (workshop.context / name).write_text("1")
        workshop.build(text.format(name))
        assert len(workshop.runtime.ran) == (name == "a")
    shown = {mount.source for mount in workshop.runtime.mounts if isinstance(mount, BindSource)}
    assert {Path(path).read_text() for path in shown} == {"1"}
    (workshop.context / "b").chmod(0o755)
    workshop.build(text.format("b"))
    assert workshop.runtime.ran == ["write /y 1"]


def test_what_is_recorded_says_what_went_into_it_and_when_it_ran(workshop: Workshop) -> None:
    (workshop.context / "data").write_text("1")
    workshop.time = 1_650_000_000.5
    workshop.build('FROM scratch\nCOPY data /\nRUN ["sh", "write /y 1"]\n')
    with LocalCache(str(workshop.directory / "cache.db")) as cache:
        rows = cache._rows("SELECT created, inputs, ran, source FROM steps WHERE inputs <> '{}'")
    told = sorted((json.loads(row[1]) for row in rows), key=lambda one: int(one["number"]))
    assert [(one["kind"], one["step"]) for one in told] == [
        ("COPY", "[1/2] COPY data /"),
        ("RUN", '[2/2] RUN ["sh", "write /y 1"]'),
    ]
    assert told[0]["origins"][0]["sources"] == ["data"]
    assert {(row[0], row[2], row[3]) for row in rows} == {
        ("2023-11-14T22:13:20Z", 1_650_000_000.5, "")
    }


@pytest.mark.parametrize("name", ["data", "files.tar"])
def test_C26_what_is_no_archive_is_added_as_it_is_copied(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (workshop.context / "data").write_text("1")
    with tarfile.open(workshop.context / "files.tar", "w") as archive:
        archive.add(workshop.context / "data", "data")
    packed: list[Changeset] = []
    pack_first = Realisation.pack_first

    def noted(one: Realisation, made: Changeset) -> Any:
        packed.append(made)
        return pack_first(one, made)

    monkeypatch.setattr(Realisation, "pack_first", noted)
    image = workshop.build(f"FROM scratch\nADD {name} /x/\n")
    assert workshop.files(image) == {"x/data": "1"} and len(packed) == 1


def test_what_appears_after_a_directory_was_listed_is_in_neither_image_nor_key(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workshop.context / "data").write_text("1")
    pack_first = Realisation.pack_first

    def late(one: Realisation, made: Changeset) -> Any:
        (workshop.context / "late").write_text("2")
        return pack_first(one, made)

    with monkeypatch.context() as patched:
        patched.setattr(Realisation, "pack_first", late)
        first = workshop.build("FROM scratch\nCOPY . /\n")
    second = workshop.build("FROM scratch\nCOPY . /\n")
    assert second.layers != first.layers
    (workshop.context / "late").unlink()
    assert workshop.build("FROM scratch\nCOPY . /\n").layers == first.layers


def test_C25_a_linked_directory_on_another_base_is_not_packed_to_be_known(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workshop.context / "data").write_text("1")
    text = "FROM scratch\nWORKDIR /{}\nCOPY --link . /x\n"
    first = workshop.build(text.format(1))
    monkeypatch.delattr(Realisation, "pack_first")
    assert workshop.build(text.format(2)).layers[-1] == first.layers[-1]


def test_files_that_were_copied_from_elsewhere_are_known(workshop: Workshop) -> None:
    for name in ("a/f", "b/f"):
        (workshop.context / name).parent.mkdir()
        (workshop.context / name).write_text("1")
    first = workshop.build("FROM scratch\nCOPY a/f /x/\n")
    second = workshop.build("FROM scratch\nCOPY --exclude=none b/f /x/\n")
    assert second.layers == first.layers


def test_a_run_above_makes_its_files_looked_for_first(
    workshop: Workshop, opened: list[str]
) -> None:
    (workshop.context / "data").write_text("1")
    workshop.build("FROM scratch\nCOPY data /x/\nRUN touch /y\n")
    assert opened.count("data") > 1


def test_a_file_that_is_missing_is_named_before_anything_runs(workshop: Workshop) -> None:
    text = "FROM scratch AS a\nRUN touch /y\nFROM scratch\nCOPY none /x/\nCOPY --from=a /y /\n"
    with pytest.raises(CopySourceMissing):
        workshop.build(text)
    assert not workshop.runtime.ran
