"""Directories of live processes are left alone, those of dead ones removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from assembler.linux.claims import claim, sweep

HOLD = (
    "import sys, time; from assembler.linux.claims import claim\n"
    "c = claim(sys.argv[1]); open(c.path + '/x', 'w').close(); print(c.path, flush=True); time.sleep(60)\n"
)
CHURN = (
    "import os, sys; from assembler.linux.claims import claim, sweep\n"
    "for _ in range(150):\n"
    "    sweep(sys.argv[1])\n"
    "    with claim(sys.argv[1]) as c: os.mkdir(c.path + '/inside')\n"
)


def test_a_claim_is_gone_after_its_block(tmp_path: Path) -> None:
    with claim(str(tmp_path)) as claimed:
        assert os.stat(claimed.path).st_mode & 0o777 == 0o700
        sweep(str(tmp_path))
        assert os.path.isdir(claimed.path), "a live claim is not swept"
    assert os.listdir(tmp_path) == []


def test_a_dead_owners_directory_is_swept(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    with owner.stdout:
        path = owner.stdout.readline().decode().strip()
    sweep(str(tmp_path))
    assert os.path.isdir(path)
    owner.send_signal(signal.SIGKILL)
    owner.wait(10)
    sweep(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_making_and_sweeping_at_once_never_takes_a_live_one(tmp_path: Path) -> None:
    workers = [subprocess.Popen([sys.executable, "-c", CHURN, str(tmp_path)]) for _ in range(6)]
    assert [worker.wait(120) for worker in workers] == [0] * 6
    assert os.listdir(tmp_path) == []
