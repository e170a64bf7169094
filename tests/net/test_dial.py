"""Connecting to one of several addresses (rule R16), and to none inside (rule R2)."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from assembler.cancellation import Cancellation
from assembler.errors import Cancelled
from assembler.net.dial import Address, AddressRefused, connect, no_further_in, resolve
from assembler.net.origin import Zone
from tests.net.servers import Server, answer, hole, names


@pytest.fixture
def port() -> Iterator[int]:
    with hole() as number:
        yield number


def v4(port: int) -> Address:
    return (socket.AF_INET, ("127.0.0.1", port))


def test_R16_a_dead_address_holds_nobody_up(
    cancellation: Cancellation, port: int, serve: Callable[..., Server]
) -> None:
    there = serve(answer(), host="::1").port
    addresses = [v4(port), (socket.AF_INET6, ("::1", there))]
    with closing(connect(addresses, cancellation, seconds=60)) as connection:
        assert connection.family == socket.AF_INET6


def test_R16_a_refused_address_leads_to_the_next(
    cancellation: Cancellation, serve: Callable[..., Server]
) -> None:
    there = serve(answer()).port
    refusing: Address = (socket.AF_INET6, ("::1", there))
    with closing(connect([refusing, v4(there)], cancellation, seconds=60)) as connection:
        assert connection.family == socket.AF_INET


def test_R16_families_take_turns(cancellation: Cancellation, serve: Callable[..., Server]) -> None:
    there = serve(answer()).port
    refusing: Address = (socket.AF_INET6, ("::1", there))
    with closing(connect([refusing] * 40 + [v4(there)], cancellation, 60)) as connection:
        assert connection.family == socket.AF_INET


@pytest.mark.parametrize("host", ["a..b", ".", "a" * 64])
def test_a_name_that_can_be_none_does_not_exist(cancellation: Cancellation, host: str) -> None:
    with pytest.raises(socket.gaierror):
        resolve(host, 80, cancellation, 60)


def test_a_connection_has_its_time(cancellation: Cancellation, port: int) -> None:
    with pytest.raises(OSError, match="no connection within") as failed:
        connect([v4(port)], cancellation, seconds=0.1)
    assert failed.value.errno == errno.ETIMEDOUT


def test_no_address_at_all(cancellation: Cancellation) -> None:
    with pytest.raises(OSError, match="it has no address"):
        connect([], cancellation, seconds=1)


def test_a_connection_ends_with_the_build(cancellation: Cancellation, port: int) -> None:
    cancellation.cancel(2)
    with pytest.raises(Cancelled):
        connect([v4(port)], cancellation, seconds=60)


def test_an_address_is_not_looked_up(cancellation: Cancellation) -> None:
    found = [resolve(host, 5, cancellation, 1, names()) for host in ("10.0.0.1", "fd00::1")]
    assert [one[0][1] for one in found] == [("10.0.0.1", 5), ("fd00::1", 5)]


def test_a_name_server_that_is_silent(cancellation: Cancellation) -> None:
    with ExitStack() as stack:
        over = threading.Event()
        stack.callback(over.set)

        def hangs(host: str, port: int) -> list[Address]:
            over.wait()
            return []

        with pytest.raises(socket.gaierror) as failed:
            resolve("r.example", 80, cancellation, 0.1, hangs)
    assert failed.value.errno == socket.EAI_AGAIN


def test_R2_only_public_addresses_are_connected_to() -> None:
    mixed = names(r_example="10.0.0.1 8.8.8.8 ::1")("r.example", 443)
    assert [address for _, address in no_further_in(mixed, Zone.PUBLIC)] == [("8.8.8.8", 443)]
    inner = names(r_example="::1 169.254.169.254")("r.example", 443)
    assert [address for _, address in no_further_in(inner, Zone.INSIDE)] == [("::1", 443)]
    with pytest.raises(AddressRefused, match="::1"):
        no_further_in(inner, Zone.PUBLIC)
