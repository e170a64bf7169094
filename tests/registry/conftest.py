"""The faulty registry for tests of the client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.registry.faulty import FaultyRegistry


@pytest.fixture
def faulty() -> Iterator[FaultyRegistry]:
    """A registry that is right until the test adds rules."""
    with FaultyRegistry() as registry:
        yield registry
