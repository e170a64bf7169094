"""ssh agents for steps: a socket that any USER may be given, in front of the agent of this host.

Only what a step needs passes (draft-miller-ssh-agent 3): listing identities and signing. A step
cannot add, remove or lock keys, nor use extensions.
"""

from __future__ import annotations

import errno
import os
import select
import selectors
import shutil
import socket
import stat
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from assembler.errors import RuntimeMissing, UsageError
from assembler.values import value

_FAILURE = struct.pack(">IB", 1, 5)  # SSH_AGENT_FAILURE
_REQUEST_IDENTITIES, _SIGN_REQUEST = 11, 13
_LONGEST = 256 << 10  # bytes of a message, as OpenSSH has it
_START = 30.0  # seconds that ssh-agent and ssh-add may take
_CLIENT = 10.0  # seconds that a step may take over a part of its request


@contextmanager
def proxy(path: str, agent: str, *, uid: int, gid: int, mode: int) -> Iterator[None]:
    """Listen at the new socket `path`, which `uid` and `gid` may use by `mode`, and pass requests
    on to the socket `agent`, until the block ends. Raises OSError."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        _bind(listener, path)
        stack.callback(os.unlink, path)
        _give(path, uid, gid)
        os.chmod(path, mode)
        listener.listen()
        ours, theirs = socket.socketpair()
        stack.enter_context(theirs)
        server = threading.Thread(target=_serve, args=(listener, theirs, agent), name="ssh-agent")
        server.start()
        stack.callback(server.join)
        stack.callback(ours.close)
        yield


def _bind(listener: socket.socket, path: str) -> None:
    """bind(2) takes 107 bytes of path; the directory's descriptor makes any path short."""
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    finally:
        os.close(directory)


def _give(path: str, uid: int, gid: int) -> None:
    try:
        os.chown(path, uid, gid)
    except OSError as error:
        # Where only one id is mapped every user of the step is that one, whatever it is shown.
        if error.errno not in (errno.EPERM, errno.EINVAL):
            raise


