"""What becomes of the steps of a build, as it is noted while they are built."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from assembler.cache.base import Record
from assembler.dockerfile.parser import parse
from assembler.engine.earlier import Documents, Earlier, Elsewhere
from assembler.engine.ledger import Ledger
from assembler.engine.recorder import where
from assembler.events import VertexDone, VertexFailed, VertexStarted
from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.plan.differences import Difference, Listing
from assembler.plan.make import PlanRequest, make
from assembler.plan.plan import Plan, PlannedStage
from assembler.source import Source
from assembler.store.builds import BuildRecord, Builds, StepRecord, new_id
from assembler.store.listings import Listings

LINUX = Platform("linux", "amd64")
TEXT = "FROM scratch AS build\nWORKDIR /a\nCOPY src /src\nRUN make\nFROM scratch\nCOPY --from=build / /\n"
KEY, OTHER = Digest.of(b"key"), Digest.of(b"other")


@pytest.fixture
def plan() -> Plan:
    request = PlanRequest(
        dockerfile=parse(Source("Dockerfile", TEXT)),
        build_args={},
        platform=LINUX,
        build_platform=LINUX,
        labels={},
    )
    return make(request, {})


@pytest.fixture
def builds(tmp_path: Path) -> Builds:
    return Builds(str(tmp_path / "builds"))


@pytest.fixture
def begun(plan: Plan, builds: Builds, tmp_path: Path) -> Callable[..., Ledger]:
    """Begins another build with the store's records."""

    def begin(warn: Callable[[str], None] = print) -> Ledger:
        listings = Listings(str(tmp_path / "listings"))
        earlier = Earlier(builds, listings.load, mine=lambda build: True)
        ledger = Ledger(lambda: earlier, listings, warn)
        ledger.begin(plan)
        return ledger

    return begin


def document(**fields: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "kind": "RUN",
        "parent": {"key": "p", "is": "step", "name": "x"},
        "fields": fields,
        "origins": [],
        "mounts": [],
    }


def missed(
    ledger: Ledger,
    stage: PlannedStage,
    number: int,
    key: Digest,
    document: Mapping[str, Any],
    reason: str = "",
    files: Mapping[str, Listing] = MappingProxyType({}),
) -> str:
    return ledger.missed(stage, number, key, document, json.dumps(document), reason, files)


def took(ledger: Ledger, id: str, *, cached: bool = False) -> None:
    ledger(VertexStarted(id, "x", 10.0))
    ledger(VertexDone(id, "x", 12.5, cached))


def keep(ledger: Ledger, builds: Builds) -> None:
    steps = ledger.steps()
    record = BuildRecord(id=new_id(), started=1, seconds=1, status="completed", steps=steps)
    builds.write(record, ledger.inputs())


def test_each_step_of_the_plan_has_a_verdict(begun: Callable[..., Ledger], plan: Plan) -> None:
    ledger = begun()
    stage = plan.stages[0]
    ledger.known(stage, 0, KEY, 5.0, "ghcr.io/o/app:cache")
    took(ledger, "0/0", cached=True)
    missed(ledger, stage, 1, OTHER, document())
    took(ledger, "0/1")
    ledger(VertexStarted("0/2", "x", 10.0))
    ledger(VertexFailed("0/2", "x", "exit code: 1", 11.0))

    first, second, third, last = ledger.steps()
    assert (first.verdict, first.source, first.ran) == ("cached", "ghcr.io/o/app:cache", 5.0)
    assert (first.kind, first.line, first.stage) == ("WORKDIR", 2, "build")
    assert (second.verdict, second.seconds, second.parent) == ("run", 2.5, "p")
    assert (third.verdict, third.seconds) == ("failed", 1.0)
    assert (last.verdict, last.stage, last.key) == ("unneeded", "stage-1", "")
    assert set(ledger.inputs()) == {str(OTHER)}


