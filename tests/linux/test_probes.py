"""What a host can do, as the kernel says it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from assembler.linux import fuse, probes
from assembler.linux.probes import Report, report
from assembler.linux.userns import plan_map
from tests.bounds import watchdog

pytestmark = pytest.mark.integration


def answers(found: Report) -> dict[str, bool]:
    return {answer.feature: answer.works for answer in found.answers}


def test_the_report_is_what_builds_here_do(tmp_path: Path) -> None:
    found = report(str(tmp_path / "store"))
    assert found.mode == plan_map().kind
    assert answers(found)["overlay mounts"]
    assert answers(found)["system call filters"]
    assert answers(found)["other owners"] == (found.mode != "single")
    assert answers(found)["supervised system calls"]


def mounted(*places: str) -> list[str]:
    """What is mounted at `places` and below; others mount elsewhere meanwhile."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [(f"{line.split()[4]}/", line) for line in lines]
    return [line for point, line in points for one in places if point.startswith(f"{one}/")]


def test_nothing_of_the_questions_stays(tmp_path: Path) -> None:
    places = ("/proc", "/sys", str(tmp_path))
    before = mounted(*places)
    report(str(tmp_path / "store"))
    assert os.listdir(tmp_path) == []
    assert mounted(*places) == before and before


def test_a_store_may_be_named_from_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with watchdog(20), probes._directory("no/store") as directory:
        assert os.path.samefile(os.path.dirname(directory), tmp_path)


def test_questions_that_need_proc_are_asked_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [probe for probe in probes._PROBES if probe.feature == "a /proc of its own"]
    after = probes._Probe("after", lambda _: Path("/proc/self/stat").read_text(), "", "")
    monkeypatch.setattr(probes, "_PROBES", [*own, after])
    assert answers(report(str(tmp_path)))["after"]


def test_each_question_has_a_deadline_and_all_together_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(directory: str) -> str:
        time.sleep(0.2)
        return ""

    def stuck(directory: str) -> str:
        time.sleep(900)
        return ""

    kinds = [(f"{ask.__name__} {n}", ask) for n, ask in enumerate([slow, stuck] * 3)]

    def asked() -> Iterator[probes._Probe]:
        """In the fork that asks them: those that are stuck have little time, the others enough."""
        for name, ask in kinds:
            probes._DEADLINE = 0.3 if ask is stuck else 600
            yield probes._Probe(name, ask, "", "")

    monkeypatch.setattr(probes, "_PROBES", asked())
    monkeypatch.setattr(probes, "_DEADLINE", 0.1)  # which all together exceed
    found = report(str(tmp_path))
    assert found.mode
    names = [name for name, _ in kinds]
    answers = [answer for answer in found.answers if answer.feature in names]
    assert [answer.works for answer in answers] == [True, False] * 3
    assert answers[1].detail == "no answer in time"


def test_a_store_that_cannot_be_made_is_asked_about_elsewhere() -> None:
    assert report("/proc/no/store").mode


def test_without_newuidmap_one_id_is_mapped_and_the_report_says_what_would_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.getuid() == 0:
        return  # root needs no newuidmap
    monkeypatch.setenv("PATH", str(tmp_path))
    found = report(str(tmp_path / "store"))
    assert found.mode == "single"
    assert "newuidmap is not installed" in found.reason
    assert "other owners are kept in records" in found.reason
    assert found.remedy == "apt-get install uidmap"
    assert not answers(found)["other owners"]


def test_without_fuse_overlayfs_the_report_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = next(one for one in report(str(tmp_path)).answers if one.feature == "fuse-overlayfs")
    assert not found.works
    assert found.detail == "fuse-overlayfs is not installed"
    assert found.remedy == "apt-get install fuse-overlayfs"


def test_where_the_device_is_missing_the_report_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "fuse-overlayfs"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(fuse, "DEVICE", str(tmp_path / "no-device"))
    assert fuse.shortfall(str(tmp_path / "trial"))[0].endswith("No such file or directory")
    assert "--device" in fuse.shortfall(str(tmp_path / "trial"))[1]


@pytest.mark.root
def test_where_overlays_are_refused_the_report_says_what_is_used_instead(tmp_path: Path) -> None:
    script = (
        'mkdir "$0/l" "$0/u" "$0/w" "$0/m" && mount -t overlay overlay'
        ' -o "lowerdir=$0/l,upperdir=$0/u,workdir=$0/w" "$0/m" && "$@" --store "$0/m/store"'
    )
    command = [sys.executable, "-m", "assembler", "doctor"]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(tmp_path), *command],
        capture_output=True,
        text=True,
    )
    assert "no  overlay mounts" in done.stdout, done.stderr
    assert "without: fuse-overlayfs is used instead: many small files take 4 to 10" in done.stdout
    assert "ok  fuse-overlayfs" in done.stdout
