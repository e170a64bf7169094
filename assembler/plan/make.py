"""A Dockerfile and what the command line says about it, to a plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from assembler.dockerfile.instructions import Arg, Copy, Dockerfile, Instruction, Run, Workdir
from assembler.dockerfile.suggest import did_you_mean
from assembler.errors import UsageError
from assembler.oci.config import DEFAULT_PATH, ImageConfig
from assembler.oci.platform import Platform
from assembler.oci.reference import Reference
from assembler.plan.evaluate import StageScope, StageState, evaluate
from assembler.plan.graph import Names, StageGraph, StageNode, build
from assembler.plan.plan import (
    Base,
    ImageBase,
    Plan,
    PlannedStage,
    PlanWarning,
    ResolvedImage,
    StageBase,
)
from assembler.plan.resolution import Need
from assembler.plan.scope import PREDEFINED, SPECIAL, Scope, automatic, global_scope
from assembler.plan.steps import ImageOrigin, origins_of

_FILE_STEPS = (Run, Copy, Workdir)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What to plan. `contexts` are the names of named contexts; `epoch` is SOURCE_DATE_EPOCH."""

    dockerfile: Dockerfile
    build_platform: Platform
    build_args: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    platform: Platform | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    contexts: frozenset[str] = frozenset()
    network: str = "default"
    epoch: int | None = None


def needs(request: PlanRequest, resolved: Mapping[str, ResolvedImage]) -> tuple[Need, ...]:
    """The images the target needs that are not in `resolved`; ask again until there are none."""
    return build(_names(request), request.target, resolved).missing


def make(request: PlanRequest, resolved: Mapping[str, ResolvedImage]) -> Plan:
    """The complete plan. Every image it needs is in `resolved`, by its need's key."""
    names = _names(request)
    graph = build(names, request.target, resolved)
    planned: dict[int, PlannedStage] = {}
    states: dict[int, StageState] = {}
    for node in graph.nodes:
        start = _start(node, planned, states, resolved)
        state = _evaluate(request, names, node, start)
        states[node.stage.index] = state
        planned[node.stage.index] = _planned(node, state, _base_config(node, planned, resolved))
    planned[graph.target] = _labelled(planned[graph.target], request.labels)
    return Plan(
        stages=tuple(planned[node.stage.index] for node in graph.nodes),
        target=graph.target,
        images=_used(graph, planned, resolved),
        platform=names.platform,
        epoch=_epoch(request, names.outer),
        warnings=(
            *(PlanWarning(w.message, w.span, w.rule) for w in request.dockerfile.warnings),
            *_unused_arguments(request),
        ),
    )


def base_name(plan: Plan, stage: PlannedStage) -> str:
    """What progress shows for FROM: `[build 1/5] FROM docker.io/library/debian:latest`."""
    assert isinstance(stage.base, ImageBase)
    image = plan.images[stage.base.image]
    total = len(stage.steps) + 1
    pinned = Reference.parse(image.name)
    digest = "" if pinned.digest else f"@{image.manifest.digest}"
    prefix = f"{stage.title} " if stage.name or stage.index or len(plan.stages) > 1 else ""
    return f"[{prefix}{1:>{len(str(total))}}/{total}] FROM {image.name}{digest}"


def _names(request: PlanRequest) -> Names:
    platform = request.platform or request.build_platform
    stages = request.dockerfile.stages
    stage = request.target or stages[-1].name or "default"
    outer = global_scope(
        request.dockerfile.arguments,
        request.build_args,
        automatic(platform, request.build_platform, stage),
        request.dockerfile.escape,
    )
    return Names(request.dockerfile, outer, platform, request.contexts)


def _base_config(
    node: StageNode, planned: Mapping[int, PlannedStage], resolved: Mapping[str, ResolvedImage]
) -> ImageConfig:
    """The configuration a stage starts from: `created` dropped, triggers cleared (rule Y2)."""
    if isinstance(node.base, StageBase):
        config = planned[node.base.index].config
    elif isinstance(node.base, ImageBase):
        config = resolved[node.base.image].config
    else:
        config = ImageConfig(node.platform)
    execution = replace(config.execution, on_build=())
    names = [item.partition("=")[0] for item in execution.env]
    if "PATH" not in names and node.platform.os != "windows":
        execution = replace(execution, env=(*execution.env, f"PATH={DEFAULT_PATH}"))
    if not execution.working_dir:
        execution = replace(execution, working_dir="/")
    return replace(config, execution=execution, created="")


