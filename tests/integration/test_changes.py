"""Rows of the table of docs/cache.md with real processes; benchmarks/changes.py has all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fixtures.changes import ALL, BUILD, CHANGES, Build, step_name

pytestmark = pytest.mark.integration

ROWS = [
    "every mtime of the context",
    "a command that gives the same files, for COPY --from",
    "a command that gives the same files, for a mount",
    "--no-cache-filter of a stage that gives the same",
    "the mode of a source file",
]


def test_R7_C21_S12_the_steps_that_see_a_change_run_and_no_others(
    assemble: Any, tmp_path: Path
) -> None:
    def steps(build: Build) -> set[str]:
        context = build.write(tmp_path)
        (context / "Dockerfile").write_text(build.dockerfile.replace("FROM base", "FROM busybox"))
        fresh = [f"--no-cache-filter={stage}" for stage in build.fresh]
        done = assemble("build", "--progress=rawjson", "-t", "app", *fresh, context)
        said = [json.loads(line) for line in done.stderr.splitlines()]
        vertexes = [one for status in said for one in status.get("vertexes", ())]
        ran = [one for one in vertexes if "completed" in one and not one.get("cached")]
        return {step_name(one["name"]) for one in ran} - {""}

    assert steps(BUILD) == ALL
    for change in (change for change in CHANGES if change.name in ROWS):
        assert steps(change.make(BUILD)) == change.steps, change.name
