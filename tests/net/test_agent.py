"""The socket a step gets in front of an ssh agent, and agents for key files."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
import termios
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from assembler.errors import RuntimeMissing, UsageError
from assembler.net.agent import agent_of_keys, proxy
from tests.bounds import watchdog

LIST, SIGN, ADD, REMOVE_ALL, EXTENSION, FAILURE = 11, 13, 17, 19, 27, 5


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[tuple[str, list[bytes]]]:
    """An agent that answers every message with its own bytes, and what it was asked."""
    path = str(tmp_path / "real")
    asked: list[bytes] = []
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
                while head := connection.recv(4):
                    body = connection.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL)
                    asked.append(body)
                    connection.sendall(head + body)

    thread = threading.Thread(target=serve)
    thread.start()
    yield path, asked
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step may take an hour over its request: what ends before is ended by the step's end."""
    monkeypatch.setattr("assembler.net.agent._CLIENT", 3600.0)


def until_read(client: socket.socket) -> None:
    """Wait until the other end has read all that was sent (SIOCOUTQ): else it ends by a reset."""
    left = array("i", [1])
    while left[0]:
        time.sleep(0.001)
        fcntl.ioctl(client, termios.TIOCOUTQ, left)


def ask(path: str, *messages: bytes) -> list[bytes]:
    answers = []
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        for message in messages:
            client.sendall(struct.pack(">I", len(message)) + message)
            head = client.recv(4, socket.MSG_WAITALL)
            if len(head) < 4:
                raise ConnectionError("the agent ended before it answered")
            size = struct.unpack(">I", head)[0]
            answers.append(client.recv(size, socket.MSG_WAITALL))
    return answers


