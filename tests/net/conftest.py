"""Fixtures of the tests of HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from assembler.cancellation import Cancellation
from assembler.net.client import HttpClient
from assembler.net.retry import RetryPolicy
from tests.net.servers import Authority, Server


@pytest.fixture
def cancellation() -> Iterator[Cancellation]:
    with Cancellation() as wish:
        yield wish


@pytest.fixture
def client(cancellation: Cancellation) -> Iterator[Callable[..., HttpClient]]:
    """Makes clients that try once, unless told otherwise; they end with the test."""
    with ExitStack() as stack:

        def make(**how: Any) -> HttpClient:
            how.setdefault("policy", RetryPolicy(tries=1))
            return stack.enter_context(HttpClient(cancellation=cancellation, **how))

        yield make


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers; they end with the test."""
    with ExitStack() as stack:
        yield lambda *replies, **how: stack.enter_context(Server(replies, **how))


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nothing but these tests trusts."""
    return Authority(tmp_path_factory.mktemp("authority"))
