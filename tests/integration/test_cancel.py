"""A build that is ended, by signals, by its timeout or by kill -9: soon nothing of it is left, be it
in a step that forks away twice and ignores SIGTERM, at a server that hangs, or in the middle of a
file (reliability.md 3.2)."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from assembler.linux import programs
from assembler.runtime import native
from tests.bounds import watchdog
from tests.processes import naming

pytestmark = pytest.mark.integration

STUBBORN = "FROM busybox\nRUN trap '' TERM; (trap '' TERM; setsid sleep {0} & sleep {0}) & sleep {0}; sleep {0}\n"
PATIENT = "FROM busybox\nRUN sleep {0}\n"
RUNTIMES = ["native", "podman", "crun", "runc", pytest.param("chroot", marks=pytest.mark.root)]
GRACE = """
import sys
from assembler.linux import programs
from assembler.runtime import native
native.GRACE = programs.GRACE = float(sys.argv.pop(1))
from assembler.__main__ import process
process()
"""
"""The command line, with another time than the usual between SIGTERM and SIGKILL."""
PATIENT_CLIENT = """
from functools import partial
from assembler.net import client
client.Limits = partial(client.Limits, connect=3600.0, handshake=3600.0, head=3600.0)
from assembler.__main__ import process
process()
"""
"""The command line, which gives servers an hour."""
MARKS = iter(range(100_000 + os.getpid() % 10_000 * 100, 1 << 30))


def processes(mark: int | str) -> list[str]:
    """The command lines that hold `mark`."""
    return [line for line in naming(mark) if "/bin/sh" not in line.split(" ")[:1]]


def soon(holds: Callable[[], object]) -> bool:
    """Whether it comes to that; the seconds are for a busy machine."""
    deadline = time.monotonic() + 60
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def leftovers(store: Path) -> list[str]:
    """What a build has in progress in a store."""
    found = [path for name in ("ingest", "scratch") for path in (store / name).iterdir()]
    found += [path for kind in (store / "layers").iterdir() for path in kind.glob(".*")]
    found += (store / "mounts").glob(".*")
    return [str(path.relative_to(store)) for path in found]


def over(process: subprocess.Popen[bytes]) -> bytes:
    """Wait until a process has ended, killed perhaps, and all that it began: they share its stderr.
    What was still to be read of that."""
    _, said = process.communicate(timeout=60)
    return said or b""


@pytest.fixture
def running(assemble: Any, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a build and waits until its step runs."""
    started: list[subprocess.Popen[bytes]] = []

    def start(
        dockerfile: str,
        mark: int,
        runtime: str = "native",
        *options: str,
        grace: float | None = None,
        **more: Any,
    ) -> subprocess.Popen[bytes]:
        context = tmp_path / f"context-{mark}"
        context.mkdir()
        (context / "Dockerfile").write_text(dockerfile.format(mark))
        command = assemble.command("build", "--no-cache", "--runtime", runtime, *options, context)
        if grace is not None:
            command[1:3] = ["-c", GRACE, str(grace)]
        arguments = {"env": assemble.env, "stderr": subprocess.PIPE, **more}
        process = subprocess.Popen(command, **arguments)
        started.append(process)
        begun = soon(lambda: process.poll() is not None or sleeping(mark))
        if not begun or process.poll() is not None:
            process.kill()
            raise AssertionError(over(process).decode())
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def test_what_ignores_a_signal_has_less_than_ten_seconds() -> None:
    assert native.GRACE + programs.GRACE < 10


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_signal_ends_everything_whatever_ignores_it(
    running: Any, tmp_path: Path, runtime: str, name: str
) -> None:
    mark, number = next(MARKS), signal.Signals[name]
    process = running(STUBBORN, mark, runtime, grace=None if name == "SIGINT" else 0.3)
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert processes(mark) == []
    assert leftovers(tmp_path / "store") == []


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_second_signal_gives_no_more_time(running: Any, tmp_path: Path, runtime: str) -> None:
    mark = next(MARKS)
    process = running(STUBBORN, mark, runtime, grace=3600)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)  # another: two of one kind that are pending are one
    assert process.wait(60) == 130
    assert processes(mark) == [] and leftovers(tmp_path / "store") == []


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_where_nothing_ignores_the_signal_the_grace_is_not_waited_for(
    running: Any, tmp_path: Path, runtime: str
) -> None:
    mark = next(MARKS)
    process = running(PATIENT, mark, runtime, grace=3600)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert processes(mark) == [] and leftovers(tmp_path / "store") == []


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_CN02_when_the_builder_is_killed_its_processes_go_and_the_next_command_sweeps(
    running: Any, assemble: Any, tmp_path: Path, runtime: str
) -> None:
    mark = next(MARKS)
    process = running(STUBBORN, mark, runtime)
    process.kill()
    over(process)
    assert processes(mark) == []
    assert leftovers(tmp_path / "store") != [], "else there was nothing to sweep"
    assemble("images")
    assert leftovers(tmp_path / "store") == []


