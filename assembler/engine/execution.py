"""One plan, executed: look everything up; run what is missing; pack what the image contains, or hand
over the files as they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from assembler.engine.assemble import assemble, chain_indexes
from assembler.engine.blobs import ChangeBlobs
from assembler.engine.change import BaseChange, Snapshot, StepChange
from assembler.engine.lookup import KnownStage, demanded, look_up, missing, untried
from assembler.engine.recorder import vertex, where
from assembler.engine.services import Sandbox, Services
from assembler.engine.sources import Sources
from assembler.events import Planned, VertexDone, VertexStarted
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer
from assembler.plan.make import base_name
from assembler.plan.plan import ImageBase, Plan, Target
from assembler.plan.steps import Run
from assembler.values import replace, value

if TYPE_CHECKING:
    from assembler.engine.realisation import Realisation
    from assembler.engine.stage import BuiltStage
    from assembler.layer.changeset import Entry
    from assembler.layer.tree import Tree
    from assembler.oci.platform import Platform


def execute(plan: Plan, services: Services) -> tuple[Image, ...]:
    """The images of the plan's targets, in the store: complete, but where `services.whole` says
    otherwise for base layers that nothing needed. `services.files_to` is handed their files too.

    When the cache knows every layer, nothing is run and no namespace is entered. Raises
    DockerfileError for devices that are not allowed, and what steps and `files_to` raise.
    """
    with _executed(plan, services) as done:
        images = _finish(plan, services, done)
        _hand_over(plan, services, done)
        return images


def export(plan: Plan, services: Services) -> None:
    """Hand the files of the plan's targets to `services.files_to`. Nothing is packed, and where all of
    them are in blobs no namespace is entered. Raises what `execute` raises."""
    services = replace(services, image=False)
    with _executed(plan, services) as done:
        _hand_over(plan, services, done)


@value
class _Executed:
    """A plan that was executed: what its targets are made of, and the changes of the stages that they
    are built from, by stage index. Some steps are `packed`; `pack` packs others. `realisation` is there
    where there are files to hand over."""

    stacks: Mapping[int, Snapshot]
    changes: Mapping[int, tuple[StepChange, ...]]
    blobs: ChangeBlobs
    packed: Mapping[Digest, Layer]
    pack: Callable[[StepChange, Snapshot], Layer]
    realisation: Realisation | None
    cached: bool = False


@contextmanager
def _executed(plan: Plan, services: Services) -> Iterator[_Executed]:
    """`plan`, executed; its targets can be packed and read within the block."""
    if any(isinstance(step, Run) and step.devices for stage in plan.stages for step in stage.steps):
        from assembler.engine.devices import check

        check(plan, services)
    sources = Sources(plan, services)
    blobs = ChangeBlobs(services, plan.epoch)
    services.ledger.begin(plan)
    known = look_up(plan, services, sources)
    _note_known(plan, services, known)
    packed: dict[Digest, Layer] | None = {}
    for target in plan.targets:
        found = _all_packed(known[target.index], blobs)
        packed = None if packed is None or found is None else packed | found
    with ExitStack() as stack:
        if packed is not None and not untried(plan, known):
            _report_cached(plan, services, known)
            changes = {index: known[index].changes for index in chain_indexes(plan)}

            def pack(change: StepChange, below: Snapshot) -> Layer:  # in another compression it is
                from assembler.engine.realisation import Realisation

                return Realisation(services, None, plan.epoch).pack(change, below)

            files = None
            if services.files_to is not None:
                from assembler.engine.realisation import Realisation

                spool = stack.enter_context(services.store.scratch())
                files = Realisation(services, None, plan.epoch, spool)
            stacks = {target.index: known[target.index].snapshot for target in plan.targets}
            yield _Executed(stacks, changes, blobs, packed, pack, files, cached=True)
            return
        from assembler.engine.realisation import Realisation

        realisation = Realisation(services, None, plan.epoch)
        _hold(plan, known, realisation, services)
        needed = needs_sandbox(plan, known, realisation)
        sandbox = stack.enter_context(services.sandbox()) if needed else None
        snapshotter = None if sandbox is None else sandbox.snapshotter
        spool = stack.enter_context(services.store.scratch())
        apart = None if sandbox is None else sandbox.apart
        if needed:  # not before the namespace is entered: it may begin threads
            services.destination.announce()
        realisation = Realisation(services, snapshotter, plan.epoch, spool, apart)
        built = _run(plan, services, sources, realisation, known, sandbox)
        changes = {index: built[index].changes for index in chain_indexes(plan)}
        stacks = {target.index: built[target.index].snapshot for target in plan.targets}
        yield _Executed(stacks, changes, realisation.blobs, {}, realisation.pack, realisation)


def _hand_over(plan: Plan, services: Services, done: _Executed) -> None:
    """Give the targets' files to who is to have them, their bytes at hand."""
    if services.files_to is None or done.realisation is None:
        return
    from assembler.layer.members import gather
    from assembler.layer.tree import MergedTree, everything

    trees: dict[Platform, Tree] = {}
    check, into = services.cancellation.check, services.files_into
    for target in plan.targets:
        stack = done.stacks[target.index]
        tree = done.realisation.tree(stack, keep=True)
        if isinstance(tree, MergedTree) and tree.packed:
            id, title = _called(plan, target, "files", "taking files out of layers")
            with vertex(id, title, services.sink, services.clock):
                gather(_checked(everything(tree), check))
        if into:
            from assembler.engine.held import held

            tree = held(tree, stack, into, done.realisation.spool, check)
        trees[target.platform] = tree
    services.files_to(trees)


