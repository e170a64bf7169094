"""RUN --mount=type=cache, and what another machine had in it (rule M7)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration


def said(stderr: str) -> list[str]:
    """What steps printed, `#N TIME text`."""
    lines = (line.split(" ", 2) for line in stderr.splitlines() if line.startswith("#"))
    return [words[2] for words in lines if len(words) == 3 and words[1][:1].isdigit()]


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A directory for a Dockerfile."""
    path = tmp_path / "context"
    path.mkdir()
    return path


def test_M7_a_step_may_have_one_cache_in_two_places(assemble: Any, context: Path) -> None:
    mount = "--mount=type=cache,id=one,sharing=locked,target="
    (context / "Dockerfile").write_text(
        f"FROM busybox\nRUN {mount}/a {mount}/b touch /a/here && echo $(ls /b)\n"
    )
    assert said(assemble("build", context, timeout=60).stderr) == ["here"]


def test_M7_a_seed_of_another_owner_where_one_id_is_mapped(
    assemble: Any, context: Path, single_id: list[str]
) -> None:
    (context / "Dockerfile").write_text(
        "FROM busybox AS seed\nRUN mkdir /seed && echo planted > /seed/f && chown 7:8 /seed/f\n"
        "FROM busybox\nRUN --mount=type=cache,target=/c,from=seed,source=/seed"
        " ls -n /c/f | awk '{ print $3, $4 }'\n"
    )
    assert said(assemble("build", context, prefix=single_id).stderr)[-1:] == ["7 8"]
