"""One stage, step by step: look up, else execute; each result becomes a change."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from assembler.cache.base import Record
from assembler.engine import copy, directories
from assembler.engine.change import BaseChange, Snapshot, StepChange, base_snapshot
from assembler.engine.lookup import KnownStage, read_once, recorded
from assembler.engine.mounts import MountSources, mounted
from assembler.engine.realisation import Realisation
from assembler.engine.recorder import Vertex, timestamp, vertex
from assembler.engine.run import execute
from assembler.engine.scheduler import Scheduler
from assembler.engine.selection import Selection
from assembler.engine.services import Sandbox, Services
from assembler.engine.sources import Sources, origin_tree
from assembler.errors import StepError
from assembler.layer.changeset import Changeset
from assembler.layer.tree import EmptyTree, Tree
from assembler.oci.digest import Digest
from assembler.plan import keys
from assembler.plan.make import base_name
from assembler.plan.plan import ImageBase, Plan, PlannedStage, StageBase
from assembler.plan.steps import Copy, MakeDirectory, Origin, Run, Step


@dataclass(frozen=True, slots=True)
class BuiltStage:
    """A finished stage: its whole stack, its own changes on top, and its identity."""

    snapshot: Snapshot
    changes: tuple[StepChange, ...]
    identity: Digest


@dataclass(frozen=True, slots=True)
class StageBuilder:
    """Builds stages of one plan. `build` is called from the scheduler's threads."""

    plan: Plan
    services: Services
    sources: Sources
    realisation: Realisation
    sandbox: Sandbox | None
    known: Mapping[int, KnownStage]
    running: frozenset[int]
    """The stages whose files will be directories, because a process needs them."""
    exported: frozenset[int]
    """The stages whose layers the image has."""

    def build(self, index: int, scheduler: Scheduler[BuiltStage]) -> BuiltStage:
        """The finished stage `index`; stages it needs are taken from `scheduler`."""
        stage = self.plan.stage(index)
        snapshot: Snapshot
        if isinstance(stage.base, StageBase):
            below = scheduler.result(stage.base.index)
            snapshot, identity = below.snapshot, below.identity
        else:
            snapshot = self._import(stage)
            self._export_base(stage, snapshot)
            identity = self._base_identity(stage)
        changes: list[StepChange] = []
        for number, step in enumerate(stage.steps):
            self.services.cancellation.check()
            change = self._step(stage, number, step, snapshot, identity, scheduler)
            changes.append(change)
            self._export(stage, number, change, snapshot, scheduler)
            snapshot = (*snapshot, change)
            identity = keys.above(identity, step, change.identity)
        return BuiltStage(snapshot, tuple(changes), identity)

    def _import(self, stage: PlannedStage) -> Snapshot:
        if not isinstance(stage.base, ImageBase):
            return ()
        name = base_name(self.plan, stage)
        with vertex(f"{stage.index}/base", name, self.services.sink, self.services.clock) as work:
            work.cached = True  # pulling is a vertex of its own, where it happens
            return base_snapshot(self.plan.images[stage.base.image])

    def _base_identity(self, stage: PlannedStage) -> Digest:
        if isinstance(stage.base, ImageBase):
            return keys.base_key(self.plan.images[stage.base.image])
        return keys.scratch_key(stage.platform)

    def _identity_of(self, index: int, scheduler: Scheduler[BuiltStage]) -> Digest:
        known = self.known[index].identity
        return scheduler.result(index).identity if known is None else known

    def _step(
        self,
        stage: PlannedStage,
        number: int,
        step: Step,
        below: Snapshot,
        parent: Digest,
        scheduler: Scheduler[BuiltStage],
    ) -> StepChange:
        unread = read_once(self.plan, stage, number, parent, self.services, self.sources)
        if unread is not None and isinstance(step, Copy):
            with (
                vertex(
                    f"{stage.index}/{number}", step.name, self.services.sink, self.services.clock
                ) as work,
                scheduler.working,
            ):
                return self._copy_once(work, stage, step, unread, parent, below)
        origins = self.sources.origins(step, lambda index: self._identity_of(index, scheduler))
        assert origins is not None  # every stage is finished once `identity_of` returned
        key = keys.step_key(parent, step, origins)
        with vertex(
            f"{stage.index}/{number}", step.name, self.services.sink, self.services.clock
        ) as work:
            change = self._known(key, stage, step)
            if change is not None:
                work.cached = True
                return change
            return self._execute(work, stage, number, step, key, parent, below, scheduler)

    def _export(
        self,
        stage: PlannedStage,
        number: int,
        change: StepChange,
        below: Snapshot,
        scheduler: Scheduler[BuiltStage],
    ) -> None:
        """Have a layer of the image on its way while later steps run: packed first, if it is not."""
        if stage.index not in self.exported:
            return
        layer = self.realisation.packed(change)
        if layer is not None:
            self.services.destination.layer(layer.descriptor)
        elif stage.index != self.plan.target or number + 1 < len(stage.steps):
            step = stage.steps[number]
            scheduler.beside(lambda: self._pack(step, change, below))

    def _export_base(self, stage: PlannedStage, snapshot: Snapshot) -> None:
        """The same for those of a base whose blobs are here; others need not come before the end."""
        services = self.services
        if stage.index not in self.exported or services.recompress:
            return
        for change in snapshot:
            if isinstance(change, BaseChange) and services.store.blobs.has(
                change.descriptor.digest
            ):
                services.destination.layer(change.descriptor)

    def _pack(self, step: Step, change: StepChange, below: Snapshot) -> None:
        try:
            layer = self.realisation.pack(change, below)
        except StepError as error:
            error.place_at(step.span)
            raise
        self.services.destination.layer(layer.descriptor)

    def _known(self, key: Digest, stage: PlannedStage, step: Step) -> StepChange | None:
        record = recorded(self.services, stage, key)
        if record is None:
            return None
        change = StepChange(record.identity, record.created, isinstance(step, Run))
        return change if self.realisation.available(change) else None

    def _execute(
        self,
        work: Vertex,
        stage: PlannedStage,
        number: int,
        step: Step,
        key: Digest,
        parent: Digest,
        below: Snapshot,
        scheduler: Scheduler[BuiltStage],
    ) -> StepChange:
        created = timestamp(self._now())
        if isinstance(step, Run):
            # A RUN asked for anew may give other files: its result gets an identity of its own.
            nonce = uuid.uuid4().hex
            identity = keys.fresh_key(key, nonce) if stage.fresh else key
            more = any(isinstance(later, Run) for later in stage.steps[number + 1 :])
            self._run(work, stage, step, identity, below, scheduler, more)
            change = StepChange(identity, created, True)
        elif isinstance(step, MakeDirectory):
            tree = self._destination(stage, below)
            made = directories.make_directory(step, tree, self._now_ns())
            change = StepChange(key, created, False, made)
        else:
            change, known = self._copy(stage, step, parent, below, scheduler, created)
            work.cached = known
        self._record(key, change, step, parent)
        return change

    def _run(
        self,
        work: Vertex,
        stage: PlannedStage,
        step: Run,
        identity: Digest,
        below: Snapshot,
        scheduler: Scheduler[BuiltStage],
        more: bool,
    ) -> None:
        assert self.sandbox is not None  # a plan with a RUN always enters one
        lowers = self.realisation.directories(below)
        self._export_base(stage, below)

        def open_tree(origin: Origin, reader: Step) -> Tree:
            return self._tree(origin, reader, scheduler)

        given = MountSources(self.services, self.sandbox, self.sources, open_tree)
        with mounted(step, given) as mounts, scheduler.working:
            execute(
                step,
                identity.hex,
                lowers,
                sandbox=self.sandbox,
                services=self.services,
                mounted=mounts,
                output=work.output,
                more=more,
            )

    def _tree(self, origin: Origin, step: Step, scheduler: Scheduler[BuiltStage]) -> Tree:
        return origin_tree(
            origin,
            step,
            plan=self.plan,
            sources=self.sources,
            realisation=self.realisation,
            stage_snapshot=lambda index: scheduler.result(index).snapshot,
        )

    def _copy(
        self,
        stage: PlannedStage,
        step: Copy,
        parent: Digest,
        below: Snapshot,
        scheduler: Scheduler[BuiltStage],
        created: str,
    ) -> tuple[StepChange, bool]:
        source = self._tree(step.origin, step, scheduler)
        with scheduler.working:
            selection = self.sources.select(step, source)
            identity = keys.content_key(parent, step, self.sources.digest(step, selection))
            known = self._known(identity, stage, step)
            if known is not None:
                return known, True
            made = self._copied(stage, step, selection, below)
            return StepChange(identity, created, False, made), False

    def _copied(
        self, stage: PlannedStage, step: Copy, selection: Selection, below: Snapshot
    ) -> Changeset:
        return copy.changeset(
            step,
            selection,
            EmptyTree() if step.link else self._destination(stage, below),
            now=self._now_ns(),
            spool=self.realisation.spool,
            check=self.services.cancellation.check,
            limits=self.services.archive_limits,
        )

    def _copy_once(
        self,
        work: Vertex,
        stage: PlannedStage,
        step: Copy,
        selection: Selection,
        parent: Digest,
        below: Snapshot,
    ) -> StepChange:
        """A copy whose files are read once: they are hashed when they are packed."""
        created = timestamp(self._now())
        made = self._copied(stage, step, selection, below)
        try:
            layer, contents = self.realisation.pack_first(made)
        except StepError as error:
            error.place_at(step.span)
            raise
        selected = self.sources.digest(step, selection, contents)
        identity = keys.content_key(parent, step, selected)
        change = self._known(identity, stage, step)  # of the same files from elsewhere
        if change is None:
            self.realisation.name(identity, layer)
            change = StepChange(identity, created, False, made)
        else:
            work.cached = True
        key = keys.step_key(parent, step, ((step.origin, selected),))
        self._record(key, change, step, parent)
        return change

    def _destination(self, stage: PlannedStage, below: Snapshot) -> Tree:
        return self.realisation.tree(below, unpack=stage.index in self.running)

    def _record(self, key: Digest, change: StepChange, step: Step, parent: Digest) -> None:
        record = Record(change.identity, change.created, inputs=json.dumps({"step": step.name}))
        also = {keys.definition_key(parent, step)} if isinstance(step, Copy) else set()
        for one in (key, *({change.identity} | also) - {key}):
            self.services.cache.record(one, record)

    def _now(self) -> float:
        return self.services.clock() if self.plan.epoch is None else float(self.plan.epoch)

    def _now_ns(self) -> int:
        return int(self._now() * 1_000_000_000)
