"""Named contexts in a plan: what they stand in for, and where (rules X3, S4, S7)."""

from __future__ import annotations

from typing import Any

import pytest

from assembler.dockerfile.parser import parse
from assembler.oci.config import ImageConfig
from assembler.oci.descriptor import MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.plan.contexts import Contexts, FilesContext, ImageContext, NamedContext, context_key
from assembler.plan.make import PlanRequest, make, needs
from assembler.plan.plan import ContextBase, ImageBase, Plan, ResolvedImage
from assembler.plan.steps import BindMount, ContextOrigin, Copy, ImageOrigin, Run, StageOrigin
from assembler.source import Source

AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")
OTHER = "docker.io/library/other:1"


def asked(text: str, contexts: dict[str, NamedContext], **more: Any) -> PlanRequest:
    return PlanRequest(
        dockerfile=parse(Source("Dockerfile", text)),
        contexts=Contexts({context_key(name): one for name, one in contexts.items()}),
        build_platform=AMD64,
        **more,
    )


def planned(request: PlanRequest) -> tuple[Plan, list[str]]:
    """The plan, every image resolved to an empty one; and the images it asked for."""
    wanted: list[str] = []
    resolved: dict[str, ResolvedImage] = {}
    while missing := [need for need in needs(request, resolved) if need.key not in resolved]:
        for need in missing:
            wanted.append(f"{need.image} {need.platform}")
            descriptor = Descriptor(MANIFEST, Digest.of(need.key.encode()), 1)
            config = ImageConfig(need.platform)
            resolved[need.key] = ResolvedImage(need.image, descriptor, config, ())
    return make(request, resolved), wanted


FILES, IMAGE = FilesContext("parts"), ImageContext(OTHER)


@pytest.mark.parametrize(
    "line",
    ["FROM alpine", "FROM alpine:latest", "FROM docker.io/library/alpine", "FROM alpine AS x"],
)
def test_X3_a_base_image_is_replaced(line: str) -> None:
    plan, wanted = planned(asked(f"{line}\n", {"alpine": IMAGE}))
    assert wanted == [f"{OTHER} linux/amd64"]
    assert isinstance(plan.stages[0].base, ImageBase)
    plan, wanted = planned(asked(f"{line}\n", {"alpine": FILES}))
    assert wanted == [] and plan.stages[0].base == ContextBase("parts")


@pytest.mark.parametrize("line", ["FROM alpine:3", "FROM example.com/alpine", "FROM alpine2"])
def test_X3_another_image_is_not(line: str) -> None:
    _, wanted = planned(asked(f"{line}\n", {"alpine": IMAGE}))
    assert OTHER not in wanted[0]


def test_S4_a_whole_stage_is_replaced_and_its_base_not_asked_for() -> None:
    text = "FROM nosuch AS Build\nRUN make\nFROM scratch\nCOPY --from=build /f /f\n"
    plan, wanted = planned(asked(text, {"build": FILES}))
    assert wanted == []
    assert plan.stages[0].base == ContextBase("parts")
    copy = plan.stages[-1].steps[0]
    assert isinstance(copy, Copy) and copy.origin == StageOrigin(0)
    assert not [step for stage in plan.stages for step in stage.steps if isinstance(step, Run)]


def test_S4_so_it_is_where_another_stage_starts_from_it() -> None:
    text = "FROM nosuch AS build\nRUN make\nFROM build\nENV a=b\n"
    plan, wanted = planned(asked(text, {"BUILD": IMAGE}))
    assert wanted == [f"{OTHER} linux/amd64"]
    assert not [step for stage in plan.stages for step in stage.steps]


@pytest.mark.parametrize(
    ("context", "origin"), [(FILES, ContextOrigin("parts")), (IMAGE, ImageOrigin)]
)
def test_S7_copies_and_mounts_take_from_it(context: NamedContext, origin: Any) -> None:
    text = (
        "FROM busybox\nCOPY --from=Other:latest f /f\n"
        "RUN --mount=from=other,target=/m x\nCOPY --from=third f /f\n"
    )
    plan, _ = planned(asked(text, {"other": context}))
    copy, run, third = plan.stages[-1].steps
    assert isinstance(copy, Copy) and isinstance(run, Run) and isinstance(third, Copy)
    (mount,) = run.mounts
    assert isinstance(mount, BindMount)
    assert copy.origin == mount.origin
    assert copy.origin == origin or isinstance(copy.origin, origin)
    assert isinstance(third.origin, ImageOrigin)


def test_X3_each_platform_may_have_its_own() -> None:
    contexts: dict[str, NamedContext] = {
        "base": ImageContext("docker.io/library/any:1"),
        "base::linux/arm64": ImageContext("docker.io/library/arm:1"),
    }
    text = "FROM --platform=linux/arm64 base AS tool\nFROM base\nCOPY --from=tool f /f\n"
    _, wanted = planned(asked(text, contexts))
    assert set(wanted) == {
        "docker.io/library/arm:1 linux/arm64",
        "docker.io/library/any:1 linux/amd64",
    }
    _, wanted = planned(asked("FROM base\n", contexts, platform=ARM64))
    assert wanted == ["docker.io/library/arm:1 linux/arm64"]


@pytest.mark.parametrize("name", ["scratch", "context", "SCRATCH"])
def test_X3_what_cannot_be_replaced(name: str) -> None:
    contexts = Contexts({name.lower(): IMAGE})
    assert contexts.find(name, AMD64) is None


def test_X3_the_command_line_and_the_file_may_differ_in_case() -> None:
    plan, wanted = planned(asked("FROM x AS STAGE\nFROM stage\n", {"Stage": FILES}))
    assert wanted == [] and len(plan.stages) >= 1
