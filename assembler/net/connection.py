"""One connection: reads and writes end with the build, and when the other end is too slow.

Only time spent waiting for the network counts, not what the caller does in between, and a process
that was stopped (SIGTSTP) has waited no longer than `_SLICE`.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator

import httpx

from assembler.cancellation import Cancellation
from assembler.net.limits import Limits
from assembler.net.origin import Zone

_BUFFER = 1 << 20
_SLICE = 1.0
_MAX_HEAD = 1 << 20  # bytes read before the answer's head is complete; h11 bounds each line itself
_LATER = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class SocketStream:
    """A connected socket, its address in `zone`. What goes wrong is an httpx.TransportError, or
    Cancelled."""

    def __init__(
        self,
        connection: socket.socket,
        *,
        cancellation: Cancellation,
        limits: Limits,
        zone: Zone = Zone.PUBLIC,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        connection.setblocking(False)
        self.zone = zone
        self._socket = connection
        self._cancellation = cancellation
        self._limits = limits
        self._clock = clock
        self._poll = select.poll()
        self._poll.register(cancellation.fileno(), select.POLLIN)
        self._poll.register(connection, 0)
        self._waited = self._moved = 0.0
        self._head: float | None = None  # seconds allowed until the head of an answer is there
        self._until: float | None = None
        self._writing = False
        self._buffer: memoryview | None = None
        self.received = 0
        self.busy_at = clock()  # when the network was last used; infinite while it is

    def begin(self, head: float | None = None, until: float | None = None) -> None:
        """A request is about to be sent: its answer may take `head` seconds, and all must be over
        by `until` on the clock."""
        self._head = self._limits.head if head is None else head
        self._until = until
        self._waited = self._moved = 0.0
        self.received = 0

    def answered(self) -> None:
        """The head of the answer is here: from now on the floor holds."""
        self._head = None
        self._waited = self._moved = 0.0

    def expect(self) -> None:
        """Wait for an answer: to read at once after a request is in vain."""
        self._turn(writing=False)
        if not self._is_tls:  # whose records may have been read already
            self._wait(None, select.POLLIN)

    def read(self, most: int) -> bytes:
        """The next bytes, at most so many; none at the end."""
        self._turn(writing=False)
        while True:
            try:
                data = self._socket.recv(most)
                break
            except _LATER as error:
                self._wait(error, select.POLLIN)
            except OSError as error:
                raise httpx.ReadError(str(error)) from error
        if not self.received and data[:2] == b"\x15\x03" and not self._is_tls:  # RFC 8446 5.1
            raise httpx.RemoteProtocolError("a TLS alert")
        self._count(len(data))
        if self._head is not None and self.received > _MAX_HEAD:
            raise httpx.RemoteProtocolError("the head of the answer does not end")
        return data

    def pieces(self, length: int, first: bytes = b"") -> Iterator[memoryview]:
        """The next `length` bytes, of which `first` were read already; each piece is good until the
        next one is asked for. Raises httpx.ReadError when there are fewer."""
        if self._buffer is None:
            self._buffer = memoryview(bytearray(_BUFFER))
        buffer, filled = self._buffer, len(first)
        buffer[:filled] = first
        while length:
            most, ended = min(len(buffer), length), False
            try:
                while filled < most and not ended:
                    some = self._socket.recv_into(buffer[filled:most])
                    self._count(some)
                    filled, ended = filled + some, not some
                    if not self._is_tls:
                        break  # what was there, unless the buffer is full
            except _LATER as error:
                if not filled:
                    self._wait(error, select.POLLIN)
                    continue
            except OSError as error:
                if not filled:
                    raise httpx.ReadError(str(error)) from error
            length -= filled
            if filled:
                yield buffer[:filled]
                filled = 0
            elif ended:
                raise httpx.ReadError(f"the connection ended {length} bytes early")

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data`. Raises httpx.WriteError also when the other end answers instead of
        reading on."""
        self._turn(writing=True)
        rest = memoryview(data)
        while rest:
            try:
                sent = self._socket.send(rest)
            except _LATER as error:
                self._wait(error, select.POLLOUT)
                continue
            except OSError as error:
                raise httpx.WriteError(str(error)) from error
            self._count(sent)
            rest = rest[sent:]

    def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Speak TLS from now on, within the time for a handshake. Raises ssl.SSLError, OSError."""
        self.begin(self._limits.handshake)
        secured = context.wrap_socket(
            self._socket, server_hostname=host, do_handshake_on_connect=False
        )
        self._socket = secured
        while True:
            try:
                return secured.do_handshake()
            except _LATER as error:
                self._wait(error, select.POLLIN)

    @property
    def _is_tls(self) -> bool:
        return isinstance(self._socket, ssl.SSLSocket)

    def close(self) -> None:
        """Give the connection up."""
        self._socket.close()

    @property
    def readable(self) -> bool:
        """Whether something is there to be read, the end too."""
        if self._socket.fileno() < 0:
            return True
        probe = select.poll()
        probe.register(self._socket, select.POLLIN)
        return bool(probe.poll(0))

    def _turn(self, writing: bool) -> None:
        if writing != self._writing:
            self._writing = writing
            self._waited = self._moved = 0.0

    def _count(self, moved: int) -> None:
        if self._cancellation.cancelled:
            self._cancellation.check()
        self._moved += moved
        if not self._writing:
            self.received += moved
        self.busy_at = self._clock()

    def _wait(self, error: OSError | None, events: int) -> None:
        """Wait until the socket is ready for more. Raises httpx's timeouts, Cancelled."""
        if isinstance(error, ssl.SSLWantReadError):
            events = select.POLLIN
        elif isinstance(error, ssl.SSLWantWriteError):
            events = select.POLLOUT
        self._poll.modify(self._socket, events)
        self.busy_at = float("inf")
        while True:
            before = self._clock()
            found = self._poll.poll(1000 * min(_SLICE, self._left() + 0.001))
            now = self._clock()
            if self._cancellation.cancelled:
                self._cancellation.check()
            self._waited += min(now - before, _SLICE)
            self._judge(now)
            if found:
                self.busy_at = now
                return
            # A server that will not have the rest of a request may have said so (RFC 9112 9.5).
            if self._writing and not self._is_tls and self.readable:
                raise httpx.WriteError("the server answers without reading on")

    def _left(self) -> float:
        whole = self._limits.window
        if self._head is not None and not self._writing:
            whole = self._head
        return max(0.0, whole - self._waited)

    def _judge(self, now: float) -> None:
        kind: type[Exception] = httpx.WriteTimeout if self._writing else httpx.ReadTimeout
        if self._until is not None and now > self._until:
            raise kind("the time for it is over")
        if self._head is not None and not self._writing:
            if self._waited >= self._head:
                raise kind(f"no whole answer within {self._head:g} s")
        elif self._waited >= self._limits.window:
            if self._moved < self._limits.floor * self._waited:
                raise kind(f"slower than {self._limits.floor:g} bytes/s for {self._waited:.0f} s")
            self._waited = self._moved = 0.0
