"""Layers of the image on their way while stages run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from assembler.engine.change import BaseChange, Snapshot, StepChange
from assembler.engine.realisation import Realisation
from assembler.engine.scheduler import Scheduler
from assembler.engine.services import Services
from assembler.engine.task import Task
from assembler.errors import StepError
from assembler.plan.plan import Plan, PlannedStage

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Exports:
    """Tells the destination of layers. `stages` are those whose layers the image has."""

    plan: Plan
    services: Services
    realisation: Realisation
    stages: frozenset[int]

    def step(self, task: Task, change: StepChange, scheduler: Scheduler[Result]) -> None:
        """Have a layer of the image on its way while later steps run: packed first, if it is not."""
        if task.stage.index not in self.stages:
            return
        layer = self.realisation.exact(change)
        if layer is not None:
            self.services.destination.layer(layer.descriptor)
        elif not self._is_last(task):
            scheduler.beside(lambda: self.pack(task, change))

    def _is_last(self, task: Task) -> bool:
        """Whether everything is done with this step: no time is left to pack anything beside it."""
        last = task.stage.index == self.plan.target and task.number + 1 == len(task.stage.steps)
        return last and not self.plan.also

    def base(self, stage: PlannedStage, snapshot: Snapshot) -> None:
        """The same for those of a base whose blobs are here; others need not come before the end."""
        services = self.services
        if stage.index not in self.stages or services.recompress:
            return
        for change in snapshot:
            if isinstance(change, BaseChange) and services.store.blobs.has(
                change.descriptor.digest
            ):
                services.destination.layer(change.descriptor)

    def pack(self, task: Task, change: StepChange) -> None:
        """Pack what a step changed, and tell of it. Raises StepError at the step."""
        try:
            layer = self.realisation.pack(change, task.below)
        except StepError as error:
            error.place_at(task.step.span)
            raise
        self.services.destination.layer(layer.descriptor)
