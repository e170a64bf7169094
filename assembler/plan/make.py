"""A Dockerfile and what the command line says about it, to a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from assembler.dockerfile.ignore import IgnoreRules
from assembler.dockerfile.instructions import Arg, Dockerfile, From, Warning
from assembler.dockerfile.lint import CheckOptions, line_warnings, text_warnings, wanted
from assembler.dockerfile.suggest import did_you_mean
from assembler.errors import DockerfileError, UsageError
from assembler.oci.config import History, ImageConfig
from assembler.oci.platform import Platform
from assembler.plan.contexts import Contexts
from assembler.plan.epoch import NAME as EPOCH
from assembler.plan.epoch import EpochSource, epoch_source, seconds
from assembler.plan.evaluate import evaluate
from assembler.plan.graph import Names, StageGraph, StageNode, build
from assembler.plan.lint import Trace, from_warnings, stage_warnings
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
from assembler.plan.scope import PREDEFINED, SPECIAL, Scope, automatic, global_scope, proxies
from assembler.plan.start import base_config, start
from assembler.plan.state import StageScope, StageState
from assembler.plan.steps import SHARED_MEMORY, ContextOrigin, ImageOrigin, Limit, origins_of
from assembler.plan.steps import Copy as CopyStep
from assembler.plan.titles import Titles
from assembler.values import field, replace, value

if TYPE_CHECKING:
    from assembler.plan.outline import Outline
    from assembler.plan.unset import Unset

_SUGGESTIONS = 20
"""How many undeclared build arguments are compared with every ARG of the file."""


@value(kw_only=True)
class PlanRequest:
    """What to plan. `epoch` is the build argument SOURCE_DATE_EPOCH where none is given; `epochs`
    are the times of `context`, of named contexts and of what `time_source` asked for (rule T1).

    `unset` is what the image is not to have of its configuration.
    `require` names stages that must succeed though the target does not need them; `*` is every stage.
    `ignore` are rules for lint. `every_stage` plans all of them, not only what the target needs.
    `allow` are entitlements, `hosts` the names that every RUN knows an address of, `limits` and the
    bytes of `shared_memory` what every RUN may use. `no_cache` names the stages that take nothing from
    the cache; `*` is every stage.
    """

    dockerfile: Dockerfile
    build_platform: Platform
    build_args: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    require: tuple[str, ...] = ()
    platform: Platform | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    unset: tuple[Unset, ...] = ()
    contexts: Contexts = field(default_factory=Contexts)
    network: str = "default"
    epoch: int | None = None
    epochs: Mapping[str, int | None] = field(default_factory=dict)
    ignore: IgnoreRules | None = None
    every_stage: bool = False
    allow: frozenset[str] = frozenset()
    hosts: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    shared_memory: int = SHARED_MEMORY
    no_cache: frozenset[str] = frozenset()


def needs(request: PlanRequest, resolved: Mapping[str, ResolvedImage]) -> tuple[Need, ...]:
    """The images the target needs that are not in `resolved`; ask again until there are none."""
    settled = _settled(request)
    return _graph(settled.request, settled.names, resolved).missing


def time_source(request: PlanRequest) -> EpochSource | None:
    """What has to be asked for the build's time: a stage that SOURCE_DATE_EPOCH names, and that is
    not in `epochs` yet. None when nothing has to be. Raises DockerfileError at such a stage."""
    request, outer, text = _time_text(request)
    return _time_source(request, outer, text)


def make(request: PlanRequest, resolved: Mapping[str, ResolvedImage]) -> Plan:
    """The plan. Images that are not in `resolved`, by their need's key, are its `missing`: such a
    plan can be shown but not executed, and their configuration is taken for empty."""
    settled = _settled(request)
    request, names = settled.request, settled.names
    graph, planned, traces = _traced(request, names, resolved)
    planned[graph.target], absent = _finished(planned[graph.target], request)
    found = [*text_warnings(request.dockerfile), *from_warnings(names)]
    found += stage_warnings(traces, resolved, request.ignore)
    warnings, violations = _wanted(request, found)
    return Plan(
        stages=tuple(planned[node.stage.index] for node in graph.nodes),
        target=graph.target,
        required=tuple(one for one in names.required(request.require) if one != graph.target),
        images=_used(graph, planned, resolved),
        platform=names.platform,
        epoch=settled.epoch,
        warnings=(*warnings, *_unused_arguments(request, graph.nodes), *absent),
        violations=violations,
        missing=graph.missing,
    )


def outline(request: PlanRequest, resolved: Mapping[str, ResolvedImage]) -> Outline:
    """What the target can be told: arguments, secrets, ssh agents."""
    settled = _settled(request)
    graph, _, traces = _traced(settled.request, settled.names, resolved)
    from assembler.plan.outline import outlined

    return outlined(settled.names, graph.target, traces)


@value
class _Settled:
    """A request whose SOURCE_DATE_EPOCH, if any, is seconds, and what names mean in it."""

    request: PlanRequest
    names: Names
    epoch: int | None


def _settled(request: PlanRequest) -> _Settled:
    request, outer, text = _time_text(request)
    epoch = seconds(text, request.epochs, _time_source(request, outer, text))
    request = replace(request, build_args=_with_epoch(request.build_args, epoch))
    outer = replace(outer, values=_with_epoch(outer.values, epoch))
    platform = request.platform or request.build_platform
    exact = request.platform is not None
    names = Names(request.dockerfile, outer, platform, request.contexts, exact=exact)
    return _Settled(request, names, epoch)


def _time_text(request: PlanRequest) -> tuple[PlanRequest, Scope, str]:
    """`request` with its epoch among the build arguments, the global scope, and what
    SOURCE_DATE_EPOCH is there (rule T1)."""
    if request.epoch is not None and EPOCH not in request.build_args:
        request = replace(request, build_args={**request.build_args, EPOCH: str(request.epoch)})
    stage = request.target or request.dockerfile.stages[-1].name or "default"
    outer = global_scope(
        request.dockerfile.arguments,
        request.build_args,
        automatic(request.platform or request.build_platform, request.build_platform, stage),
        request.dockerfile.escape,
    )
    text = request.build_args.get(EPOCH, outer.values.get(EPOCH, ""))
    return request, outer, text


def _time_source(request: PlanRequest, outer: Scope, text: str) -> EpochSource | None:
    return epoch_source(text, request.dockerfile, outer, request.build_args, request.epochs)


def _with_epoch(values: Mapping[str, str], epoch: int | None) -> Mapping[str, str]:
    """`values` with the seconds for what SOURCE_DATE_EPOCH was; unset where there is no time."""
    if EPOCH not in values:
        return values
    others = {key: value for key, value in values.items() if key != EPOCH}
    return others if epoch is None else {**others, EPOCH: str(epoch)}


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
        settled = _settled(request)
        found += from_warnings(settled.names)
        _traced(settled.request, settled.names, resolved, traces.append)
    except DockerfileError as failed:
        error = failed
    found += stage_warnings(traces, resolved, request.ignore)
    unused = _unused_arguments(request, [trace.node for trace in traces])
    return (*_wanted(request, found)[0], *unused), error


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
    ends: dict[int, StageState] = {}
    traces: list[Trace] = []
    for node in graph.nodes:
        index = node.stage.index
        config = base_config(node, planned, resolved)
        trace, error = _evaluate(request, names, node, config, start(node, config, ends))
        note(trace)
        if error is not None:
            raise error
        traces.append(trace)
        ends[index] = trace.end
        planned[index] = _planned(request, node, trace.end, config, planned)
    return graph, planned, traces


def _graph(request: PlanRequest, names: Names, resolved: Mapping[str, ResolvedImage]) -> StageGraph:
    target = names.target(request.target)
    others = range(len(request.dockerfile.stages)) if request.every_stage else ()
    return build(names, (*others, *names.required(request.require), target), resolved)


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
    alone = not (stage.label or stage.name or stage.index or len(plan.stages) > 1)
    prefix = "" if alone else f"{stage.title} "
    return f"[{prefix}{1:>{len(str(total))}}/{total}] FROM {image.name}{digest}"


def _evaluate(
    request: PlanRequest, names: Names, node: StageNode, config: ImageConfig, state: StageState
) -> tuple[Trace, DockerfileError | None]:
    """The trace of a stage; after an error, of the instructions before it."""
    stage = node.stage
    scope = StageScope(
        stage=stage,
        escape=request.dockerfile.escape,
        outer=names.outer,
        build_args=request.build_args,
        network=request.network,
        origin=lambda use: names.origin(use, stage),
        title=Titles.of(node, alone=len(request.dockerfile.stages) == 1).title,
        system=config.platform.os,
        allow=request.allow | ({"network.host"} if request.network == "host" else set()),
        hosts=request.hosts,
        limits=request.limits,
        shared_memory=request.shared_memory,
        proxies=proxies(request.build_args),
    )
    if isinstance(node.base, ContextBase):
        state = _copied(state, node.base, stage.base, scope)
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


def _copied(state: StageState, base: ContextBase, line: From, scope: StageScope) -> StageState:
    """FROM a tree of files: nothing, and then all of it in one layer (rule X3)."""
    origin = ContextOrigin(base.context)
    name = scope.title(replace(line, text=f"FROM {base.context}"), 0)
    step = CopyStep(origin=origin, sources=("/",), destination="/", span=line.span, name=name)
    told = HistoryLine(History("", comment="buildkit.exporter.image.v0"), step=0)
    return replace(state, steps=state.steps.append(step), history=state.history.append(told))


def _planned(
    request: PlanRequest,
    node: StageNode,
    state: StageState,
    config: ImageConfig,
    planned: Mapping[int, PlannedStage],
) -> PlannedStage:
    name = node.stage.name or str(node.stage.index)
    return PlannedStage(
        index=node.stage.index,
        name=node.stage.name,
        base=node.base,
        steps=tuple(state.steps),
        config=replace(config, execution=state.configured(), author=state.author),
        history=tuple(state.history),
        platform=_platform(node, config, planned),
        fresh=not request.no_cache.isdisjoint((name, "*")),
        span=node.stage.base.span,
    )


def _platform(
    node: StageNode, config: ImageConfig, planned: Mapping[int, PlannedStage]
) -> Platform:
    """The base stage's, the base image's where any will do, else what was asked for (S5, S14)."""
    if isinstance(node.base, StageBase):
        return planned[node.base.index].platform
    return config.platform if node.adopts else node.platform


def _finished(stage: PlannedStage, request: PlanRequest) -> tuple[PlannedStage, list[PlanWarning]]:
    """The target: without what is unset, with labels from the command line, and the platform asked
    for (K9, Y3)."""
    config, warnings = stage.config, []
    if request.unset:
        from assembler.plan.unset import unset

        execution, absent = unset(config.execution, request.unset)
        config = config.with_execution(execution)
        warnings = [PlanWarning(f"--unset {one}: the image has none", stage.span) for one in absent]
    if request.labels:
        labels = {**config.execution.labels, **request.labels}
        config = config.with_execution(replace(config.execution, labels=labels))
    wanted, found = request.platform, config.platform
    if wanted is None:
        pass
    elif (wanted.os, wanted.architecture) != (found.os, found.architecture):
        unknown = {key: value for key, value in config.unknown.items() if key != "os.version"}
        config = replace(config, platform=wanted, unknown=unknown)
    elif wanted.variant:
        config = replace(config, platform=wanted)
    return replace(stage, config=config), warnings


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


def _unused_arguments(request: PlanRequest, nodes: Iterable[StageNode]) -> list[PlanWarning]:
    """Rule A8. Triggers of base images declare arguments like other instructions."""
    declared = {pair.key for argument in request.dockerfile.arguments for pair in argument.pairs}
    bodies = [stage.instructions for stage in request.dockerfile.stages]
    bodies += [node.instructions[: node.triggers] for node in nodes]
    for body in bodies:
        for instruction in body:
            if isinstance(instruction, Arg):
                declared |= {pair.key for pair in instruction.pairs}
    known = declared | PREDEFINED | SPECIAL
    known |= automatic(request.build_platform, request.build_platform, "").keys()
    unknown = [name for name in request.build_args if name not in known]
    suggestions = {name: did_you_mean(name, sorted(declared)) for name in unknown[:_SUGGESTIONS]}
    return [
        PlanWarning(f"--build-arg {name} is declared by no ARG{suggestions.get(name, '')}")
        for name in unknown
    ]
