"""Programs that this host does not execute: told before the build where that is sure, and by the RUN."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from assembler.linux.elf import EMULATED, program_for
from assembler.linux.emulators import Host

pytestmark = pytest.mark.integration

OWN = Host.here().architecture
FOREIGN = next(one for one in EMULATED if not Host.here().executes(one))
HINT = f"/bin/x is a program for linux/{FOREIGN}, this host is linux/{OWN}"
Make = Callable[..., Path]


@pytest.fixture
def context(tmp_path: Path) -> Make:
    """Makes a context directory of a Dockerfile and of programs."""

    def make(dockerfile: str, name: str = "context", **programs: bytes) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        (directory / "Dockerfile").write_text(dockerfile)
        for file, content in programs.items():
            (directory / file).write_bytes(content)
            (directory / file).chmod(0o755)
        return directory

    return make


REFUSED: Mapping[str, tuple[bytes, str]] = {
    "foreign": (program_for(FOREIGN), HINT),
    "crlf": (b"#!/bin/sh\r\necho\r\n", "the first line of /bin/x ends with CR LF"),
    "script": (b"echo\n", "/bin/x is a script whose first line names no interpreter"),
}


RUNTIMES = ("native", "podman", "crun", "runc", pytest.param("chroot", marks=pytest.mark.root))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_reason_why_a_program_was_refused_is_told_under_every_runtime(
    assemble: Any, require: Callable[..., None], context: Make, runtime: str
) -> None:
    require("podman", "crun", "runc")
    files = {name: content for name, (content, _) in REFUSED.items()}
    directory = context("", **files)
    for name, (_, reason) in REFUSED.items():
        (directory / "Dockerfile").write_text(f'FROM busybox\nCOPY {name} /bin/x\nRUN ["/bin/x"]\n')
        said = assemble("build", "--runtime", runtime, directory, code=1).stderr
        assert f"hint: {reason}" in said and ">>> RUN" in said
        if runtime in ("native", "chroot"):  # the containers of others end with 1
            assert said.endswith(f"exit code: {127 if name == 'crlf' else 126}\n")


def test_the_same_by_a_shell_and_with_one_id_in_copies(
    assemble: Any, context: Make, single_id: list[str]
) -> None:
    directory = context("FROM busybox\nCOPY p /bin/x\nRUN x\n", p=program_for(FOREIGN))
    assert f"hint: {HINT}" in assemble("build", directory, code=1).stderr
    copies = ("build", "--snapshotter", "copy", directory)
    assert f"hint: {HINT}" in assemble(*copies, code=1, prefix=single_id).stderr


def test_N15_a_stage_of_foreign_programs_is_refused_before_anything_runs(
    assemble: Any, context: Make
) -> None:
    platform = ("--platform", f"linux/{FOREIGN}")
    base = context("FROM scratch\nCOPY p /bin/sh\n", name="base", p=program_for(FOREIGN))
    assemble("build", "-t", "foreign", *platform, base)
    own = "FROM --platform=$BUILDPLATFORM busybox AS own\nRUN echo made > /o\n"
    directory = context(f"{own}FROM foreign AS app\nRUN true\nCOPY --from=own /o /o\n")
    done = assemble("build", *platform, directory, code=1)
    assert "[own " not in done.stderr, "nothing was begun"
    assert "Dockerfile:4" in done.stderr and ">>> RUN true" in done.stderr
    assert f"--install {FOREIGN}" in done.stderr
    assert done.stderr.endswith(
        f"ERROR: stage app cannot be built on this host (linux/{OWN}): /bin/sh is a program for"
        f" linux/{FOREIGN}: no emulator for linux/{FOREIGN} is registered here\n"
    )
    warned = assemble("plan", *platform, directory)
    assert "WARNING: Dockerfile:4: stage app is for" in warned.stderr
    (directory / "Dockerfile").write_text(f"{own}FROM foreign\nCOPY --from=own /o /o\nRUN true\n")
    done = assemble("build", *platform, directory, code=1)
    assert "WARNING: Dockerfile:5: stage stage-1 is for" in done.stderr
    assert f"hint: /bin/sh is a program for linux/{FOREIGN}" in done.stderr


def test_N15_programs_of_this_host_run_whatever_platform_their_image_is_for(
    assemble: Any, context: Make
) -> None:
    platform = ("--platform", f"linux/{FOREIGN}")
    base = context(
        "FROM --platform=$BUILDPLATFORM busybox AS b\nFROM scratch\nCOPY --from=b / /\n", "base"
    )
    assemble("build", "-t", "odd", *platform, base)
    directory = context("FROM odd\nRUN echo runs\n")
    done = assemble("build", *platform, directory)
    assert "runs" in done.stderr and "WARNING" not in done.stderr
    assert "CACHED" in assemble("build", *platform, directory).stderr


def test_the_doctor_tells_what_is_executed_here(assemble: Any) -> None:
    (line,) = [one for one in assemble("doctor").stdout.splitlines() if one[:9] == "executes "]
    assert f"linux/{OWN}" in line and f"linux/{FOREIGN}" not in line.split(";")[0]
    found = json.loads(assemble("doctor", "--format", "json").stdout)["platforms"]
    assert found[0] == {"platform": f"linux/{OWN}", "emulator": "", "in_image": False}
    assert f"linux/{FOREIGN}" not in [one["platform"] for one in found]
