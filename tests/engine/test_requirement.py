"""Results that are too old, and builds that may do nothing: what is told of each step before."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assembler.cache.base import Record
from assembler.cache.local import LocalCache
from assembler.cancellation import Cancellation
from assembler.dockerfile.parser import parse
from assembler.engine.earlier import Earlier
from assembler.engine.execution import execute
from assembler.engine.forecast import forecast
from assembler.engine.ledger import Ledger
from assembler.engine.requirement import require_cached
from assembler.engine.services import Services
from assembler.errors import NotCached, ProcessFailed
from assembler.events import Event, VertexMissed
from assembler.layer.compression import by_name
from assembler.oci.digest import Digest
from assembler.oci.image import Image
from assembler.plan.forecast import Forecast
from assembler.plan.make import PlanRequest, make
from assembler.plan.plan import Plan
from assembler.plan.steps import GitSource, UrlSource
from assembler.remotes import Unfetched
from assembler.source import Source
from assembler.store.builds import BuildRecord, Builds, new_id
from assembler.store.listings import Listings
from assembler.store.store import Store
from assembler.testing import MemoryRemote
from tests.engine.test_execution import LINUX, PlainDirectories, Workshop

HOUR = 3600.0
START = 1_700_000_000.0
STAGES = """\
FROM scratch AS a
COPY f /f
RUN ["sh", "write /made 1"]
FROM a AS b
RUN ["sh", "write /b 1"]
FROM scratch
WORKDIR /w
COPY --from=b /b /b
"""


class Aging(Workshop):
    """A workshop whose clock is set by hand. A record that is looked up is noted."""

    now = START
    since: float | None = None
    compression = "uncompressed"

    def services(self, store: Store, cache: LocalCache, cancellation: Cancellation) -> Services:
        made = super().services(store, cache, cancellation)
        now, since = self.now, self.since
        compression = by_name(self.compression, None)
        return replace(made, clock=lambda: now, since=since, compression=compression)

    @contextmanager
    def asking(
        self, text: str, *no_cache: str, **arguments: str
    ) -> Iterator[tuple[Plan, Services]]:
        """The plan of `text` and what the engine is given for it."""
        request = PlanRequest(
            dockerfile=parse(Source("Dockerfile", text)), build_platform=LINUX, epoch=int(START),
            platform=LINUX, no_cache=frozenset(no_cache), build_args=arguments,
        )  # fmt: skip
        with (
            Store.open(str(self.directory / "store")) as store,
            LocalCache(str(self.directory / "cache.db")) as cache,
            Cancellation() as cancellation,
        ):
            yield make(request, {}), self.services(store, cache, cancellation)

    def told(self, text: str, *no_cache: str, **arguments: str) -> Forecast:
        """What is told of a build of `text`."""
        with self.asking(text, *no_cache, **arguments) as (plan, services):
            return forecast(plan, services, PlainDirectories(self.directory / "layers"))

    def required(self, text: str, *no_cache: str, **arguments: str) -> Image:
        """A build of `text` that may do nothing."""
        with self.asking(text, *no_cache, **arguments) as (plan, services):
            directories = PlainDirectories(self.directory / "layers")
            require_cached(plan, services, directories, Unfetched())
            return execute(plan, services)[0]

    def aged(self, text: str, since: float | None) -> Image:
        """A build that takes nothing that ran before `since`."""
        self.since = since
        try:
            return self.build(text)
        finally:
            self.since = None

    def records(self) -> dict[str, Record]:
        with LocalCache(str(self.directory / "cache.db")) as cache:
            keys = [row[0] for row in cache._database.execute("SELECT key FROM steps").fetchall()]
            return {key: cache.lookup(Digest.parse(key)) for key in keys}  # type: ignore[misc]


@pytest.fixture
def workshop(tmp_path: Path, without_owners: None) -> Aging:
    made = Aging(tmp_path)
    (made.context / "f").write_text("f")
    return made


def fates(found: Forecast) -> list[str]:
    return [fate.value for fate in found.fates.values()]


def test_a_result_that_ran_before_the_moment_is_made_again(workshop: Aging) -> None:
    first = workshop.build(STAGES)
    workshop.now += HOUR
    assert workshop.aged(STAGES, START).digest == first.digest
    assert workshop.runtime.ran == []
    again = workshop.aged(STAGES, START + 1)
    assert workshop.runtime.ran == ["write /made 1", "write /b 1"]
    assert again.digest == first.digest, "the same files, and a fixed epoch"
    workshop.now += HOUR
    workshop.aged(STAGES, START + HOUR)
    assert workshop.runtime.ran == [], "it ran an hour after the first time"


def test_a_hit_refreshes_nothing(workshop: Aging) -> None:
    workshop.build(STAGES)
    before = workshop.records()
    workshop.now += HOUR
    workshop.build(STAGES)
    assert workshop.records() == before
    workshop.build(STAGES.replace("made 1", "made 2"))
    assert workshop.runtime.ran == ["write /made 2", "write /b 1"]
    copied = [one for one in workshop.records().values() if "COPY --from=b" in one.inputs]
    assert [one.ran for one in copied] == [START, START], "the same file, found when it was read"


def test_a_run_made_again_for_its_age_may_give_other_files(
    workshop: Aging, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.build(STAGES)
    real = Path.write_text
    monkeypatch.setattr(Path, "write_text", lambda self, text: real(self, f"new {text}"))
    image = workshop.aged(STAGES, START + 1)
    assert workshop.files(image)["b"] == "new 1"
    assert workshop.files(workshop.build(STAGES))["b"] == "new 1", "the younger result is taken"


def test_a_record_of_unknown_age_is_old(workshop: Aging) -> None:
    workshop.build(STAGES)
    with LocalCache(str(workshop.directory / "cache.db")) as cache:
        for key, record in workshop.records().items():
            cache.record(Digest.parse(key), replace(record, ran=0.0))
    workshop.aged(STAGES, 1.0)
    assert len(workshop.runtime.ran) == 2
    assert workshop.told(STAGES).hits[0, 0].age == 0


def test_what_is_too_old_is_told_before(workshop: Aging) -> None:
    workshop.build(STAGES)
    workshop.now += 5 * HOUR
    told = workshop.told(STAGES)
    assert fates(told) == ["cached"] * 5
    assert {str(hit) for hit in told.hits.values()} == {"local, 5 h old"}
    workshop.since = workshop.now - HOUR
    told = workshop.told(STAGES)
    assert fates(told) == ["run", "run", "run", "run", "pending"]
    assert told.reasons[0, 1] == "its result is too old for --cache-ttl (local, 5 h old)"
    assert told.reasons[1, 0] == "no earlier build has done it on the same files"


def test_what_is_told_of_stages_without_a_cache(workshop: Aging) -> None:
    workshop.build(STAGES)
    told = workshop.told(STAGES, "a")
    assert fates(told) == ["run", "run", "run", "cached", "pending"]
    assert told.reasons[0, 0] == "its stage is to take nothing from the cache"
    assert told.reasons[2, 1] == "that is known when the files of stage b are there"


def test_a_hit_of_elsewhere_says_where_from(workshop: Aging) -> None:
    workshop.build(STAGES)
    with LocalCache(str(workshop.directory / "cache.db")) as cache:
        for key, record in workshop.records().items():
            cache.record(Digest.parse(key), replace(record, source="ghcr.io/o/app:cache"))
    hits = workshop.told(STAGES).hits
    assert {str(hit) for hit in hits.values()} == {"from ghcr.io/o/app:cache, 0 s old"}


class Remembering(Aging):
    """A workshop whose builds leave records."""

    ledger = Ledger()

    @property
    def builds(self) -> Builds:
        return Builds(str(self.directory / "builds"))

    def services(self, store: Store, cache: LocalCache, cancellation: Cancellation) -> Services:
        def inputs(key: Digest) -> str:
            record = cache.lookup(key)
            return "" if record is None else record.inputs

        listings = Listings(str(self.directory / "listings"))
        ledger = self.ledger = Ledger(
            lambda: Earlier(self.builds, listings.load, inputs, mine=lambda build: True), listings
        )
        made = super().services(store, cache, cancellation)

        def sink(event: Event) -> None:
            ledger(event)
            made.sink(event)

        return replace(made, ledger=ledger, sink=sink)

    def build(self, text: str, **request: Any) -> Image:
        try:
            return super().build(text, **request)
        finally:
            steps = self.ledger.steps()
            record = BuildRecord(id=new_id(), started=1, seconds=1, status="completed", steps=steps)
            self.builds.write(record, self.ledger.inputs())

    def kept(self) -> list[Path]:
        """The records, and what was selected."""
        return sorted(self.directory.glob("[bl]*/[0-9a-f]*"))

    def said(self) -> list[str]:
        """What the last build said of the steps that it executed."""
        made = [event.reason for event in self.events if isinstance(event, VertexMissed)]
        return [reason for reason in made if reason]


@pytest.fixture
def remembering(tmp_path: Path, without_owners: None) -> Remembering:
    made = Remembering(tmp_path)
    (made.context / "f").write_text("f")
    return made


LINE = """\
FROM scratch AS a
ARG V=1
COPY f /f
RUN ["sh", "write /made 1"]
WORKDIR /w
COPY f g* /g/
"""


@pytest.mark.parametrize(
    "change",
    [
        "a file", "another file", "a mode", "an argument", "a command", "a step between",
        "a step that is gone", "an option", "a failure",
    ],
)  # fmt: skip
def test_a_plan_says_the_first_difference_that_the_build_says(
    remembering: Remembering, change: str
) -> None:
    file, text, arguments = remembering.context / "f", LINE, {"V": "1"}
    remembering.build(text, build_args=arguments)
    match change:
        case "a file":
            file.write_text("changed")
        case "another file":
            (remembering.context / "g").write_text("new")
        case "a mode":
            file.chmod(0o755)
        case "an argument":
            arguments = {"V": "2"}
        case "a command":
            text = text.replace("made 1", "made 2")
        case "a step between":
            text = text.replace("WORKDIR", 'RUN ["sh", "write /x 1"]\nWORKDIR')
        case "a step that is gone":
            text = text.replace("WORKDIR /w\n", "")
        case "an option":
            text = text.replace("COPY f /f", "COPY --chmod=700 f /f")
        case _:
            text = text.replace("write /made 1", "fail 1")
            with pytest.raises(ProcessFailed):
                remembering.build(text, build_args=arguments)
    kept = remembering.kept()
    told = list(remembering.told(text, **arguments).reasons.values())
    error = refused(remembering, text, **arguments)
    assert remembering.kept() == kept
    with suppress(ProcessFailed):
        remembering.build(text, build_args=arguments)
    said = remembering.said()
    assert said
    short = [re.sub(r" \(sha256 \S+ → \S+\)|COPY f( g\*)?: ", "", one) for one in told]
    assert short[: len(said)] == said
    assert error.message.endswith(f"would have to be done: {told[0]}")


def refused(workshop: Aging, text: str, *no_cache: str, **arguments: str) -> NotCached:
    """Why a build of `text` that may do nothing fails; it did nothing."""

    def state() -> set[tuple[str, int]]:
        return {
            (str(path), path.stat().st_mtime_ns)
            for path in workshop.directory.rglob("*")
            if not path.name.startswith("cache.db")
        }

    workshop.runtime.ran.clear()
    with Store.open(str(workshop.directory / "store")):
        before = state()
    with pytest.raises(NotCached) as caught:
        workshop.required(text, *no_cache, **arguments)
    places = ("layers/", "blobs/sha256/")
    assert {one for one in state() ^ before if any(place in one[0] for place in places)} == set()
    assert workshop.runtime.ran == []
    return caught.value


def line(error: NotCached) -> int:
    assert error.span is not None
    return error.span.start


def test_the_first_step_that_would_run_is_named_with_its_place(workshop: Aging) -> None:
    error = refused(workshop, STAGES)
    assert error.message == (
        "[a 1/2] COPY f /f would have to be done: no earlier build has done it on the same files"
    )
    assert line(error) == 2


def test_a_build_that_finds_everything_is_made(workshop: Aging) -> None:
    first = workshop.build(STAGES)
    assert workshop.required(STAGES).digest == first.digest
    workshop.build(STAGES)
    assert line(refused(workshop, STAGES.replace("b 1", "b 2"))) == 5
    assert refused(workshop, STAGES, "*").message.endswith("to take nothing from the cache")


def test_steps_that_nothing_needs_may_be_unknown(workshop: Aging) -> None:
    workshop.build(STAGES)
    unneeded = STAGES.replace("FROM scratch\nW", "FROM scratch AS c\nCOPY f /z\nFROM scratch\nW")
    workshop.required(unneeded)


def test_what_is_known_only_when_files_are_there_is_told_so(workshop: Aging) -> None:
    workshop.build(STAGES)
    assert refused(workshop, STAGES.replace("/b /b", "/b /c")).message == (
        "[stage-2 2/2] COPY --from=b /b /c may have to be done: that is known when the files of"
        " stage b are there"
    )


class Remote(MemoryRemote):
    """One that counts how often it was asked what something is."""

    count = 0

    def identity(self, source: UrlSource | GitSource) -> Digest:
        self.count += 1
        return super().identity(source)


def test_what_an_add_would_fetch_is_asked_for_only_where_nothing_is_sure_to_be_done(
    workshop: Aging,
) -> None:
    url = "https://example.invalid/f"
    workshop.remote = remote = Remote({url: b"fetched"})
    text = f"{STAGES}ADD {url} /fetched\n"
    workshop.build(text)
    asked = remote.count
    refused(workshop, text.replace("made 1", "made 2"))
    assert remote.count == asked
    workshop.required(text)
    assert remote.count > asked
    remote.files[url] = b"changed"
    assert line(refused(workshop, text)) == 9


def test_packing_what_is_here_is_no_step(workshop: Aging) -> None:
    text = 'FROM scratch\nRUN ["sh", "write /made 1"]\n'
    first = workshop.build(text)
    workshop.compression = "gzip"
    second = workshop.required(text)
    assert second.digest != first.digest
    assert workshop.runtime.ran == ["write /made 1"], "by the first build"


def test_what_is_here_in_another_compression_is_packed_again_and_no_step(workshop: Aging) -> None:
    text = "FROM scratch\nCOPY f /f\n"
    workshop.build(text)
    workshop.compression = "gzip"
    workshop.required(text)
    assert workshop.runtime.ran == []


def test_a_result_that_is_gone_is_told_so(workshop: Aging) -> None:
    workshop.build(STAGES)
    for blob in (workshop.directory / "store/blobs/sha256").iterdir():
        blob.unlink()
    for layer in (workshop.directory / "layers").iterdir():
        layer.rename(workshop.directory / f"gone-{layer.name}")
    assert refused(workshop, STAGES).message.endswith(
        "would have to be done: its result is not in the store any more"
    )


def test_of_a_thousand_stages_one_on_the_other_all_is_told(workshop: Aging) -> None:
    last = 1200  # more than calls fit into each other
    stages = (f"FROM s{n} AS s{n + 1}\nWORKDIR /w{n}\n" for n in range(last))
    told = workshop.told("FROM scratch AS s0\nCOPY f /f\n" + "".join(stages))
    assert fates(told) == ["run"] * (last + 1)
