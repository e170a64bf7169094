"""The earlier step that one is compared with: at the same place, whatever came, went or moved."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from assembler.engine.nearest import (
    Found,
    Past,
    Place,
    as_build,
    as_documents,
    from_document,
)
from assembler.plan.differences import Comparison, Difference
from assembler.store.builds import BuildRecord, StepRecord


def document(instruction: str, parent: str = "p", **fields: Any) -> dict[str, Any]:
    """The inputs of `instruction` above `parent`."""
    return {
        "version": 1,
        "step": f"[1/1] {instruction}",
        "kind": instruction.partition(" ")[0],
        "parent": {"key": parent, "is": "step", "name": "[1/9] below"},
        "fields": {"argv": [instruction], **fields},
        "origins": [],
        "mounts": [],
    }


Earlier = Sequence[tuple[str, dict[str, Any] | None]]


class Builds:
    """Builds of one stage, each of instructions with their inputs, the last one first."""

    def __init__(self, *builds: Earlier, stage: str = "build", mine: bool = True) -> None:
        self.documents: dict[tuple[str, str], str] = {}
        self.records = [self.record(f"{n}", stage, one) for n, one in enumerate(builds)]
        self.past = Past(self.records, self.document, lambda digest: None, lambda build: mine)

    def record(self, id: str, stage: str, steps: Earlier) -> BuildRecord:
        made = []
        for number, (instruction, inputs) in enumerate(steps):
            key = f"key {json.dumps(inputs)}" if inputs else f"lost {instruction}"
            if inputs is not None:
                self.documents[id, key] = json.dumps(inputs)
            made.append(
                StepRecord(
                    stage=stage,
                    number=number,
                    name=f"[{number + 1}/{len(steps)}] {instruction}",
                    line=number + 2,
                    kind=instruction.partition(" ")[0],
                    verdict="run",
                    key=key,
                )
            )
        return BuildRecord(id=id, started=0, seconds=0, status="completed", steps=tuple(made))

    def document(self, build: BuildRecord, step: StepRecord) -> str | None:
        return self.documents.get((build.id, step.key))

    def found(
        self, names: Sequence[str], number: int, inputs: Mapping[str, Any], stage: str = "build"
    ) -> Found:
        shown = [f"[{n}/{len(names)}] {name}" for n, name in enumerate(names, start=1)]
        return self.past.nearest(Place(stage, shown, number), "now", inputs)

    def first(
        self, names: Sequence[str], number: int, inputs: Mapping[str, Any], stage: str = "build"
    ) -> Difference:
        return self.found(names, number, inputs, stage).comparison.found[0]


def test_the_step_with_the_same_text_is_compared() -> None:
    builds = Builds([("RUN a", document("RUN a")), ("RUN b", document("RUN b", user="1"))])

    assert builds.first(["RUN a", "RUN b"], 1, document("RUN b", user="2")) == Difference(
        "user", old="1", new="2"
    )


def test_an_instruction_that_takes_the_place_of_another_is_compared_with_it() -> None:
    builds = Builds([("COPY a", document("COPY a")), ("RUN b", document("RUN b"))])

    assert builds.first(["COPY a", "RUN c"], 1, document("RUN c")).what == "argv"


def test_of_lines_that_were_replaced_those_of_one_instruction_belong_together() -> None:
    builds = Builds([("COPY a", document("COPY a")), ("RUN b", document("RUN b"))])

    assert builds.first(["RUN c", "WORKDIR /"], 0, document("RUN c")).old == "RUN b"
    assert builds.first(["RUN c", "WORKDIR /"], 1, document("WORKDIR /")).what == "new"


def test_an_instruction_that_was_not_there_is_new() -> None:
    builds = Builds([("RUN a", document("RUN a")), ("RUN b", document("RUN b"))])

    assert builds.first(["RUN a", "RUN x", "RUN b"], 1, document("RUN x")).what == "new"


def test_the_step_above_a_new_one_knows_that_it_is_new() -> None:
    builds = Builds([("RUN a", document("RUN a")), ("RUN b", document("RUN b", "a"))])

    first = builds.first(["RUN a", "RUN x", "RUN b"], 2, document("RUN b", "x"))
    assert (first.what, first.change) == ("step", "added")


def test_the_step_above_one_that_is_gone_names_it() -> None:
    builds = Builds(
        [
            ("RUN a", document("RUN a")),
            ("RUN x", document("RUN x", "a")),
            ("RUN b", document("RUN b", "x")),
        ]
    )

    first = builds.first(["RUN a", "RUN b"], 1, document("RUN b", "a"))
    assert (first.what, first.change, first.old) == ("step", "removed", "[2/3] RUN x")


def test_a_step_that_is_the_first_now_names_what_was_before_it() -> None:
    builds = Builds([("RUN x", document("RUN x")), ("RUN b", document("RUN b", "x"))])
    now = document("RUN b")
    now["parent"] = {"key": "base", "is": "base", "name": "docker.io/x"}

    first = builds.first(["RUN b"], 0, now)
    assert (first.what, first.change, first.old) == ("step", "removed", "[1/9] below")


def test_steps_that_changed_places_are_found() -> None:
    builds = Builds(
        [
            ("RUN a", document("RUN a", "0")),
            ("RUN b", document("RUN b", "a")),
            ("RUN c", document("RUN c", "b")),
        ]
    )
    names = ["RUN b", "RUN a", "RUN c"]

    whats = [
        builds.first(names, number, document(name, str(number))).what
        for number, name in enumerate(names)
    ]
    assert sorted(whats) == ["new", "step", "step"]


def test_of_several_branches_the_one_with_the_fewest_differences_is_the_nearest() -> None:
    far = document("RUN a", user="1", cwd="/1")
    near = document("RUN a", user="2", cwd="/2")
    builds = Builds([("RUN a", far)], [("RUN a", near)])

    assert builds.first(["RUN a"], 0, document("RUN a", user="2", cwd="/3")) == Difference(
        "cwd", old="/2", new="/3"
    )


def test_of_equally_near_ones_the_newest_is_taken() -> None:
    builds = Builds(*([("RUN a", document("RUN a", user=user))] for user in "12"))

    assert builds.first(["RUN a"], 0, document("RUN a", user="3")).old == "1"


def test_files_decide_between_branches_that_differ_in_them() -> None:
    def copied(digest: str) -> dict[str, Any]:
        origin = {"from": "context", "name": "", "sources": ["src"], "digest": digest}
        return {**document("COPY src"), "origins": [origin]}

    files = {
        "far": {"a": "- 644 0:0  1", "b": "- 644 0:0  1"},
        "near": {"a": "- 644 0:0  1", "b": "- 644 0:0  2"},
        "now": {"a": "- 644 0:0  3", "b": "- 644 0:0  2"},
    }
    builds = Builds([("COPY src", copied("far"))], [("COPY src", copied("near"))])
    builds.past.files = files.get

    comparison = builds.found(["COPY src"], 0, copied("now")).comparison
    assert (comparison.count, comparison.found[0].name) == (1, "a")


def test_a_branch_whose_files_can_be_named_comes_before_one_whose_files_cannot() -> None:
    def copied(digest: str) -> dict[str, Any]:
        origin = {"from": "context", "name": "", "sources": ["src"], "digest": digest}
        return {**document("COPY src"), "origins": [origin]}

    files = {
        "told": {"a": "- 644 0:0  1", "b": "- 644 0:0  1"},
        "now": {"a": "- 644 0:0  3", "b": "- 644 0:0  2"},
    }
    builds = Builds([("COPY src", copied("lost"))], [("COPY src", copied("told"))])
    builds.past.files = files.get

    comparison = builds.found(["COPY src"], 0, copied("now")).comparison
    assert [one.name for one in comparison.found] == ["a", "b"]
    builds.past.files = {"now": files["now"]}.get
    assert builds.first(["COPY src"], 0, copied("now")).what == "files"


def test_a_step_whose_inputs_are_lost_is_not_called_new() -> None:
    builds = Builds([("RUN a", None)])

    assert builds.first(["RUN a"], 0, document("RUN a")).what == "unknown"


def test_an_earlier_build_makes_up_for_what_a_later_one_lost() -> None:
    builds = Builds([("RUN a", None)], [("RUN a", document("RUN a", user="1"))])

    assert builds.first(["RUN a"], 0, document("RUN a", user="2")).what == "user"


def test_a_step_with_the_same_key_is_the_nearest_wherever_it_is() -> None:
    builds = Builds([("RUN a", document("RUN a", user="1"))], [("RUN b", None)])

    found = builds.past.nearest(Place("other", ["[1/1] RUN x"], 0), "lost RUN b", document("RUN x"))
    assert (found.step, found.comparison.count) == (builds.records[1].steps[0], 0)


def test_enough_is_enough() -> None:
    asked = []

    class Counting(Builds):
        def document(self, build: BuildRecord, step: StepRecord) -> str | None:
            asked.append(build.id)
            return super().document(build, step)

    builds = Counting(*([("RUN a", document("RUN a", user=f"{n}"))] for n in range(20)))
    assert builds.first(["RUN a"], 0, document("RUN a", user="x")).old == "0"
    assert asked == [f"{n}" for n in range(8)]


def test_without_earlier_builds_it_is_the_first() -> None:
    assert Builds().first(["RUN a"], 0, document("RUN a")).what == "first"


def test_a_stage_of_another_name_is_found_by_what_is_in_it() -> None:
    steps = [("RUN a", document("RUN a")), ("RUN b", document("RUN b", user="1"))]

    new = document("RUN b", user="2")
    assert Builds(steps).first(["RUN a", "RUN b"], 1, new, stage="other").what == "user"
    assert Builds(steps).first(["RUN x", "RUN y"], 1, new, stage="other").what == "first"


def test_builds_of_something_else_do_not_count() -> None:
    steps = [("WORKDIR /app", document("WORKDIR /app")), ("RUN npm ci", document("RUN npm ci"))]
    names = ["WORKDIR /app", "RUN pip install", "COPY . ."]

    others = Builds(steps, mine=False)
    assert others.first(names, 1, document("RUN pip install")).what == "first"
    assert Builds(steps).first(names, 1, document("RUN pip install")).what == "argv"


def test_records_keep_the_first_differences_and_what_differs_in_long_values() -> None:
    old, new = "x" * 5000 + "1", "x" * 5000 + "2"
    one = Difference("args", "A", "changed", old, new)
    many = Comparison((one,) * 100, 100)

    kept = as_documents(many)
    assert len(kept) == 20
    again = from_document(kept[0])
    assert replace(again, old="", new="") == Difference("args", "A")
    assert len(again.old) < 310 and (again.old[-1], again.new[-1]) == ("1", "2")


def test_records_have_no_passwords_of_urls() -> None:
    one = Difference("args", "A", "changed", "https://u:hush@h/1", "https://u:hush@h/2")

    assert "hush" not in json.dumps(as_documents(Comparison((one,), 1)))


def test_what_a_shared_cache_tells_is_like_a_build() -> None:
    def told(stage: str | int, number: int, name: str) -> str:
        return json.dumps({**document(name), "stage": stage, "number": number, "step": name})

    build = as_build(
        "place",
        {
            "k3": told(1, 0, "RUN b"),
            "k2": told("build", 1, "RUN a"),
            "k1": told("build", 0, "COPY a"),
            "k4": told("build", 0, "COPY a"),
            "k5": "{}",
            "k6": json.dumps({"version": 1, "stage": None, "number": "1", "step": 5}),
            "k7": "garbled",
        },
    )

    assert [(one.stage, one.number, one.kind, one.key) for one in build.steps] == [
        ("build", 0, "COPY", "k1"),
        ("build", 1, "RUN", "k2"),
        ("stage-1", 0, "RUN", "k3"),
    ]


def test_a_step_that_no_build_came_to_is_not_called_new() -> None:
    builds = Builds([("RUN a", document("RUN a")), ("RUN b", document("RUN b"))])
    steps = builds.records[0].steps
    builds.past.builds = [replace(builds.records[0], steps=(steps[0], replace(steps[1], key="")))]

    assert builds.first(["RUN a", "RUN b"], 1, document("RUN b")).what == "unreached"


def test_stages_without_a_name_are_known_by_what_is_in_them() -> None:
    builds = Builds()
    first = builds.record("0", "stage-0", [("RUN a", document("RUN a", user="1"))])
    second = builds.record("0", "stage-1", [("RUN b", document("RUN b", user="1"))])
    builds.past.builds = [replace(first, steps=first.steps + second.steps)]

    new = document("RUN b", user="2")
    assert builds.first(["RUN b"], 0, new, stage="stage-2") == Difference("user", old="1", new="2")
    same = document("RUN c", user="1")
    assert builds.first(["RUN c"], 0, same, stage="stage-1").old == "RUN b"