def _serve(listener: socket.socket, stop: socket.socket, agent: str) -> None:
    """Answer every connection, one request at a time, until the other end of `stop` closes."""
    with selectors.DefaultSelector() as selector, ExitStack() as stack:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(stop, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is stop:
                    return
                if key.fileobj is listener:
                    client = stack.enter_context(listener.accept()[0])
                    client.setblocking(False)
                    selector.register(client, selectors.EVENT_READ)
                    continue
                assert isinstance(key.fileobj, socket.socket)
                if not _answered(_Stream(key.fileobj, stop, _CLIENT), agent):
                    selector.unregister(key.fileobj)
                    key.fileobj.close()


def _answered(client: _Stream, agent: str) -> bool:
    """Take one request of `client` and answer it; False when the connection is over."""
    try:
        request = client.message()
        if request is None:
            return False
        allowed = request[:1] in (bytes([_REQUEST_IDENTITIES]), bytes([_SIGN_REQUEST]))
        client.send(_asked(agent, request, client.stop) if allowed else _FAILURE)
    except OSError:  # the step has gone, or the agent; either way it sees its connection end
        return False
    return True


def _asked(agent: str, request: bytes, stop: socket.socket) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        connection.connect(agent)
        # No limit but the end of the step: people confirm with a key press or a touch.
        upstream = _Stream(connection, stop, None)
        upstream.send(struct.pack(">I", len(request)) + request)
        answer = upstream.message()
    return _FAILURE if answer is None else struct.pack(">I", len(answer)) + answer


@value
class _Stream:
    """A non-blocking connection, waited for until `stop` ends, and `seconds` for each part."""

    connection: socket.socket
    stop: socket.socket
    seconds: float | None

    def message(self) -> bytes | None:
        """The next message without its length; None at the end, or when it is too long."""
        head = self._exactly(4)
        if head is None:
            return None
        size = struct.unpack(">I", head)[0]
        return self._exactly(size) if 0 < size <= _LONGEST else None

    def send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._wait(select.POLLOUT)
            rest = rest[self.connection.send(rest) :]

    def _exactly(self, size: int) -> bytes | None:
        parts = []
        while size:
            self._wait(select.POLLIN)
            part = self.connection.recv(size)
            if not part:
                return None
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _wait(self, events: int) -> None:
        poll = select.poll()
        poll.register(self.connection, events)
        poll.register(self.stop, select.POLLIN)
        ready = dict(poll.poll(None if self.seconds is None else self.seconds * 1000))
        if not ready or self.stop.fileno() in ready:
            raise TimeoutError


# ssh-agent is setgid, so PR_SET_PDEATHSIG would not hold; the shell sees its stdin end instead, and
# then the socket's directory has nobody else who would remove it.
_AGENT = (
    'ssh-agent -D -a "$0" >/dev/null 2>&1 & read -r _; kill $! 2>/dev/null; wait; '
    'rm -f "$0"; rmdir "${0%/*}" 2>/dev/null'
)


@contextmanager
def agent_of_keys(keys: Sequence[str], search_path: str) -> Iterator[str]:
    """The socket of an ssh-agent(1) of our own that holds the private keys in the files `keys`.

    Raises UsageError for a file that is no key or asks for a passphrase, RuntimeMissing without
    OpenSSH in `search_path`. The agent ends with the block, and when this process dies.
    """
    environment = {"PATH": search_path}
    if not (shutil.which("ssh-agent", path=search_path) and shutil.which("sh", path=search_path)):
        hint = "apt-get install openssh-client"
        raise RuntimeMissing("ssh-agent is not installed", "ssh", hint=hint)
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="assemble-ssh-"))
        path = os.path.join(directory, "agent")
        shell = subprocess.Popen(
            ["sh", "-c", _AGENT, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        stack.enter_context(shell)  # closes its stdin, and waits
        _wait_for(path)
        for key in keys:
            _add(path, key, environment)
        yield path


def _wait_for(path: str) -> None:
    deadline = time.monotonic() + _START
    while not _listens(path):
        if time.monotonic() > deadline:
            raise RuntimeMissing("ssh-agent does not start", "ssh")
        time.sleep(0.005)


def _listens(path: str) -> bool:
    """That the socket is there is too little: bind(2) makes it, before listen(2)."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _add(agent: str, key: str, environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            ["ssh-add", "-q", key],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**environment, "SSH_AUTH_SOCK": agent, "SSH_ASKPASS_REQUIRE": "never"},
            start_new_session=True,
            timeout=_START,
        )
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"--ssh: ssh-add {key} does not answer") from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = said[-1] if said else "no message"
        raise UsageError(
            f"--ssh: {key} cannot be used: {reason}",
            hint="give a private key that only you can read and that has no passphrase, or the"
            " socket of an agent that holds it",
        )


class Agents:
    """The ssh agents of a build, by id: each the path of a socket, or of private keys, for which an
    agent is started when it is first asked for. Use it with `with`."""

    def __init__(self, given: Mapping[str, tuple[str, ...]], search_path: str) -> None:
        self._given = given
        self._search_path = search_path
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._sockets: dict[str, str] = {}

    def __enter__(self) -> Agents:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def socket(self, id: str) -> str | None:
        """The socket of an agent, None when the build was given none of that id. Raises UsageError
        for keys that cannot be used, RuntimeMissing."""
        paths = self._given.get(id)
        if paths is None:
            return None
        if len(paths) == 1 and stat.S_ISSOCK(os.stat(paths[0]).st_mode):
            return paths[0]
        with self._lock:
            if id not in self._sockets:
                started = agent_of_keys(paths, self._search_path)
                self._sockets[id] = self._stack.enter_context(started)
            return self._sockets[id]

    def usual(self) -> str:
        """The socket of `default`, else of the first one; empty when there is none."""
        id = "default" if "default" in self._given else next(iter(self._given), "")
        return self.socket(id) or ""
