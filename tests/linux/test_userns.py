"""Id maps: which one a process can have, and what is said when it can have none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from assembler.linux.userns import IdMap, subordinate


def test_subordinate_ranges_are_found_by_name_and_number(tmp_path: Path) -> None:
    import pwd

    name = pwd.getpwuid(os.getuid()).pw_name
    path = tmp_path / "subuid"
    path.write_text(f"other:1:5\n{name}:100000:65536\n{os.getuid()}:300000:10\n{name}:bad:line\n")
    assert subordinate(str(path), os.getuid()) == ((100000, 65536), (300000, 10))


def test_no_file_means_no_ranges(tmp_path: Path) -> None:
    assert subordinate(str(tmp_path / "missing"), os.getuid()) == ()


def test_a_map_of_one_id_is_single_whatever_it_is_called() -> None:
    assert IdMap("identity", ((0, 0, 1),), ((0, 0, 1),), 0, 0).single
    assert not IdMap("full", ((0, 1, 1), (1, 5, 9)), ((0, 1, 1), (1, 5, 9)), 1, 1).single


HANGING = """
import signal, sys
from assembler.cancellation import Cancellation
from assembler.errors import Cancelled
from assembler.linux import userns
userns.plan_map = lambda: userns.IdMap("full", ((0, 0, 1),), ((0, 0, 1),), 0, 0)
with Cancellation() as wish:
    signal.signal(signal.SIGTERM, lambda number, frame: wish.cancel(number))
    try:
        userns.enter(wish)
    except Cancelled:
        sys.exit(42)
"""


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_CN02_a_newuidmap_that_hangs_ends_with_its_caller(tmp_path: Path, number: int) -> None:
    for name in ("newuidmap", "newgidmap"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho >> {tmp_path}/called; sleep 60 & wait\n")
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    # its output ends when the last process that has it does
    with subprocess.Popen([sys.executable, "-c", HANGING], env=env, stdout=subprocess.PIPE) as one:
        deadline = time.monotonic() + 20
        while not (tmp_path / "called").exists():
            assert time.monotonic() < deadline and one.poll() is None
            time.sleep(0.02)
        one.send_signal(number)
        started = time.monotonic()
        assert one.communicate(timeout=20)[0] == b""
        assert time.monotonic() - started < 1.5
    assert one.returncode == (42 if number == signal.SIGTERM else -number)
