"""Layers, configuration and history to an image (dockerfile-language.md 8.3, image-spec config.md)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from assembler.engine.change import StepChange
from assembler.engine.recorder import timestamp
from assembler.engine.services import Services
from assembler.errors import StoreError
from assembler.oci.config import CACHE_FIELDS, History, ImageConfig
from assembler.oci.descriptor import Descriptor, toc_annotations
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer
from assembler.plan.plan import Plan
from assembler.values import replace

COMMENT = "buildkit.dockerfile.v0"  # rule Y5: what tools that read histories look for


def assemble(
    plan: Plan,
    changes: Mapping[int, tuple[StepChange, ...]],
    layers: tuple[Layer, ...],
    services: Services,
    described: Mapping[str, Any],
) -> Image:
    """The image of the plan's one target, its manifest and configuration in the store.

    `changes` are the step results of the target and of the stages it is built from; `layers` are
    the packed layers of the whole stack. The configuration has the fields `described`. An image
    assembled before is read back, not made anew.
    """
    config = configuration(plan, changes, layers)
    config = replace(config, unknown={**_own(config.unknown), **described})
    annotations = services.annotations.of(plan.platform).manifest
    key = _key(config, layers, annotations, services.docker_types)
    found = services.packed.recall(key)
    if found is not None and services.store.blobs.has(found.digest):
        with suppress(StoreError):  # damaged, or half of it gone: it is made anew
            return services.store.image(found)
    image = Image.create(config, layers, annotations, docker=services.docker_types)
    services.store.put_image(image)
    services.packed.remember(key, image.manifest.descriptor)
    return image


def configuration(
    plan: Plan, changes: Mapping[int, tuple[StepChange, ...]], layers: tuple[Layer, ...]
) -> ImageConfig:
    """The target's configuration with its history and diff_ids (rules Y2-Y5, T2)."""
    stages = list(plan.lineage(plan.target))[::-1]
    config = stages[-1].config
    history = list(config.history)
    created = _latest(config)
    fixed = "" if plan.epoch is None else timestamp(plan.epoch)
    for stage in stages:
        for line in stage.history:
            if line.step is not None:
                created = changes[stage.index][line.step].created
            history.append(_line(line.history, fixed or created, line.step is None))
    return replace(
        config,
        history=tuple(history),
        diff_ids=tuple(layer.diff_id for layer in layers),
        created=fixed or created or timestamp(0),
    )


def _own(unknown: Mapping[str, Any]) -> dict[str, Any]:
    """What an image takes over of its base's `unknown` fields: not the cache that leads to it."""
    return {key: value for key, value in unknown.items() if key not in CACHE_FIELDS}


def _line(history: History, created: str, empty: bool) -> History:
    return replace(history, created=created, comment=history.comment or COMMENT, empty_layer=empty)


def _latest(config: ImageConfig) -> str:
    return max((entry.created for entry in config.history if entry.created), default="")


def _key(
    config: ImageConfig, layers: tuple[Layer, ...], annotations: Mapping[str, str], docker: bool
) -> Digest:
    parts = [config.serialise()]
    parts += [b"docker"] if docker else []
    parts += [f"{key}={value}".encode() for key, value in sorted(annotations.items())]
    parts += [descriptor_text(layer.descriptor) for layer in layers]
    framed = b"".join(b"%d:%s" % (len(part), part) for part in parts)
    return Digest.of(b"image/1:" + framed)


def descriptor_text(descriptor: Descriptor) -> bytes:
    """A descriptor's identity as bytes."""
    toc = toc_annotations(descriptor.annotations)
    table = "".join(f" {key}={value}" for key, value in sorted(toc.items()))
    return f"{descriptor.media_type} {descriptor.digest} {descriptor.size}{table}".encode()


def chain_indexes(plan: Plan) -> tuple[int, ...]:
    """The stages whose layers the images of the targets have, each after what it is built from."""
    chains = (list(plan.lineage(target.index))[::-1] for target in plan.targets)
    return tuple(dict.fromkeys(stage.index for chain in chains for stage in chain))
