"""What RUN is given on the command line: agents, seeds of caches, limits, time; and its output."""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

IDENTITIES = struct.pack(">IBI", 5, 12, 0)  # an agent's answer: it has none
ASK = """\
use IO::Socket::UNIX;
my $s = IO::Socket::UNIX->new(Peer => $ENV{SSH_AUTH_SOCK}) or die "no agent: $!";
print $s pack("NC", 1, 11); $s->flush;
read($s, my $a, 9) == 9 or die "no answer";
print "answered ", unpack("C", substr($a, 4)), " to $>\\n";
"""


def context(tmp_path: Path, dockerfile: str, **files: str) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text(dockerfile)
    for name, text in files.items():
        (directory / name.replace("_", ".")).write_text(text)
    return directory


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    """An agent without identities."""
    path = str(tmp_path / "agent")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while connection.recv(5):
                    connection.sendall(IDENTITIES)

    thread = threading.Thread(target=serve)
    thread.start()
    yield path
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_M10_a_user_other_than_root_reaches_the_agent(
    assemble: Any, registry: Any, hub: Callable[[str], None], agent: str, tmp_path: Path
) -> None:
    hub("debian")
    dockerfile = (
        "FROM debian\nUSER 1000\n"
        "RUN --mount=type=ssh,required,uid=1000 --mount=type=bind,source=ask.pl,target=/ask.pl"
        " perl /ask.pl\n"
        'RUN --mount=type=ssh,id=other test -z "$SSH_AUTH_SOCK"\n'
    )
    done = assemble(
        "build", "--ssh", f"default={agent}", context(tmp_path, dockerfile, ask_pl=ASK),
        CONTAINERS_REGISTRIES_CONF=str(registry.mirror),
    )  # fmt: skip
    assert "answered 12 to 1000" in done.stderr


def test_M10_a_required_agent_that_is_not_given_is_an_error_with_its_line(
    assemble: Any, tmp_path: Path
) -> None:
    directory = context(tmp_path, "FROM busybox\nRUN --mount=type=ssh,required true\n")
    done = assemble("build", directory, code=1)
    assert done.stderr.splitlines()[-1] == "ERROR: ssh agent default: not found"
    assert ">>> RUN --mount=type=ssh,required true" in done.stderr
    assert "hint: give it with --ssh default" in done.stderr


def test_M7_a_new_cache_starts_with_its_seed(assemble: Any, tmp_path: Path) -> None:
    dockerfile = (
        "FROM busybox AS seed\nRUN mkdir /seed && echo planted > /seed/f\n"
        "FROM busybox\n"
        "RUN --mount=type=cache,target=/c,from=seed,source=/seed cat /c/f && echo more > /c/g\n"
        "RUN --mount=type=cache,target=/c,from=seed,source=/seed cat /c/g\n"
    )
    done = assemble("build", context(tmp_path, dockerfile))
    assert " planted\n" in done.stderr and " more\n" in done.stderr


def test_R5_limits_and_shared_memory(assemble: Any, tmp_path: Path) -> None:
    dockerfile = "FROM busybox\nRUN ulimit -n; grep ' /dev/shm ' /proc/mounts\n"
    done = assemble(
        "build", "--ulimit", "nofile=77:99", "--shm-size", "3m", context(tmp_path, dockerfile)
    )
    assert " 77\n" in done.stderr and "size=3072k" in done.stderr


def test_a_build_that_takes_too_long_ends_with_124(assemble: Any, tmp_path: Path) -> None:
    dockerfile = "FROM busybox\nRUN sleep 1000\n"
    done = assemble("build", "--timeout", "2s", context(tmp_path, dockerfile), code=124)
    # what was running then, the step or what is before it, is up to the machine
    assert done.stderr.splitlines()[-1].startswith("ERROR: the build took longer than 2 s")


def test_all_output_is_kept_and_what_is_shown_is_bounded(assemble: Any, tmp_path: Path) -> None:
    dockerfile = (
        "FROM busybox\nRUN printf 'bad \\377 \\033[2J byte\\n'; yes 0123456789 | head -c 30000000;"
        " head -c 30000000 /dev/zero; echo; echo the last\n"
    )
    directory = context(tmp_path, dockerfile)
    done = subprocess.run(
        assemble.command("build", directory), env=assemble.env, capture_output=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stderr) < 4 << 20 and b"\x1b" not in done.stderr
    assert b"[output clipped, log limit" in done.stderr
    path = done.stderr.partition(b"[all of the output: ")[2].partition(b"]")[0].decode()
    log = Path(path).read_bytes()
    assert len(log) == 60_000_000 + len(b"bad \xff \x1b[2J byte\n\nthe last\n")
    assert log.startswith(b"bad \xff \x1b[2J byte\n") and log.endswith(b"\nthe last\n")
