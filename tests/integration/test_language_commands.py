"""`check`, `--call`, `plan` and the error texts, through the real command line."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from assembler.testing import MemoryRegistry

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parent.parent.parent
TWO_BRANCHES = ROOT / "fixtures/seed/two-branches"
RULE = "https://docs.docker.com/go/dockerfile/rule"


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., Path]:
    """Makes a context with this Dockerfile and these files."""

    def make(dockerfile: str, **files: str) -> Path:
        path = tmp_path / "context"
        path.mkdir(exist_ok=True)
        (path / "Dockerfile").write_text(dockerfile, newline="")
        for name, text in files.items():
            (path / name).write_text(text)
        return path

    return make


@pytest.fixture
def no_images(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which docker.io is a registry that has nothing."""
    with MemoryRegistry() as registry:
        hub = tmp_path / "registries.conf"
        hub.write_text(f'[[registry]]\nprefix = "docker.io"\nlocation = "{registry.host}"\n')
        yield {"CONTAINERS_REGISTRIES_CONF": str(hub)}


def stdin(assemble: Any, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A run with `text` on stdin."""
    return subprocess.run(
        assemble.command(*arguments),
        env=assemble.env,
        input=text,
        capture_output=True,
        text=True,
        timeout=300,
    )


# check

NOISY = "FROM busybox as base\nCOPY x .\ncopy $foo \\\n  .\n"
NOISY_TEXT = f"""\
Check complete, 3 warnings have been found!

WARNING: FromAsCasing - {RULE}/from-as-casing/
'as' and 'FROM' keywords' casing do not match
Dockerfile:1
--------------------
   1 | >>> FROM busybox as base
   2 |     COPY x .
   3 |     copy $foo \\
--------------------

WARNING: ConsistentInstructionCasing - {RULE}/consistent-instruction-casing/
Command 'copy' should match the case of the command majority (uppercase)
Dockerfile:3
--------------------
   2 |     COPY x .
   3 | >>> copy $foo \\
   4 | >>>   .
--------------------

WARNING: UndefinedVar - {RULE}/undefined-var/
Usage of undefined variable '$foo'
Dockerfile:3
--------------------
   2 |     COPY x .
   3 | >>> copy $foo \\
   4 | >>>   .
--------------------
"""


@pytest.mark.parametrize(
    "command", [("check",), ("build", "--check"), ("build", "--call=check"), ("build", "--call", "lint")]
)  # fmt: skip
def test_check_prints_what_buildx_prints(
    assemble: Any, context: Callable[..., Path], command: tuple[str, ...]
) -> None:
    done = assemble(*command, context(NOISY), code=1)
    assert (done.stdout, done.stderr) == (NOISY_TEXT, "")
    done = assemble(*command, context("FROM busybox AS base\n"))
    assert (done.stdout, done.stderr) == ("Check complete, no warnings found.\n", "")
    done = assemble(*command, context("FROM busybox as x\n"), code=1)
    assert done.stdout.startswith("Check complete, 1 warning has been found!\n\nWARNING: FromAs")


def test_check_reads_stdin(assemble: Any) -> None:
    for arguments in (("check", "-"), ("check", "-f", "-", "."), ("build", "--check", "-")):
        done = stdin(assemble, NOISY, *arguments)
        assert (done.stdout, done.stderr, done.returncode) == (NOISY_TEXT, "", 1)


def test_check_names_the_file_as_it_was_given(assemble: Any, context: Callable[..., Path]) -> None:
    path = context("FROM busybox\n")
    (path / "sub").mkdir()
    (path / "sub/Other file").write_text("FROM busybox as x\n")
    env = {**assemble.env, "PYTHONPATH": str(ROOT)}
    where = {"cwd": path, "env": env, "capture_output": True, "text": True}
    for file in ("sub/Other file", "./sub//Other file"):
        done = subprocess.run(assemble.command("check", "-f", file), check=False, **where)
        assert "\nsub/Other file:1\n" in done.stdout
    github = assemble.command("check", "--format", "github", "-f", "sub/Other file")
    done = subprocess.run(github, check=False, **where)
    assert done.stdout == (
        "::warning file=sub/Other file,line=1,endLine=1,col=14,endColumn=16,title=FromAsCasing"
        "::'as' and 'FROM' keywords' casing do not match\n"
    )
    sarif = subprocess.run(
        assemble.command("check", "--format", "sarif", "-f", "sub/Other file"), check=False, **where
    )
    [result] = json.loads(sarif.stdout)["runs"][0]["results"]
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == "sub/Other%20file" and unquote(uri) == "sub/Other file"


def place(start: int, end: int) -> dict[str, Any]:
    return {"ranges": [{"start": {"line": start}, "end": {"line": end}}]}


def test_check_prints_buildkits_json(assemble: Any, context: Callable[..., Path]) -> None:
    path = context(NOISY)
    for command in (("check", "--format", "json"), ("build", "--call", "check,format=json")):
        document = json.loads(assemble(*command, path, code=1).stdout)
        assert document == {
            "warnings": [
                {
                    "ruleName": "FromAsCasing",
                    "description": "The 'as' keyword should match the case of the 'from' keyword",
                    "url": f"{RULE}/from-as-casing/",
                    "detail": "'as' and 'FROM' keywords' casing do not match",
                    "location": place(1, 1),
                },
                {
                    "ruleName": "ConsistentInstructionCasing",
                    "description": "All commands within the Dockerfile should use the same casing"
                    " (either upper or lower)",
                    "url": f"{RULE}/consistent-instruction-casing/",
                    "detail": "Command 'copy' should match the case of the command majority"
                    " (uppercase)",
                    "location": place(3, 4),
                },
                {
                    "ruleName": "UndefinedVar",
                    "description": "Variables should be defined before their use",
                    "url": f"{RULE}/undefined-var/",
                    "detail": "Usage of undefined variable '$foo'",
                    "location": place(3, 4),
                },
            ],
            "sources": [
                {
                    "filename": "Dockerfile",
                    "data": base64.b64encode(NOISY.encode()).decode(),
                    "language": "Dockerfile",
                }
            ],
        }


BROKEN = "FROM busybox as x\nMAINTAINER me\nCPOY a b\nFROM scratch as y\n"
PARSE_ERROR = "dockerfile parse error on line 3: unknown instruction: CPOY (did you mean COPY?)"


def test_an_error_is_reported_in_every_format(assemble: Any, context: Callable[..., Path]) -> None:
    path = context(BROKEN)
    done = assemble("check", path, code=1)
    assert done.stdout.startswith("Check complete, 2 warnings have been found!\n")
    assert "MaintainerDeprecated" in done.stdout and PARSE_ERROR not in done.stdout
    assert done.stderr.endswith(f"--------------------\nERROR: {PARSE_ERROR}\n")
    assert "   3 | >>> CPOY a b\n" in done.stderr

    document = json.loads(assemble("check", "--format", "json", path, code=1).stdout)
    assert [warning["ruleName"] for warning in document["warnings"]] == [
        "FromAsCasing",
        "MaintainerDeprecated",
    ]
    assert document["buildError"] == {"message": PARSE_ERROR, "location": place(3, 3)}

    run = json.loads(assemble("check", "--format", "sarif", path, code=1).stdout)["runs"][0]
    assert run["invocations"] == [{"executionSuccessful": False}]
    assert [result["level"] for result in run["results"]] == ["warning", "warning", "error"]
    assert run["results"][-1]["message"] == {"text": PARSE_ERROR}

    lines = assemble("check", "--format", "github", path, code=1).stdout.splitlines()
    assert len(lines) == 3
    assert lines[-1].endswith(f",line=3,endLine=3,col=1,endColumn=5::{PARSE_ERROR}")
    assert lines[-1].startswith("::error file=")


def test_an_error_alone_says_nothing_of_warnings(
    assemble: Any, context: Callable[..., Path]
) -> None:
    done = assemble("check", context("FROM busybox\nCOPY a\n"), code=1)
    assert done.stdout == ""
    assert "COPY requires at least two arguments" in done.stderr
    done = assemble("check", "--format", "json", context(""), code=1)
    assert json.loads(done.stdout)["buildError"]["message"] == "the Dockerfile cannot be empty"


def test_ignorestatus_forgives_warnings_but_no_error(
    assemble: Any, context: Callable[..., Path]
) -> None:
    assemble("build", "--call", "check,ignorestatus=true", context(NOISY))
    assemble("build", "--call", "check,ignorestatus=1,format=json", context(NOISY))
    assemble("build", "--call", "check,ignorestatus=false", context(NOISY), code=1)
    assemble("build", "--call", "check,ignorestatus=true", context(BROKEN), code=1)
    assemble("build", "--call", "check,ignorestatus=true,format=json", context(BROKEN), code=1)


def sarif_is_whole(log: Any) -> None:
    """What SARIF 2.1.0 requires of the objects that are used, and that references are good."""
    assert log["version"] == "2.1.0" and log["$schema"].endswith("sarif-2.1.0.json")
    [run] = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] and re.fullmatch(r"\d+\.\d+\.\d+.*", driver["version"])
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(set(ids)) == len(ids)
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"]
        assert rule.get("helpUri", "https://").startswith("https://")
    assert run["columnKind"] in ("utf16CodeUnits", "unicodeCodePoints")
    for invocation in run["invocations"]:
        assert isinstance(invocation["executionSuccessful"], bool)
    for result in run["results"]:
        assert result["message"]["text"] and result["level"] in ("warning", "error", "note", "none")
        if "ruleId" in result:
            assert ids[result["ruleIndex"]] == result["ruleId"]
        for location in result["locations"]:
            physical = location["physicalLocation"]
            assert re.fullmatch(r"[\w.~!$&'()*+,;=:@/%-]+", physical["artifactLocation"]["uri"])
            region = physical.get("region", {"startLine": 1})
            assert region["startLine"] >= 1
            assert region.get("endLine", region["startLine"]) >= region["startLine"]
            assert region.get("endColumn", 2) > region.get("startColumn", 1) >= 1


def test_check_writes_sarif(assemble: Any, context: Callable[..., Path]) -> None:
    path = context(NOISY)
    log = json.loads(assemble("check", "--format", "sarif", path, code=1).stdout)
    sarif_is_whole(log)
    regions = [
        (result["ruleId"], result["locations"][0]["physicalLocation"]["region"])
        for result in log["runs"][0]["results"]
    ]
    assert regions == [
        ("FromAsCasing", {"startLine": 1, "startColumn": 14, "endLine": 1, "endColumn": 16}),
        ("ConsistentInstructionCasing", {"startLine": 3, "startColumn": 1, "endLine": 3, "endColumn": 5}),
        ("UndefinedVar", {"startLine": 3, "startColumn": 7, "endLine": 3, "endColumn": 10}),
    ]  # fmt: skip
    log = json.loads(assemble("check", "--format", "sarif", context("FROM busybox\n")).stdout)
    sarif_is_whole(log)
    assert log["runs"][0]["results"] == []
    arguments = ("--build-arg", "VERSOIN=1", "--format", "sarif")
    log = json.loads(
        assemble("check", *arguments, context("ARG VERSION\nFROM busybox\n"), code=1).stdout
    )
    sarif_is_whole(log)
    [result] = log["runs"][0]["results"]
    assert "VERSOIN" in result["message"]["text"] and "ruleId" not in result


def test_annotations_cannot_be_forged(assemble: Any, context: Callable[..., Path]) -> None:
    text = "FROM busybox\nWORKDIR x\r::error::y,z:%0A\n"
    done = assemble("check", "--format", "github", context(text), code=1)
    [line] = done.stdout.splitlines()
    assert line.startswith("::warning ") and "%250A" in line


def test_check_does_without_a_base_it_cannot_have(
    assemble: Any, context: Callable[..., Path], no_images: Mapping[str, str]
) -> None:
    path = context("FROM nowhere\nCOPY $x .\nCMD y\n")
    for arguments in ((), ("--offline",)):
        done = assemble("check", *arguments, path, code=1, **no_images)
        assert "JSONArgsRecommended" in done.stdout and "UndefinedVar" not in done.stdout
        assert ("library/nowhere" in done.stderr) == (not arguments)


def test_check_looks_at_every_stage_or_at_what_a_target_needs(
    assemble: Any, context: Callable[..., Path]
) -> None:
    path = context("FROM scratch AS a\nCOPY $x .\nFROM scratch AS b\nCOPY $y .\n")
    assert assemble("check", path, code=1).stdout.count("UndefinedVar") == 2
    only = assemble("check", "--target", "a", path, code=1).stdout
    assert "'$x'" in only and "'$y'" not in only


def test_check_knows_the_ignore_file(assemble: Any, context: Callable[..., Path]) -> None:
    path = context("FROM busybox\nCOPY secret /\n", secret="x", **{".dockerignore": "secret\n"})
    assert "CopyIgnoredFile" in assemble("check", path, code=1).stdout


# warnings of a build


def test_a_build_lists_its_warnings_at_the_end(assemble: Any, context: Callable[..., Path]) -> None:
    path = context("FROM busybox as x\nENV k v\nCMD y\n")
    done = assemble("build", "--progress", "plain", path)
    assert done.stderr.endswith(
        "\n"
        " 3 warnings found (use assemble --debug to expand):\n"
        " - FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)\n"
        ' - LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value"'
        " format (line 2)\n"
        " - JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior"
        " related to OS signals (line 3)\n"
    )
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", done.stdout)
    assert assemble("build", "-q", path).stderr == ""
    assert "More info: " + RULE in assemble("--debug", "build", path).stderr

    lines = assemble("build", "--progress", "rawjson", path).stderr.splitlines()
    warnings = [one for line in lines for one in json.loads(line).get("warnings", ())]
    shorts = [base64.b64decode(one["short"]).decode() for one in warnings]
    assert len(shorts) == 3 and shorts[0].endswith("do not match (line 1)")


def test_warnings_stand_before_the_error_of_a_build(
    assemble: Any, context: Callable[..., Path]
) -> None:
    done = assemble("build", context("FROM busybox as x\nRUN exit 3\n"), code=1)
    summary = done.stderr.index(" 1 warning found")
    assert summary < done.stderr.index("Dockerfile:2\n") < done.stderr.index("\nERROR: ")


def test_D7_warnings_that_are_errors_fail_the_build(
    assemble: Any, context: Callable[..., Path]
) -> None:
    path = context("# check=error=true\nFROM busybox as x\nENV k v\n")
    done = assemble("build", path, code=1)
    assert done.stdout == ""
    assert " 2 warnings found" in done.stderr
    assert done.stderr.endswith(
        "\nERROR: lint violation found for rules: FromAsCasing, LegacyKeyValueFormat\n"
    )
    assemble("build", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all", path)
    strict = "BUILDKIT_DOCKERFILE_CHECK=error=true;skip=FromAsCasing"
    done = assemble("build", "--build-arg", strict, context("FROM busybox as x\nENV k v\n"), code=1)
    assert done.stderr.endswith("rules: LegacyKeyValueFormat\n")


# --call outline and targets

TARGETS = """\
# build makes it
FROM busybox AS build
FROM busybox
# out is what is pushed
FROM --platform=$BUILDPLATFORM build AS out
"""


def test_targets_as_buildx_prints_them(assemble: Any, context: Callable[..., Path]) -> None:
    path = context(TARGETS)
    done = assemble("build", "--call", "targets", path)
    assert (done.stdout, done.stderr) == (
        "TARGET        DESCRIPTION\n"
        "build         makes it\n"
        "              \n"
        "out (default) is what is pushed\n",
        "",
    )
    document = json.loads(assemble("build", "--call=targets,format=json", path).stdout)
    assert document == {
        "targets": [
            {"name": "build", "description": "makes it", "base": "busybox", "location": place(2, 2)},
            {"base": "busybox", "location": place(3, 3)},
            {
                "name": "out",
                "default": True,
                "description": "is what is pushed",
                "base": "build",
                "platform": "$BUILDPLATFORM",
                "location": place(5, 5),
            },
        ],
        "sources": [base64.b64encode(TARGETS.encode()).decode()],
    }  # fmt: skip
    unnamed = stdin(assemble, "FROM busybox\n", "build", "--call", "targets", "-")
    assert unnamed.stdout == "TARGET    DESCRIPTION\n(default) \n"


OUTLINE = """\
# VERSION of it
ARG VERSION=latest
# out is what is pushed
FROM busybox:${VERSION} AS out
# LEVEL how hard
ARG LEVEL=1
ARG other
RUN --mount=type=secret,id=token,required --mount=type=ssh --mount=type=cache,target=/c x
"""


def test_an_outline_as_buildx_prints_it(assemble: Any, context: Callable[..., Path]) -> None:
    path = context(OUTLINE)
    arguments = ("--build-arg", "LEVEL=9")
    done = assemble("build", *arguments, "--call", "outline", path)
    assert (done.stdout, done.stderr) == (
        "TARGET:      out\n"
        "DESCRIPTION: is what is pushed\n"
        "\n"
        "BUILD ARG   VALUE    DESCRIPTION\n"
        "VERSION     latest   of it\n"
        "LEVEL       9        how hard\n"
        "other                \n"
        "\n"
        "SECRET   REQUIRED\n"
        "token    true\n"
        "\n"
        "SSH       REQUIRED\n"
        "default   \n"
        "\n",
        "",
    )
    document = json.loads(assemble("build", *arguments, "--call=outline,format=json", path).stdout)
    assert document == {
        "name": "out",
        "description": "is what is pushed",
        "args": [
            {"name": "VERSION", "description": "of it", "value": "latest", "location": place(2, 2)},
            {"name": "LEVEL", "description": "how hard", "value": "9", "location": place(6, 6)},
            {"name": "other", "location": place(7, 7)},
        ],
        "secrets": [{"name": "token", "required": True, "location": place(8, 8)}],
        "ssh": [{"name": "default", "location": place(8, 8)}],
        "cache": [{"ID": "/c", "location": place(8, 8)}],
        "sources": [base64.b64encode(OUTLINE.encode()).decode()],
    }
    assert stdin(assemble, "FROM busybox\n", "build", "--call", "outline", "-").stdout == ""


@pytest.mark.parametrize("method", ["outline", "targets", "outline,format=json"])
def test_a_parse_error_of_a_call_is_the_usual_error(
    assemble: Any, context: Callable[..., Path], method: str
) -> None:
    done = assemble("build", "--call", method, context(BROKEN), code=1)
    assert done.stdout == "" and done.stderr.endswith(f"\nERROR: {PARSE_ERROR}\n")
    assert "   3 | >>> CPOY a b\n     |     ^^^^\n" in done.stderr


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("outlin", "--call outlin: unknown method (did you mean outline?)"),
        ("nothing", "--call nothing: unknown method"),
        ("targets,format=yaml", "--call targets,format=yaml: unknown format 'yaml'"),
        ("check,format=yaml", "unknown format 'yaml'"),
        ("check,frmat=json", "--call check,frmat=json: unknown option"),
        ("check,ignorestatus=x", "--call check,ignorestatus=x: invalid ignorestatus value 'x'"),
    ],
)
def test_calls_that_are_none(
    assemble: Any, context: Callable[..., Path], method: str, message: str
) -> None:
    done = assemble("build", "--call", method, context(TARGETS), code=2)
    assert done.stdout == "" and done.stderr.splitlines()[-1] == f"ERROR: {message}"


def test_what_a_call_prints_is_safe_for_a_terminal(
    assemble: Any, context: Callable[..., Path]
) -> None:
    text = "# out \x1b[2J\nFROM busybox AS out\nARG X=\x1b]0;t\x07\n"
    for method in ("outline", "targets"):
        shown = assemble("build", "--call", method, context(text)).stdout
        assert "\\x1b" in shown and all(char.isprintable() or char == "\n" for char in shown)


# plan


def tree(path: Path) -> dict[str, int]:
    """Every file below `path` with its size."""
    return {
        str(found.relative_to(path)): found.stat().st_size
        for found in path.rglob("*")
        if found.is_file() and not found.name.startswith("cache.db") and found.name != "lock"
    }


def test_plan_makes_nothing_and_needs_no_namespace(
    assemble: Any, context: Callable[..., Path], without_namespaces: list[str]
) -> None:
    store = Path(assemble.env["ASSEMBLE_STORE"])
    path = context("FROM busybox AS a\nCOPY x /\nRUN y\nFROM a\nCOPY --from=a /z /\n", x="1")
    before = tree(store)
    outside = tree(path)
    for style in ("text", "json", "dot", "mermaid"):
        done = assemble("plan", "--offline", "--format", style, path, prefix=without_namespaces)
        assert done.stdout and done.stderr == ""
    assert (tree(store), tree(path)) == (before, outside)
    assert not list((store / "layers").rglob("*/*")) if (store / "layers").exists() else True


def test_a_plan_that_asks_no_registry_imports_no_client(
    assemble: Any, context: Callable[..., Path]
) -> None:
    path = context("FROM busybox\nCOPY x /\nRUN y\n", x="1")
    command = [sys.executable, "-X", "importtime", "-m", "assembler"]
    for arguments in (("plan", "--offline"), ("check", "--offline"), ("build", "--call=targets")):
        done = subprocess.run(
            [*command, *arguments, str(path)],
            env=assemble.env,
            capture_output=True,
            text=True,
            check=True,
        )
        lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
        imported = {line.rpartition("|")[2].strip() for line in lines}
        assert "assembler.builder" in imported
        assert not {"httpx", "ssl", "asyncio", "rich", "pyoci", "zstandard"} & imported


def fates(shown: str) -> list[str]:
    return re.findall(r"^  (cached|run|pending|unneeded) ", shown, re.M)


def test_a_plan_knows_what_is_cached(assemble: Any, context: Callable[..., Path]) -> None:
    path = context(
        "FROM busybox AS a\nCOPY x /\nRUN echo y > /y\nFROM busybox\nRUN echo z\n"
        "COPY --from=a /y /\n",
        x="1",
    )
    assert fates(assemble("plan", path).stdout) == ["run", "run", "run", "pending"]
    assemble("build", path)
    assert fates(assemble("plan", path).stdout) == ["cached"] * 4
    shown = assemble("plan", path).stdout
    assert shown.endswith("2 stages, 4 steps: 4 known, 0 to execute; nothing to pull\n")
    (path / "x").write_text("2")
    assert fates(assemble("plan", path).stdout) == ["run", "run", "cached", "pending"]
    done = assemble("build", "--progress", "plain", path)
    assert re.search(
        r"COPY --from=a /y /\n#\d+ CACHED \(local, \d+ (s|min) old\)\n", done.stderr
    ), "the same file again"


def test_a_plan_of_a_build_that_uses_no_cache(assemble: Any, context: Callable[..., Path]) -> None:
    path = context("FROM busybox AS a\nRUN :\nFROM busybox\nRUN echo y\nCOPY --from=a / /z\n")
    assemble("build", path)
    assert fates(assemble("plan", path).stdout) == ["cached"] * 3
    assert fates(assemble("plan", "--no-cache", path).stdout) == ["run"] * 3
    fresh = assemble("plan", "--no-cache-filter", "a", path).stdout
    assert fates(fresh) == ["run", "cached", "pending"]


def test_a_plan_counts_what_will_be_pulled(
    assemble: Any, context: Callable[..., Path], tmp_path: Path
) -> None:
    with MemoryRegistry() as registry:
        name = f"{registry.host}/team/base:1"
        assemble("push", "busybox", name)
        path = context(f"FROM {name}\nRUN x\n")
        empty = {"ASSEMBLE_STORE": str(tmp_path / "empty")}

        done = assemble("plan", "--offline", path, code=1, **empty)
        assert f"  {name}  missing (linux/" in done.stdout
        assert done.stdout.endswith("nothing to pull; 1 image is missing\n")
        assert done.stderr.splitlines()[-1] == f"ERROR: the store lacks {name}"

        done = assemble("plan", path, **empty)
        assert re.search(r"1 layer, 1\.\d MB, 1\.\d MB of it to pull\n", done.stdout)
        assert re.search(
            r"1 stage, 1 step: 0 known, 1 to execute; 1\.\d MB to pull\n$", done.stdout
        )
        document = json.loads(assemble("plan", "--format", "json", path, **empty).stdout)
        [[layer]] = document["forecast"]["pulls"].values()
        assert layer["digest"] not in json.dumps(tree(tmp_path / "empty")), "it was not pulled"

        done = assemble("plan", "--offline", path, code=1, **empty)
        assert re.search(rf"ERROR: the store lacks {name} \(layers, 1\.\d MB\)", done.stderr)


def test_a_plan_as_json_is_the_plan(assemble: Any, context: Callable[..., Path]) -> None:
    from assembler.plan.document import from_document, to_document

    path = context("FROM busybox AS a\nCOPY x /\nRUN y\nFROM a\nCOPY --from=a /z /\n", x="1")
    document = json.loads(assemble("plan", "--format", "json", path).stdout)
    forecast = document.pop("forecast")
    plan = from_document(document)
    assert to_document(plan) == document
    assert [(one["stage"], one["step"], one["fate"]) for one in forecast["steps"]] == [
        (0, 0, "run"), (0, 1, "run"), (1, 0, "pending")
    ]  # fmt: skip
    assert [stage.title for stage in plan.stages] == ["a", "stage-1"]


def test_the_picture_of_the_seed(
    assemble: Any, require: Callable[..., None], tmp_path: Path
) -> None:
    require("dot")
    missing = assemble("plan", "--offline", "--format", "svg", TWO_BRANCHES, code=1)
    assert "debian:latest" in missing.stdout and "missing" in missing.stdout
    assert missing.stdout.count("<svg") == 1 and missing.stdout.rstrip().endswith("</svg>")
    for words in ("build-essential", "(target)", "make gcc", "--from=bar src/bar /bin/bar"):
        assert words in missing.stdout.replace("&#45;", "-")
    clusters = missing.stdout.count('class="cluster"')
    edges = missing.stdout.count('class="edge"')
    assert (clusters, edges) == (4, 14)
    without = str(Path(sys.executable).parent)
    done = assemble("plan", "--offline", "--format", "svg", TWO_BRANCHES, code=1, PATH=without)
    assert done.stderr.splitlines()[-2:] == [
        "hint: apt-get install graphviz, or take --format dot or mermaid",
        "ERROR: a picture needs graphviz, which is not installed",
    ]


def test_plan_reads_stdin_and_shows_errors(assemble: Any, context: Callable[..., Path]) -> None:
    done = stdin(assemble, "FROM busybox\nRUN x\n", "plan", "-")
    assert done.returncode == 0 and "  run       RUN x\n" in done.stdout
    done = assemble("plan", context(BROKEN), code=1)
    assert done.stdout == "" and done.stderr.endswith(f"ERROR: {PARSE_ERROR}\n")


# section 11: every error text


def blamed(stderr: str) -> str:
    """What the carets of an excerpt are under; empty without carets."""
    lines = stderr.splitlines()
    for line, below in pairwise(lines):
        if below.strip().strip("|").strip().startswith("^"):
            return line[below.index("^") : below.rindex("^") + 1]
    return ""


def marked(stderr: str) -> list[int]:
    """The numbers of the lines with `>>>`."""
    return [int(number) for number in re.findall(r"^ +(\d+) \| >>>", stderr, re.M)]


ERRORS = [
    ("FROM busybox\nRUN x\nCPOY a b\n", [3], "CPOY", "",
     "dockerfile parse error on line 3: unknown instruction: CPOY (did you mean COPY?)"),
    ("FROM busybox\nCOPY --chwon=1 a /\n", [2], "--chwon", "",
     "unknown flag: --chwon (did you mean chown?)"),
    ("FROM busybox AS\nRUN x\n", [1], "", "", "FROM requires either one or three arguments"),
    ("RUN x\nFROM busybox\n", [1], "", "only ARG may stand before the first FROM",
     "no build stage in current context"),
    ("FROM busybox AS 2x\n", [1], "2x", "",
     'invalid name for build stage: "2x", name can\'t start with a number or contain symbols'),
    ("FROM busybox\nCOPY a\n", [2], "", "",
     "COPY requires at least two arguments, but only one was provided. Destination could not be"
     " determined"),
    ("FROM busybox\nCOPY x /\n", [2], "x", "",
     'failed to compute cache key: failed to calculate checksum of ref: "/x": not found'),
    ("FROM busybox\nCOPY \\\n  Dockerfil \\\n  /\n", [2, 3, 4], "Dockerfil",
     "did you mean Dockerfile?",
     'failed to compute cache key: failed to calculate checksum of ref: "/Dockerfil": not found'),
    ("FROM ${X}\n", [1], "${X}", "give the ARG a default, or a --build-arg",
     "base name (${X}) should not be blank"),
    ("FROM busybox\nRUN exit 2\n", [2], "", "",
     'process "/bin/sh -c exit 2" did not complete successfully: exit code: 2'),
    ("FROM busybox\nRUN <<E\nexit 2\nE\nCMD [\"x\"]\n", [2, 3, 4], "", "",
     'process "/bin/sh -c exit 2\\n" did not complete successfully: exit code: 2'),
    ("FROM busybox\nRUN --mount=type=cahe,target=/x y\n", [2], "type=cahe,target=/x", "",
     'unsupported mount type "cahe" (did you mean cache?)'),
    ("FROM busybox\nRUN --mount=type=cache,taget=/x y\n", [2], "type=cache,taget=/x", "",
     "unexpected key 'taget' in 'taget=/x' (did you mean target?)"),
    ("FROM busybox\nRUN --mount=type=cache,target=/x,sharing=locke y\n", [2],
     "type=cache,target=/x,sharing=locke", "",
     'unsupported sharing value "locke" (did you mean locked?)'),
    ("FROM busybox\nRUN --mount=type=secret,id=mysecret,required y\n", [2], "",
     "give it with --secret id=mysecret,src=FILE", "secret mysecret: not found"),
    ("FROM busybox\nSHELL /bin/bash -c\n", [2], "/bin/bash -c",
     'write it as SHELL ["/bin/sh", "-c"]', "SHELL requires the arguments to be in JSON form"),
    ("FROM busybox\nENV KEY\n", [2], "KEY", "", "ENV must have two arguments"),
    ("FROM busybox\nWORKDIR\n", [2], "", "", "WORKDIR requires exactly one argument"),
    ("FROM busybox\nVOLUME\n", [2], "", "", "VOLUME requires at least one argument"),
    ("FROM busybox AS a\nCOPY --from=b x y\nFROM busybox AS b\nCOPY --from=a x y\n", [1], "", "",
     "circular dependency detected on stage: a"),
    ("ARG V=${V:?need V}\nFROM busybox\n", [1], "${V:?need V}", "",
     'failed to process "${V:?need V}": V: need V'),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "lines", "word", "hint", "message"), ERRORS, ids=[case[-1][:40] for case in ERRORS]
)
def test_every_error_text_of_section_11(
    assemble: Any,
    context: Callable[..., Path],
    text: str,
    lines: list[int],
    word: str,
    hint: str,
    message: str,
) -> None:
    for ending in (text, text.replace("\n", "\r\n")) if "RUN" not in text else (text,):
        done = assemble("build", "--progress", "quiet", context(ending), code=1)
        assert done.stdout == ""
        *before, last = done.stderr.splitlines()
        assert last == f"ERROR: {message}"
        assert before[0] == f"Dockerfile:{lines[0]}"
        assert marked(done.stderr) == lines
        assert blamed(done.stderr) == word
        assert (before[-1] == f"hint: {hint}") if hint else (before[-1] == "-" * 20)


def test_a_wrong_target_is_completed(assemble: Any, context: Callable[..., Path]) -> None:
    path = context("FROM busybox AS build\nFROM busybox AS release\n")
    done = assemble("build", "--progress", "quiet", "--target", "rel", path, code=1)
    assert (done.stdout, done.stderr) == (
        "",
        "hint: stages with a name: build, release\n"
        'ERROR: target stage "rel" could not be found (did you mean release?)\n',
    )


def test_S15_a_stage_that_is_none_is_taken_for_an_image(
    assemble: Any, context: Callable[..., Path], no_images: Mapping[str, str]
) -> None:
    path = context("FROM busybox AS build\nFROM busybox\nCOPY --from=biuld /x /\n")
    done = assemble("build", "--progress", "quiet", path, code=1, **no_images)
    assert done.stdout == ""
    assert re.search(r"ERROR: .*library/biuld.*\(did you mean build\?\)\n$", done.stderr)
    assert (marked(done.stderr), blamed(done.stderr)) == ([3], "biuld")


def test_an_address_that_does_not_answer_is_no_registry(
    assemble: Any, context: Callable[..., Path], free_port: int
) -> None:
    url = f"http://127.0.0.1:{free_port}/file"
    done = assemble("build", "--progress", "quiet", context(f"FROM busybox\nADD {url} /\n"), code=1)
    *_, hint, last = done.stderr.splitlines()
    assert last.startswith(f"ERROR: cannot reach 127.0.0.1:{free_port} for {url}: ")
    assert (
        hint == "hint: is the address right, and does this machine trust the server's certificate?"
    )
    assert (marked(done.stderr), blamed(done.stderr)) == ([2], url)
    git = f"http://127.0.0.1:{free_port}/r.git"
    done = assemble("build", "--progress", "quiet", context(f"FROM busybox\nADD {git} /\n"), code=1)
    assert "registry" not in done.stderr and blamed(done.stderr) == git


def test_an_excerpt_on_a_terminal_fits_it(assemble: Any, context: Callable[..., Path]) -> None:
    path = context(f"FROM busybox\nRUN {'x' * 300}\nCOPY --nope {'y' * 300} /\n")
    code = (
        "import fcntl, os, pty, struct, sys, termios\n"
        "pid, fd = pty.fork()\n"
        "if pid == 0: os.execvp(sys.argv[1], sys.argv[1:])\n"
        "fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 60, 0, 0))\n"
        "out = b''\n"
        "try:\n"
        "    while piece := os.read(fd, 65536): out += piece\n"
        "except OSError: pass\n"
        "sys.stdout.buffer.write(out)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *assemble.command("build", path)],
        env=assemble.env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = done.stdout.replace("\r", "").splitlines()
    assert max(map(len, lines)) <= 60 and "--nope" in done.stdout and "^^^^^^" in done.stdout


def test_no_picture_is_left_behind(assemble: Any, tmp_path: Path) -> None:
    if shutil.which("dot") is None:
        pytest.skip("not installed: dot")
    before = set(os.listdir(tmp_path))
    assemble("plan", "--offline", "--format", "svg", TWO_BRANCHES, code=1)
    assert set(os.listdir(tmp_path)) == before
