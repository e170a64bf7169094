"""What holds a step without cgroups."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from assembler.linux import hierarchies
from assembler.linux.cgroups import default_processes
from assembler.linux.hierarchies import Hierarchy

SCRIPT = """
import json, resource
from assembler.linux import restraint
def score(): return int(open("/proc/self/oom_score_adj").read())
before = score()
limits = [restraint.process_limit(n) for n in (10, 1 << 22)]
restraint.offer_to_the_oom_killer(); once = score()
restraint.offer_to_the_oom_killer(); restraint.offer_to_the_oom_killer()
print(json.dumps([before, once, score(), limits]))
"""


def told(nproc: str) -> Any:
    command = ["prlimit", f"--nproc={nproc}", sys.executable, "-c", SCRIPT]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def test_B11_a_step_looks_bigger_to_the_oom_killer() -> None:
    before, once, often, _ = told("1000:2000")
    assert once == min(1000, before + 500)
    assert often == 1000, "the kernel knows nothing above"


@pytest.mark.parametrize(
    ("nproc", "few", "many"),
    [("1000:2000", [10, 2000], [750, 2000]), ("8000:8000", [10, 8000], [7744, 8000])],
)
def test_RS04_a_step_may_have_fewer_processes_than_the_builder(
    nproc: str, few: list[int], many: list[int]
) -> None:
    assert told(nproc)[3] == [few, many]


def test_B11_without_any_limit_the_kernels_own_bounds_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hierarchies, "mounted", lambda: ())
    bounds = [
        int(Path(f"/proc/sys/kernel/{name}").read_text()) for name in ("pid_max", "threads-max")
    ]
    assert default_processes() == min(bounds) * 3 // 4


def test_B11_in_a_pod_its_own_bound_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pids.max").write_text("1024\n")
    pod = Hierarchy(2, str(tmp_path), str(tmp_path))
    monkeypatch.setattr(hierarchies, "mounted", lambda: (pod,))
    assert default_processes() == 768


def test_the_hard_limit_is_this_processs() -> None:
    from assembler.linux.restraint import process_limit

    assert process_limit(10)[1] == resource.getrlimit(resource.RLIMIT_NPROC)[1]
