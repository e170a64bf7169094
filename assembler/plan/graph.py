"""Stages and what they need of each other and of images: names, targets, reachability (rules S1-S11).

The graph grows while images are resolved, since their ONBUILD triggers can need more; the caller
resolves `missing` and asks again until nothing is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from assembler.dockerfile.instructions import (
    Copy,
    Dockerfile,
    From,
    Instruction,
    OnBuild,
    Run,
    Stage,
)
from assembler.dockerfile.parser import parse_trigger
from assembler.dockerfile.suggest import did_you_mean
from assembler.errors import BadFlag, DockerfileError, StageCycle, UndefinedStage, Unsupported
from assembler.oci.platform import Platform
from assembler.oci.reference import Reference
from assembler.plan.mounts import mount_from
from assembler.plan.plan import Base, ImageBase, ResolvedImage, ScratchBase, StageBase
from assembler.plan.resolution import Need
from assembler.plan.scope import Scope, expanded
from assembler.plan.steps import ContextOrigin, ImageOrigin, Origin, StageOrigin
from assembler.source import Span


@dataclass(frozen=True, slots=True)
class StageNode:
    """A reachable stage: what it is built from and its instructions, triggers first."""

    stage: Stage
    base: Base
    platform: Platform
    instructions: tuple[Instruction, ...]
    triggers: int = 0
    """How many of the instructions are ONBUILD triggers."""


@dataclass(frozen=True, slots=True)
class StageGraph:
    """The reachable stages in an order in which each follows what it needs."""

    nodes: tuple[StageNode, ...]
    target: int
    missing: tuple[Need, ...]
    """Images that are not resolved yet; the graph is whole only when there are none."""


@dataclass(frozen=True, slots=True)
class Names:
    """What names mean in one file: stages, named contexts, images."""

    dockerfile: Dockerfile
    outer: Scope
    platform: Platform
    contexts: frozenset[str]

    def target(self, name: str) -> int:
        """The stage index that `--target` means; the last one when it is empty (rule S10)."""
        stages = self.dockerfile.stages
        if not name:
            return len(stages) - 1
        found = self._stage(name)
        if found is None and name.isdigit() and int(name) < len(stages):
            found = int(name)
        if found is None:
            known = [stage.name for stage in stages if stage.name]
            raise UndefinedStage(
                f'target stage "{name}" could not be found{did_you_mean(name, known)}',
                hint=f"stages with a name: {', '.join(known)}" if known else "",
            )
        return found

    def base(self, stage: Stage) -> tuple[Base, Platform, Need | None]:
        """What `FROM` of `stage` means (rules S3, S4), with the image needed for it."""
        line = stage.base
        name = expanded(line.image, self.outer, self.dockerfile.escape, line.span)
        if not name:
            raise DockerfileError(
                f"base name ({line.image}) should not be blank",
                line.span.blame(line.image),
                hint="give the ARG a default, or a --build-arg",
            )
        platform = self._platform(line)
        below = self._stage(name, before=stage.index)
        if below is not None:
            return StageBase(below), platform, None
        if name == "scratch":
            return ScratchBase(), platform, None
        if name in self.contexts:
            raise Unsupported(f"FROM a named context ({name}) is not supported yet", line.span)
        need = self._need(name, platform, line.span.blame(line.image))
        return ImageBase(need.key), platform, need

    def origin(self, name: str, stage: Stage, span: Span, verb: str = "copy from") -> Origin:
        """What `COPY --from=name` in `stage` means (rules S7, S8)."""
        found = self._stage(name)
        if found is None and name.isdigit():
            found = int(name)
            if found >= len(self.dockerfile.stages):
                raise UndefinedStage(f"invalid stage index {name}", span.blame(name))
        if found is None:
            if name in self.contexts:
                return ContextOrigin(name)
            return ImageOrigin(self._need(name, self.platform, span.blame(name)).key)
        if found >= stage.index:
            title = stage.name or str(stage.index)
            raise UndefinedStage(
                f'cannot {verb} stage "{name}", it needs to be defined before current stage "{title}"',
                span.blame(name),
            )
        return StageOrigin(found)

    def image_need(self, name: str, span: Span) -> Need:
        """The image that `COPY --from=name` needs."""
        return self._need(name, self.platform, span)

    def _stage(self, name: str, before: int | None = None) -> int | None:
        """The last stage called `name` (any case), of those before index `before` if given."""
        found = [
            stage.index
            for stage in self.dockerfile.stages[:before]
            if stage.name and stage.name == name.lower()
        ]
        return found[-1] if found else None

    def _platform(self, line: From) -> Platform:
        if not line.platform:
            return self.platform
        text = expanded(line.platform, self.outer, self.dockerfile.escape, line.span)
        span = line.span.blame(line.platform)
        if not text:
            raise DockerfileError(f"empty platform value from expression {line.platform}", span)
        try:
            return Platform.parse(text)
        except ValueError as error:
            raise DockerfileError(f"failed to parse platform {text}: {error}", span) from error

    def _need(self, name: str, platform: Platform, span: Span) -> Need:
        known = [stage.name for stage in self.dockerfile.stages if stage.name]
        try:
            return Need(str(Reference.parse(name)), platform, span)
        except ValueError as error:
            raise DockerfileError(f"{error}{did_you_mean(name, known)}", span) from error


def build(names: Names, target: str, resolved: Mapping[str, ResolvedImage]) -> StageGraph:
    """The graph of what `target` needs, as far as `resolved` lets it be seen."""
    index = names.target(target)
    explorer = _Explorer(names, resolved)
    explorer.visit(index, ())
    return StageGraph(tuple(explorer.nodes), index, tuple(dict.fromkeys(explorer.missing)))


class _Explorer:
    """A depth-first walk; lives only inside `build`."""

    def __init__(self, names: Names, resolved: Mapping[str, ResolvedImage]) -> None:
        self._names = names
        self._resolved = resolved
        self._done: set[int] = set()
        self.nodes: list[StageNode] = []
        self.missing: list[Need] = []

    def visit(self, index: int, path: tuple[int, ...]) -> None:
        stage = self._names.dockerfile.stages[index]
        if index in path:
            raise StageCycle(
                f"circular dependency detected on stage: {stage.name or index}", stage.base.span
            )
        if index in self._done:
            return
        node = self._node(stage)
        path = (*path, index)
        if isinstance(node.base, StageBase):
            self.visit(node.base.index, path)
            below = next(one for one in self.nodes if one.stage.index == node.base.index)
            if not stage.base.platform:
                node = replace(node, platform=below.platform)
        for instruction in node.instructions:
            for origin in self._origins(instruction, stage):
                if isinstance(origin, StageOrigin):
                    self.visit(origin.index, path)
        self._done.add(index)
        self.nodes.append(node)

    def _node(self, stage: Stage) -> StageNode:
        base, platform, need = self._names.base(stage)
        triggers: tuple[str, ...] = ()
        if need is not None and need.key not in self._resolved:
            self.missing.append(need)
        elif need is not None:
            triggers = self._resolved[need.key].config.execution.on_build
        elif isinstance(base, StageBase):
            below = self._names.dockerfile.stages[base.index]
            triggers = tuple(i.trigger for i in below.instructions if isinstance(i, OnBuild))
        parsed = tuple(
            parse_trigger(text, stage.base.span, self._names.dockerfile.escape) for text in triggers
        )
        return StageNode(
            stage, base, platform, (*parsed, *stage.instructions), triggers=len(parsed)
        )

    def _origins(self, instruction: Instruction, stage: Stage) -> list[Origin]:
        found: list[Origin] = []
        for name, verb in _from_names(instruction):
            origin = self._names.origin(name, stage, instruction.span, verb)
            if isinstance(origin, ImageOrigin) and origin.image not in self._resolved:
                self.missing.append(self._names.image_need(name, instruction.span.blame(name)))
            found.append(origin)
        return found


def _from_names(instruction: Instruction) -> list[tuple[str, str]]:
    if isinstance(instruction, Copy):
        return [(instruction.from_, "copy from")] if instruction.from_ else []
    if isinstance(instruction, Run):
        try:
            names = [mount_from(text) for text in instruction.mounts]
        except BadFlag as error:
            raise BadFlag(error.message, instruction.span) from error
        return [(name, "mount from") for name in names if name]
    return []
