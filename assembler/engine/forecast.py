"""A forecast of a plan: the lookups of an execution without its work. Enters no namespace."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from assembler.ages import since
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
from assembler.plan.keys import Read
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

if TYPE_CHECKING:
    from assembler.plan.differences import Listing

_GONE = "its result is not in the store any more"


def forecast(plan: Plan, services: Services, snapshotter: Snapshotter) -> Forecast:
    """What executing `plan` would do. `snapshotter` need only find layer directories."""
    ahead = look_ahead(plan, services, snapshotter)
    reasons = {at: why for at in ahead.fates if (why := ahead.reason(*at))}
    pulls = _pulls(plan, ahead.fates, services, snapshotter)
    return Forecast(ahead.fates, pulls, ahead.hits, reasons, _fetches(ahead, snapshotter))


def look_ahead(plan: Plan, services: Services, snapshotter: Snapshotter) -> Ahead:
    """The fate of every step of `plan`; `snapshotter` need only find layer directories."""
    sources = Sources(plan, services)
    realisation = Realisation(services, snapshotter, plan.epoch)
    known = look_up(plan, services, sources)
    needed = demanded(plan, known, realisation)
    ahead = Ahead(plan, services, sources, realisation, known, needed)
    for stage in plan.stages:
        ahead.visit(stage)
    return ahead


@value
class _Miss:
    """A step that would be known by `key`: what it reads above `parent`."""

    key: Digest
    parent: Digest
    reads: tuple[Read, ...]


@value
class _Told:
    """What is told of a step: its fate, and why it is that, or where its result comes from. A step
    that is not known for no other reason is a `miss`."""

    fate: Fate
    reason: str = ""
    hit: Hit | None = None
    miss: _Miss | None = None


@dataclass(frozen=True, slots=True)
class Ahead:
    """Goes on where a lookup ends: what a step will be known by can often be told before it ran."""

    plan: Plan
    services: Services
    sources: Sources
    realisation: Realisation
    known: Mapping[int, KnownStage]
    needed: frozenset[int]
    identities: dict[int, Digest | None] = field(default_factory=dict)
    fates: dict[tuple[int, int], Fate] = field(default_factory=dict)
    hits: dict[tuple[int, int], Hit] = field(default_factory=dict)
    _reasons: dict[tuple[int, int], str | _Miss] = field(default_factory=dict)

    def visit(self, stage: PlannedStage) -> None:
        """Tell of the steps of `stage`, after all that it needs."""
        identity = base_identity(self.plan, stage, self.identities.get)
        for number, step in enumerate(stage.steps):
            told, identity = self._step(stage, step, identity)
            if stage.index not in self.needed and told.fate is not Fate.CACHED:
                told = _Told(Fate.UNNEEDED)
            at = stage.index, number
            self.fates[at] = told.fate
            if told.hit is not None:
                self.hits[at] = told.hit
            if told.miss or told.reason:
                self._reasons[at] = told.miss or told.reason
        self.identities[stage.index] = identity

    def reason(self, index: int, number: int) -> str:
        """Why step `number` of the stage `index` is not known, of a miss the first that differs from
        the nearest earlier step (`Earlier.compared`); empty for one that is known, or not needed.
        Raises StepError for files that are changing."""
        found = self._reasons.get((index, number), "")
        if isinstance(found, str):
            return found
        from assembler.plan.inputs import inputs
        from assembler.plan.wording import more, words

        stage = self.plan.stage(index)
        selected = cache(lambda: self.sources.listings(stage.steps[number]))

        def files(digest: str) -> Listing | None:
            return selected().get(digest)

        document = inputs(self.plan, stage, number, found.parent, found.reads)
        comparison = self.services.ledger.compared(stage, number, found.key, document, files)
        first = comparison.found[0]
        if first.what == "first":
            return "no earlier build has done it on the same files"
        return words(first, long=True) + more(comparison.count - 1)

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
        told, identity = self._recorded(stage, step, _Miss(key, parent, reads))
        if identity is None:
            by_content = keys.told_by_content(step)
            if told.miss and not by_content:
                # another way to files that are known is found when they are read
                return _Told(Fate.PENDING, self._unread(step, parent)), None
            identity = key if by_content else None
            if isinstance(step, Run) and renewed(self.services, stage):
                identity = _new()
        return told, None if identity is None else keys.above(parent, step, identity)

    def _recorded(
        self, stage: PlannedStage, step: Step, miss: _Miss
    ) -> tuple[_Told, Digest | None]:
        """What the record for the key of `step`, which is a `miss` if there is none, tells of it, and
        the identity that its result has or will have again. What a RUN gave is made again where it is
        needed and gone; the files of others are put together again."""
        record = None if stage.fresh else self.services.cache.lookup(miss.key)
        if record is None:
            return self._unless_fresh(stage, _Told(Fate.RUN, miss=miss)), None
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
    return Hit(place_of(record.source), since(record.ran, now))


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

    for root in (_root(plan, target.index) for target in plan.targets):
        if isinstance(root.base, ImageBase) and services.whole:
            want(root.base.image, unpacked=False)
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


def _fetches(ahead: Ahead, snapshotter: Snapshotter) -> tuple[Descriptor, ...]:
    """Layers that would come from shared caches: those of an image that is kept whole, and those of
    stages that something executes on, or reads."""
    plan, services = ahead.plan, ahead.services
    read: set[int] = set()
    for stage in plan.stages:
        for number, step in enumerate(stage.steps):
            if ahead.fates[stage.index, number] in (Fate.RUN, Fate.PENDING):
                origins = [one.index for one in origins_of(step) if isinstance(one, StageOrigin)]
                read |= {stage.index, *origins}
    kept = set(chain_indexes(plan)) if services.whole else set()
    found: dict[Digest, Descriptor] = {}
    for index in sorted(kept | {stage.index for one in read for stage in plan.lineage(one)}):
        for change in ahead.known[index].changes:
            layer = ahead.realisation.packed(change)
            here = index not in kept and snapshotter.find(change.id) is not None
            if layer is None or here or services.store.blobs.has(layer.descriptor.digest):
                continue
            found[layer.descriptor.digest] = layer.descriptor
    return tuple(found.values())


def _root(plan: Plan, index: int) -> PlannedStage:
    """The stage that the one with this index is built from in the end, not from another one."""
    *_, root = plan.lineage(index)
    return root