def test_CN02_what_a_live_build_has_is_not_swept(
    running: Any, assemble: Any, tmp_path: Path
) -> None:
    killed, live = next(MARKS), next(MARKS)
    survivor = running(f"{PATIENT.strip()} & wait; echo over > /over\n", live)
    before = set(leftovers(tmp_path / "store"))
    process = running(STUBBORN, killed)
    process.kill()
    over(process)
    assert set(leftovers(tmp_path / "store")) > before
    assemble("images")
    assert set(leftovers(tmp_path / "store")) == before
    (found,) = sleeping(live)
    os.kill(found, signal.SIGKILL)
    assert survivor.wait(60) == 0
    assert leftovers(tmp_path / "store") == []


def sleeping(mark: int) -> list[int]:
    """The processes that sleep for `mark` seconds."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == b"sleep\0%d\0" % mark:
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has ended meanwhile
    return found


@pytest.mark.parametrize("runtime", ["native", pytest.param("chroot", marks=pytest.mark.root)])
@pytest.mark.parametrize("which", ["the shim", "the server"])
def test_when_a_process_of_ours_is_killed_its_steps_end_and_the_build_fails(
    running: Any, tmp_path: Path, runtime: str, which: str
) -> None:
    mark = next(MARKS)
    process = running(STUBBORN, mark, runtime)
    (killed,) = children(process.pid)
    if which == "the server":
        (killed,) = children(killed)
    os.kill(killed, signal.SIGKILL)
    assert process.wait(60) == 1
    assert soon(lambda: processes(mark) == []), processes(mark)
    assert leftovers(tmp_path / "store") == []


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_CN03_a_third_signal_ends_the_builder_at_once(running: Any, tmp_path: Path) -> None:
    mark = next(MARKS)
    process = running(STUBBORN, mark)
    process.send_signal(signal.SIGSTOP)  # so that no signal finds it done
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCONT):
        process.send_signal(number)
    assert process.wait(30) < 0, "by the signal itself"
    assert soon(lambda: processes(mark) == [])
    assert soon(lambda: leftovers(tmp_path / "store") == []), "no other command is needed"
    assert soon(lambda: processes(str(tmp_path / "store")) == []), "what removed them has ended"


class Terminal:
    """A terminal, and the user who looks at it all the time: what nobody reads fills it soon."""

    def __init__(self) -> None:
        self._ours, self._theirs = pty.openpty()
        self._left, self._leave = os.pipe()
        self._shown = bytearray()
        self._user = threading.Thread(target=self._look, daemon=True)
        self._user.start()

    def _look(self) -> None:
        while self._left not in select.select([self._ours, self._left], [], [])[0]:
            try:
                self._shown += os.read(self._ours, 1 << 16)
            except OSError:  # no process has it open any more
                return

    @property
    def controlling(self) -> dict[str, Any]:
        """What makes it a process' controlling one."""

        def controlled() -> None:
            os.setsid()
            os.close(os.open(os.ttyname(0), os.O_RDWR))

        ends = dict.fromkeys(("stdin", "stdout", "stderr"), self._theirs)
        return {**ends, "preexec_fn": controlled}

    def type(self, keys: bytes) -> None:
        """As the user does."""
        os.write(self._ours, keys)

    def close(self) -> None:
        """The user closes it."""
        os.write(self._leave, b"x")
        self._end()

    def shown(self) -> str:
        """All that was shown until the processes ended, which it is waited for."""
        os.close(self._theirs)
        self._user.join()
        self._theirs = -1
        self._end()
        return self._shown.decode()

    def _end(self) -> None:
        self._user.join()
        for end in (self._theirs, self._ours, self._left, self._leave):
            if end >= 0:
                os.close(end)


def test_CN04_a_terminal_that_is_closed(running: Any, tmp_path: Path) -> None:
    mark, terminal = next(MARKS), Terminal()
    process = running(PATIENT, mark, **terminal.controlling)
    terminal.close()
    assert process.wait(60) == 128 + signal.SIGHUP
    assert processes(mark) == [] and leftovers(tmp_path / "store") == []


def test_CN04_ctrl_c_at_a_terminal(running: Any, tmp_path: Path) -> None:
    mark, terminal = next(MARKS), Terminal()
    process = running(PATIENT, mark, **terminal.controlling)
    terminal.type(b"\x03")
    assert process.wait(60) == 130
    last = terminal.shown().splitlines()[-1]
    assert last.startswith("ERROR: cancelled by SIGINT while running [")
    assert processes(mark) == [] and leftovers(tmp_path / "store") == []


