"""Id maps: which one a process can have, and what is said when it can have none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from assembler.linux.userns import IdMap, group_is_mapped, subordinate
from tests.bounds import watchdog


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


def test_M12_a_group_is_mapped_where_the_kernel_says_so() -> None:
    with Path("/proc/self/gid_map").open() as stream:
        first, _, count = map(int, stream.readline().split())
    assert group_is_mapped(first) and group_is_mapped(first + count - 1)
    assert not group_is_mapped(1 << 32)


def inside(script: str, *arguments: str, **env: str) -> str:
    """What `script` prints: entering a namespace is for a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


NESTED = """
import os
from assembler.linux import userns
outer = userns.enter()
inner = userns.enter()
def shown(which):
    with open(f"/proc/self/{which}_map") as stream: return [tuple(map(int, l.split())) for l in stream]
print(outer.single, inner.kind, shown("uid") == list(inner.uids), shown("gid") == list(inner.gids))
print(all(a == b for a, b, _ in inner.uids), sum(n for _, _, n in inner.uids) == sum(
    n for _, _, n in outer.uids), len(inner.uids))
with open("/proc/self/setgroups") as stream: print(stream.read().strip())
os.setgroups([]); os.chown("/proc/self/fd/1", -1, -1)
print(os.getuid(), os.getresuid(), os.getresgid())
"""


@pytest.mark.integration
def test_root_in_a_namespace_copies_its_extents_one_by_one_as_they_are() -> None:
    """A line of a map must lie inside one extent of the parent's: one line over two is EPERM."""
    lines = inside(NESTED).splitlines()
    if lines[0].startswith("True"):
        pytest.skip("this user has one id")
    assert lines[:3] == ["False identity True True", "True True 2", "allow"]
    assert lines[3] == "0 (0, 0, 0) (0, 0, 0)"


@pytest.mark.integration
def test_a_process_with_threads_is_told_that_it_is_too_late() -> None:
    script = (
        "import threading; from assembler.errors import HostError\n"
        "from assembler.linux import userns\n"
        "end = threading.Event(); threading.Thread(target=end.wait).start()\n"
        "try: userns.enter()\n"
        "except HostError as error: print(error.message)\n"
        "end.set()\n"
    )
    assert inside(script) == "the user namespace must be entered before threads start\n"


@pytest.mark.integration
def test_what_newuidmap_says_is_told(tmp_path: Path) -> None:
    if os.getuid() == 0:
        return  # root needs no newuidmap
    for name in ("newuidmap", "newgidmap"):
        (tmp_path / name).write_text("#!/bin/sh\necho range not allowed >&2; exit 1\n")
        (tmp_path / name).chmod(0o755)
    script = (
        "from assembler.errors import NamespacesForbidden\nfrom assembler.linux import userns\n"
        "try: userns.enter()\nexcept NamespacesForbidden as error: print(error.message)\n"
    )
    assert inside(script, PATH=f"{tmp_path}:{os.environ['PATH']}") == (
        "the ids of a user namespace could not be mapped: range not allowed\n"
    )


@pytest.mark.integration
def test_with_one_id_groups_cannot_be_set_and_root_is_the_user() -> None:
    script = (
        "import os; from assembler.linux import userns\nfound = userns.enter()\n"
        "print(found.kind, os.getuid(), open('/proc/self/setgroups').read().strip())\n"
        "print(open('/proc/self/uid_map').read().split() == ['0', str(found.outer_uid), '1'])\n"
    )
    if os.getuid() == 0:
        return  # root has every id
    assert inside(script, PATH="/nowhere") == "single 0 deny\nTrue\n"


@pytest.mark.integration
def test_a_thread_may_start_after_the_zygote_has_and_steps_run_beside_it(tmp_path: Path) -> None:
    """unshare(NEWPID) in the process itself would leave it without threads."""
    script = (
        "import threading; from assembler.linux import userns, zygote\n"
        "userns.enter(); started = zygote.start()\n"
        "thread = threading.Thread(target=print, args=('threaded',)); thread.start()\n"
        "thread.join(); started.close()\n"
    )
    assert inside(script) == "threaded\n"


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
        (tmp_path / name).write_text(f"#!/bin/sh\necho >> {tmp_path}/called; sleep 90 & wait\n")
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    # its output ends when the last process that has it does
    with subprocess.Popen([sys.executable, "-c", HANGING], env=env, stdout=subprocess.PIPE) as one:
        with watchdog():
            while not (tmp_path / "called").exists():
                assert one.poll() is None
                time.sleep(0.02)
        one.send_signal(number)
        assert one.communicate(timeout=60)[0] == b""
    assert one.returncode == (42 if number == signal.SIGTERM else -number)
