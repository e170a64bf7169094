"""What is remembered of steps, and what is told of them: known, or done and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from assembler.cache.base import Record
from assembler.engine.change import StepChange
from assembler.engine.lookup import known_change, missed, recorded
from assembler.engine.recorder import Vertex
from assembler.engine.services import Services
from assembler.engine.task import Task
from assembler.oci.digest import Digest
from assembler.plan import keys
from assembler.plan.differences import Listing
from assembler.plan.inputs import inputs
from assembler.plan.keys import Read
from assembler.plan.plan import Plan
from assembler.plan.steps import Copy


@dataclass(frozen=True, slots=True)
class Records:
    """The cache and the ledger of one build."""

    plan: Plan
    services: Services

    def find(self, key: Digest, task: Task) -> StepChange | None:
        """What is recorded under `key` for a step; its bytes may be gone."""
        record = recorded(self.services, task.stage, key)
        return None if record is None else known_change(record, task.step)

    def taken(self, work: Vertex, task: Task, key: Digest, change: StepChange) -> None:
        """Tell that `change`, found by `key`, is what the step would give."""
        work.known(change.source, change.ran)
        self.services.ledger.known(task.stage, task.number, key, change.ran, change.source)

    def told(
        self,
        work: Vertex,
        task: Task,
        key: Digest,
        reads: tuple[Read, ...],
        known: StepChange | None,
        files: Mapping[str, Listing] = MappingProxyType({}),
    ) -> None:
        """Tell of a step that runs no process; of one that is `known`, only the bytes may be gone."""
        if known is None:
            self.missed(work, task, key, reads, files)
        else:
            self.taken(work, task, key, known)

    def missed(
        self,
        work: Vertex,
        task: Task,
        key: Digest,
        reads: tuple[Read, ...],
        files: Mapping[str, Listing],
    ) -> None:
        """Tell that the step, whose result would be found by `key`, is done, and why."""
        document = inputs(self.plan, task.stage, task.number, task.parent, reads)
        reason = missed(self.services, task.stage, key)
        stage, number, ledger = task.stage, task.number, self.services.ledger
        work.missed(ledger.missed(stage, number, key, document, reason, files))

    def record(
        self,
        key: Digest,
        content: Digest,
        change: StepChange,
        task: Task,
        reads: tuple[Read, ...],
    ) -> None:
        """Remember `change` by every key that leads to it; by its definition's, `key`, with what
        went into it."""
        document = inputs(self.plan, task.stage, task.number, task.parent, reads)
        told = json.dumps(document, separators=(",", ":"))
        record = Record(change.identity, change.created, told, change.ran, change.source)
        self.services.cache.record(key, record)
        step, also = task.step, {content, change.identity}
        if isinstance(step, Copy):
            also.add(keys.mark_key(task.parent, step))
        for one in also - {key}:
            self.services.cache.record(one, replace(record, inputs="{}"))
