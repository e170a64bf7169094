"""What the cache already knows of a plan, before anything runs. One thread, no namespace.

Keys chain on identities: a step's key holds the identity of what is below it and of what it
reads, so one walk in plan order finds every step whose result is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from assembler.cache.base import Record
from assembler.engine.change import Snapshot, StepChange, base_snapshot
from assembler.engine.selection import Selection
from assembler.engine.services import Services
from assembler.engine.sources import Sources, StageIdentity
from assembler.oci.digest import Digest
from assembler.plan import keys
from assembler.plan.plan import ImageBase, Plan, PlannedStage, StageBase
from assembler.plan.steps import Copy, Run, Step
from assembler.values import value

if TYPE_CHECKING:
    from assembler.engine.realisation import Realisation


@value
class KnownStage:
    """The part of a stage that the cache knows: `changes` of its first steps, found by `keys`."""

    stage: PlannedStage
    base: Snapshot | None
    changes: tuple[StepChange, ...]
    identity: Digest | None
    keys: tuple[Digest, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every step's result is known."""
        return self.identity is not None

    @property
    def snapshot(self) -> Snapshot:
        """The stage's whole stack. Only of a complete stage."""
        assert self.base is not None
        return self.base + self.changes


def base_identity(plan: Plan, stage: PlannedStage, stage_identity: StageIdentity) -> Digest | None:
    """The identity a stage starts from; None while its base stage or image is not known."""
    if isinstance(stage.base, ImageBase):
        image = plan.images.get(stage.base.image)
        return None if image is None else keys.base_key(image)
    if isinstance(stage.base, StageBase):
        return stage_identity(stage.base.index)
    return keys.scratch_key(stage.platform)


def look_up(plan: Plan, services: Services, sources: Sources) -> dict[int, KnownStage]:
    """Every stage of `plan` with what is known of it, by stage index."""
    known: dict[int, KnownStage] = {}
    for stage in plan.stages:
        known[stage.index] = _look_up_stage(plan, stage, services, sources, known)
    return known


def recorded(services: Services, stage: PlannedStage, key: Digest) -> Record | None:
    """The cache's record for `key`, unless the build was told not to use it for this stage, and has
    not just made it, or not to use what ran so long ago."""
    record = services.cache.lookup(key) if not stage.fresh or key in services.made else None
    return None if record is None or expired(services, record) else record


def expired(services: Services, record: Record) -> bool:
    """Whether the build is not to use `record` for its age. When one ran is not known, it is old."""
    return services.since is not None and record.ran < services.since


def renewed(services: Services, stage: PlannedStage) -> bool:
    """Whether a RUN of `stage` that executes may have given other files before, under the same key."""
    return stage.fresh or services.since is not None


def missed(services: Services, stage: PlannedStage, key: Digest) -> str:
    """Why what is recorded under `key`, if anything is, was not taken; empty where nothing is. See
    `plan.wording.REASONS`."""
    if stage.fresh:
        return "no-cache"
    record = services.cache.lookup(key)
    if record is None:
        return ""
    return "cache-ttl" if expired(services, record) else "pruned"


def known_change(record: Record, step: Step) -> StepChange:
    """What `record` says of `step`; its bytes may be gone."""
    run = isinstance(step, Run)
    return StepChange(record.identity, record.created, run, None, record.ran, record.source)


def read_once(
    plan: Plan,
    stage: PlannedStage,
    number: int,
    parent: Digest,
    services: Services,
    sources: Sources,
) -> Selection | None:
    """What step `number` of `stage`, above `parent`, selects, where it is to be packed before
    anybody reads it: a COPY of context files into the image, on which nothing runs, and of which the
    cache can know no result. Raises what `Sources.unread` raises."""
    step = stage.steps[number]
    if not isinstance(step, Copy) or not ends_in_image(plan, stage, number, services):
        return None
    if recorded(services, stage, keys.mark_key(parent, step)) is not None:
        return None
    return sources.unread(step)


def ends_in_image(plan: Plan, stage: PlannedStage, number: int, services: Services) -> bool:
    """Whether an image, if any is made, has the layer of step `number` of `stage`, and in none a RUN
    is above it."""
    ends = False
    for target in plan.targets if services.image else ():
        above: list[Step] = []
        for one in plan.lineage(target.index):
            if one.index == stage.index:
                above += stage.steps[number + 1 :]
                if any(isinstance(step, Run) for step in above):
                    return False
                ends = True
                break
            above += one.steps
    return ends


def _look_up_stage(
    plan: Plan,
    stage: PlannedStage,
    services: Services,
    sources: Sources,
    known: dict[int, KnownStage],
) -> KnownStage:
    identity = base_identity(plan, stage, lambda index: known[index].identity)
    base = _base(plan, stage, known)
    changes: list[StepChange] = []
    found: list[Digest] = []
    for number, step in enumerate(stage.steps):
        if identity is None:
            break
        if read_once(plan, stage, number, identity, services, sources) is not None:
            identity = None
            break
        reads = sources.reads(step, lambda index: known[index].identity)
        record = None
        if reads is not None:
            key = keys.definition_key(identity, step, [read.identity for read in reads])
            record = recorded(services, stage, key)
        identity = None if record is None else keys.above(identity, step, record.identity)
        if record is not None:
            changes.append(known_change(record, step))
            found.append(key)
    return KnownStage(stage, base, tuple(changes), identity, tuple(found))


def _base(plan: Plan, stage: PlannedStage, known: dict[int, KnownStage]) -> Snapshot | None:
    if isinstance(stage.base, ImageBase):
        image = plan.images.get(stage.base.image)
        return None if image is None else base_snapshot(image)
    if isinstance(stage.base, StageBase):
        below = known[stage.base.index]
        return below.snapshot if below.complete else None
    return ()


def demanded(
    plan: Plan, known: Mapping[int, KnownStage], realisation: Realisation
) -> frozenset[int]:
    """The stages whose content is needed to write the targets, and those that are required; none when
    all of the targets is packed, and all that is required known to have succeeded.

    A stage is needed when something above it must execute, when files are taken out of it, or
    when one of its own layers is in no packed form yet.
    """
    targets = [target.index for target in plan.targets]
    needed: set[int] = set()
    pending = untried(plan, known)
    if not all(
        known[index].complete and all(map(realisation.packed, known[index].snapshot))
        for index in targets
    ):
        pending += targets
    while pending:
        index = pending.pop()
        if index in needed:
            continue
        needed.add(index)
        pending += _sources_of_missing(plan, known[index], realisation)
    return frozenset(needed)


def untried(plan: Plan, known: Mapping[int, KnownStage]) -> list[int]:
    """The required stages that are not known to succeed. What they made may be gone."""
    return [index for index in plan.required if not known[index].complete]


def missing(known: KnownStage, realisation: Realisation) -> list[Step]:
    """The steps of a stage whose results are not known, or not here."""
    have = [realisation.available(change) for change in known.changes]
    steps = known.stage.steps
    return [step for n, step in enumerate(steps) if n >= len(have) or not have[n]]


def _sources_of_missing(plan: Plan, known: KnownStage, realisation: Realisation) -> list[int]:
    stage = known.stage
    found: list[int] = [stage.base.index] if isinstance(stage.base, StageBase) else []
    for step in missing(known, realisation):
        found += plan.step_sources(step)
    return found
