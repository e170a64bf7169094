"""What a build may take from the cache: --no-cache-filter, --cache-ttl, --require-cached, and `plan`."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration
TEXT = "FROM busybox AS a\nCOPY f /f\nRUN cp /f /g\nFROM busybox\nCOPY --from=a /g /g\nRUN echo that is g\n"
STEPS = 4
DIGESTS = re.compile(r"\(sha256 [0-9a-f]{12} → [0-9a-f]{12}\)")
BRANCHES = """\
FROM mine AS a
RUN cat /f
FROM busybox AS b
ARG V=1
RUN echo $V > /v
FROM busybox
COPY src /src
RUN --mount=type=bind,from=a,target=/a --mount=type=bind,from=b,target=/b cat /src/* /a/f /b/v
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text(TEXT)
    (directory / "f").write_text("f")
    return directory


def cached(stderr: str) -> int:
    """How many steps were found."""
    return len(re.findall(r"^#(\d+) \[[^\n]*\d/\d\] (?!FROM)[^\n]*\n#\1 CACHED", stderr, re.M))


def state(assemble: Any) -> set[str]:
    """What there is of results in the store."""
    store = Path(assemble.env["ASSEMBLE_STORE"])
    places = ("blobs/sha256/*", "layers/*/*", "indexes/*/*", "index.json", "mounts/*", "builds/*")
    found = {f"{path} {path.stat().st_mtime_ns}" for place in places for path in store.glob(place)}
    return found | set(map(str, store.glob("listings/*")))  # which are used where one is looked at


def test_a_required_build_fails_before_anything_with_the_first_step_and_its_place(
    assemble: Any, context: Path
) -> None:
    before = state(assemble)
    done = assemble("build", "--require-cached", "-t", "x", context, code=1)
    assert done.stderr.splitlines() == [
        "Dockerfile:2",
        *done.stderr.splitlines()[1:-2],
        "hint: --require-cached does not allow it; `assemble plan` shows what is known",
        "ERROR: [a 2/3] COPY f /f would have to be done: no earlier build has done it on the same"
        " files",
    ]
    assert ">>> COPY f /f" in done.stderr and state(assemble) == before and not done.stdout
    expected = assemble("build", context).stdout
    assert assemble("build", "--require-cached", context).stdout == expected
    before = state(assemble)
    (context / "f").write_text("g")
    done = assemble("build", "--require-cached", context, code=1)
    reason = DIGESTS.sub("(…)", done.stderr.splitlines()[-1])
    assert reason == "ERROR: [a 2/3] COPY f /f would have to be done: COPY f: f changed (…)"
    assert done.stderr.startswith("Dockerfile:2\n")
    (context / "f").write_text("f")
    (context / "Dockerfile").write_text(TEXT.replace("/g /g", "/g /h"))
    done = assemble("build", "--require-cached", context, code=1)
    assert "may have to be done: that is known when the files of stage a are there" in done.stderr
    assert "pull" not in done.stderr and state(assemble) == before
    assert len(assemble("history", "--json").stdout.splitlines()) == 2, "what was built"


def test_a_required_build_pulls_nothing_for_a_step_that_would_run(
    assemble: Any, hub: Any, registry: Any, context: Path, tmp_path: Path
) -> None:
    hub("busybox")
    env = {
        "ASSEMBLE_STORE": str(tmp_path / "second"),
        "CONTAINERS_REGISTRIES_CONF": str(registry.mirror),
    }
    assemble("build", "--require-cached", context, code=1, **env)
    blobs = Path(env["ASSEMBLE_STORE"], "blobs/sha256").iterdir()
    assert max((path.stat().st_size for path in blobs), default=0) < 10_000, "documents only"


def test_results_older_than_the_ttl_run_again_and_a_hit_does_not_make_them_younger(
    assemble: Any, context: Path
) -> None:
    assemble("build", context)
    time.sleep(1.1)
    assert cached(assemble("build", "--cache-ttl", "1h", context).stderr) == STEPS
    done = assemble("build", "--cache-ttl", "1s", "--require-cached", context, code=1)
    assert re.search(r"too old for --cache-ttl \(local, \d+ (?:s|min) old\)\n", done.stderr)
    assert cached(assemble("build", "--cache-ttl", "1s", context).stderr) == 0
    assert cached(assemble("build", "--cache-ttl", "1h", context).stderr) == STEPS
    assert cached(assemble("build", context, ASSEMBLE_BUILD_CACHE_TTL="0").stderr) == 0
    assert "invalid duration" in assemble("build", "--cache-ttl", "x", context, code=2).stderr


def test_what_runs_again_for_its_age_runs_once_for_two_images(
    assemble: Any, context: Path, tmp_path: Path
) -> None:
    outputs = [f"type=oci,dest={tmp_path}/{one}.tar,compression={one}" for one in ("gzip", "zstd")]
    words = ("build", "-o", outputs[0], "-o", outputs[1], context)
    assemble(*words)
    for ttl, times in (("1h", 0), ("1ns", 1)):
        done = assemble(*words, "--cache-ttl", ttl)
        assert len(re.findall(r"^#\d+ [0-9.]+ that is g$", done.stderr, re.M)) == times


def test_S12_stages_that_are_not_there_are_told(assemble: Any, context: Path) -> None:
    assemble("build", context)
    done = assemble("build", "--no-cache-filter", "A,b", context)
    assert cached(done.stderr) == 2, "the same file is copied out of the stage that ran again"
    told = "--no-cache-filter b: the Dockerfile has no such stage (did you mean a?)"
    assert done.stderr.count(told) == 1
    assert "--no-cache is for all stages" in assemble(
        "build", "--no-cache-filter", "*", context, code=2
    ).stderr  # fmt: skip


def test_a_plan_tells_where_hits_are_from_and_how_old_they_are(
    assemble: Any, context: Path
) -> None:
    assemble("build", context)
    text = assemble("plan", context).stdout
    assert len(re.findall(r"^  cached    .*  \(local, \d+ (?:s|min) old\)$", text, re.M)) == STEPS
    for style in ("dot", "mermaid"):
        shown = assemble("plan", "--format", style, context).stdout
        assert len(re.findall(r"cached \(local, \d+ (?:s|min) old\)", shown)) == STEPS
    (context / "Dockerfile").write_text(TEXT.replace("cp /f /g", "cp -p /f /g"))
    steps = json.loads(assemble("plan", "--format", "json", context).stdout)["forecast"]["steps"]
    assert [one["fate"] for one in steps] == ["cached", "run", "pending", "pending"]
    assert steps[0]["source"] == "" and 0 <= steps[0]["age"] < 600
    assert [one.get("reason", "") for one in steps] == [
        "",
        "the command cp /f /g → cp -p /f /g",
        "that is known when the files of stage a are there",
        "that is known when the steps below it are done",
    ]


def test_what_would_run_says_the_first_difference_that_explain_says(
    assemble: Any, context: Path, tmp_path: Path
) -> None:
    (context / "src").mkdir()
    (context / "Base").write_text("FROM busybox\nCOPY f /f\n")
    (context / "Dockerfile").write_text(BRANCHES)

    def changed(content: str) -> None:
        for name in ("f", "src/f", f"src/new{content}"):
            (context / name).write_text(content)
        assemble("build", "-t", "mine", "-f", context / "Base", context)

    changed("1")
    assemble("build", context)
    changed("2")
    options, before = ("--build-arg", "V=2", context), state(assemble)
    text = assemble("plan", *options).stdout
    told = json.loads(assemble("plan", "--format", "json", *options).stdout)["forecast"]["steps"]
    assert [one["fate"] for one in told] == ["run", "run", "run", "pending"]
    refused = assemble("build", "--require-cached", *options, code=1).stderr.splitlines()
    assert state(assemble) == before, "nothing is done, and nothing is recorded"
    assert refused[-1] == f"ERROR: [a 2/2] RUN cat /f would have to be done: {told[0]['reason']}"

    assemble("build", *options)
    explained = json.loads(assemble("explain", "--json").stdout)["steps"]
    for one, step in zip(told[:3], explained, strict=False):
        first, others = step["because"][0]["text"], step["differences"] - 1
        assert one["reason"] == first + f" (and {others} more)" * bool(others)
        assert f"\n  run       {step['instruction']}\n            {one['reason']}\n" in text
    assert [DIGESTS.sub("(…)", one["reason"]) for one in told] == [
        "base docker.io/library/mine:latest moved (…)",
        "ARG V 1 → 2",
        "COPY src: src/f changed (…) (and 1 more)",
        "that is known when the files of stage a and stage b are there",
    ]


def test_a_plan_tells_what_a_shared_cache_knows_and_offline_asks_none(
    assemble: Any, context: Path, tmp_path: Path
) -> None:
    layout, store = tmp_path / "cache", tmp_path / "second"
    expected = assemble("build", "--cache-to", f"type=local,dest={layout},mode=max", context).stdout
    shutil.copytree(assemble.env["ASSEMBLE_STORE"], store, symlinks=True)
    second = {"ASSEMBLE_STORE": str(store)}
    assemble("prune", "--all", "--force", **second)
    (store / "cache.db").unlink()
    shared = ("--cache-from", f"type=local,src={layout}")

    offline = assemble("plan", "--offline", *shared, context, **second)
    assert "cached" not in offline.stdout and "importing" not in offline.stderr
    assemble("build", "--require-cached", context, code=1, **second)
    shown = assemble("plan", *shared, context, **second).stdout
    hits = re.findall(r"^  cached    .*  \(from directory cache, \d+ (?:s|min) old\)$", shown, re.M)
    assert len(hits) == STEPS
    assert re.search(r"^shared caches\n  2 layers, \d+ B to pull\n", shown, re.M)
    document = json.loads(assemble("plan", "--format", "json", *shared, context, **second).stdout)
    assert len(document["forecast"]["fetches"]) == 2
    done = assemble("build", "--require-cached", *shared, context, **second)
    assert done.stdout == expected and cached(done.stderr) == STEPS
    shown = assemble("plan", *shared, context, **second).stdout
    assert "shared caches" not in shown and shown.endswith("nothing to pull\n")

    for name in ("builds", "listings"):
        shutil.rmtree(store / name)
    (store / "cache.db").unlink()
    (context / "f").write_text("changed")
    reason = "COPY f: f changed (…)"  # by what the cache tells
    shown = assemble("plan", *shared, context, **second).stdout
    assert f"\n  run       COPY f /f\n            {reason}\n" in DIGESTS.sub("(…)", shown)
    done = assemble("build", "--require-cached", *shared, context, code=1, **second)
    assert DIGESTS.sub("(…)", done.stderr).endswith(f" would have to be done: {reason}\n")
    assert not [name for name in ("builds", "listings") if (store / name).exists()]
