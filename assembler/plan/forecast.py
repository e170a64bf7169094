"""What executing a plan would do, as far as the cache and the store tell before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from assembler.ages import origin
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
class Hit:
    """Where a result comes from: `source` as in `cache.base.Record`, `age` in seconds since its step
    ran, None where that is not known."""

    source: str = ""
    age: float | None = None

    def __str__(self) -> str:
        return origin(f"from {self.source}" if self.source else "local", self.age)


@value
class Forecast:
    """The fate of every step by (stage, step), and the layers to be pulled by image key; of results
    that are known where they come from, of others why they are not."""

    fates: Mapping[tuple[int, int], Fate] = field(default_factory=dict)
    pulls: Mapping[str, tuple[Descriptor, ...]] = field(default_factory=dict)
    hits: Mapping[tuple[int, int], Hit] = field(default_factory=dict)
    reasons: Mapping[tuple[int, int], str] = field(default_factory=dict)
    fetches: tuple[Descriptor, ...] = ()
    """Layers of steps that will come from shared caches."""

    def fate(self, stage: int, step: int) -> Fate:
        """The fate of a step."""
        return self.fates.get((stage, step), Fate.PENDING)

    @property
    def bytes(self) -> int:
        """How many bytes will be pulled."""
        found = (*self.pulls.values(), self.fetches)
        layers = {layer.digest: layer.size for one in found for layer in one}
        return sum(layers.values())

    def count(self, plan: Plan, *fates: Fate) -> int:
        """How many steps of `plan` have one of `fates`."""
        return sum(
            self.fate(stage.index, number) in fates
            for stage in plan.stages
            for number in range(len(stage.steps))
        )
