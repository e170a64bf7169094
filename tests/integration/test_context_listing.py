"""`assemble context`: what is sent, what reads it, what hides it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration
TEXT = """\
FROM nowhere.example/base AS build
COPY src /src
RUN --mount=type=bind,source=go.mod,target=/go.mod true
FROM scratch
COPY --from=build /x /x
ADD *.md src/main.go /docs/
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    (directory / "src/lib").mkdir(parents=True)
    (directory / "node_modules/x").mkdir(parents=True)
    for path, size in (
        ("src/main.go", 10), ("src/lib/a.go", 20), ("src/secret.env", 5), ("go.mod", 3),
        ("README.md", 7), ("unread", 1000), ("node_modules/x/y", 4),
    ):  # fmt: skip
        (directory / path).write_bytes(b"x" * size)
    (directory / "link").symlink_to("go.mod")
    (directory / ".dockerignore").write_text("# no\nnode_modules\n**/*.env\n")
    (directory / "Dockerfile").write_text(TEXT)
    return directory


def test_every_file_with_its_bytes_and_the_lines_that_read_it(assemble: Any, context: Path) -> None:
    shown = assemble("context", context).stdout.splitlines()
    size = len(TEXT)
    assert shown == [
        "          27  .dockerignore",
        f"{size:>12}  Dockerfile",
        "           7  README.md  Dockerfile:6",
        "           3  go.mod  Dockerfile:3",
        "           0  link",
        "          20  src/lib/a.go  Dockerfile:2",
        "          10  src/main.go  Dockerfile:2, Dockerfile:6",
        "        1000  unread",
        f"8 files, {1067 + size} bytes; 4, {1027 + size} bytes, are read by no step",
    ]


def test_why(assemble: Any, context: Path) -> None:
    done = assemble("context", "--why", "./src/main.go", "--why", "/link", "--why", "src", context)
    assert done.stdout.splitlines() == [
        "src/main.go: a file of 10 bytes",
        "  read by Dockerfile:2 [build 2/3] COPY src /src",
        "  read by Dockerfile:6 [stage-1 2/2] ADD *.md src/main.go /docs/",
        "link: a symlink",
        "  no step reads it",
        "src: a directory",
        "  read by Dockerfile:2 [build 2/3] COPY src /src",
    ]
    words = (
        "--why",
        "src/secret.env",
        "--why",
        "node_modules/x/y",
        "--why",
        "../x",
        "--why",
        "go.mod",
    )
    done = assemble("context", *words, context, code=1)
    assert done.stdout.splitlines() == [
        "src/secret.env: hidden by .dockerignore:3 **/*.env",
        "node_modules/x/y: hidden by .dockerignore:2 node_modules",
        "x: there is no such file in the context",
        "go.mod: a file of 3 bytes",
        "  read by Dockerfile:3 [build 3/3] RUN --mount=type=bind,source=go.mod,target=/go.mod true",
    ]


def test_json(assemble: Any, context: Path) -> None:
    lines = assemble("context", "--format", "json", context).stdout.splitlines()
    found = {one["path"]: one for one in map(json.loads, lines)}
    assert found["go.mod"] == {
        "path": "go.mod", "kind": "file", "size": 3,
        "read_by": [{"line": 3, "step": "[build 3/3] RUN --mount=type=bind,source=go.mod,target=/go.mod true"}],
    }  # fmt: skip
    done = assemble("context", "--format", "json", "--why", "src/secret.env", context, code=1)
    assert json.loads(done.stdout)["hidden_by"] == ".dockerignore:3 **/*.env"


def test_only_what_the_target_needs_reads(assemble: Any, context: Path) -> None:
    (context / "Dockerfile").write_text(TEXT + "FROM scratch AS other\nCOPY unread /\n")
    done = assemble("context", "--why", "unread", "--why", "go.mod", context)
    assert "read by Dockerfile:8" in done.stdout and done.stdout.count("read by") == 1
    done = assemble("context", "--require", "*", "--why", "unread", "--why", "go.mod", context)
    assert done.stdout.count("read by") == 2


def test_a_copy_of_what_is_not_there_is_told_and_keeps_nothing_from_being_shown(
    assemble: Any, context: Path
) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY src/secret.env /\nCOPY go.mod /\n")
    done = assemble("context", context)
    assert "           3  go.mod  Dockerfile:3" in done.stdout
    (warning,) = done.stderr.splitlines()
    assert warning.startswith("WARNING: Dockerfile:2: ") and ".dockerignore:3" in warning


def test_nothing_is_written(assemble: Any, context: Path) -> None:
    store = Path(assemble.env["ASSEMBLE_STORE"])
    assemble("images")
    before = sorted((path, path.stat().st_mtime_ns) for path in store.rglob("*") if path.is_file())
    assemble("context", context)
    after = sorted((path, path.stat().st_mtime_ns) for path in store.rglob("*") if path.is_file())
    assert [one for one in after if one not in before and "lock" not in one[0].name] == []