def test_a_signal_while_a_cancelled_build_is_left_changes_nothing(running: Any) -> None:
    process = running(PATIENT, next(MARKS))
    process.send_signal(signal.SIGINT)
    with watchdog():
        while (line := process.stderr.readline()) and b"CANCELED" not in line:
            pass
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()  # not communicate(): that sees nothing of what was read ahead
        assert process.wait() == 130
    assert said.count(b"\n") == 1 and said.startswith(b"ERROR: cancelled by SIGINT")


def test_signals_that_are_ignored_stay_ignored(running: Any) -> None:
    mark = next(MARKS)
    nohup = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    process = running(PATIENT, mark, **nohup)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None and processes(mark) != []
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143


def test_the_last_line_says_what_was_running(running: Any) -> None:
    mark = next(MARKS)
    process = running(f"FROM busybox AS one\n{PATIENT}COPY --from=one /bin /x\n", mark)
    process.send_signal(signal.SIGINT)
    said = over(process)
    step = f"[stage-1 2/3] RUN sleep {mark}"
    assert said.decode().splitlines()[-1] == f"ERROR: cancelled by SIGINT while running {step}"
    assert b"CANCELED" in said and b"Traceback" not in said


def test_rawjson_ends_with_what_was_cancelled(running: Any) -> None:
    process = running(PATIENT, next(MARKS), "native", "--progress", "rawjson")
    process.send_signal(signal.SIGINT)
    said = over(process)
    *documents, last = said.decode().splitlines()
    ended = json.loads(documents[-1])["vertexes"][0]
    assert ended["error"] == "context canceled" and ended["completed"]
    assert last.startswith("ERROR: cancelled by SIGINT while running [2/2] RUN sleep")


def test_a_timeout_ends_with_124(running: Any, tmp_path: Path) -> None:
    mark = next(MARKS)
    process = running(PATIENT, mark, "native", "--timeout", "1h")
    process.send_signal(signal.SIGALRM)  # as the timer does: no test waits for one on a busy host
    said = over(process)
    assert process.returncode == 124
    last = said.decode().splitlines()[-1]
    step = f"[2/2] RUN sleep {mark}"
    assert last == f"ERROR: the build took longer than 3600 s while running {step}"
    assert processes(mark) == [] and leftovers(tmp_path / "store") == []