def test_a_step_that_fails_before_it_begins_failed(
    begun: Callable[..., Ledger], plan: Plan
) -> None:
    """What a COPY reads is looked for before it is a vertex."""
    ledger = begun()
    steps = plan.stages[0].steps
    ledger.ended(None)
    assert {step.verdict for step in ledger.steps()} == {"unneeded"}
    ledger.ended(steps[1].span.blame("x"))
    ledger.ended(steps[2].span)
    assert [step.verdict for step in ledger.steps()] == [
        "unneeded",
        "failed",
        "unneeded",
        "unneeded",
    ]


def test_a_step_that_was_cancelled_did_not_fail(begun: Callable[..., Ledger]) -> None:
    ledger = begun()
    ledger(VertexStarted("0/2", "x", 10.0))
    ledger(VertexFailed("0/2", "x", "", 11.0, cancelled=True))

    assert ledger.steps()[2].verdict == "canceled"


def test_what_ran_in_a_first_attempt_did_run(begun: Callable[..., Ledger], plan: Plan) -> None:
    ledger = begun()
    missed(ledger, plan.stages[0], 2, KEY, document())
    took(ledger, "0/2")
    ledger.begin(plan)
    ledger.known(plan.stages[0], 2, KEY, 5.0, "")
    took(ledger, "0/2", cached=True)

    assert ledger.steps()[2].verdict == "run"


def test_what_was_known_and_is_gone_ran_after_all(begun: Callable[..., Ledger], plan: Plan) -> None:
    ledger = begun()
    ledger.known(plan.stages[0], 2, KEY, 5.0, "ghcr.io/o/app:cache")
    ledger(VertexStarted("0/2", "x", 10.0))
    missed(ledger, plan.stages[0], 2, KEY, document(), "pruned")
    ledger(VertexDone("0/2", "x", 12.0))

    step = ledger.steps()[2]
    assert (step.verdict, step.seconds, step.source, step.ran) == ("run", 2.0, "", 0.0)


def test_a_first_build_has_nothing_to_say(begun: Callable[..., Ledger], plan: Plan) -> None:
    ledger = begun()

    assert missed(ledger, plan.stages[0], 2, KEY, document()) == ""
    assert [one["what"] for one in ledger.steps()[2].because] == ["first"]


def test_a_step_says_what_differs_from_the_nearest_earlier_one(
    begun: Callable[..., Ledger], plan: Plan, builds: Builds
) -> None:
    ledger = begun()
    missed(ledger, plan.stages[0], 2, KEY, document(user="a", cwd="/a"))
    took(ledger, "0/2")
    keep(ledger, builds)

    again = begun()
    said = missed(again, plan.stages[0], 2, OTHER, document(user="b", cwd="/b"))
    assert said == "USER a → b (and 1 more)"
    assert again.steps()[2].differences == 2


def test_files_of_an_earlier_build_are_compared(
    begun: Callable[..., Ledger], plan: Plan, builds: Builds
) -> None:
    old, new = str(Digest.of(b"old")), str(Digest.of(b"new"))

    def copied(digest: str) -> dict[str, Any]:
        origin = {"from": "context", "name": "", "sources": ["src"], "digest": digest}
        return {**document(), "kind": "COPY", "origins": [origin]}

    ledger = begun()
    missed(ledger, plan.stages[0], 1, KEY, copied(old), files={old: {"src/a": "- 644 0:0  1"}})
    took(ledger, "0/1")
    keep(ledger, builds)

    again = begun()
    files = {new: {"src/a": "- 755 0:0  1"}}
    said = missed(again, plan.stages[0], 1, OTHER, copied(new), files=files)
    assert said == "src/a mode 0644 → 0755"


