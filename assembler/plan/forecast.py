"""What executing a plan would do, as far as the cache and the store tell before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from assembler.oci.descriptor import Descriptor
from assembler.plan.plan import Plan
from assembler.values import field, value


class Fate(Enum):
    """What becomes of a step."""

    CACHED = "cached"
    RUN = "run"
    PENDING = "pending"
    """Decided when what it reads is there: it may still turn out to be known."""
    UNNEEDED = "unneeded"
    """Everything that reads it is known."""


@value
class Forecast:
    """The fate of every step by (stage, step), and the layers to be pulled by image key."""

    fates: Mapping[tuple[int, int], Fate] = field(default_factory=dict)
    pulls: Mapping[str, tuple[Descriptor, ...]] = field(default_factory=dict)

    def fate(self, stage: int, step: int) -> Fate:
        """The fate of a step."""
        return self.fates.get((stage, step), Fate.PENDING)

    @property
    def bytes(self) -> int:
        """How many bytes will be pulled."""
        layers = {layer.digest: layer.size for found in self.pulls.values() for layer in found}
        return sum(layers.values())

    def count(self, plan: Plan, *fates: Fate) -> int:
        """How many steps of `plan` have one of `fates`."""
        return sum(
            self.fate(stage.index, number) in fates
            for stage in plan.stages
            for number in range(len(stage.steps))
        )
