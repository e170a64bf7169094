"""What steps print of their secrets comes out nowhere (reliability.md B5), under every runtime."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

TOKEN, KEY = "canary-of-the-token", "canary-of-the-key\n\tcanary-of-its-second-line\n"
PROXY = "http://me:canary-of-a-proxy@127.0.0.1:9"
CONTEXT = "canary-that-is-in-the-context-too"
DOCKERFILE = r"""
FROM busybox AS made
RUN --mount=type=secret,id=key cat /run/secrets/key > /copied; echo made
FROM busybox
COPY --from=made /copied /
COPY file /
RUN --mount=type=secret,id=token,env=TOKEN env | grep TOKEN; set -x; : "Bearer: $TOKEN"
RUN --mount=type=secret,id=key cat /run/secrets/key; base64 /run/secrets/key
RUN --mount=type=secret,id=token \
    i=1; while test $i -le 19; do cut -c $i /run/secrets/token | tr -d '\n'; i=$((i+1)); done; echo .
RUN cat /copied /file; env | grep -i http_proxy >&2
RUN printf 'no line and no canary'
RUN --mount=type=secret,id=token,env=TOKEN echo "Error: $TOKEN"; printf "$TOKEN"; exit 125
"""


@pytest.fixture
def build(assemble: Any, tmp_path: Path) -> Any:
    """Builds `DOCKERFILE`, which fails in the end."""
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "context/file").write_text(CONTEXT + "\n")
    (tmp_path / "key").write_text(KEY)
    given = ("token,env=TOKEN", "key,src=" + str(tmp_path / "key"), "unused,env=UNUSED")
    secrets = [word for one in given for word in ("--secret", f"id={one}")]

    def run(*options: str, prefix: list[str] | None = None) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = assemble(
            "build", "--no-cache", *options, *secrets, "--build-arg", f"HTTP_PROXY={PROXY}",
            tmp_path / "context", code=1, prefix=prefix or [], TOKEN=TOKEN, UNUSED=CONTEXT,
        )  # fmt: skip
        return done

    return run


def written(store: Path) -> dict[str, bytes]:
    """The files of the store that hold what steps said or came to."""
    found = {}
    for name in ("logs", "builds", "working"):
        for above, _, files in os.walk(store / name):
            found |= {f"{above}/{one}": Path(above, one).read_bytes() for one in files}
    assert any(name.endswith(".log") for name in found)
    return found


@pytest.mark.parametrize(
    "runtime",
    ["native", "podman", "crun", "runc", pytest.param("chroot", marks=pytest.mark.root)],
)
def test_B5_what_steps_print_of_secrets_is_in_no_progress_log_record_or_error(
    build: Any, tmp_path: Path, runtime: str
) -> None:
    done = build("--progress", "plain", "--runtime", runtime)
    lines = [line.split(" ", 2)[-1] for line in done.stderr.splitlines()]
    assert {"TOKEN=***", "+ : 'Bearer: ***'", "***.", "HTTP_PROXY=http://me:***@127.0.0.1:9"} <= {
        *lines
    }
    assert (lines.count("***"), lines.count(" ***")) == (5, 2), "with a tab before it"
    assert "no line and no canary" in lines
    ended = "podman failed: ***" if runtime == "podman" else "did not complete successfully"
    assert ended in done.stderr.splitlines()[-1]
    for text in (done.stderr, done.stdout, *map(repr, written(tmp_path / "store").values())):
        for secret in (TOKEN, *KEY.split(), CONTEXT, PROXY, "canary-of-a-proxy"):
            assert secret not in text
            assert base64.b64encode(secret.encode()).decode().rstrip("=")[:-2] not in text


def test_B5_nor_in_events_for_programs(build: Any) -> None:
    said = b""
    for line in build("--progress", "rawjson").stderr.splitlines():
        document = json.loads(line) if line.startswith("{") else {}
        said += b"".join(base64.b64decode(log["data"]) for log in document.get("logs") or ())
    assert b"Bearer: ***" in said and said.count(b"canary") == 1, "in the step that has no secret"


def test_B5_what_is_hidden_when_it_is_printed_is_in_the_image_as_it_was_written(
    assemble: Any, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nRUN --mount=type=secret,id=t cat /run/secrets/t | tee /made\n"
    )
    out = f"type=oci,dest={tmp_path}/out,tar=false,compression=uncompressed"
    done = assemble("build", "--secret", "id=t,env=T", "-o", out, tmp_path, T="hidden-by-us")
    assert "***" in done.stderr and "by-us" not in done.stderr
    blobs = [path.read_bytes() for path in (tmp_path / "out/blobs/sha256").iterdir()]
    assert sum(blob.count(b"hidden-by-us") for blob in blobs) == 1


def test_B5_a_part_of_a_line_is_in_no_error(assemble: Any, tmp_path: Path) -> None:
    """In which the secret that is cut would not be recognised."""
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nRUN --mount=type=secret,id=t,env=T "
        "printf 'Error: %0480d%s%050d' 0 \"$T\" 0; exit 125\n"
    )
    options = ("--runtime", "podman", "--secret", "id=t,env=TOKEN", tmp_path)
    done = assemble("build", *options, code=1, TOKEN=TOKEN)
    assert done.stderr.splitlines()[-1] == "ERROR: podman failed: see its output"
    assert f"{0:0480d}***{0:050d}" in done.stderr and TOKEN[:5] not in done.stderr