def _start(
    node: StageNode,
    planned: Mapping[int, PlannedStage],
    states: Mapping[int, StageState],
    resolved: Mapping[str, ResolvedImage],
) -> StageState:
    config = _base_config(node, planned, resolved)
    environment = dict(item.partition("=")[::2] for item in config.execution.env)
    if isinstance(node.base, StageBase):  # ARGs are inherited with the stage (rule A5)
        below = states[node.base.index]
        return StageState(config.execution, below.environment, below.arguments, author=below.author)
    return StageState(config.execution, environment, {}, author=config.author)


def _evaluate(request: PlanRequest, names: Names, node: StageNode, state: StageState) -> StageState:
    stage = node.stage
    files = [one for one in node.instructions if _counts(one)]
    first = 1 if isinstance(node.base, ImageBase) else 0
    total = len(files) + first
    alone = len(request.dockerfile.stages) == 1
    title = "" if alone else f"{stage.name or f'stage-{stage.index}'} "

    def name(instruction: Instruction, before: int) -> str:
        number = before + 1 + first
        trigger = "ONBUILD " if instruction in node.instructions[: node.triggers] else ""
        return f"[{title}{number:>{len(str(total))}}/{total}] {trigger}{instruction.text}"

    scope = StageScope(
        stage=stage,
        escape=request.dockerfile.escape,
        outer=names.outer,
        build_args=request.build_args,
        network=request.network,
        origin=lambda word, span, verb: names.origin(word, stage, span, verb),
        title=name,
    )
    for instruction in node.instructions:
        state = evaluate(state, instruction, scope)
    return state


def _counts(instruction: Instruction) -> bool:
    """Whether progress numbers it (rule S18); `WORKDIR /` makes nothing."""
    if isinstance(instruction, Workdir):
        return instruction.path.strip() != "/"
    return isinstance(instruction, _FILE_STEPS)


def _planned(node: StageNode, state: StageState, config: ImageConfig) -> PlannedStage:
    platform = config.platform if isinstance(node.base, ImageBase) else node.platform
    return PlannedStage(
        index=node.stage.index,
        name=node.stage.name,
        base=node.base,
        steps=state.steps,
        config=replace(config, platform=platform, execution=state.execution, author=state.author),
        history=state.history,
        platform=platform,
        span=node.stage.base.span,
    )


def _labelled(stage: PlannedStage, labels: Mapping[str, str]) -> PlannedStage:
    if not labels:
        return stage
    execution = stage.config.execution
    merged = replace(execution, labels={**execution.labels, **labels})
    return replace(stage, config=stage.config.with_execution(merged))


def _used(
    graph: StageGraph,
    planned: Mapping[int, PlannedStage],
    resolved: Mapping[str, ResolvedImage],
) -> dict[str, ResolvedImage]:
    bases: list[Base] = [node.base for node in graph.nodes]
    used = {base.image for base in bases if isinstance(base, ImageBase)}
    for stage in planned.values():
        used |= {origin.image for origin in image_origins(stage)}
    return {key: resolved[key] for key in sorted(used)}


def image_origins(stage: PlannedStage) -> Iterable[ImageOrigin]:
    """The images that the steps of `stage` take files from."""
    for step in stage.steps:
        for origin in origins_of(step):
            if isinstance(origin, ImageOrigin):
                yield origin


def _epoch(request: PlanRequest, outer: Scope) -> int | None:
    text = request.build_args.get("SOURCE_DATE_EPOCH") or outer.lookup("SOURCE_DATE_EPOCH")
    if not text:
        return request.epoch
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(
            f"invalid SOURCE_DATE_EPOCH: {text}", hint="a number of seconds since 1970"
        ) from error


def _unused_arguments(request: PlanRequest) -> list[PlanWarning]:
    declared = {pair.key for argument in request.dockerfile.arguments for pair in argument.pairs}
    for stage in request.dockerfile.stages:
        for instruction in stage.instructions:
            if isinstance(instruction, Arg):
                declared |= {pair.key for pair in instruction.pairs}
    known = declared | PREDEFINED | SPECIAL
    known |= set(automatic(request.build_platform, request.build_platform, ""))
    return [
        PlanWarning(f"--build-arg {name} is declared by no ARG{did_you_mean(name, declared)}")
        for name in request.build_args
        if name not in known
    ]
