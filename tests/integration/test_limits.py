"""What holds a step of an unprivileged user where no cgroup can be had (rules R5, B11, RS-07)."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path
from typing import Any

import pytest

from assembler.linux.places import limitable

pytestmark = pytest.mark.integration
COUNT = (
    "(i=0; while [ $i -lt 3000 ]; do sleep 1000 >/dev/null & i=$((i+1)); echo $i; done) 2>/dev/null"
    " | tail -n 1 > /made; read made < /made; echo made $made"
)


def test_B11_a_fork_bomb_leaves_the_builder_processes(assemble: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        f"FROM busybox\nRUN {COUNT}\nRUN echo and $(echo on) it goes\n"
    )
    done = assemble("build", tmp_path, prefix=["prlimit", "--nproc=1000:1000"])
    found = re.search(r" made ([0-9]+)\n", done.stderr)
    assert found is not None, done.stderr
    if os.getuid() == 0:
        return  # the kernel holds no process of the host's root to this limit
    assert 600 < int(found[1]) < 744, "256 are left to the builder"
    assert " and on it goes\n" in done.stderr


def test_R5_the_limit_of_processes_that_is_asked_for_is_the_one(
    assemble: Any, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo $(ulimit -u) $(ulimit -Hu)\n")
    done = assemble("build", tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    found = re.search(r" ([0-9]+) ([0-9]+|unlimited)\n", done.stderr)
    assert found is not None, done.stderr
    assert int(found[1]) < (soft if soft > 0 else 1 << 62)
    assert found[2] == (str(hard) if hard > 0 else "unlimited"), "a step may know better"
    done = assemble("build", "--ulimit", "nproc=500:600", "--no-cache", tmp_path)
    assert " 500 600\n" in done.stderr


def test_R5_limits_that_cannot_be_set_are_an_error_with_what_would_help(
    assemble: Any, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo ran\n")
    code = 0 if "memory" in limitable()[0] else 1
    done = assemble("build", "--resource", "memory=64m", tmp_path, code=code)
    assert (" ran\n" in done.stderr) == (code == 0)
    if code:
        last = done.stderr.splitlines()
        assert "memory" in last[-1] and ("/sys/fs/cgroup" in last[-1] or "no cgroup" in last[-1])
        assert last[-2].startswith("hint: systemd-run ")


def test_doctor_says_what_can_be_limited(assemble: Any) -> None:
    (line,) = (one for one in assemble("doctor").stdout.splitlines() if "delegated" in one)
    names, problem = limitable()
    assert line.startswith("ok  " if names else "no  ")
    assert (f"{', '.join(names)} of a step can be limited" if names else problem) in line
