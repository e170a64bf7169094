"""Directories of live processes are left alone, those of dead ones removed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from assembler.cancellation import Cancellation
from assembler.errors import Cancelled
from assembler.linux.claims import claim, dead, discard, held, sweep
from tests.bounds import watchdog
from tests.leftovers import nothing_left

HOLD = (
    "import sys, time; from assembler.linux.claims import claim\n"
    "c = claim(sys.argv[1]); open(c.path + '/x', 'w').close(); print(c.path, flush=True); time.sleep(900)\n"
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
    owner.wait(60)
    sweep(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_making_and_sweeping_at_once_never_takes_a_live_one(tmp_path: Path) -> None:
    workers = [subprocess.Popen([sys.executable, "-c", CHURN, str(tmp_path)]) for _ in range(6)]
    assert [worker.wait(600) for worker in workers] == [0] * 6
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_removed_now_is_left_to_the_next_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path)

    def busy(path: str) -> None:
        raise OSError(errno.ENOTEMPTY, "somebody writes into it")

    with monkeypatch.context() as patched, Cancellation() as wish:
        patched.setattr("assembler.linux.claims.remove_tree", busy)
        sweep(str(tmp_path))
        discard(dead(str(tmp_path)), wish)
    assert len(os.listdir(tmp_path)) == 1
    sweep(str(tmp_path))
    assert os.listdir(tmp_path) == []


def leave(parent: Path) -> None:
    """Leave a claim without an owner, with a closed directory in it."""
    code = (
        "import os, sys; from assembler.linux.claims import claim\n"
        "c = claim(sys.argv[1]); os.makedirs(c.path + '/closed/x'); os.chmod(c.path + '/closed', 0)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(parent)], check=True)


def test_discarded_claims_are_gone_and_unlocked(tmp_path: Path) -> None:
    leave(tmp_path)
    leave(tmp_path)
    with nothing_left(), Cancellation() as wish:
        discard(dead(str(tmp_path)), wish)
    assert os.listdir(tmp_path) == []
    assert dead(str(tmp_path / "missing")) == []


def test_a_sweep_ends_with_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(tmp_path)
    monkeypatch.setattr("assembler.linux.claims.remove_tree", lambda path: time.sleep(90))
    with Cancellation() as wish:
        wish.cancel(2)
        with watchdog(), pytest.raises(Cancelled):
            discard(dead(str(tmp_path)), wish)


def test_a_lock_that_is_held_is_waited_for_until_the_check_raises(tmp_path: Path) -> None:
    turns = iter([None, None, Cancelled()])

    def check() -> None:
        if (error := next(turns)) is not None:
            raise error

    with held(str(tmp_path)), pytest.raises(Cancelled), held(str(tmp_path), check):
        pass
    with held(str(tmp_path), check):
        pass


def test_more_dead_owners_than_files_can_be_open_are_swept(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / str(number) / "inside").mkdir(parents=True)
    script = (
        "import resource, sys; from assembler.linux.claims import sweep\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); sweep(sys.argv[1])"
    )  # a process of its own: this one may have more files open
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert os.listdir(tmp_path) == []
