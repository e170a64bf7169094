"""What is different for root: an identity map, and no podman as a runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.root]


def test_root_builds_with_its_own_ids(assemble: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nRUN touch /f && chown 12345:70000 /f && stat -c %u:%g /f\n"
    )
    first = assemble("build", tmp_path)
    assert "12345:70000" in first.stderr
    assert assemble("build", tmp_path).stdout == first.stdout


def test_podman_as_a_runtime_is_refused_with_a_reason(assemble: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN true\n")
    done = assemble("build", "--runtime", "podman", tmp_path, code=1)
    assert "unprivileged user" in done.stderr
