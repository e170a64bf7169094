"""Connecting: names are looked up, their addresses judged, and only those judged connected to.

The check is made on the very addresses that connect(2) is given, so that no second look-up can say
something else (reliability.md 1.2).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from assembler.cancellation import NOTICING, Cancellation
from assembler.net.origin import Zone, zone_of

NEXT_ADDRESS = 0.25  # seconds (RFC 8305 5, Connection Attempt Delay)
MOST_ADDRESSES = 16

Address = tuple[int, tuple[Any, ...]]
"""An address family, and what connect(2) takes."""

LookUp = Callable[[str, int], Sequence[Address]]


class AddressRefused(Exception):
    """Every address of a host is further inside than it may be."""


def look_up(host: str, port: int) -> list[Address]:
    """The addresses of `host`. Raises OSError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a part of the name is empty, or has more than 63 bytes
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from error
    return [(int(family), where) for family, _, _, _, where in found]


def resolve(
    host: str, port: int, cancellation: Cancellation, seconds: float, look_up: LookUp = look_up
) -> list[Address]:
    """The same, within `seconds`, and only while nobody cancels: nothing ends a look-up from
    outside, so it is left alone in its thread then. Raises OSError, TimeoutError, Cancelled."""
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        if literal.version == 4:
            return [(socket.AF_INET, (host, port))]
        return list(look_up(host, port)) if "%" in host else [(socket.AF_INET6, (host, port))]
    outcome: list[Sequence[Address] | BaseException] = []
    over = threading.Event()

    def ask() -> None:
        try:
            outcome.append(look_up(host, port))
        except BaseException as error:  # raised by whoever waits
            outcome.append(error)
        over.set()

    threading.Thread(target=ask, name="look-up", daemon=True).start()
    deadline = time.monotonic() + seconds
    while not over.wait(NOTICING):
        cancellation.check()
        if time.monotonic() > deadline:
            raise socket.gaierror(socket.EAI_AGAIN, f"the name server is silent for {seconds:g} s")
    cancellation.check()
    answer = outcome[0]
    if isinstance(answer, BaseException):
        raise answer
    return list(answer)


def no_further_in(addresses: Sequence[Address], zone: Zone) -> list[Address]:
    """Those of `addresses` that are in `zone` or further out. Raises AddressRefused when there are
    none."""
    found = [one for one in addresses if zone_of(str(one[1][0])) >= zone]
    if addresses and not found:
        raise AddressRefused(str(addresses[0][1][0]))
    return found


def connect(
    addresses: Sequence[Address], cancellation: Cancellation, seconds: float
) -> socket.socket:
    """A connection to the first of `addresses` that answers, each begun a moment after the one
    before it (RFC 8305: one that is dead holds nobody up). Raises OSError, Cancelled."""
    waiting = _alternating(addresses)[:MOST_ADDRESSES]
    failure = OSError(errno.EADDRNOTAVAIL, "it has no address")
    begun: dict[int, socket.socket] = {}
    poll = select.poll()
    poll.register(cancellation.fileno(), select.POLLIN)
    now = time.monotonic()
    deadline, next_at = now + seconds, now
    try:
        while True:
            cancellation.check()
            now = time.monotonic()
            if now >= deadline:
                raise TimeoutError(errno.ETIMEDOUT, f"no connection within {seconds:g} s")
            if waiting and now >= next_at:
                one = socket.socket(waiting[0][0], socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                begun[one.fileno()] = one
                code, next_at = one.connect_ex(waiting.pop(0)[1]), now + NEXT_ADDRESS
                poll.register(one, select.POLLOUT)
                if code not in (0, errno.EINPROGRESS):
                    failure, next_at = _failed(code), now
                    poll.unregister(one)
                    begun.pop(one.fileno()).close()
                    continue
            if not begun and not waiting:
                raise failure
            limit = min(deadline, next_at) if waiting else deadline
            for descriptor, _ in poll.poll(1000 * max(0.0, limit - now)):
                if descriptor not in begun:
                    continue
                code = begun[descriptor].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    return _ready(begun.pop(descriptor))
                failure, next_at = _failed(code), now
                poll.unregister(descriptor)
                begun.pop(descriptor).close()
    finally:
        for one in begun.values():
            one.close()


def _ready(connection: socket.socket) -> socket.socket:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _failed(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def _alternating(addresses: Sequence[Address]) -> list[Address]:
    """The families in turn, beginning with the one that the resolver prefers (RFC 8305 4)."""
    if not addresses:
        return []
    first = [one for one in addresses if one[0] == addresses[0][0]]
    other = [one for one in addresses if one[0] != addresses[0][0]]
    mixed: list[Address] = []
    for n in range(max(len(first), len(other))):
        mixed += first[n : n + 1] + other[n : n + 1]
    return mixed
