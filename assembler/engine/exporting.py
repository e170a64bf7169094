"""The packed results of a plan's steps, for a shared cache: what is packed already, and what is not."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping

from assembler.engine.assemble import chain_indexes
from assembler.engine.change import Snapshot, StepChange
from assembler.engine.lookup import KnownStage, base_identity, look_up
from assembler.engine.realisation import Realisation
from assembler.engine.services import Services
from assembler.engine.sources import Sources
from assembler.layer.compression import Compression
from assembler.oci.digest import Digest
from assembler.oci.image import Layer
from assembler.plan import keys
from assembler.plan.differences import parse
from assembler.plan.plan import Plan
from assembler.plan.steps import Copy
from assembler.values import replace

Packed = dict[Digest, tuple[Layer, str]]
"""Layers with their variants, by the identity of the result."""


def known_stages(plan: Plan, services: Services) -> dict[int, KnownStage]:
    """Every stage of `plan` with what the cache knows of it, be it just built."""
    stages = tuple(replace(stage, fresh=False) for stage in plan.stages)
    plan = replace(plan, stages=stages)
    return look_up(plan, services, Sources(plan, services))


def packed_results(
    plan: Plan,
    known: dict[int, KnownStage],
    services: Services,
    image: Compression,
    *,
    every: bool,
    exists: Callable[[StepChange], bool],
) -> Packed:
    """The layers of the image, with `every` those of all stages, whose bytes can be had.

    What is packed as the `image` is stays so, unless all are to be in `services.compression`
    (`recompress`); what `exists` as a directory only is packed so. Enters the sandbox for that.
    Raises StoreError, and what fetching a base layer raises.
    """
    first = Realisation(replace(services, compression=image), None, plan.epoch)
    realisation = Realisation(services, None, plan.epoch)
    stages = known.values() if every else [known[index] for index in chain_indexes(plan)]
    found: Packed = {}
    lacking: list[tuple[StepChange, Snapshot]] = []
    for change, below in _changes(stages):
        services.cancellation.check()
        layer = _known(change, (first, realisation), services)
        if layer is not None:
            found[change.identity] = layer
        elif exists(change):
            lacking.append((change, below))
    if services.recompress:
        for identity, (one, _) in found.items():
            found[identity] = realisation.recompressed(identity, one), realisation.variant
    if lacking:
        with services.sandbox() as sandbox, services.store.scratch() as spool:
            packing = Realisation(services, sandbox.snapshotter, plan.epoch, spool, sandbox.apart)
            for change, below in lacking:
                services.cancellation.check()
                if packing.available(change):
                    found[change.identity] = packing.pack(change, below), packing.variant
    return found


def selections(
    plan: Plan,
    known: Mapping[int, KnownStage],
    inputs: Callable[[Digest], str],
    packed: Container[Digest],
) -> set[Digest]:
    """What COPYs and ADDs of `known` stages selected whose results are among `packed`: whoever has
    those may know the names of their files. `inputs` gives the document recorded under a key, which
    is believed where the result's identity follows from what it says."""
    found: set[Digest] = set()
    for one in known.values():
        below = base_identity(plan, one.stage, lambda index: known[index].identity)
        for step, change, key in zip(one.stage.steps, one.changes, one.keys, strict=False):
            assert below is not None  # else nothing is known of the stage
            if isinstance(step, Copy) and change.identity in packed:
                selected = _selected(inputs(key))
                if selected and keys.content_key(below, step, [selected]) == change.identity:
                    found.add(selected)
            below = keys.above(below, step, change.identity)
    return found


def _selected(inputs: str) -> Digest | None:
    """The digest of what a step read, if that is one thing."""
    match parse(inputs):
        case {"origins": [{"digest": str() as digest}]}:
            try:
                return Digest.parse(digest)
            except ValueError:
                return None
    return None


def _known(
    change: StepChange, forms: Iterable[Realisation], services: Services
) -> tuple[Layer, str] | None:
    for one in forms:
        layer = one.exact(change)
        if layer is not None:
            return layer, one.variant
        other = services.packed.otherwise(change.identity, one.variant)
        if other is not None and one.packed(change) == other[0]:
            return other
    return None


def _changes(stages: Iterable[KnownStage]) -> Iterator[tuple[StepChange, Snapshot]]:
    for stage in stages:
        for number, change in enumerate(stage.changes):
            yield change, (stage.base or ()) + stage.changes[:number]
