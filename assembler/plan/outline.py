"""What a build can be told: the targets of a file, and a target's arguments, secrets and agents
(buildx `--call targets` and `--call outline`; rule L6 for descriptions)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from assembler.dockerfile import instructions as syntax
from assembler.dockerfile.instructions import Dockerfile
from assembler.dockerfile.lint import description
from assembler.dockerfile.words import expand
from assembler.errors import ExpansionFailed
from assembler.plan.graph import Names
from assembler.plan.lint import Trace
from assembler.plan.plan import StageBase
from assembler.plan.steps import CacheMount, Run, SecretMount, SshMount, StageOrigin, origins_of
from assembler.source import Span
from assembler.values import value


@value
class Target:
    """A stage that can be built."""

    name: str
    default: bool
    description: str
    base: str
    platform: str
    span: Span


@value
class Argument:
    """An ARG that the target reads, with the value it has."""

    name: str
    value: str
    description: str
    span: Span


@value
class Wanted:
    """A secret or an ssh agent that some RUN mounts; a cache's id."""

    name: str
    required: bool
    span: Span


@value
class Outline:
    """What the target can be told, each in order of lines."""

    name: str
    description: str
    arguments: tuple[Argument, ...]
    secrets: tuple[Wanted, ...]
    agents: tuple[Wanted, ...]
    caches: tuple[Wanted, ...]


def targets(dockerfile: Dockerfile) -> tuple[Target, ...]:
    """Every stage of a file; the last one is the default."""
    last = len(dockerfile.stages) - 1
    return tuple(
        Target(
            stage.name,
            stage.index == last,
            description(stage.base.comment, stage.name),
            stage.base.image,
            stage.base.platform,
            stage.base.span,
        )
        for stage in dockerfile.stages
    )


def outlined(names: Names, target: int, traces: Iterable[Trace]) -> Outline:
    """The outline of the stage `target`, given every stage it needs."""
    by_index = {trace.node.stage.index: trace for trace in traces}
    needed = _needed(target, by_index)
    stage = by_index[target].node.stage
    mounts = [
        (mount, step.span)
        for trace in needed
        for step in trace.end.steps
        if isinstance(step, Run)
        for mount in step.mounts
    ]
    return Outline(
        stage.name,
        description(stage.base.comment, stage.name),
        _by_line(_arguments(names, needed)),
        _once(Wanted(m.id, m.required, at) for m, at in mounts if isinstance(m, SecretMount)),
        _once(Wanted(m.id, m.required, at) for m, at in mounts if isinstance(m, SshMount)),
        _once(Wanted(m.id, False, at) for m, at in mounts if isinstance(m, CacheMount)),
    )


def _needed(target: int, traces: Mapping[int, Trace]) -> list[Trace]:
    """The stage `target`, what it is built from, and what it takes files of: nearest first."""
    pending, found = deque([target]), dict[int, Trace]()
    while pending:
        index = pending.popleft()
        if index in found:
            continue
        trace = found[index] = traces[index]
        if isinstance(trace.node.base, StageBase):
            pending.append(trace.node.base.index)
        for step in trace.end.steps:
            pending += [one.index for one in origins_of(step) if isinstance(one, StageOrigin)]
    return list(found.values())


def _arguments(names: Names, needed: Sequence[Trace]) -> Iterator[Argument]:
    """ARGs of the stages themselves, and global ones that they or their FROM lines read."""
    used: set[str] = set()
    for trace in needed:
        base = trace.node.stage.base
        used |= _read(base.image, names) | _read(base.platform, names)
        own: dict[str, Argument] = {}  # of several definitions, the last one is what counts
        for _, instruction in trace.steps():
            if not isinstance(instruction, syntax.Arg):
                continue
            for pair in instruction.pairs:
                given = pair.value is not None or pair.key in trace.scope.build_args
                if not given and pair.key in names.outer.values:
                    used.add(pair.key)  # imported from the global scope (rule A3)
                    continue
                value = trace.end.arguments.get(pair.key) or ""
                told = description(instruction.comment, pair.key)
                own[pair.key] = Argument(pair.key, value, told, instruction.span)
        yield from own.values()
    yield from _global_arguments(names, used, needed[0].scope.build_args)


def _global_arguments(
    names: Names, used: set[str], build_args: Mapping[str, str]
) -> Iterator[Argument]:
    """The global ARGs that `used` come from, backwards: an earlier definition counts only for what
    is read before it is replaced."""
    told: set[str] = set()
    for argument in reversed(names.dockerfile.arguments):
        for pair in reversed(argument.pairs):
            if pair.key not in used:
                continue
            used.discard(pair.key)
            if pair.key not in build_args:
                used |= _read(pair.value or "", names)
            if pair.key not in told:
                told.add(pair.key)
                value = names.outer.values.get(pair.key, "")
                said = description(argument.comment, pair.key)
                yield Argument(pair.key, value, said, argument.span)


def _read(word: str, names: Names) -> frozenset[str]:
    """The variables with a value that expanding `word` looks up."""
    found: set[str] = set()

    def lookup(name: str) -> str | None:
        value = names.outer.lookup(name)
        if value is not None:
            found.add(name)
        return value

    with suppress(ExpansionFailed):  # where a build argument stands in for it (rule A2)
        expand(word, lookup, names.dockerfile.escape)
    return frozenset(found)


def _by_line(arguments: Iterable[Argument]) -> tuple[Argument, ...]:
    """Each name once, the nearest stage's."""
    found: dict[str, Argument] = {}
    for argument in arguments:
        found.setdefault(argument.name, argument)
    return tuple(sorted(found.values(), key=lambda one: one.span.start))


def _once(wanted: Iterable[Wanted]) -> tuple[Wanted, ...]:
    found: dict[str, Wanted] = {}
    for one in sorted(wanted, key=lambda one: one.span.start):
        known = found.get(one.name)
        required = one.required or (known is not None and known.required)
        found[one.name] = Wanted(one.name, required, known.span if known else one.span)
    return tuple(found.values())
