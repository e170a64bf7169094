"""What is remembered of steps, and what is told of them: known, or done and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

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
from assembler.plan.steps import Copy, Run


class Given:
    """What goes into the key of a step that reads `reads`; it is put down once, when it is asked for."""

    def __init__(self, plan: Plan, task: Task, reads: Sequence[Read]) -> None:
        self.task = task
        self._plan = plan
        self._reads = reads

    @cached_property
    def document(self) -> dict[str, Any]:
        """See `plan.inputs.inputs`."""
        task = self.task
        return inputs(self._plan, task.stage, task.number, task.parent, self._reads)

    @cached_property
    def text(self) -> str:
        """The document in JSON."""
        return json.dumps(self.document, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Records:
    """The cache and the ledger of one build."""

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
        given: Given,
        key: Digest,
        known: StepChange | None,
        files: Mapping[str, Listing] = MappingProxyType({}),
    ) -> None:
        """Tell of a step that runs no process; of one that is `known`, only the bytes may be gone."""
        if known is None:
            self.missed(work, given, key, files)
        else:
            self.taken(work, given.task, key, known)

    def missed(self, work: Vertex, given: Given, key: Digest, files: Mapping[str, Listing]) -> None:
        """Tell that the step, whose result would be found by `key`, is done, and why."""
        stage, number = given.task.stage, given.task.number
        reason = missed(self.services, stage, key)
        document, text = given.document, given.text
        ledger = self.services.ledger
        work.missed(ledger.missed(stage, number, key, document, text, reason, files))

    def record(self, key: Digest, content: Digest, change: StepChange, given: Given) -> None:
        """Remember `change` by every key that leads to it; by its definition's, `key`, with what
        went into it."""
        record = Record(change.identity, change.created, given.text, change.ran, change.source)
        self.services.cache.record(key, record)
        step, also = given.task.step, {content, change.identity}
        if isinstance(step, Run):
            self.services.made.add(key, *also)
        if isinstance(step, Copy):
            also.add(keys.mark_key(given.task.parent, step))
        for one in also - {key}:
            self.services.cache.record(one, replace(record, inputs="{}"))
