"""A step at its place."""

from __future__ import annotations

from assembler.engine.change import Snapshot
from assembler.oci.digest import Digest
from assembler.plan.plan import PlannedStage
from assembler.plan.steps import Run, Step
from assembler.values import value


@value
class Task:
    """Step `number` of `stage`, to be done on what `below` holds, which `parent` identifies."""

    stage: PlannedStage
    number: int
    below: Snapshot
    parent: Digest

    @property
    def step(self) -> Step:
        """What is to be done."""
        return self.stage.steps[self.number]

    @property
    def run_follows(self) -> bool:
        """Whether the stage has another RUN after this step."""
        return any(isinstance(later, Run) for later in self.stage.steps[self.number + 1 :])
