"""A Dockerfile and what the command line says about it, to a plan."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from assembler.dockerfile.ignore import IgnoreRules
from assembler.dockerfile.instructions import (
    Arg,
    Copy,
    Dockerfile,
    From,
    Instruction,
    Run,
    Warning,
    Workdir,
)
from assembler.dockerfile.lint import CheckOptions, line_warnings, text_warnings, wanted
from assembler.dockerfile.suggest import did_you_mean
from assembler.errors import DockerfileError, UsageError
from assembler.oci.config import DEFAULT_PATH, History, ImageConfig
from assembler.oci.platform import Platform
from assembler.plan.contexts import Contexts
from assembler.plan.evaluate import StageScope, StageState, evaluate
from assembler.plan.graph import Names, StageGraph, StageNode, build
from assembler.plan.lint import Trace, from_warnings, stage_warnings
from assembler.plan.outline import Outline, outlined
from assembler.plan.plan import (
    Base,
    ContextBase,
    HistoryLine,
    ImageBase,
    Plan,
    PlannedStage,
    PlanWarning,
    ResolvedImage,
    StageBase,
)
from assembler.plan.resolution import Need
from assembler.plan.scope import PREDEFINED, SPECIAL, Scope, automatic, global_scope
from assembler.plan.steps import ContextOrigin, ImageOrigin, origins_of
from assembler.plan.steps import Copy as CopyStep

_FILE_STEPS = (Run, Copy, Workdir)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What to plan. `epoch` is SOURCE_DATE_EPOCH where no argument sets it; `epochs` are the times
    that `context` and named contexts stand for (rule T1). `ignore` are rules for lint.

    `every_stage` plans all of them, not only what the target needs. `allow` are entitlements.
    `no_cache` names the stages that take nothing from the cache; `*` is every stage.
    """

    dockerfile: Dockerfile
    build_platform: Platform
    build_args: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    platform: Platform | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    contexts: Contexts = field(default_factory=Contexts)
    network: str = "default"
    epoch: int | None = None
    epochs: Mapping[str, int | None] = field(default_factory=dict)
    ignore: IgnoreRules | None = None
    every_stage: bool = False
    allow: frozenset[str] = frozenset()
    no_cache: frozenset[str] = frozenset()


def needs(request: PlanRequest, resolved: Mapping[str, ResolvedImage]) -> tuple[Need, ...]:
    """The images the target needs that are not in `resolved`; ask again until there are none."""
    return _graph(request, _names(request), resolved).missing


def make(request: PlanRequest, resolved: Mapping[str, ResolvedImage]) -> Plan:
    """The plan. Images that are not in `resolved`, by their need's key, are its `missing`: such a
    plan can be shown but not executed, and their configuration is taken for empty."""
    names = _names(request)
    graph, planned, traces = _traced(request, names, resolved)
    planned[graph.target] = _labelled(planned[graph.target], request.labels)
    found = [*text_warnings(request.dockerfile), *from_warnings(names)]
    found += stage_warnings(traces, resolved, request.ignore)
    warnings, violations = _wanted(request, found)
    return Plan(
        stages=tuple(planned[node.stage.index] for node in graph.nodes),
        target=graph.target,
        images=_used(graph, planned, resolved),
        platform=names.platform,
        epoch=_epoch(request, names.outer),
        warnings=(*warnings, *_unused_arguments(request)),
        violations=violations,
        missing=graph.missing,
    )


def outline(request: PlanRequest, resolved: Mapping[str, ResolvedImage]) -> Outline:
    """What the target can be told: arguments, secrets, ssh agents."""
    names = _names(request)
    graph, _, traces = _traced(request, names, resolved)
    return outlined(names, graph.target, traces)


def examine(
    request: PlanRequest,
    resolved: Mapping[str, ResolvedImage],
    error: DockerfileError | None = None,
) -> tuple[tuple[PlanWarning, ...], DockerfileError | None]:
    """What is to be said about the file as far as it can be understood, and the error that ended
    that. After an `error` of the parser, the request holds what was before it. Raises UsageError.
    """
    if error is not None:
        return _wanted(request, line_warnings(request.dockerfile))[0], error
    found = [*text_warnings(request.dockerfile)]
    traces: list[Trace] = []
    try:
        names = _names(request)
        found += from_warnings(names)
        _traced(request, names, resolved, traces.append)
    except DockerfileError as failed:
        error = failed
    found += stage_warnings(traces, resolved, request.ignore)
    return (*_wanted(request, found)[0], *_unused_arguments(request)), error


def _traced(
    request: PlanRequest,
    names: Names,
    resolved: Mapping[str, ResolvedImage],
    note: Callable[[Trace], None] = lambda trace: None,
) -> tuple[StageGraph, dict[int, PlannedStage], list[Trace]]:
    """The graph, and every stage of it evaluated. `note` hears of each trace, also of the last one
    before an error, as far as it went."""
    graph = _graph(request, names, resolved)
    planned: dict[int, PlannedStage] = {}
    traces: dict[int, Trace] = {}
    for node in graph.nodes:
        start = _start(node, planned, traces, resolved)
        trace, error = _evaluate(request, names, node, start)
        note(trace)
        if error is not None:
            raise error
        traces[node.stage.index] = trace
        config = _base_config(node, planned, resolved)
        planned[node.stage.index] = _planned(request, node, trace.end, config)
    return graph, planned, list(traces.values())


def _graph(request: PlanRequest, names: Names, resolved: Mapping[str, ResolvedImage]) -> StageGraph:
    target = names.target(request.target)
    others = range(len(request.dockerfile.stages)) if request.every_stage else ()
    return build(names, (*others, target), resolved)


