"""`assemble doctor` beside a build on the same host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration


def test_a_build_that_must_refuse_says_what_the_doctor_says(
    assemble: Any, tmp_path: Path, without_namespaces: list[str]
) -> None:
    report = json.loads(
        assemble("doctor", "--format", "json", prefix=without_namespaces, code=1).stdout
    )
    assert not report["usable"] and not report["mode"]
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN true\n")
    failed = assemble("build", tmp_path, prefix=without_namespaces, code=1).stderr.splitlines()
    assert failed[-1] == f"ERROR: {report['reason']}"
    assert report["remedy"] in failed[-2]
    text = assemble("doctor", prefix=without_namespaces, code=1).stdout.splitlines()
    assert text[:2] == [f"refused  {report['reason']}", f"         {report['remedy']}"]
