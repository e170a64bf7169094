"""Small servers that do as they are told, and certificates that only these tests trust."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from assembler.net.dial import Address

Reply = bytes | Callable[[socket.socket, bytes], object]
"""What is sent in answer to a request, or what does it, given the connection and the request's head.
One that returns False ends the connection."""


def answer(status: int = 200, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    """A whole answer."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {size}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


@dataclass
class Server:
    """Answers the requests of all connections with `replies` in turn, the last one for ever."""

    replies: Sequence[Reply]
    host: str = "127.0.0.1"
    context: ssl.SSLContext | None = None
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Server:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._listener = socket.create_server((self.host, 0), family=family)
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        _shut(self._listener)
        self._threads[0].join()  # from here on there is no new connection
        for one in self._open:
            _shut(one)
        for thread in self._threads:
            thread.join()
        self._listener.close()
        for one in self._open:
            one.close()

    def url(self, path: str = "/", host: str = "") -> str:
        """The URL of `path` here, by the name `host`."""
        scheme = "http" if self.context is None else "https"
        name = host or self.host
        return f"{scheme}://{f'[{name}]' if ':' in name else name}:{self.port}{path}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError), ExitStack() as stack:
            stack.callback(connection.close)
            if self.context is not None:
                connection = self.context.wrap_socket(connection, server_side=True)
                self._open.append(connection)
                stack.callback(connection.close)
            rest = b""
            while True:
                head, body, rest = _request(connection, rest)
                with self._lock:
                    self.heads.append(head)
                    self.bodies.append(body)
                    reply = self.replies[min(len(self.heads), len(self.replies)) - 1]
                if isinstance(reply, bytes):
                    connection.sendall(reply)
                elif reply(connection, head) is False:
                    return


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # under TLS, whose part of it belongs to another thread
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _request(connection: socket.socket, rest: bytes) -> tuple[bytes, bytes, bytes]:
    data = bytearray(rest)
    while b"\r\n\r\n" not in data:
        data += _some(connection)
    head, _, rest = bytes(data).partition(b"\r\n\r\n")
    length = next(
        (int(line[15:]) for line in head.split(b"\r\n") if line.lower()[:15] == b"content-length:"),
        0,
    )
    data = bytearray(rest)
    while len(data) < length:
        data += _some(connection)
    return head, bytes(data[:length]), bytes(data[length:])


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 20)
    if not data:
        raise OSError("gone")
    return data


@contextmanager
def hole() -> Iterator[int]:
    """A port whose backlog is full: a connect(2) to it waits."""
    deadline = time.monotonic() + 60
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect(listener.getsockname())
        while not _backlog(listener):  # what is sent over loopback may be late all the same
            assert time.monotonic() < deadline
            time.sleep(0.001)
        yield listener.getsockname()[1]


def _backlog(listener: socket.socket) -> int:
    """How many connections have come about that nobody has accepted (tcpi_unacked of tcp_info)."""
    return int.from_bytes(
        listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)[24:], sys.byteorder
    )


def names(**addresses: str) -> Callable[[str, int], list[Address]]:
    """A resolver that knows these names, with `_` for a dot, and the addresses of each."""

    def look_up(host: str, port: int) -> list[Address]:
        found = addresses.get(host.replace(".", "_"))
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6 if ":" in one else socket.AF_INET, (one, port))
            for one in found.split()
        ]

    return look_up


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a directory."""

    directory: Path

    def __post_init__(self) -> None:
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", "/CN=An authority of the tests", "-days", "2",
            "-keyout", str(self.directory / "ca.key"), "-out", self.certificate,
        )  # fmt: skip

    @property
    def certificate(self) -> str:
        """Its own certificate, in PEM."""
        return str(self.directory / "ca.crt")

    def hashed(self, directory: Path) -> str:
        """`directory` with the certificate under the name that OpenSSL looks for."""
        name = _openssl("x509", "-in", self.certificate, "-noout", "-subject_hash").strip()
        (directory / f"{name}.0").write_bytes(Path(self.certificate).read_bytes())
        return str(directory)

    def server(
        self, names: str = "IP:127.0.0.1", *, days: int = 2, start: str = "", alone: bool = False
    ) -> ssl.SSLContext:
        """A server's context, its certificate for `names` (a subjectAltName) signed by the authority,
        or by itself when `alone`."""
        path = self.issue("server", names, days=days, start=start, alone=alone)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{path}.crt", f"{path}.key")
        return context

    def issue(
        self, what: str, names: str, *, days: int = 2, start: str = "", alone: bool = False
    ) -> str:
        """The path of a certificate and its key, without `.crt` and `.key`."""
        number = len(list(self.directory.iterdir()))
        path = str(self.directory / f"{what}{number}")
        Path(f"{path}.ext").write_text(f"subjectAltName={names}\n")
        _openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
            f"/CN={what}", "-keyout", f"{path}.key", "-out", f"{path}.csr",
        )  # fmt: skip
        signing = (
            ["-signkey", f"{path}.key"]
            if alone
            else ["-CA", self.certificate, "-CAkey", str(self.directory / "ca.key")]
        )
        if start:  # only `openssl ca` sets both dates (3.0)
            end = f"{int(start[:4]) + 1}{start[4:]}"
            database = Path(f"{path}.db")
            database.touch()
            configuration = Path(f"{path}.cnf")
            configuration.write_text(
                f"[ca]\ndefault_ca=d\n[d]\ndatabase={database}\nnew_certs_dir={self.directory}\n"
                "rand_serial=yes\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n"
            )
            _openssl(
                "ca", "-batch", "-config", str(configuration), "-in", f"{path}.csr", "-out",
                f"{path}.crt", "-cert", self.certificate, "-keyfile",
                str(self.directory / "ca.key"), "-startdate", start, "-enddate", end,
                "-extfile", f"{path}.ext", "-notext",
            )  # fmt: skip
        else:
            _openssl(
                "x509", "-req", "-in", f"{path}.csr", "-out", f"{path}.crt", "-days", str(days),
                "-extfile", f"{path}.ext", "-CAcreateserial", *signing,
            )  # fmt: skip
        return path


def _openssl(*arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True)
    return done.stdout
