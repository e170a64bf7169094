"""Options that are durations."""

from __future__ import annotations

import pytest

from assembler.cli.durations import timeout_of
from assembler.errors import UsageError


def test_a_timeout_is_a_duration() -> None:
    assert timeout_of("") is None
    assert timeout_of("1h30m") == 5400
    assert timeout_of("250ms") == 0.25
    for text in ("0s", "-1s", "soon", "10"):
        with pytest.raises(UsageError, match="--timeout"):
            timeout_of(text)
