"""How a command names a build."""

from __future__ import annotations

from pathlib import Path

import pytest

from assembler.cli.records import build_named
from assembler.errors import AssemblerError, NotFound, UsageError
from assembler.store.builds import BuildRecord, Builds

IMAGE = "sha256:" + "1" * 64


def record(id: str, *tags: str, image: str = "") -> BuildRecord:
    return BuildRecord(id=id, started=1, seconds=1, status="completed", tags=tags, image=image)


@pytest.fixture
def builds(tmp_path: Path) -> Builds:
    builds = Builds(str(tmp_path))
    for one in (
        record("0123456789ab", "app:latest", image=IMAGE),
        record("0129999999ab", "app:latest", "localhost:5000/team/app:2"),
        record("fedcba987654"),
    ):
        builds.write(one, {})
    return builds


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ("", "fedcba987654"),
        ("^0", "fedcba987654"),
        ("^", "0129999999ab"),
        ("^2", "0123456789ab"),
        ("0123456789ab", "0123456789ab"),
        ("fed", "fedcba987654"),
        ("app", "0129999999ab"),
        ("docker.io/library/app:latest", "0129999999ab"),
        ("localhost:5000/team/app:2", "0129999999ab"),
        (IMAGE, "0123456789ab"),
    ],
)
def test_a_build_is_named(builds: Builds, text: str, id: str) -> None:
    assert build_named(builds, text).id == id


@pytest.mark.parametrize(
    ("text", "kind", "message", "hint"),
    [
        ("fedcba987655", NotFound, "(did you mean fedcba987654?)", "assemble history"),
        ("app:latesd", NotFound, "(did you mean app:latest?)", "assemble history"),
        ("012", UsageError, "several builds begin so", "0129999999ab, 0123456789ab"),
        ("^3", NotFound, "records of 3 builds", ""),
        (f"^{'9' * 5000}", NotFound, "no record of a build ^999", "assemble history"),
        ("A B", NotFound, "no record of a build A B", "assemble history"),
    ],
)
def test_LN2_what_names_no_build_says_what_does(
    builds: Builds, text: str, kind: type[AssemblerError], message: str, hint: str
) -> None:
    with pytest.raises(kind) as raised:
        build_named(builds, text)
    assert message in raised.value.message and hint in raised.value.hint


def test_a_store_without_builds_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no record of a build"):
        build_named(Builds(str(tmp_path / "none")), "")
