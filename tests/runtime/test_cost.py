"""What a step costs, and what one that fails costs the next: of the embedded runtime."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.integration

Sandboxed = Callable[..., subprocess.CompletedProcess[str]]

PROCESSES = """
import resource
def read(path):
    try:
        with open(path) as stream: return stream.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""
def children(pid):
    '''The live processes below `pid`'''
    found = [int(word) for word in read(f"/proc/{pid}/task/{pid}/children").split()]
    alive = [one for one in found if read(f"/proc/{one}/stat").rpartition(")")[2].split()[:1] not in ([], ["Z"])]
    return alive + [below for one in alive for below in children(one)]
def until(condition):
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found
zygote, = until(lambda: children(runtime._zygote.shim))
"""


def test_a_step_makes_hardly_anything_on_the_disk(sandboxed: Sandboxed) -> None:
    sandboxed(
        """
def everything():
    layers = os.path.join(directory, "layers")
    return {os.path.join(d, n) for d, names, files in os.walk(layers) for n in names + files}
assert run("true", FileContent("/run/secrets/key", b""), TemporaryFiles("/t"))[0] == 0
before = everything()  # with the mount points that these steps share
secret = FileContent("/run/secrets/key", b"s3cret")
assert run("test $(cat /run/secrets/key) = s3cret", secret, TemporaryFiles("/t"))[0] == 0
made = everything() - before
# the layer, where it was made, a mount point, and overlay's own work directory with four in it
assert len(made) <= 8, sorted(made)
"""
    )


def test_a_fork_that_fails_leaves_the_next_step_able(sandboxed: Sandboxed) -> None:
    sandboxed(
        PROCESSES
        + """
soft, hard = resource.prlimit(zygote, resource.RLIMIT_NPROC)
resource.prlimit(zygote, resource.RLIMIT_NPROC, (1, hard))
try:
    run("true")
except HostError as error:
    assert "temporarily unavailable" in str(error), error
else:
    raise AssertionError("it was forked")
resource.prlimit(zygote, resource.RLIMIT_NPROC, (soft, hard))
assert run("echo here")[:2] == (0, "here\\n")
"""
    )


def test_a_sandbox_is_made_ahead_for_a_step_that_will_follow(sandboxed: Sandboxed) -> None:
    sandboxed(
        PROCESSES
        + """
assert run("true")[0] == 0 and children(zygote) == [], "nothing follows"
assert run("true", more=True)[0] == 0
first = until(lambda: len(found := children(zygote)) == 2 and found)[0]
assert show("echo $$ $0", more=True) == "2 /bin/sh"
assert first not in children(zygote), "it was taken"
second = until(lambda: len(found := children(zygote)) == 2 and found)[0]
assert run("true", network="none", more=True)[0] == 0, "that takes another sandbox"
until(lambda: len(children(zygote)) == 4)
os.kill(second, signal.SIGKILL)
until(lambda: second not in children(zygote))
assert show("echo here") == "here", "one is forked instead"
runtime.close()
assert read(f"/proc/{zygote}/stat") == "", "those that were never needed go too"
runtime = Native.start(id_map)
"""
    )


def test_a_sandbox_that_could_not_be_made_ahead_says_why(sandboxed: Sandboxed) -> None:
    sandboxed(
        """
for _ in range(2):
    try:
        run("true", hostname="h" * 65, more=True)
    except StepError as error:
        assert error.message == f"hostname {'h' * 65}: Invalid argument", error
    else:
        raise AssertionError("no host has such a name")
assert show("cat /proc/sys/kernel/hostname") == "buildkitsandbox"
"""
    )


def test_nobody_who_listens_is_no_reason_to_end_the_steps_of_others(sandboxed: Sandboxed) -> None:
    sandboxed(
        """
import socket
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
ours.close()
runtime._zygote.submit("no job", theirs, 1)
assert run("echo here")[:2] == (0, "here\\n")
"""
    )


def test_nothing_waits_for_a_root_that_cannot_be_made(sandboxed: Sandboxed) -> None:
    sandboxed(
        PROCESSES
        + """
for wrong in (dict(user="nobody-here"), dict(lowers=(BASE, "/nonexistent"))):
    try:
        run("true", **wrong)
    except (StepError, HostError):
        assert children(zygote) == []
    else:
        raise AssertionError(wrong)
assert run("true")[0] == 0
"""
    )


def test_M3_a_mount_point_behind_a_link_is_made_where_the_link_leads(sandboxed: Sandboxed) -> None:
    sandboxed(
        """
def make(path):
    os.makedirs(path + "/var"); os.makedirs(path + "/run")
    os.symlink("/run", path + "/var/run"); os.symlink("../run/named", path + "/var/file")
command = "cat /var/run/secrets/key /var/file; ls /run; touch /run/new; readlink /var/run; readlink /var/file"
key, named = FileContent("/var/run/secrets/key", b"k\\n"), FileContent("/var/file", b"f\\n")
status, said, held = run(command, key, named, lowers=layer("aa", make))
assert said.split() == ["k", "f", "named", "secrets", "/run", "../run/named"], said
assert (status, held) == (0, ["run", "run/new"]), held
"""
    )


def test_a_root_is_one_file_system(sandboxed: Sandboxed) -> None:
    sandboxed(
        """
numbers = show("stat -c %d / /bin /bin/busybox /etc/passwd; touch /new; stat -c %d /new").split()
assert len(numbers) == 5 and len(set(numbers)) == 1, numbers
"""
    )
