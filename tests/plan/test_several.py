"""Plans for several platforms as one (rules O3, S18)."""

from __future__ import annotations

import json

import pytest

from assembler.dockerfile.parser import parse
from assembler.errors import UsageError
from assembler.oci.config import Execution, ImageConfig
from assembler.oci.descriptor import MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.plan.document import from_document, to_document
from assembler.plan.make import PlanRequest, base_name, make, needs
from assembler.plan.plan import Plan, ResolvedImage, StageBase
from assembler.plan.several import merged
from assembler.plan.steps import Copy, Run, StageOrigin
from assembler.source import Source

AMD64, ARM64, ARM7 = (Platform.parse(name) for name in ("amd64", "arm64", "linux/arm/v7"))
CROSS = """\
FROM --platform=$BUILDPLATFORM golang AS tools
RUN fetch
FROM --platform=$BUILDPLATFORM golang AS build
RUN prepare
ARG TARGETARCH
RUN --mount=from=tools,target=/t make
FROM base
COPY --from=build /out /out
"""


def planned(
    text: str, *platforms: Platform, epoch: int | None = None, require: tuple[str, ...] = ()
) -> Plan:
    dockerfile = parse(Source("Dockerfile", text))
    plans = []
    for platform in platforms:
        asked = PlanRequest(
            dockerfile=dockerfile,
            platform=platform,
            build_platform=AMD64,
            epoch=epoch,
            require=require,
        )
        resolved: dict[str, ResolvedImage] = {}
        while wanted := needs(asked, resolved):
            for need in wanted:
                digest = Digest.of(need.key.encode())
                config = ImageConfig(need.platform, Execution())
                resolved[need.key] = ResolvedImage(
                    need.image, Descriptor(MANIFEST, digest, 7), config, ()
                )
        plans.append(make(asked, resolved))
    return merged(plans, alone=len(dockerfile.stages) == 1)


def titles(plan: Plan) -> list[str]:
    return [step.name.partition("]")[0][1:] for stage in plan.stages for step in stage.steps]


def test_a_stage_that_is_the_same_for_all_is_there_once() -> None:
    plan = planned(CROSS, AMD64, ARM64)
    assert [stage.title for stage in plan.stages] == [
        "linux/amd64 tools",
        "linux/amd64 build",
        "linux/amd64 stage-2",
        "linux/amd64->arm64 build",
        "linux/arm64 stage-2",
    ]
    assert [stage.index for stage in plan.stages] == [0, 1, 2, 3, 4]
    assert [(target.index, target.platform) for target in plan.targets] == [(2, AMD64), (4, ARM64)]
    make_it, copy = plan.stage(3).steps[-1], plan.stage(4).steps[0]
    assert isinstance(make_it, Run) and make_it.binds[0].origin == StageOrigin(0)
    assert isinstance(copy, Copy) and copy.origin == StageOrigin(3)
    assert len(plan.images) == 3, "golang, and base for each"


def test_S18_steps_are_called_by_their_platforms() -> None:
    assert titles(planned(CROSS, AMD64, ARM7)) == [
        "linux/amd64 tools 2/2",
        "linux/amd64 build 2/3",
        "linux/amd64 build 3/3",
        "linux/amd64 stage-2 2/2",
        "linux/amd64->arm/v7 build 2/3",
        "linux/amd64->arm/v7 build 3/3",
        "linux/arm/v7 stage-2 2/2",
    ]
    alone = planned("FROM base\nRUN x\n", AMD64, ARM64)
    assert titles(alone) == ["linux/amd64 2/2", "linux/arm64 2/2"]
    names = [base_name(alone, stage).partition("FROM")[0] for stage in alone.stages]
    assert names == ["[linux/amd64 1/2] ", "[linux/arm64 1/2] "]
    assert titles(planned("FROM base\nRUN x\n", ARM64)) == ["linux/arm64 2/2"]


def test_a_part_is_what_one_image_needs() -> None:
    plan = planned(CROSS, AMD64, ARM64)
    parts = [plan.part(target) for target in plan.targets]
    assert [[stage.index for stage in part.stages] for part in parts] == [[0, 1, 2], [0, 3, 4]]
    assert [(part.target, part.platform, part.also) for part in parts] == [
        (2, AMD64, ()),
        (4, ARM64, ()),
    ]


def test_stages_on_stages_are_moved_with_them() -> None:
    text = "FROM base AS a\nRUN x\nFROM a AS b\nRUN y\nFROM b\nRUN z\n"
    plan = planned(text, AMD64, ARM64, ARM7)
    assert [stage.base for stage in plan.stages if stage.index % 3] == [
        StageBase(index) for index in (0, 1, 3, 4, 6, 7)
    ]


def test_warnings_and_missing_images_are_told_once() -> None:
    text = "FROM base as a\nRUN x\n"
    plan = planned(text, AMD64, ARM64)
    assert len(plan.warnings) == len(set(plan.warnings)) == 1


def test_it_survives_json() -> None:
    plan = planned(CROSS, AMD64, ARM64)
    assert from_document(json.loads(json.dumps(to_document(plan)))) == plan


def test_T1_one_time_is_for_all() -> None:
    assert planned("FROM scratch\n", AMD64, ARM64, epoch=5).epoch == 5
    plans = [planned("FROM scratch\n", AMD64, epoch=time) for time in (5, 6)]
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH is 5 for linux/amd64, and 6 for"):
        merged(plans, alone=True)


def test_what_is_required_is_so_for_every_platform() -> None:
    text = (
        "FROM base AS test\nRUN x\nFROM --platform=$BUILDPLATFORM base AS lint\nRUN y\nFROM base\n"
    )
    plan = planned(text, AMD64, ARM64, require=("test", "lint"))
    assert [plan.stage(index).title for index in plan.required] == [
        "linux/amd64 test",
        "linux/amd64 lint",
        "linux/arm64 test",
    ]
    assert [plan.part(target).required for target in plan.targets] == [(), ()]