@pytest.fixture
def started(assemble: Any) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a command and waits until `ready()`."""
    every: list[subprocess.Popen[bytes]] = []

    def start(ready: Callable[[], object], *arguments: Any) -> subprocess.Popen[bytes]:
        command = assemble.command(*arguments)
        command[1:3] = ["-c", PATIENT_CLIENT]
        process = subprocess.Popen(command, env=assemble.env, stderr=subprocess.PIPE)
        every.append(process)
        assert soon(lambda: bool(ready()))
        return process

    yield start
    for process in every:
        process.kill()
        over(process)


def ended(process: subprocess.Popen[bytes], number: int) -> bytes:
    """Send a signal; the process ends as it should, with no more work than that is, and all that it
    began. None of what these tests have it wait for ends by itself. What it said last."""
    before = worked(process.pid)
    process.send_signal(number)
    with watchdog():
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert worked(process.pid) - before < 1
    assert process.stderr is not None
    with watchdog():
        said = process.stderr.read()
    assert process.wait() == (-number if number == signal.SIGKILL else 128 + number)
    return said or b""


def worked(pid: int) -> float:
    """The CPU seconds of a process, which may have ended (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A context with a file of 6 GiB, which takes no space."""
    context = tmp_path / "large"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY file /\n")
    with (context / "file").open("wb") as stream:
        stream.truncate(6 << 30)
    return context


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_middle_of_a_file_that_is_hashed(
    started: Any, assemble: Any, large: Path, number: int
) -> None:
    process = started(lambda: reading(process_of(large), large / "file"), "build", large)
    ended(process, number)
    assemble("images")
    assert leftovers(large.parent / "store") == []


def process_of(path: Path) -> int:
    """The process that names `path` in its arguments, 0 for none."""
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(path) in one.read_bytes().split(b"\0"):
                return int(one.parent.name)
        except OSError:
            continue
    return 0


def reading(pid: int, path: Path) -> bool:
    """Whether a process has `path` open."""
    try:
        return pid != 0 and any(
            os.path.samefile(one, path) for one in Path(f"/proc/{pid}/fd").iterdir()
        )
    except OSError:
        return False


HUGE = """
import os, sys
from assembler.oci.config import Execution, ImageConfig
from assembler.oci.descriptor import LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer
from assembler.images import host_platform
from assembler.store.store import Store
digest = Digest.of(b"not what the blob holds, which nobody reads to its end")
with Store.open(sys.argv[1]) as store:
    with open(store.blobs.path(digest), "wb") as stream:
        stream.truncate(8 << 30)
    layer = Layer(Descriptor(LAYER_TAR, digest, 8 << 30), digest)
    image = Image.create(ImageConfig(host_platform(), Execution(), (digest,)), (layer,))
    store.refs.set("docker.io/library/huge:latest", store.put_image(image))
    print(store.blobs.path(digest))
"""


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("oci,dest=", signal.SIGINT),
        ("docker,dest=", signal.SIGKILL),
        ("oci,tar=false,dest=", signal.SIGTERM),
        ("oci,tar=false,dest=", signal.SIGKILL),
    ],
)
def test_an_output_is_whole_or_not_there(
    started: Any, assemble: Any, tmp_path: Path, kind: str, number: int
) -> None:
    command = [sys.executable, "-c", HUGE, str(tmp_path / "store")]
    layer = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    context, out = tmp_path / "context", tmp_path / "out"
    context.mkdir()
    out.mkdir()
    (context / "Dockerfile").write_text("FROM huge\nLABEL a=b\n")
    target = out / "image"
    process = started(
        lambda: reading(process_of(context), layer),
        "build", "-o", f"type={kind}{target}", "--iidfile", out / "id",
        "--metadata-file", out / "metadata", context,
    )  # fmt: skip
    ended(process, number)
    left = [path for path in out.rglob("*") if path.is_file() and "ingest" not in path.parts]
    assert left == [], "no part of the image, and no file of results"
    (context / "Dockerfile").write_text("FROM busybox\n")
    assemble("build", "-o", f"type={kind}{target}", context)
    assert os.listdir(out) == ["image"] and not (target / "ingest").exists()


def test_a_stdout_that_nobody_reads(assemble: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\n")
    command = assemble.command("build", "-o", "type=oci,dest=-", tmp_path)
    process = subprocess.Popen(
        command, env=assemble.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None and process.stdout is not None
    while b"exporting to OCI archive" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.3)
    assert b"cancelled by SIGINT" in ended(process, signal.SIGINT)
    process.stderr.close()
    process.stdout.close()


@pytest.mark.parametrize(
    ("source", "number"),
    [
        ("http://{}/f", signal.SIGKILL),
        ("https://{}/f", signal.SIGINT),
        ("git://{}/r.git", signal.SIGKILL),
    ],
)
def test_a_server_that_says_nothing(
    started: Any, assemble: Any, tmp_path: Path, source: str, number: int
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        url = source.format(f"127.0.0.1:{listener.getsockname()[1]}")
        (tmp_path / "Dockerfile").write_text(f"FROM busybox\nRUN true\nADD {url} /x/\n")
        listener.settimeout(0.05)
        process = started(lambda: accepted(listener), "build", tmp_path)
        ended(process, number)
        assert soon(lambda: naming(url) == []), naming(url)
    assemble("images")
    assert leftovers(tmp_path / "store") == []


def accepted(listener: socket.socket) -> bool:
    try:
        connection, _ = listener.accept()
    except TimeoutError:
        return False
    connection.detach()  # it stays open as long as this process
    return True


def test_the_agent_of_keys_and_its_directory_end_with_a_killed_builder(
    running: Any, assemble: Any, require: Any, tmp_path: Path
) -> None:
    require("ssh-keygen", "ssh-agent")
    key, temporary = tmp_path / "key", tmp_path / "tmp"
    temporary.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", str(key)], check=True)
    mark = next(MARKS)
    dockerfile = "FROM busybox\nRUN --mount=type=ssh sleep {0}\n"
    env = {**assemble.env, "TMPDIR": str(temporary)}
    process = running(dockerfile, mark, "native", "--ssh", f"default={key}", env=env)
    assert len(list(temporary.iterdir())) == 1
    process.kill()
    over(process)
    assert soon(lambda: list(temporary.iterdir()) == [])
    assert soon(lambda: naming(temporary) == []), "what removed it ends then"


def test_a_build_that_waits_for_anothers_cache_mount(
    running: Any, started: Any, assemble: Any, tmp_path: Path
) -> None:
    step = "FROM busybox\nRUN --mount=type=cache,target=/c,sharing=locked sleep {0}\n"
    running(step, next(MARKS))
    before = set(leftovers(tmp_path / "store"))
    for number in (signal.SIGINT, signal.SIGKILL):
        context = tmp_path / f"waiting-{number}"
        context.mkdir()
        (context / "Dockerfile").write_text(step.format(0))
        process = started(
            lambda: len(leftovers(tmp_path / "store")) > len(before),
            "build", "--no-cache", context,
        )  # fmt: skip
        time.sleep(0.5)
        ended(process, number)
        assemble("images")
        assert set(leftovers(tmp_path / "store")) == before
