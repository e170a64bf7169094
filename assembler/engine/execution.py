"""One plan, executed: look everything up; run what is missing; pack what the image contains."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from assembler.engine.assemble import assemble, chain_indexes
from assembler.engine.change import BaseChange, Snapshot, StepChange
from assembler.engine.lookup import KnownStage, demanded, look_up
from assembler.engine.realisation import Realisation
from assembler.engine.recorder import vertex
from assembler.engine.scheduler import Scheduler
from assembler.engine.services import Sandbox, Services
from assembler.engine.sources import Sources
from assembler.engine.stage import BuiltStage, StageBuilder
from assembler.events import VertexDone, VertexStarted
from assembler.oci.image import Image, Layer
from assembler.plan.make import base_name
from assembler.plan.plan import ImageBase, Plan
from assembler.plan.steps import Copy, ImageOrigin, Run, UrlSource


def execute(plan: Plan, services: Services) -> Image:
    """The image of the plan's target, complete in the store.

    When the cache knows every layer, nothing is run and no namespace is entered. Raises
    DockerfileError for devices that are not allowed, and what steps raise.
    """
    if any(isinstance(step, Run) and step.devices for stage in plan.stages for step in stage.steps):
        from assembler.engine.devices import check

        check(plan, services)
    sources = Sources(plan, services)
    realisation = Realisation(services, None, plan.epoch)
    known = look_up(plan, services, sources)
    if _all_packed(plan, known, realisation):
        _report_cached(plan, services)
        changes = {index: known[index].changes for index in chain_indexes(plan)}
        return _finish(plan, services, realisation, known[plan.target].snapshot, changes)
    with ExitStack() as stack:
        sandbox = stack.enter_context(services.sandbox()) if needs_sandbox(plan) else None
        snapshotter = None if sandbox is None else sandbox.snapshotter
        realisation = Realisation(services, snapshotter, plan.epoch)
        built = _run(plan, services, sources, realisation, known, sandbox)
        changes = {index: built[index].changes for index in chain_indexes(plan)}
        return _finish(plan, services, realisation, built[plan.target].snapshot, changes)


def needs_sandbox(plan: Plan) -> bool:
    """Whether executing `plan` can need directories or processes."""
    return any(
        isinstance(stage.base, ImageBase)
        or any(isinstance(step, Run) for step in stage.steps)
        or any(
            isinstance(step, Copy) and (_unpacks(step) or isinstance(step.origin, ImageOrigin))
            for step in stage.steps
        )
        for stage in plan.stages
    )


def _unpacks(step: Copy) -> bool:
    return step.unpack or any(isinstance(one, UrlSource) and one.unpack for one in step.fetched)


def _all_packed(plan: Plan, known: Mapping[int, KnownStage], realisation: Realisation) -> bool:
    target = known[plan.target]
    return target.complete and all(realisation.packed(change) for change in target.snapshot)


def _run(
    plan: Plan,
    services: Services,
    sources: Sources,
    realisation: Realisation,
    known: dict[int, KnownStage],
    sandbox: Sandbox | None,
) -> dict[int, BuiltStage]:
    builder = StageBuilder(plan, services, sources, realisation, sandbox, known)
    scheduler: Scheduler[BuiltStage] = Scheduler(
        lambda index: builder.build(index, scheduler), services.cancellation, services.jobs
    )
    scheduler.run(demanded(plan, known, realisation), plan.target)
    return {index: scheduler.result(index) for index in chain_indexes(plan)}


def _finish(
    plan: Plan,
    services: Services,
    realisation: Realisation,
    snapshot: Snapshot,
    changes: Mapping[int, tuple[StepChange, ...]],
) -> Image:
    with vertex("export", "exporting layers", services.sink, services.clock) as work:
        layers: list[Layer] = []
        new = 0
        for number, change in enumerate(snapshot):
            services.cancellation.check()
            known = realisation.packed(change)
            if known is None or isinstance(change, BaseChange):
                new += known is None
                known = realisation.pack(change, snapshot[:number])
            layers.append(known)
        work.cached = new == 0
        image = assemble(plan, changes, tuple(layers), services)
        work.detail = f"{image.digest}"
        return image


def _report_cached(plan: Plan, services: Services) -> None:
    for stage in plan.stages:
        now = services.clock()
        if isinstance(stage.base, ImageBase):
            _cached(services, f"{stage.index}/base", base_name(plan, stage), now)
        for number, step in enumerate(stage.steps):
            _cached(services, f"{stage.index}/{number}", step.name, now)


def _cached(services: Services, id: str, name: str, now: float) -> None:
    services.sink(VertexStarted(id, name, now))
    services.sink(VertexDone(id, name, now, cached=True))
