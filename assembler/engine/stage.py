"""One stage, step by step: look up, else execute; each result becomes a change."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from assembler.engine import copy, directories
from assembler.engine.change import Snapshot, StepChange, base_snapshot
from assembler.engine.exports import Exports
from assembler.engine.files import Files
from assembler.engine.lookup import (
    KnownStage,
    ends_in_image,
    read_once,
    recorded,
    renewed,
)
from assembler.engine.mounts import MountSources, mounted
from assembler.engine.realisation import Realisation
from assembler.engine.recorder import Vertex, timestamp, vertex
from assembler.engine.records import Given, Records
from assembler.engine.run import execute
from assembler.engine.scheduler import Scheduler
from assembler.engine.selection import Selection
from assembler.engine.services import Sandbox, Services
from assembler.engine.sharing import unclaimed
from assembler.engine.sources import Bound, Sources, origin_tree
from assembler.engine.task import Task
from assembler.errors import StepError
from assembler.layer.changeset import ByteSource, Changeset
from assembler.layer.tree import EmptyTree, Tree
from assembler.oci.digest import Digest
from assembler.plan import keys
from assembler.plan.keys import Read
from assembler.plan.make import base_name
from assembler.plan.plan import ImageBase, Plan, PlannedStage, StageBase
from assembler.plan.steps import (
    BindMount,
    ContextOrigin,
    Copy,
    MakeDirectory,
    Origin,
    Run,
    Step,
)
from assembler.store.working import Turn


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

    @property
    def _records(self) -> Records:
        return Records(self.services)

    @property
    def _exports(self) -> Exports:
        return Exports(self.plan, self.services, self.realisation, self.exported)

    def build(self, index: int, scheduler: Scheduler[BuiltStage]) -> BuiltStage:
        """The finished stage `index`; stages it needs are taken from `scheduler`."""
        stage = self.plan.stage(index)
        snapshot: Snapshot
        if isinstance(stage.base, StageBase):
            below = scheduler.result(stage.base.index)
            snapshot, identity = below.snapshot, below.identity
        else:
            snapshot = self._import(stage)
            if index in self.running:
                for change in snapshot:  # whoever unpacks them, and however long that one lives
                    self.realisation.hold(change)
            self._exports.base(stage, snapshot)
            identity = self._base_identity(stage)
        changes: list[StepChange] = []
        for number, step in enumerate(stage.steps):
            self.services.cancellation.check()
            task = Task(stage, number, snapshot, identity)
            change = self._step(task, scheduler)
            changes.append(change)
            self._exports.step(task, change, scheduler)
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

    def _step(self, task: Task, scheduler: Scheduler[BuiltStage]) -> StepChange:
        stage, number, step = task.stage, task.number, task.step
        sink, clock = self.services.sink, self.services.clock
        id = f"{stage.index}/{number}"
        unread = read_once(self.plan, stage, number, task.parent, self.services, self.sources)
        if unread is not None and isinstance(step, Copy):
            mark = keys.mark_key(task.parent, step)
            with vertex(id, step.name, sink, clock) as work:
                with self._turn(mark, task, work):
                    if recorded(self.services, stage, mark) is None:
                        with scheduler.working:
                            return self._copy_once(work, task, step, unread)
                key, reads = self._key(task, scheduler)
                return self._done(work, task, key, reads, scheduler)
        key, reads = self._key(task, scheduler)
        with vertex(id, step.name, sink, clock) as work:
            return self._done(work, task, key, reads, scheduler)

    def _key(self, task: Task, scheduler: Scheduler[BuiltStage]) -> tuple[Digest, tuple[Read, ...]]:
        """The definition key of a step, and what went into it; waits for the stages it reads."""
        step = task.step
        reads = self.sources.reads(step, lambda index: self._identity_of(index, scheduler))
        assert reads is not None  # every stage is finished once `identity_of` returned
        return keys.definition_key(task.parent, step, [read.identity for read in reads]), reads

    def _done(
        self,
        work: Vertex,
        task: Task,
        key: Digest,
        reads: tuple[Read, ...],
        scheduler: Scheduler[BuiltStage],
    ) -> StepChange:
        """The change of a step: known, made by another build meanwhile, or made here."""
        change = self._known(key, task)
        if change is None:
            for index in self.plan.step_sources(task.step):
                scheduler.result(index)  # who has a turn waits for no stage (see `engine.sharing`)
            step = task.step
            if isinstance(step, Copy):
                return self._copy(work, task, step, key, reads, scheduler)
            if isinstance(step, Run):
                return self._run(work, task, step, key, reads, scheduler)
            with self._turn(key, task, work):
                change = self._known(key, task)
                if change is None:
                    return self._make_directory(work, task, step, key, reads)
        self._records.taken(work, task, key, change)
        return change

    def _turn(self, key: Digest, task: Task, work: Vertex) -> AbstractContextManager[Turn]:
        """The turn at what `key` leads to; its result is held from now on. A stage that is to take
        nothing from others shares a RUN with stages of this build only; nobody has a part in what
        others could not use: a changeset."""
        run, fresh = isinstance(task.step, Run), task.stage.fresh
        if not run and (fresh or self._form(task) is None):
            return unclaimed("", work.output)
        self.realisation.hold(StepChange(key, "", True))
        name = f"step {key} {self.services.made.name}" if fresh else f"step {key}"
        return self.services.claims(name, work.output)

    def _form(self, task: Task) -> Callable[[Task, StepChange], object] | None:
        """What gives the changeset of a step the form that it will have anyway, which other builds
        can use: a layer directory where a RUN is above it, a blob where the image has it and no RUN
        is. None where nobody knows that it will have one."""
        index = task.stage.index
        if index in self.running and (
            task.run_follows
            or any(self.plan.stage(one).base == StageBase(index) for one in self.running)
        ):
            return lambda task, change: self.realisation.directory(change, task.below)
        return self._exports.pack if self._ends_in_image(task) else None

    def _ends_in_image(self, task: Task) -> bool:
        return ends_in_image(self.plan, task.stage, task.number, self.services)

    def _known(self, key: Digest, task: Task) -> StepChange | None:
        change = self._records.find(key, task)
        return change if change is not None and self.realisation.available(change) else None

    def _make_directory(
        self,
        work: Vertex,
        task: Task,
        step: MakeDirectory,
        key: Digest,
        reads: tuple[Read, ...],
    ) -> StepChange:
        known, given = self._records.find(key, task), Given(self.plan, task, reads)
        self._records.told(work, given, key, known)
        made = directories.make_directory(step, self._destination(task), self._now_ns())
        change = self._made(key, made, known)
        self._keep(key, key, change, given)
        return change

    def _keep(self, key: Digest, content: Digest, change: StepChange, given: Given) -> None:
        """Give a changeset its form, and remember it: who waits finds both."""
        task = given.task
        form = None if task.stage.fresh else self._form(task)
        if form is not None:
            form(task, change)
        self._records.record(key, content, change, given)

    def _made(
        self,
        identity: Digest,
        changeset: Changeset | None = None,
        known: StepChange | None = None,
    ) -> StepChange:
        """The change of a step that is done now; of one that is `known`, and of which only the
        bytes were given up, put together again."""
        if known is not None:
            return replace(known, changeset=changeset)
        return StepChange(identity, timestamp(self._now()), False, changeset, self.services.clock())

    def _run(
        self,
        work: Vertex,
        task: Task,
        step: Run,
        key: Digest,
        reads: tuple[Read, ...],
        scheduler: Scheduler[BuiltStage],
    ) -> StepChange:
        """What a RUN gives; known where its mounts show what they did once."""
        bound = self._bound(step, reads, scheduler)
        reads = _selected(reads, [each.digest for _, each in bound])
        content = keys.content_key(task.parent, step, [each.digest for _, each in bound])
        given = Given(self.plan, task, reads)
        with self._turn(content, task, work) as turn:
            self.services.cancellation.check()
            known = self._known(content, task)
            if known is not None:
                self._records.taken(work, task, key, known)
                if content != key:
                    self._records.record(key, content, known, given)
                return known
            files = self.sources.listed(each for _, each in bound)
            self._records.missed(work, given, key, files)
            # A RUN asked for anew may give other files: its result gets an identity of its own.
            fresh = renewed(self.services, task.stage)
            identity = keys.fresh_key(content, uuid.uuid4().hex) if fresh else content
            change = replace(self._made(identity), from_run=True)

            def output(piece: bytes) -> None:
                work.output(piece)
                turn.say(piece)

            try:
                self._run_process(output, task, step, change, dict(bound), scheduler)
            except (
                Exception
            ):  # before others have their turn: stages of this build would fail alike
                self.services.cancellation.cancel()
                raise
            self._records.record(key, content, change, given)
            return change

    def _bound(
        self, step: Run, reads: tuple[Read, ...], scheduler: Scheduler[BuiltStage]
    ) -> list[tuple[BindMount, Bound]]:
        trees = [self._tree(bind.origin, step, scheduler) for bind in step.binds]
        found: list[tuple[BindMount, Bound]] = []
        if not trees:
            return found
        with scheduler.working:
            for bind, tree, read in zip(step.binds, trees, reads, strict=True):
                told = read.identity if isinstance(bind.origin, ContextOrigin) else None
                found.append((bind, self.sources.bound(bind, step, tree, told)))
        return found

    def _run_process(
        self,
        output: Callable[[bytes], None],
        task: Task,
        step: Run,
        change: StepChange,
        binds: Mapping[BindMount, Bound],
        scheduler: Scheduler[BuiltStage],
    ) -> None:
        assert self.sandbox is not None  # a plan with a RUN always enters one
        lowers = self.realisation.directories(task.below)
        self._exports.base(task.stage, task.below)

        def open_tree(origin: Origin, reader: Step) -> Tree:
            return self._tree(origin, reader, scheduler)

        given = MountSources(self.services, self.sandbox, self.sources, open_tree, binds)
        with mounted(step, given) as mounts, scheduler.working:
            execute(
                step,
                change.id,
                lowers,
                sandbox=self.sandbox,
                services=self.services,
                mounted=mounts,
                output=output,
                more=task.run_follows,
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
        work: Vertex,
        task: Task,
        step: Copy,
        key: Digest,
        reads: tuple[Read, ...],
        scheduler: Scheduler[BuiltStage],
    ) -> StepChange:
        source = self._tree(step.origin, step, scheduler)
        once = self._copy_tree_once(work, task, step, key, source, scheduler)
        if once is not None:
            return once
        with scheduler.working:
            selection, files = self.sources.select(step, source), Files()
            selected = self.sources.digest(step, selection, seen=files.see)
        if not step.fetched:
            reads = _selected(reads, [selected])
        identity = keys.content_key(task.parent, step, [selected])
        known, given = self._known(identity, task), Given(self.plan, task, reads)
        if known is None:
            with self._turn(identity, task, work):
                known = self._records.find(identity, task)
                if known is None or not self.realisation.available(known):
                    self._records.told(work, given, key, known, files.of(selected))
                    with scheduler.working:
                        change = self._made(identity, self._copied(task, step, selection), known)
                    self._keep(key, identity, change, given)
                    return change
        self._records.taken(work, task, key, known)
        self._records.record(key, identity, known, given)
        return known

    def _copy_tree_once(
        self,
        work: Vertex,
        task: Task,
        step: Copy,
        key: Digest,
        source: Tree,
        scheduler: Scheduler[BuiltStage],
    ) -> StepChange | None:
        """A copy out of a stage or an image into the image, of which the cache can know no result."""
        if isinstance(step.origin, ContextOrigin) or step.fetched:
            return None
        mark = keys.mark_key(task.parent, step)
        if recorded(self.services, task.stage, mark) is not None:
            return None
        if not self._ends_in_image(task):
            return None
        with self._turn(mark, task, work):
            if recorded(self.services, task.stage, mark) is not None:
                return None  # another build has come to it meanwhile
            with scheduler.working:
                selection = self.sources.select(step, source)
                items = tuple(map(selection.held, selection.items))
                return self._copy_once(work, task, step, replace(selection, items=items), key)

    def _copied(
        self,
        task: Task,
        step: Copy,
        selection: Selection,
        archives: dict[ByteSource, bytes] | None = None,
    ) -> Changeset:
        return copy.changeset(
            step,
            selection,
            EmptyTree() if step.link else self._destination(task),
            now=self._now_ns(),
            spool=self.realisation.spool,
            check=self.services.cancellation.check,
            limits=self.services.archive_limits,
            archives=archives,
        )

    def _copy_once(
        self,
        work: Vertex,
        task: Task,
        step: Copy,
        selection: Selection,
        key: Digest | None = None,
    ) -> StepChange:
        """A copy whose files are read once: they are hashed when they are packed, archives when they
        are extracted. `key` is that of its definition, where it has one."""
        archives: dict[ByteSource, bytes] = {}
        changeset = self._copied(task, step, selection, archives)
        try:
            layer, contents = self.realisation.pack_first(changeset)
        except StepError as error:
            error.place_at(step.span)
            raise
        files = Files()
        for archive, digest in archives.items():
            contents.put(archive, digest)
        selected = self.sources.digest(step, selection, contents, files.see)
        identity = keys.content_key(task.parent, step, [selected])
        given = Given(self.plan, task, (Read(step.origin, step.paths, selected),))
        change = self._records.find(identity, task)  # of the same files from elsewhere
        key = key or identity
        self._records.told(work, given, key, change, files.of(selected))
        if change is None or not self.realisation.available(change):
            self.realisation.name(identity, layer)
            change = self._made(identity, changeset, change)
        self._records.record(key, identity, change, given)
        return change

    def _destination(self, task: Task) -> Tree:
        return self.realisation.tree(task.below, unpack=task.stage.index in self.running)

    def _now(self) -> float:
        return self.services.clock() if self.plan.epoch is None else float(self.plan.epoch)

    def _now_ns(self) -> int:
        return int(self._now() * 1_000_000_000)


def _selected(reads: tuple[Read, ...], digests: Sequence[Digest]) -> tuple[Read, ...]:
    """`reads` with the digests of what is selected, wherever that is from: these are compared."""
    pairs = zip(reads, digests, strict=True)
    return tuple(replace(read, identity=digest) for read, digest in pairs)
