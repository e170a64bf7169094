"""Ending what a step started."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, subprocess
from assembler.linux import reaping
reaping.adopt()
served = subprocess.Popen(["sleep", "9000"])
for command in ("sleep 9000", "setsid sleep 9000 & exec sleep 9000", "(setsid sleep 9000 &) &"):
    subprocess.Popen(["sh", "-c", command])
reaping.end_children(spared=[served.pid])
assert reaping.children() == [served.pid]
os.kill(served.pid, 0)
served.kill()
reaping.end_children()
assert reaping.children() == []
"""


@pytest.mark.integration
def test_everything_ends_but_what_is_spared() -> None:
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
