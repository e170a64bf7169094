"""What `assemble explain` and `assemble history` print of records that are given."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from assembler.cli.commands import cli
from assembler.errors import NotFound
from assembler.store.builds import BuildRecord, StepRecord
from assembler.store.store import Store


def step(
    number: int, instruction: str, verdict: str, stage: str = "build", **more: Any
) -> StepRecord:
    kind = instruction.partition(" ")[0]
    name = f"[{stage} {number + 2}/5] {instruction}"
    return StepRecord(
        stage=stage, number=number, name=name, line=number + 2, kind=kind, verdict=verdict, **more
    )


FILE = {
    "what": "file",
    "name": "src/app.py",
    "change": "changed",
    "old": f"sha256:{'1' * 32}",
    "new": f"sha256:{'2' * 32}",
    "place": "COPY src",
}
BELOW = {"what": "step", "name": "[build 3/5] COPY src /src", "change": "changed"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    now = time.time()
    steps = (
        step(0, "WORKDIR /src", "cached", ran=now - 3 * 86400 - 60, key="sha256:0"),
        step(1, "COPY src /src", "run", because=(FILE,) * 20, differences=42, key="sha256:1"),
        step(2, "RUN make\x1b[2J " + "x" * 80, "failed", because=(BELOW,), differences=1),
        step(3, "RUN check", "canceled", "test"),
        step(0, "COPY --from=build 7/x /", "cached", "last", source="ghcr.io/o/app:cache"),
        step(1, "RUN rest", "unneeded", "last"),
    )
    build = BuildRecord(
        id="0123456789ab",
        started=now - 130,
        seconds=3.25,
        status="error",
        dockerfile="Dockerfile",
        platform="linux/amd64",
        tags=("app:1",),
        place="not for people",
        steps=steps,
    )
    with Store.open(str(tmp_path / "store")) as opened:
        opened.builds.write(build, {})
    return tmp_path / "store"


def run(store: Path, *arguments: str) -> Result:
    result = CliRunner().invoke(cli, [*arguments, "--store", str(store)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_each_step_has_a_line_with_the_first_difference(store: Path) -> None:
    assert run(store, "explain").output.splitlines() == [
        "build 0123456789ab, app:1: error in 3.2s, 2 min ago; 2 cached, 1 run, 1 failed, 1 canceled",
        "",
        "[build 2/5] WORKDIR /src                                      cached      local, 3 d old",
        "[build 3/5] COPY src /src                                     run         "
        "COPY src: src/app.py changed (sha256 111111111111 → 222222222222) (and 41 more)",
        "[build 4/5] RUN make\\x1b[2J xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…  failed      "
        "the step before it, COPY src /src (3/5), changed",
        "[test 5/5] RUN check                                          canceled",
        "[last 2/5] COPY --from=build 7/x /                            cached      "
        "from ghcr.io/o/app:cache",
        "[last 3/5] RUN rest                                           unreached",
    ]


def kept(tmp_path: Path, status: str, *steps: StepRecord) -> Path:
    """A store with the record of one build."""
    build = BuildRecord(id="d" * 12, started=time.time(), seconds=1, status=status, steps=steps)
    with Store.open(str(tmp_path / "one")) as opened:
        opened.builds.write(build, {})
    return tmp_path / "one"


def test_of_a_build_that_failed_later_steps_were_not_reached(tmp_path: Path) -> None:
    steps = step(0, "COPY gone /", "failed"), step(1, "RUN make", "unneeded")
    shown = run(kept(tmp_path, "error", *steps), "explain").stdout.splitlines()[2:]
    assert shown == ["[build 2/5] COPY gone /  failed", "[build 3/5] RUN make     unreached"]
    done = run(kept(tmp_path, "completed", steps[1]), "explain").stdout
    assert done.splitlines()[-1].endswith("not needed")


def test_json_is_unicode_whatever_names_are(tmp_path: Path) -> None:
    because = ({**FILE, "name": os.fsdecode(b"\xff \xf0\x9f\x8e\x89")},)
    one = step(0, "COPY src /", "run", because=because, differences=1)
    text = run(kept(tmp_path, "completed", one), "explain", "--json").stdout
    said = json.loads(text)["steps"][0]["because"][0]
    assert said["name"] == "\ufffd \U0001f389"
    assert json.dumps(json.loads(text), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("build", {"WORKDIR /src", "COPY src /src", "RUN make"}),
        ("3", {"COPY src /src", "RUN rest"}),
        ("build:3", {"COPY src /src"}),
        ("build 3/5", {"COPY src /src"}),
        ("[last 3/5]", {"RUN rest"}),
        ("copy", {"COPY src /src", "COPY --from=build 7/x /"}),
        ("last:2", {"COPY --from=build 7/x /"}),
    ],
)
def test_a_step_is_named_by_stage_number_or_words(
    store: Path, wanted: str, names: set[str]
) -> None:
    document = json.loads(run(store, "explain", "--json", "--step", wanted).output)

    found = {re.split("[\x1b]", one["instruction"])[0] for one in document["steps"]}
    assert found == names


def test_of_a_step_that_is_asked_for_all_is_said(store: Path) -> None:
    lines = run(store, "explain", "app:1", "--step", "build:3").output.splitlines()

    assert len(lines) == 2 + 20 + 1 and lines[-1].strip() == "and 22 more"
    assert lines[-2].strip() == "COPY src: src/app.py changed (sha256 111111111111 → 222222222222)"


def test_json_has_its_keys_and_nothing_of_the_host(store: Path) -> None:
    output = run(store, "explain", "--json").output
    document = json.loads(output)

    assert set(document) == {"version", "build", "against", "steps"} and document["version"] == 1
    assert document["build"] | {"started": ""} == {
        "id": "0123456789ab",
        "name": "app:1",
        "status": "error",
        "started": "",
        "seconds": 3.25,
        "dockerfile": "Dockerfile",
        "target": "",
        "platform": "linux/amd64",
        "tags": ["app:1"],
        "image": "",
    }
    first, second, *_ = document["steps"]
    assert set(first) == set(second) == {
        "stage", "name", "instruction", "kind", "line", "verdict", "source", "ran", "seconds",
        "key", "differences", "because",
    }  # fmt: skip
    assert first["ran"].endswith("Z") and second["ran"] is None
    assert second["because"][0] == {
        **FILE,
        "text": "COPY src: src/app.py changed (sha256 111111111111 → 222222222222)",
    }
    assert str(store) not in output and "not for people" not in output


def test_a_step_that_is_not_there_says_which_are(store: Path) -> None:
    with pytest.raises(NotFound, match="no such step") as raised:
        run(store, "explain", "--step", "RUN other")
    assert raised.value.hint == "its stages are build, last, test"


def test_inputs_that_are_lost_are_said_to_be(store: Path) -> None:
    lines = run(store, "explain", "--against", "^0", "--step", "build:3").output.splitlines()

    assert lines[1].startswith("against 0123456789ab, app:1: error, ")
    assert lines[3].endswith("run         what was there before is not known any more")


def test_builds_are_listed_with_what_became_of_their_steps(store: Path) -> None:
    assert run(store, "history").output.splitlines() == [
        "BUILD ID      NAME   STATUS  STEPS                                  CREATED AT     DURATION",
        "0123456789ab  app:1  Error   2 cached, 1 run, 1 failed, 1 canceled  2 minutes ago  3.2s",
    ]


@pytest.mark.parametrize("option", [("--json",), ("--format", "json")])
def test_builds_as_json_have_the_keys_of_buildx(store: Path, option: tuple[str, ...]) -> None:
    document = json.loads(run(store, "history", *option).output)

    times = {"created_at": "", "completed_at": ""}
    assert document | times == {
        "ref": "0123456789ab",
        "name": "app:1",
        "status": "Error",
        "total_steps": 6,
        "completed_steps": 3,
        "cached_steps": 2,
        **times,
    }


def test_a_store_without_builds(tmp_path: Path) -> None:
    assert run(tmp_path / "new", "history").output.split() == (
        "BUILD ID NAME STATUS STEPS CREATED AT DURATION".split()
    )
    with pytest.raises(NotFound, match="no record of a build"):
        run(tmp_path / "new", "explain")
