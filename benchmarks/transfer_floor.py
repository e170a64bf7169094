"""What a push and a pull of one blob cost at least: loops of nothing else, beside ours and skopeo's.

    .venv/bin/python benchmarks/transfer_floor.py [MEGABYTES] [ROUNDS]

`push, nothing else` opens an upload, sends the blob by one PATCH and closes it: there is no
configuration, manifest or tag. It reads pieces that stay in the processor's cache until the registry
has them; `push, sendfile` hands the file to the kernel instead, which is less work and takes longer.
`pull, nothing else` receives into one buffer, hashes, writes to a file without a name and syncs it. All
are programs of their own, as the others are.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

_PIECE, _STRETCH = 1 << 20, 16 << 20


def ask(connection: socket.socket, method: str, target: str, more: str = "") -> None:
    """Send the head of a request."""
    connection.sendall(f"{method} {target} HTTP/1.1\r\nHost: registry\r\n{more}\r\n".encode())


def answer(connection: socket.socket) -> tuple[list[str], bytes]:
    """The lines of the head of an answer, and what came behind it."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(4096)
    head, _, rest = received.partition(b"\r\n\r\n")
    return head.decode().split("\r\n"), rest


def location(connection: socket.socket) -> str:
    """Where an upload goes on."""
    (found,) = (one for one in answer(connection)[0] if one.lower().startswith("location:"))
    parts = urlsplit(found.partition(":")[2].strip())
    return f"{parts.path}?{parts.query}"


def push(connection: socket.socket, name: str, digest: str, path: str, how: str = "") -> None:
    """Nothing but one blob."""
    buffer = memoryview(bytearray(256 << 10))
    ask(connection, "POST", f"/v2/{name}/blobs/uploads/", "Content-Length: 0\r\n")
    with open(path, "rb") as file:
        size, sent = os.fstat(file.fileno()).st_size, 0
        ask(connection, "PATCH", location(connection), f"Content-Length: {size}\r\n")
        while sent < size:
            if how == "sendfile":
                sent += os.sendfile(connection.fileno(), file.fileno(), sent, size - sent)
            else:
                count = os.preadv(file.fileno(), [buffer], sent)
                connection.sendall(buffer[:count])
                sent += count
    target = f"{location(connection)}&digest={digest}"
    ask(connection, "PUT", target, "Content-Length: 0\r\n")
    assert answer(connection)[0][0].split()[1] == "201"


def pull(connection: socket.socket, name: str, digest: str, path: str) -> None:
    """Nothing but one blob."""
    import ctypes
    import hashlib

    start = ctypes.CDLL(None).sync_file_range
    ask(connection, "GET", f"/v2/{name}/blobs/{digest}")
    lines, rest = answer(connection)
    (length,) = (one for one in lines if one.lower().startswith("content-length:"))
    left, hasher = int(length.partition(":")[2]) - len(rest), hashlib.sha256(rest)
    file = os.open(path, os.O_RDWR | os.O_TMPFILE, 0o600)
    written, started = os.write(file, rest), 0
    buffer = memoryview(bytearray(_PIECE))
    while left:
        count = connection.recv_into(buffer[: min(_PIECE, left)])
        hasher.update(buffer[:count])
        written += os.write(file, buffer[:count])
        left -= count
        if written - started >= _STRETCH:
            start(file, ctypes.c_int64(started), ctypes.c_int64(written - started), 2)
            started = written
    os.fsync(file)
    assert f"sha256:{hasher.hexdigest()}" == digest


def compare(directory: Path, megabytes: int, rounds: int) -> None:
    """Print the medians."""
    from benchmarks.registry import Commands, write_layout
    from tests.registry.real import serving

    commands = Commands(directory)
    layout = directory / "layout"
    layout.mkdir()
    (digest,) = write_layout(layout, [megabytes << 20])
    blob, source = layout / "blobs" / digest.replace(":", "/"), f"oci:{layout}:1"
    commands.run(commands.ours("import", str(layout), "one"))
    times: dict[str, list[tuple[float, float, int]]] = {}
    with serving(directory) as host:
        commands.run(commands.ours("push", "one", f"{host}/first:1"))  # has the bytes from now on
        for number in range(rounds):
            name = f"{host}/{number}"
            nothing = [sys.executable, __file__, host]
            todo = {
                "push, nothing else": [*nothing, "push", f"{number}n", digest, str(blob)],
                "push, sendfile": [*nothing, "push", f"{number}f", digest, str(blob), "sendfile"],
                "push, assemble": commands.ours("push", "one", f"{name}a:1"),
                "push, skopeo": commands.skopeo(source, f"docker://{name}s:1"),
                "pull, nothing else": [*nothing, "pull", "first", digest, str(directory)],
                "pull, assemble": commands.ours("pull", f"{name}a:1", store="pulled"),
                "pull, skopeo": commands.skopeo(f"docker://{name}s:1", f"oci:{directory}/copy:1"),
            }
            for what, argv in todo.items():
                times.setdefault(what, []).append(commands.run(argv))
            for left in ("pulled", "copy"):
                shutil.rmtree(directory / left)
    for what, found in times.items():
        wall, used, _ = map(statistics.median, zip(*found, strict=True))
        print(f"  {what:<18} {wall:6.2f} s wall, {used:6.2f} s CPU")
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


def main() -> None:
    """See the module."""
    if sys.argv[2:3] in (["push"], ["pull"]):
        host, way, *words = sys.argv[1:]
        address, _, port = host.partition(":")
        with socket.create_connection((address, int(port))) as connection:
            (push if way == "push" else pull)(connection, *words)
        return
    megabytes, rounds = (list(map(int, sys.argv[1:])) + [1024, 3][len(sys.argv) - 1 :])[:2]
    with tempfile.TemporaryDirectory(prefix="tf", dir="/var/tmp") as name:
        compare(Path(name), megabytes, rounds)


if __name__ == "__main__":
    main()