def test_M10_listing_and_signing_pass_and_nothing_else(
    agent: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    path, asked = agent
    ours = str(tmp_path / "ours")
    messages = [bytes([kind]) + b"body" for kind in (LIST, ADD, SIGN, REMOVE_ALL, EXTENSION)]
    with proxy(ours, path, uid=os.getuid(), gid=os.getgid(), mode=0o600):
        answers = ask(ours, *messages)
    assert answers == [
        messages[0],
        bytes([FAILURE]),
        messages[2],
        bytes([FAILURE]),
        bytes([FAILURE]),
    ]
    assert asked == [messages[0], messages[2]]


def test_M10_the_socket_has_the_owner_and_mode_asked_for_and_goes_with_the_step(
    agent: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    ours = tmp_path / "ours"
    with proxy(str(ours), agent[0], uid=os.getuid(), gid=os.getgid(), mode=0o640):
        assert stat.S_IMODE(ours.stat().st_mode) == 0o640
    assert not ours.exists()


def test_a_socket_may_lie_deeper_than_bind_allows(
    agent: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    with proxy(str(deep / "ours"), agent[0], uid=os.getuid(), gid=os.getgid(), mode=0o600):
        assert (deep / "ours").is_socket()


def test_several_connections_are_served_at_once_and_a_silent_one_does_not_hold_the_end(
    agent: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    ours = str(tmp_path / "ours")
    with socket.socket(socket.AF_UNIX) as silent:
        with proxy(ours, agent[0], uid=os.getuid(), gid=os.getgid(), mode=0o600):
            silent.connect(ours)
            assert ask(ours, bytes([LIST])) == [bytes([LIST])]
        assert silent.recv(1) == b""


@pytest.mark.usefixtures("patient")
def test_half_a_request_does_not_hold_the_end(
    agent: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    ours = str(tmp_path / "ours")
    with socket.socket(socket.AF_UNIX) as client:
        with watchdog(), proxy(ours, agent[0], uid=os.getuid(), gid=os.getgid(), mode=0o600):
            client.connect(ours)
            client.sendall(struct.pack(">IB", 100, LIST))
            until_read(client)
        assert client.recv(1) == b""


def test_an_agent_that_does_not_answer_does_not_hold_the_end(tmp_path: Path) -> None:
    ours, hung = str(tmp_path / "ours"), str(tmp_path / "hung")
    with socket.socket(socket.AF_UNIX) as agent, socket.socket(socket.AF_UNIX) as client:
        agent.bind(hung)
        agent.listen()
        with watchdog(), proxy(ours, hung, uid=os.getuid(), gid=os.getgid(), mode=0o600):
            client.connect(ours)
            client.sendall(struct.pack(">IB", 1, LIST))
            asked, _ = agent.accept()
            assert asked.recv(5, socket.MSG_WAITALL) == struct.pack(">IB", 1, LIST)
        assert client.recv(1) == b""
        assert asked.recv(1) == b""
        asked.close()


@pytest.mark.usefixtures("patient")
def test_a_step_that_reads_no_answers_does_not_hold_the_end(
    agent: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    ours = str(tmp_path / "ours")
    request = struct.pack(">IB", 200 << 10, LIST) + bytes((200 << 10) - 1)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(0.3)
        with watchdog(), proxy(ours, agent[0], uid=os.getuid(), gid=os.getgid(), mode=0o600):
            client.connect(ours)
            with pytest.raises(TimeoutError):
                while True:
                    client.sendall(request)


def test_where_one_id_is_mapped_the_socket_stays_ours(
    agent: tuple[str, list[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chown(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "chown", chown)
    ours = str(tmp_path / "ours")
    with proxy(ours, agent[0], uid=1000, gid=1000, mode=0o600):
        assert ask(ours, bytes([LIST])) == [bytes([LIST])]


def test_a_message_longer_than_any_agent_takes_ends_the_connection(
    agent: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    path, asked = agent
    ours = str(tmp_path / "ours")
    with (
        proxy(ours, path, uid=os.getuid(), gid=os.getgid(), mode=0o600),
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.connect(ours)
        client.sendall(struct.pack(">I", 1 << 30))
        assert client.recv(1) == b""
    assert asked == []


def test_an_agent_that_has_gone_ends_the_connection(tmp_path: Path) -> None:
    ours = str(tmp_path / "ours")
    with (
        proxy(ours, str(tmp_path / "gone"), uid=os.getuid(), gid=os.getgid(), mode=0o600),
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.connect(ours)
        client.sendall(struct.pack(">IB", 1, LIST))
        assert client.recv(1) == b""


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    if shutil.which("ssh-keygen") is None:
        pytest.skip("not installed: openssh-client")
    subprocess.run(command, check=True)
    return path


def test_M11_key_files_have_an_agent_of_their_own_until_the_block_ends(key: Path) -> None:
    with agent_of_keys([str(key)], os.environ["PATH"]) as path:
        (answer,) = ask(path, bytes([LIST]))
        assert answer[0] == 12 and struct.unpack(">I", answer[1:5])[0] == 1, "one identity"
    assert not os.path.exists(path)


SLOW_AGENT = """\
#!{python}
import os, socket, sys, time
path = sys.argv[3]
with socket.socket(socket.AF_UNIX) as early:
    early.bind(path)
    time.sleep(0.3)
os.unlink(path)
os.execv({agent!r}, sys.argv)
"""


def test_M11_an_agent_that_has_its_socket_and_does_not_listen_yet_is_waited_for(
    key: Path, tmp_path: Path
) -> None:
    program = tmp_path / "slow/ssh-agent"
    program.parent.mkdir()
    program.write_text(SLOW_AGENT.format(python=sys.executable, agent=shutil.which("ssh-agent")))
    program.chmod(0o755)
    with agent_of_keys([str(key)], f"{program.parent}:{os.environ['PATH']}") as path:
        (answer,) = ask(path, bytes([LIST]))
        assert answer[0] == 12


def test_the_agent_of_keys_ends_when_its_process_is_killed(key: Path) -> None:
    code = (
        "import sys; from assembler.net.agent import agent_of_keys\n"
        "with agent_of_keys(sys.argv[1:2], sys.argv[2]) as path:\n"
        "    print(path, flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(key), os.environ["PATH"]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        path = process.stdout.readline().strip()
        process.kill()
    deadline = time.monotonic() + 60
    while True:
        try:
            ask(path, bytes([LIST]))
        except OSError:
            break
        assert time.monotonic() < deadline, "the agent lives on"
        time.sleep(0.05)
    while os.path.exists(os.path.dirname(path)):
        assert time.monotonic() < deadline, "its directory stays"
        time.sleep(0.05)


def test_a_file_that_is_no_key_is_named(tmp_path: Path, key: Path) -> None:
    path = tmp_path / "no-key"
    path.write_text("not a key\n")
    path.chmod(0o600)
    refused = pytest.raises(UsageError, match="no-key cannot be used")
    with refused, agent_of_keys([str(path)], os.environ["PATH"]):
        pass


def test_without_openssh_the_error_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(RuntimeMissing) as caught, agent_of_keys([], str(tmp_path)):
        pass
    assert caught.value.hint == "apt-get install openssh-client"