@pytest.mark.parametrize(
    ("before", "said"),
    [("run", "result was pruned"), ("failed", "it failed in the build before")],
)
def test_without_a_difference_the_result_is_gone_or_never_was(
    begun: Callable[..., Ledger], plan: Plan, before: str, said: str, builds: Builds
) -> None:
    ledger = begun()
    missed(ledger, plan.stages[0], 2, KEY, document(user="a"))
    ledger(VertexStarted("0/2", "x", 1.0))
    end = VertexDone("0/2", "x", 2.0)
    ledger(end if before == "run" else VertexFailed("0/2", "x", "", 2.0))
    keep(ledger, builds)

    assert missed(begun(), plan.stages[0], 2, KEY, document(user="a")) == said
    # a key that says more than the document
    other = missed(begun(), plan.stages[0], 2, OTHER, document(user="a"))
    assert other == (said if before == "failed" else "something that is not recorded differs")


def test_a_reason_that_is_given_is_the_only_one(begun: Callable[..., Ledger], plan: Plan) -> None:
    assert missed(begun(), plan.stages[0], 2, KEY, document(), "no-cache") == "--no-cache"


def test_what_a_shared_cache_tells_is_compared_where_no_build_is_known(
    plan: Plan, builds: Builds
) -> None:
    old = {**document(user="a"), "stage": "build", "number": 2, "step": "[build 4/4] RUN make"}
    told = {KEY: Record(KEY, "", json.dumps(old)), OTHER: Record(KEY, "")}
    elsewhere = Elsewhere(lambda: [("ghcr.io/o/app:cache", told)])
    ledger = Ledger(lambda: Earlier(builds, elsewhere=elsewhere))
    ledger.begin(plan)

    assert missed(ledger, plan.stages[0], 2, OTHER, document(user="b")) == "USER a → b"


def test_where_directories_of_the_host_are_is_in_no_record(
    begun: Callable[..., Ledger], plan: Plan
) -> None:
    ledger = begun()
    ledger.known(plan.stages[0], 0, KEY, 5.0, "/home/somebody/cache/")
    ledger.known(plan.stages[0], 1, KEY, 5.0, "ghcr.io/o/app:cache")

    assert [one.source for one in ledger.steps()[:2]] == ["directory cache", "ghcr.io/o/app:cache"]
    assert (where("../cache"), where(""), where("ghcr.io/x")) == (
        "from directory cache",
        "local",
        "from ghcr.io/x",
    )


def test_listings_that_cannot_be_kept_fail_no_build(
    begun: Callable[..., Ledger], plan: Plan, tmp_path: Path
) -> None:
    (tmp_path / "listings").write_text("no directory")
    told: list[str] = []
    ledger = begun(told.append)
    for number in (1, 2):
        missed(ledger, plan.stages[0], number, KEY, document(), files={str(KEY): {"a": "b"}})

    assert len(told) == 1 and str(tmp_path) not in told[0]


def test_of_what_was_cached_the_cache_knows_the_inputs(tmp_path: Path) -> None:
    builds = Builds(str(tmp_path))
    documents = Documents(builds, lambda key: {KEY: "{1}", OTHER: "{}"}[key])
    build = BuildRecord(id="0" * 12, started=0, seconds=0, status="completed")

    def step(key: str) -> StepRecord:
        return StepRecord(
            stage="", number=0, name="", line=0, kind="RUN", verdict="cached", key=key
        )

    assert documents(build, step(str(KEY))) == "{1}"
    assert documents(build, step(str(OTHER))) is None
    assert documents(build, step("no digest")) is None


def test_a_comparison_is_not_noted(
    begun: Callable[..., Ledger], builds: Builds, plan: Plan, tmp_path: Path
) -> None:
    ledger, stage = begun(), plan.stages[0]
    missed(ledger, stage, 2, KEY, document(user="a"))
    took(ledger, "0/2")
    keep(ledger, builds)

    again, before = begun(), sorted(tmp_path.rglob("*"))
    found = again.compared(stage, 2, OTHER, document(user="b"), lambda digest: None)
    assert found.found == (Difference("user", old="a", new="b"),)
    assert again.steps()[2].verdict == "unneeded" and again.inputs() == {}
    assert sorted(tmp_path.rglob("*")) == before
    (first,) = Ledger().compared(stage, 2, KEY, document(), lambda digest: None).found
    assert first.what == "first", "there is nothing to compare with"