def _called(plan: Plan, target: Target, id: str, title: str) -> tuple[str, str]:
    """What progress calls some work on a target: with the platform where there may be several."""
    if not plan.stage(target.index).label:
        return id, title
    return f"{id} {target.platform}", f"{title} for {target.platform}"


def _checked(entries: Iterable[Entry], check: Callable[[], None]) -> Iterator[Entry]:
    for entry in entries:
        check()
        yield entry


def _hold(
    plan: Plan, known: Mapping[int, KnownStage], realisation: Realisation, services: Services
) -> None:
    """Keep what a build that is not over yet may need, from now on: layers of its bases, whatever is
    done to their names, and results that were looked up."""
    ids = [change.id for stage in known.values() for change in stage.changes]
    for index in chain_indexes(plan):
        for change in known[index].changes:
            realisation.packed(change)
    items = []
    for image in plan.images.values():
        ids += [diff_id.hex for diff_id in image.config.diff_ids]
        items += [f"blobs/{one.digest.algorithm}/{one.digest.hex}" for one in image.layers]
    kinds = os.listdir(services.store.layers_directory)
    services.store.hold(*items, *(f"layers/{kind}/{id}" for kind in kinds for id in ids))


def needs_sandbox(plan: Plan, known: Mapping[int, KnownStage], realisation: Realisation) -> bool:
    """Whether executing `plan` needs processes: whether a RUN is left whose result is needed and
    not here. COPY, ADD and WORKDIR need no directories either."""
    return bool(_running(plan, known, realisation))


def _running(
    plan: Plan, known: Mapping[int, KnownStage], realisation: Realisation
) -> frozenset[int]:
    """The stages with a RUN to execute, and those that they are built from: their files will be
    directories."""
    found: set[int] = set()
    for index in demanded(plan, known, realisation):
        if any(isinstance(step, Run) for step in missing(known[index], realisation)):
            found.update(stage.index for stage in plan.lineage(index))
    return frozenset(found)


def _all_packed(target: KnownStage, blobs: ChangeBlobs) -> dict[Digest, Layer] | None:
    """The packed forms of a stage's steps that are in the compression asked for; None for a stage
    that is not known, and where a step is packed in none."""
    if not target.complete:
        return None
    found: dict[Digest, Layer] = {}
    for change in target.snapshot:
        if isinstance(change, BaseChange):
            continue
        layer = blobs.exact(change.identity)
        if layer is not None:
            found[change.identity] = layer
        elif blobs.packed(change) is None:
            return None
    return found


