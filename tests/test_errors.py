"""What errors say about each other."""

from __future__ import annotations

from assembler.errors import StoreError, Unreachable, causes
from assembler.store.disk import refusal, shortage


def test_causes_are_met_once_be_they_a_circle() -> None:
    first, second = OSError("first"), StoreError("second", "")
    second.__cause__ = first
    assert list(causes(second)) == [second, first]
    first.__cause__ = second
    assert list(causes(second)) == [second, first]
    assert shortage(second, "/store") is None
    unreachable = Unreachable("third", registry="r", operation="o")
    unreachable.__cause__ = unreachable
    assert refusal(unreachable, "/store") is None
