"""A forecast of a plan: the lookups of an execution without its work. Enters no namespace."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from assembler.cache.base import Record
from assembler.engine.change import BaseChange, Snapshot, base_snapshot
from assembler.engine.lookup import base_identity, demanded, known_change, look_up, recorded
from assembler.engine.realisation import Realisation
from assembler.engine.services import Services
from assembler.engine.sources import Sources
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.plan import keys
from assembler.plan.forecast import Fate, Forecast
from assembler.plan.plan import ImageBase, Plan, PlannedStage, StageBase
from assembler.plan.steps import (
    Copy,
    ImageOrigin,
    Run,
    StageOrigin,
    Step,
    origins_of,
)
from assembler.snapshot.base import Snapshotter


def forecast(plan: Plan, services: Services, snapshotter: Snapshotter) -> Forecast:
    """What executing `plan` would do. `snapshotter` need only find layer directories."""
    sources = Sources(plan, services)
    realisation = Realisation(services, snapshotter, plan.epoch)
    known = look_up(plan, services, sources)
    walk = _Walk(plan, services, sources, realisation, demanded(plan, known, realisation))
    for stage in plan.stages:
        walk.visit(stage)
    return Forecast(walk.fates, _pulls(plan, walk.fates, services, snapshotter))


@dataclass(frozen=True, slots=True)
class _Walk:
    """Goes on where a lookup ends: what a step will be known by can often be told before it ran."""

    plan: Plan
    services: Services
    sources: Sources
    realisation: Realisation
    needed: frozenset[int]
    identities: dict[int, Digest | None] = field(default_factory=dict)
    fates: dict[tuple[int, int], Fate] = field(default_factory=dict)

    def visit(self, stage: PlannedStage) -> None:
        identity = base_identity(self.plan, stage, self.identities.get)
        for number, step in enumerate(stage.steps):
            fate, identity = self._step(stage, step, identity)
            if stage.index not in self.needed and fate is not Fate.CACHED:
                fate = Fate.UNNEEDED
            self.fates[stage.index, number] = fate
        self.identities[stage.index] = identity

    def _step(
        self, stage: PlannedStage, step: Step, parent: Digest | None
    ) -> tuple[Fate, Digest | None]:
        if stage.fresh:
            return Fate.RUN, None
        reads = None if parent is None else self.sources.reads(step, self.identities.get)
        if parent is None or reads is None:
            return Fate.PENDING, None
        key = keys.definition_key(parent, step, [read.identity for read in reads])
        record = recorded(self.services, stage, key)
        if record is not None:
            return self._known(stage, step, record), keys.above(parent, step, record.identity)
        if not keys.told_by_content(step):
            return Fate.PENDING, None  # another way to files that are known is found when read
        return Fate.RUN, keys.above(parent, step, key)

    def _known(self, stage: PlannedStage, step: Step, record: Record) -> Fate:
        """A result that is neither needed nor gone is taken; one that is gone is made again."""
        change = known_change(record, step)
        here = stage.index not in self.needed or self.realisation.available(change)
        return Fate.CACHED if here else Fate.RUN


def _pulls(
    plan: Plan,
    fates: dict[tuple[int, int], Fate],
    services: Services,
    snapshotter: Snapshotter,
) -> dict[str, tuple[Descriptor, ...]]:
    """Base layers that would be fetched: where the image is kept whole those of its base, the
    files below whatever runs and of images, the file indexes below whatever else executes."""
    blobs: set[Digest] = set()
    pulls: dict[str, list[Descriptor]] = {}

    def want(image: str, *, unpacked: bool = True, indexed: bool = False) -> None:
        """The blobs of `image`, or what was made of them before and will do as well."""
        for change in _layers(base_snapshot(plan.images[image])) if image in plan.images else ():
            digest = change.descriptor.digest
            here = services.store.blobs.has(digest)
            here = here or (unpacked and snapshotter.find(change.id) is not None)
            here = here or (indexed and services.store.indexes.has(change.diff_id))
            if not here and digest not in blobs:
                blobs.add(digest)
                pulls.setdefault(image, []).append(change.descriptor)

    target = _root(plan, plan.stage(plan.target))
    if isinstance(target.base, ImageBase) and services.whole:
        want(target.base.image, unpacked=False)
    for stage in plan.stages:
        for number, step in enumerate(stage.steps):
            if fates[stage.index, number] in (Fate.CACHED, Fate.UNNEEDED):
                continue
            linked = isinstance(step, Copy) and step.link
            roots = [] if linked else [_root(plan, stage)]
            for origin in origins_of(step):
                if isinstance(origin, ImageOrigin):
                    want(origin.image)
                elif isinstance(origin, StageOrigin):
                    roots.append(_root(plan, plan.stage(origin.index)))
            for root in roots:
                if isinstance(root.base, ImageBase):
                    want(root.base.image, indexed=not isinstance(step, Run))
    return {image: tuple(layers) for image, layers in pulls.items()}


def _layers(snapshot: Snapshot) -> Iterable[BaseChange]:
    return [change for change in snapshot if isinstance(change, BaseChange)]


def _root(plan: Plan, stage: PlannedStage) -> PlannedStage:
    """The stage that `stage` is built from in the end, not from another one."""
    while isinstance(stage.base, StageBase):
        stage = plan.stage(stage.base.index)
    return stage