def _wanted(
    request: PlanRequest, found: Iterable[Warning]
) -> tuple[tuple[PlanWarning, ...], tuple[str, ...]]:
    """What of `found` the file wants to hear, and the rules for which that is an error (D7)."""
    options = _check_options(request)
    kept = wanted(request.dockerfile, found, options)
    rules = sorted({warning.rule for warning in kept if warning.rule}) if options.error else []
    warnings = [PlanWarning(warning.message, warning.span, warning.rule) for warning in kept]
    return tuple(warnings), tuple(rules)


def _check_options(request: PlanRequest) -> CheckOptions:
    given = request.build_args.get("BUILDKIT_DOCKERFILE_CHECK")
    if not given:
        return CheckOptions.parse(request.dockerfile.check)  # the lexer has looked at it
    try:
        return CheckOptions.parse(given)
    except ValueError as error:
        raise UsageError(f"BUILDKIT_DOCKERFILE_CHECK={given}: {error}") from error


def base_name(plan: Plan, stage: PlannedStage) -> str:
    """What progress shows for FROM: `[build 1/5] FROM docker.io/library/debian:latest`."""
    assert isinstance(stage.base, ImageBase)
    image = plan.images[stage.base.image]
    total = len(stage.steps) + 1
    digest = "" if "@" in image.name else f"@{image.manifest.digest}"
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
    return Names(
        request.dockerfile, outer, platform, request.contexts, exact=request.platform is not None
    )


def _base_config(
    node: StageNode, planned: Mapping[int, PlannedStage], resolved: Mapping[str, ResolvedImage]
) -> ImageConfig:
    """The configuration a stage starts from: `created` dropped, triggers cleared (rule Y2)."""
    if isinstance(node.base, StageBase):
        config = planned[node.base.index].config
    elif isinstance(node.base, ImageBase) and node.base.image in resolved:
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
    traces: Mapping[int, Trace],
    resolved: Mapping[str, ResolvedImage],
) -> StageState:
    config = _base_config(node, planned, resolved)
    environment = dict(item.partition("=")[::2] for item in config.execution.env)
    if isinstance(node.base, StageBase):  # ARGs are inherited with the stage (rule A5)
        below = traces[node.base.index].end
        return StageState(config.execution, below.environment, below.arguments, author=below.author)
    return StageState(config.execution, environment, {}, author=config.author)


def _evaluate(
    request: PlanRequest, names: Names, node: StageNode, state: StageState
) -> tuple[Trace, DockerfileError | None]:
    """The trace of a stage; after an error, of the instructions before it."""
    stage = node.stage
    files = [one for one in node.instructions if _counts(one)]
    first = 1 if isinstance(node.base, ImageBase) else 0
    total = len(files) + first + isinstance(node.base, ContextBase)
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
        origin=lambda use: names.origin(use, stage),
        title=name,
        allow=request.allow,
    )
    if isinstance(node.base, ContextBase):
        state = _copied(
            state, node.base, stage.base, f"[{title}1/{total}] FROM {node.base.context}"
        )
    before: list[StageState] = []
    for instruction in node.instructions:
        try:
            following = evaluate(state, instruction, scope)
        except DockerfileError as error:
            done = replace(node, instructions=node.instructions[: len(before)])
            return Trace(done, tuple(before), state, scope), error
        before.append(state)
        state = following
    return Trace(node, tuple(before), state, scope), None


def _copied(state: StageState, base: ContextBase, line: From, name: str) -> StageState:
    """FROM a tree of files: nothing, and then all of it in one layer (rule X3)."""
    origin = ContextOrigin(base.context)
    step = CopyStep(origin=origin, sources=("/",), destination="/", span=line.span, name=name)
    told = HistoryLine(History("", comment="buildkit.exporter.image.v0"), step=0)
    return replace(state, steps=state.steps.append(step), history=state.history.append(told))


def _counts(instruction: Instruction) -> bool:
    """Whether progress numbers it (rule S18); `WORKDIR /` makes nothing."""
    if isinstance(instruction, Workdir):
        return instruction.path.strip() != "/"
    return isinstance(instruction, _FILE_STEPS)


def _planned(
    request: PlanRequest, node: StageNode, state: StageState, config: ImageConfig
) -> PlannedStage:
    platform = config.platform if node.adopts else node.platform
    name = node.stage.name or str(node.stage.index)
    return PlannedStage(
        index=node.stage.index,
        name=node.stage.name,
        base=node.base,
        steps=tuple(state.steps),
        config=replace(config, platform=platform, execution=state.execution, author=state.author),
        history=tuple(state.history),
        platform=platform,
        fresh=not request.no_cache.isdisjoint((name, "*")),
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
    return {key: resolved[key] for key in sorted(used) if key in resolved}


def image_origins(stage: PlannedStage) -> Iterable[ImageOrigin]:
    """The images that the steps of `stage` take files from."""
    for step in stage.steps:
        for origin in origins_of(step):
            if isinstance(origin, ImageOrigin):
                yield origin


def _epoch(request: PlanRequest, outer: Scope) -> int | None:
    given = request.build_args.get("SOURCE_DATE_EPOCH")
    text = outer.lookup("SOURCE_DATE_EPOCH") if given is None else given
    if not text:
        return request.epoch
    if text in request.epochs:
        return request.epochs[text]
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise UsageError(
            f"invalid SOURCE_DATE_EPOCH: {text}",
            hint="a number of seconds since 1970, `context`, or the name of a build context",
        )
    return int(text)


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
