"""Layer directories of a build: made once, looked for once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import cast

import pytest

from assembler.engine.change import StepChange
from assembler.engine.realisation import Realisation
from assembler.engine.services import Services
from assembler.errors import StoreError
from assembler.oci.digest import Digest
from assembler.runtime.base import Root


class Published:
    """A snapshotter that has every layer, and counts how often it is asked."""

    name = "published"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def find(self, id: str) -> str | None:
        self.asked.append(id)
        return f"/layers/{id}"

    def create(self, id: str) -> AbstractContextManager[str]:
        raise AssertionError(id)

    def prepare(self, id: str, lowers: Sequence[str]) -> AbstractContextManager[Root]:
        raise AssertionError(id)

    def remove(self, id: str) -> None:
        raise AssertionError(id)


def test_the_layers_below_a_step_are_looked_for_once_in_a_build() -> None:
    snapshots = Published()
    realisation = Realisation(cast(Services, None), snapshots, None)
    stack = tuple(StepChange(Digest.of(b"%d" % number), "", True) for number in range(4))
    for number in range(1, len(stack) + 1):
        found = realisation.directories(stack[:number])
        assert found == tuple(f"/layers/{change.id}" for change in reversed(stack[:number]))
    assert snapshots.asked == [change.id for change in stack]


def test_without_a_namespace_no_layer_becomes_a_directory() -> None:
    change = StepChange(Digest.of(b"x"), "", True)
    with pytest.raises(StoreError):
        Realisation(cast(Services, None), None, None).directory(change, ())
