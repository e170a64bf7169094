"""Fixtures of the tests of HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from assembler.cancellation import Cancellation
from tests.net.servers import Authority, Server


@pytest.fixture
def cancellation() -> Iterator[Cancellation]:
    with Cancellation() as wish:
        yield wish


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers; they end with the test."""
    with ExitStack() as stack:
        yield lambda *replies, **how: stack.enter_context(Server(replies, **how))


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nothing but these tests trusts."""
    return Authority(tmp_path_factory.mktemp("authority"))
