"""`--require STAGE`: stages that must succeed though the image has nothing of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration
TEXT = """\
FROM busybox AS build
COPY f /f
RUN cp /f /g
FROM build AS test
RUN echo testing && grep -q good /g
FROM busybox AS lint
RUN --mount=type=bind,target=/src echo linting
FROM busybox AS release
COPY --from=build /g /g
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text(TEXT)
    (directory / "f").write_text("good")
    return directory


def ran(stderr: str) -> set[str]:
    """The stages of which progress shows a step that is not cached."""
    shown = re.findall(r"^#(\d+) \[(\w+) +\d/\d\] (?!FROM)", stderr, re.M)
    return {stage for number, stage in shown if f"#{number} CACHED" not in stderr}


def test_what_is_required_runs_and_leaves_nothing_in_the_image(
    assemble: Any, context: Path
) -> None:
    plain = assemble("build", context)
    assert ran(plain.stderr) == {"build", "release"}
    done = assemble("build", "--require", "test,LINT", context)
    assert ran(done.stderr) == {"test", "lint"} and done.stdout == plain.stdout
    again = assemble("build", "--require=test", "--require", "lint", context)
    assert not ran(again.stderr) and "RUN echo testing" in again.stderr
    assert assemble("build", "--require", "*", context).stdout == plain.stdout


def test_no_image_where_it_fails(assemble: Any, context: Path) -> None:
    (context / "f").write_text("bad")
    layout = context.parent / "layout"
    output = f"type=oci,tar=false,dest={layout}"
    words = ("build", "--require", "test", "-t", "app", "-o", output)
    done = assemble(*words, context, code=1)
    assert ">>> RUN echo testing" in done.stderr and not done.stdout
    assert not (layout / "index.json").exists() and "app" not in assemble("images").stdout
    (context / "f").write_text("good")
    assert assemble(*words, context).stdout == assemble("build", context).stdout


def test_a_target_that_is_cached_waits_for_what_was_never_tried(
    assemble: Any, context: Path
) -> None:
    (context / "f").write_text("bad")
    assemble("build", context)
    done = assemble("build", "--require", "test", context, code=1)
    assert "testing" in done.stderr
    plan = assemble("plan", "--require", "test", "--format", "mermaid", context).stdout
    assert "test (required)" in plan and "release (target)" in plan
    refused = assemble("build", "--require-cached", "--require", "test", context, code=1)
    assert "RUN echo testing" in refused.stderr and "would have to be done" in refused.stderr
    assemble("build", "--require-cached", context)


def test_a_stage_that_is_none_is_a_mistake(assemble: Any, context: Path) -> None:
    done = assemble("build", "--require", "tst", context, code=1)
    assert 'ERROR: required stage "tst" could not be found (did you mean test?)' in done.stderr