def _layers(
    snapshot: Snapshot,
    blobs: ChangeBlobs,
    known: Mapping[Digest, Layer],
    pack: Callable[[StepChange, Snapshot], Layer],
) -> Iterator[Layer]:
    """The layers of `snapshot`, of which some are `known`; those that are not there are packed."""
    for number, change in enumerate(snapshot):
        if isinstance(change, BaseChange):
            yield blobs.base(change)
        else:
            layer = known.get(change.identity) or blobs.exact(change.identity)
            yield pack(change, snapshot[:number]) if layer is None else layer


def _run(
    plan: Plan,
    services: Services,
    sources: Sources,
    realisation: Realisation,
    known: Mapping[int, KnownStage],
    sandbox: Sandbox | None,
) -> dict[int, BuiltStage]:
    from assembler.engine.scheduler import Scheduler
    from assembler.engine.stage import StageBuilder

    running = _running(plan, known, realisation)
    chain = frozenset(chain_indexes(plan) if services.image else ())
    builder = StageBuilder(plan, services, sources, realisation, sandbox, known, running, chain)
    scheduler: Scheduler[BuiltStage] = Scheduler(
        lambda index: builder.build(index, scheduler), services.cancellation, services.jobs
    )
    wanted = demanded(plan, known, realisation)
    services.sink(Planned(_vertexes(plan, wanted), services.clock()))
    scheduler.run(wanted, plan.target)
    return {index: scheduler.result(index) for index in chain_indexes(plan)}


def _vertexes(plan: Plan, stages: frozenset[int]) -> tuple[str, ...]:
    """What will be told of: bases and steps of `stages`, and the export."""
    found = ["export"]
    for stage in map(plan.stage, sorted(stages)):
        found += [f"{stage.index}/base"] if isinstance(stage.base, ImageBase) else []
        found += [f"{stage.index}/{number}" for number in range(len(stage.steps))]
    return tuple(found)


def _finish(
    plan: Plan,
    services: Services,
    done: _Executed,
) -> tuple[Image, ...]:
    """The images of the targets."""
    images = []
    for target in plan.targets:
        stack = done.stacks[target.index]
        layers = _layers(stack, done.blobs, done.packed, done.pack)
        images.append(_image(plan.part(target), services, done, stack, layers))
    return tuple(images)


def _image(
    plan: Plan,
    services: Services,
    done: _Executed,
    snapshot: Snapshot,
    layers: Iterator[Layer],
) -> Image:
    (target,) = plan.targets
    id, title = _called(plan, target, "export", "exporting layers")
    with vertex(id, title, services.sink, services.clock) as work:
        found: list[Layer] = []
        services.cancellation.check()
        for layer in layers:
            services.destination.layer(layer.descriptor)
            found.append(layer)
            services.cancellation.check()
        results = {
            change.identity: layer
            for change, layer in zip(snapshot, found, strict=True)
            if isinstance(change, StepChange)
        }
        if services.whole:
            done.blobs.bring(results.values())
        work.cached = done.cached
        described = services.described(plan, results, done.blobs.variant)
        image = assemble(plan, done.changes, tuple(found), services, described)
        work.detail = f"{image.digest}"
        return image


def _note_known(plan: Plan, services: Services, known: Mapping[int, KnownStage]) -> None:
    for stage in plan.stages:
        found = known[stage.index]
        for number, change in enumerate(found.changes):
            services.ledger.known(stage, number, found.keys[number], change.ran, change.source)


def _report_cached(plan: Plan, services: Services, known: Mapping[int, KnownStage]) -> None:
    for stage in plan.stages:
        now = services.clock()
        if isinstance(stage.base, ImageBase):
            _cached(services, f"{stage.index}/base", base_name(plan, stage), now)
        changes = known[stage.index].changes
        for number, step in enumerate(stage.steps):
            change = changes[number] if number < len(changes) else None
            _cached(services, f"{stage.index}/{number}", step.name, now, change)


def _cached(
    services: Services, id: str, name: str, now: float, change: StepChange | None = None
) -> None:
    services.sink(VertexStarted(id, name, now))
    source, ran = ("", 0.0) if change is None else (where(change.source), change.ran)
    services.sink(VertexDone(id, name, now, cached=True, source=source, ran=ran))
