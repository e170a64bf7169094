"""A forecast of a plan: the lookups of an execution without its work. Enters no namespace."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from assembler.cache.base import Record
from assembler.engine.assemble import chain_indexes
from assembler.engine.change import base_snapshot
from assembler.engine.lookup import (
    KnownStage,
    base_identity,
    demanded,
    expired,
    known_change,
    look_up,
    renewed,
)
from assembler.engine.realisation import Realisation
from assembler.engine.recorder import place_of
from assembler.engine.services import Services
from assembler.engine.sources import Sources
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.plan import keys
from assembler.plan.forecast import Fate, Forecast, Hit
from assembler.plan.plan import ImageBase, Plan, PlannedStage
from assembler.plan.steps import (
    Copy,
    ImageOrigin,
    Run,
    StageOrigin,
    Step,
    origins_of,
)
from assembler.snapshot.base import Snapshotter
from assembler.values import value

_GONE = "its result is not in the store any more"
_UNKNOWN = "no earlier build has done it on the same files"


def forecast(plan: Plan, services: Services, snapshotter: Snapshotter) -> Forecast:
    """What executing `plan` would do. `snapshotter` need only find layer directories."""
    sources = Sources(plan, services)
    realisation = Realisation(services, snapshotter, plan.epoch)
    known = look_up(plan, services, sources)
    walk = _Walk(plan, services, sources, realisation, demanded(plan, known, realisation))
    for stage in plan.stages:
        walk.visit(stage)
    pulls = _pulls(plan, walk.fates, services, snapshotter)
    fetches = _fetches(walk, known, snapshotter)
    return Forecast(walk.fates, pulls, walk.hits, walk.reasons, fetches)


@value
class _Told:
    """What is told of a step: its fate, and why it is that, or where its result comes from."""

    fate: Fate
    reason: str = ""
    hit: Hit | None = None


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
    hits: dict[tuple[int, int], Hit] = field(default_factory=dict)
    reasons: dict[tuple[int, int], str] = field(default_factory=dict)

    def visit(self, stage: PlannedStage) -> None:
        identity = base_identity(self.plan, stage, self.identities.get)
        for number, step in enumerate(stage.steps):
            told, identity = self._step(stage, step, identity)
            if stage.index not in self.needed and told.fate is not Fate.CACHED:
                told = _Told(Fate.UNNEEDED)
            self.fates[stage.index, number] = told.fate
            if told.hit is not None:
                self.hits[stage.index, number] = told.hit
            if told.reason:
                self.reasons[stage.index, number] = told.reason
        self.identities[stage.index] = identity

    def _step(
        self, stage: PlannedStage, step: Step, parent: Digest | None
    ) -> tuple[_Told, Digest | None]:
        """What is told of `step`, and the identity of what there is after it."""
        reads = None if parent is None else self.sources.reads(step, self.identities.get)
        if parent is None or reads is None:
            told = _Told(Fate.PENDING, self._unread(step, parent))
            new = stage.fresh and isinstance(step, Run)
            return self._unless_fresh(stage, told), _new() if new else None
        key = keys.definition_key(parent, step, [read.identity for read in reads])
        told, identity = self._recorded(stage, step, key)
        if identity is None:
            by_content, sure = keys.told_by_content(step), told.reason != _UNKNOWN
            if not by_content and not sure:
                # another way to files that are known is found when they are read
                return _Told(Fate.PENDING, self._unread(step, parent)), None
            identity = key if by_content else None
            if isinstance(step, Run) and renewed(self.services, stage):
                identity = _new()
        return told, None if identity is None else keys.above(parent, step, identity)

    def _recorded(
        self, stage: PlannedStage, step: Step, key: Digest
    ) -> tuple[_Told, Digest | None]:
        """What the record for `key` tells of `step`, and the identity that its result has or will
        have again. What a RUN gave is made again where it is needed and gone; the files of others
        are put together again."""
        record = None if stage.fresh else self.services.cache.lookup(key)
        if record is None:
            return self._unless_fresh(stage, _Told(Fate.RUN, _UNKNOWN)), None
        hit = _hit(record, self.services.clock())
        change = known_change(record, step)
        if expired(self.services, record):
            told = _Told(Fate.RUN, f"its result is too old for --cache-ttl ({hit})")
        elif (
            stage.index not in self.needed
            or not isinstance(step, Run)
            or self.realisation.available(change)
        ):
            return _Told(Fate.CACHED, hit=hit), record.identity
        else:
            told = _Told(Fate.RUN, _GONE)
        return told, None if isinstance(step, Run) else record.identity

    def _unless_fresh(self, stage: PlannedStage, told: _Told) -> _Told:
        return (
            _Told(Fate.RUN, "its stage is to take nothing from the cache") if stage.fresh else told
        )

    def _unread(self, step: Step, parent: Digest | None) -> str:
        """Why it cannot be told yet whether `step` is known."""
        if parent is None:
            return "that is known when the steps below it are done"
        binds = step.binds if isinstance(step, Run) else ()
        names = []
        for origin in dict.fromkeys(origins_of(step) if not binds else (b.origin for b in binds)):
            if isinstance(origin, StageOrigin):
                names.append(f"stage {self.plan.stage(origin.index).title}")
            elif isinstance(origin, ImageOrigin):
                names.append(f"image {origin.image.partition(' ')[0]}")
        names += ["what it fetches"] if isinstance(step, Copy) and step.fetched else []
        return f"that is known when the files of {' and '.join(names)} are there"


def _hit(record: Record, now: float) -> Hit:
    return Hit(place_of(record.source), max(0.0, now - record.ran) if record.ran else None)


def _new() -> Digest:
    """An identity that nothing has had."""
    return Digest.of(uuid.uuid4().bytes)


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
        for change in base_snapshot(plan.images[image]) if image in plan.images else ():
            digest = change.descriptor.digest
            here = services.store.blobs.has(digest)
            here = here or (unpacked and snapshotter.find(change.id) is not None)
            here = here or (indexed and services.store.indexes.has(change.diff_id))
            if not here and digest not in blobs:
                blobs.add(digest)
                pulls.setdefault(image, []).append(change.descriptor)

    target = _root(plan, plan.target)
    if isinstance(target.base, ImageBase) and services.whole:
        want(target.base.image, unpacked=False)
    for stage in plan.stages:
        for number, step in enumerate(stage.steps):
            if fates[stage.index, number] in (Fate.CACHED, Fate.UNNEEDED):
                continue
            linked = isinstance(step, Copy) and step.link
            roots = [] if linked else [_root(plan, stage.index)]
            for origin in origins_of(step):
                if isinstance(origin, ImageOrigin):
                    want(origin.image)
                elif isinstance(origin, StageOrigin):
                    roots.append(_root(plan, origin.index))
            for root in roots:
                if isinstance(root.base, ImageBase):
                    want(root.base.image, indexed=not isinstance(step, Run))
    return {image: tuple(layers) for image, layers in pulls.items()}


def _fetches(
    walk: _Walk, known: Mapping[int, KnownStage], snapshotter: Snapshotter
) -> tuple[Descriptor, ...]:
    """Layers that would come from shared caches: those of an image that is kept whole, and those of
    stages that something executes on, or reads."""
    plan, services = walk.plan, walk.services
    read: set[int] = set()
    for stage in plan.stages:
        for number, step in enumerate(stage.steps):
            if walk.fates[stage.index, number] in (Fate.RUN, Fate.PENDING):
                origins = [one.index for one in origins_of(step) if isinstance(one, StageOrigin)]
                read |= {stage.index, *origins}
    kept = set(chain_indexes(plan)) if services.whole else set()
    found: dict[Digest, Descriptor] = {}
    for index in sorted(kept | {stage.index for one in read for stage in plan.lineage(one)}):
        for change in known[index].changes:
            layer = walk.realisation.packed(change)
            here = index not in kept and snapshotter.find(change.id) is not None
            if layer is None or here or services.store.blobs.has(layer.descriptor.digest):
                continue
            found[layer.descriptor.digest] = layer.descriptor
    return tuple(found.values())


def _root(plan: Plan, index: int) -> PlannedStage:
    """The stage that the one with this index is built from in the end, not from another one."""
    *_, root = plan.lineage(index)
    return root
