"""Stages and what they need of each other and of images: names, targets, reachability (rules S1-S11).

The graph grows while images are resolved, since their ONBUILD triggers can need more; the caller
resolves `missing` and asks again until nothing is missing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence

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
from assembler.dockerfile.suggest import completed, did_you_mean
from assembler.dockerfile.words import expand, quoted
from assembler.errors import BadFlag, DockerfileError, StageCycle, UndefinedStage
from assembler.expressions import expression
from assembler.oci.platform import Platform
from assembler.oci.reference import Reference, has_registry
from assembler.plan.contexts import Contexts, FilesContext, ImageContext
from assembler.plan.mounts import mount_source
from assembler.plan.plan import Base, ContextBase, ImageBase, ResolvedImage, ScratchBase, StageBase
from assembler.plan.resolution import Need, Use
from assembler.plan.scope import Scope, expanded
from assembler.plan.steps import ContextOrigin, ImageOrigin, Origin, ScratchOrigin, StageOrigin
from assembler.source import Span
from assembler.values import field, value

COMMON_IMAGES = ("alpine", "busybox", "centos", "debian", "fedora", "golang", "node", "python",
                 "rockylinux", "ubuntu")  # fmt: skip
_INDEX = expression(r"[+-]?[0-9]{1,9}")


@value
class StageNode:
    """A reachable stage: what it is built from and its instructions, triggers first."""

    stage: Stage
    base: Base
    platform: Platform
    instructions: tuple[Instruction, ...]
    triggers: int = 0
    """How many of the instructions are ONBUILD triggers."""
    adopts: bool = False
    """No platform was asked for, so the stage has that of its base image (rule S14)."""


@value
class StageGraph:
    """The reachable stages in an order in which each follows what it needs."""

    nodes: tuple[StageNode, ...]
    target: int
    missing: tuple[Need, ...]
    """Images that are not resolved yet; the graph is whole only when there are none."""


@value
class Names:
    """What names mean in one file: stages, named contexts, images.

    `exact` says that the platform was asked for, so a base of another one is not adopted.
    """

    dockerfile: Dockerfile
    outer: Scope
    platform: Platform
    contexts: Contexts
    exact: bool = False
    _stages: Mapping[str, Sequence[int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found: dict[str, list[int]] = {}
        for stage in self.dockerfile.stages:
            if stage.name:
                found.setdefault(stage.name, []).append(stage.index)
        object.__setattr__(self, "_stages", found)

    @property
    def known(self) -> tuple[str, ...]:
        """The names of stages, in order."""
        return tuple(self._stages)

    def target(self, name: str) -> int:
        """The stage index that `--target` means; the last one when it is empty (rule S10)."""
        return self._asked(name, "target") if name else len(self.dockerfile.stages) - 1

    def required(self, names: Sequence[str]) -> tuple[int, ...]:
        """The stage indexes that `--require` means; `*` is every stage."""
        every = range(len(self.dockerfile.stages)) if "*" in names else ()
        return tuple(
            sorted({*every, *(self._asked(name, "required") for name in names if name != "*")})
        )

    def _asked(self, name: str, kind: str) -> int:
        stages = self.dockerfile.stages
        found = self._stage(name)
        if found is None and _INDEX.fullmatch(name) and 0 <= int(name) < len(stages):
            found = int(name)
        if found is None:
            word = name.lower()
            suggestion = did_you_mean(word, self.known) or completed(word, self.known)
            raise UndefinedStage(
                f'{kind} stage "{name}" could not be found{suggestion}',
                hint=f"stages with a name: {', '.join(self.known)}" if self.known else "",
            )
        return found

    def base(self, stage: Stage) -> tuple[Base, Platform, Need | None]:
        """What `FROM` of `stage` means (rules S3, S4), with the image needed for it."""
        line = stage.base
        platform = self._platform(line)
        if stage.name and (replaced := self.contexts.find(stage.name, platform)):
            return self._context(stage.name, replaced, platform, line.span)
        name = expanded(line.image, self.outer, self.dockerfile.escape, line.span)
        if not name:
            raise DockerfileError(
                f"base name ({line.image}) should not be blank",
                line.span.blame(line.image),
                hint="give the ARG a default, or a --build-arg",
            )
        below = self._stage(name, before=stage.index)
        if below is not None:
            return StageBase(below), platform, None
        if name == "scratch":
            return ScratchBase(), platform, None
        found = self.contexts.find(name, platform)
        span = line.span.blame(line.image)
        if found is not None:
            return self._context(name, found, platform, span)
        need = self._need(name, platform, span, bool(line.platform))
        return ImageBase(need.key), platform, need

    def replaced(self, stage: Stage) -> bool:
        """Whether a named context stands in for the whole stage (rule S4)."""
        if not stage.name or not self.contexts.named:
            return False
        return self.contexts.find(stage.name, self._platform(stage.base)) is not None

    def origin(self, use: Use, stage: Stage) -> Origin:
        """What `use` in `stage` means (rules S7, S8)."""
        found = self.stage_of(use)
        if found is None:
            return self._outside(use)[0]
        if found >= stage.index:
            title = stage.name or f"stage-{stage.index}"
            if use.target is not None:
                message = (
                    f'cannot mount from stage "{use.name}" to "{use.target}",'
                    " stage needs to be defined before current command"
                )
            else:
                message = (
                    f'cannot copy from stage "{use.name}",'
                    f' it needs to be defined before current stage "{title}"'
                )
            raise UndefinedStage(message, use.span.blame(use.name))
        return StageOrigin(found)

    def image_need(self, use: Use) -> Need | None:
        """The image that `use` needs; None when it names a stage or a tree of files."""
        return self._outside(use)[1] if self.stage_of(use) is None else None

    def stage_of(self, use: Use) -> int | None:
        """The index of the stage that `use` names, wherever in the file it is (rule S7)."""
        if use.target is None and _INDEX.fullmatch(use.name):
            found = int(use.name)
            count = len(self.dockerfile.stages)
            if not 0 <= found < count:
                hint = f"the file has {count} stage{'s' * (count > 1)}, counted from 0"
                message = f"invalid stage index {found}"
                raise UndefinedStage(message, use.span.blame(use.name), hint=hint)
            return found
        return self._stage(use.name)

    def _outside(self, use: Use) -> tuple[Origin, Need | None]:
        if use.name == "scratch":
            return ScratchOrigin(), None
        context = self.contexts.find(use.name, self.platform)
        span = use.span.blame(use.name)
        if isinstance(context, FilesContext):
            return ContextOrigin(context.name), None
        if isinstance(context, ImageContext):
            need = Need(context.image, self.platform, span)
        else:
            need = self._need(use.name, self.platform, span, False)
        return ImageOrigin(need.key), need

    def _context(
        self, name: str, found: FilesContext | ImageContext, platform: Platform, span: Span
    ) -> tuple[Base, Platform, Need | None]:
        if isinstance(found, FilesContext):
            return ContextBase(found.name), platform, None
        need = Need(found.image, platform, span, exact=self.exact)
        return ImageBase(need.key), platform, need

    def _stage(self, name: str, before: int | None = None) -> int | None:
        """The last stage called `name` (any case), of those before index `before` if given."""
        found = self._stages.get(name.lower(), ())
        end = len(found) if before is None else bisect_left(found, before)
        return found[end - 1] if end else None

    def _platform(self, line: From) -> Platform:
        if not line.platform:
            return self.platform
        text = expanded(line.platform, self.outer, self.dockerfile.escape, line.span)
        span = line.span.blame(line.platform)
        if not text:
            suggestion = self._meant(line.platform)
            raise DockerfileError(
                f"empty platform value from expression {line.platform}{suggestion}", span
            )
        try:
            return Platform.parse(text)
        except ValueError as error:
            suggestion = self._meant(line.platform)
            raise DockerfileError(
                f"failed to parse platform {text}: {error}{suggestion}", span
            ) from error

    def _meant(self, word: str) -> str:
        """What an unset variable of `word` was probably meant to be."""
        unset = expand(word, self.outer.lookup, self.dockerfile.escape).unset
        names = {**dict.fromkeys(self.outer.declared), **dict.fromkeys(self.outer.values)}
        suggestions = (did_you_mean(name, sorted(names)) for name in sorted(unset))
        return next(filter(None, suggestions), "")

    def _need(self, name: str, platform: Platform, span: Span, given: bool) -> Need:
        try:
            short = "" if has_registry(name) else name
            image, exact = str(Reference.parse(name)), given or self.exact
            return Need(image, platform, span, exact=exact, short=short)
        except ValueError as error:
            suggestion = did_you_mean(name, self.known)
            raise DockerfileError(
                f"failed to parse stage name {quoted(name)}: {error}{suggestion}", span
            ) from error


def build(
    names: Names, targets: tuple[int, ...], resolved: Mapping[str, ResolvedImage]
) -> StageGraph:
    """The graph of what the stages `targets` need, as far as `resolved` lets it be seen. The last
    of them is the target. Raises StageCycle for stages that need each other."""
    explorer = _Explorer(names, resolved)
    explorer.refuse_cycles()
    for target in targets:
        explorer.visit(target)
    return StageGraph(tuple(explorer.nodes.values()), targets[-1], tuple(explorer.missing))


class _Explorer:
    """A depth-first walk without recursion, for chains of any length; lives only inside `build`."""

    def __init__(self, names: Names, resolved: Mapping[str, ResolvedImage]) -> None:
        self._names = names
        self._resolved = resolved
        self._stages = names.dockerfile.stages
        self.nodes: dict[int, StageNode] = {}
        self.missing: dict[Need, None] = {}
        self._done: set[int] = set()

    def refuse_cycles(self) -> None:
        """Raise StageCycle for the first stage that needs itself, reachable or not."""
        done: set[int] = set()
        for stage in self._stages:
            for _ in _walk(stage.index, self._static, done, self._cycle):
                pass

    def visit(self, index: int) -> None:
        """Add the node of a stage, after those it needs."""
        found: dict[int, StageNode] = {}

        def needed(index: int) -> Iterator[int]:
            node = found[index] = self._node(self._stages[index])
            if isinstance(node.base, StageBase):
                yield node.base.index
            for use in _uses(node.instructions):
                origin = self._names.origin(use, node.stage)
                need = self._names.image_need(use)
                if need is not None and need.key not in self._resolved:
                    self.missing[need] = None
                if isinstance(origin, StageOrigin):
                    yield origin.index

        for one in _walk(index, needed, self._done, self._cycle):
            self.nodes[one] = found[one]

    def _static(self, index: int) -> Iterator[int]:
        """The stages that stage `index` names, without what triggers of images add."""
        stage = self._stages[index]
        if self._names.replaced(stage):
            return
        base = self._names.base(stage)[0]
        if isinstance(base, StageBase):
            yield base.index
        for use in _uses(stage.instructions):
            found = self._names.stage_of(use)
            if found is not None:
                yield found

    def _cycle(self, index: int) -> StageCycle:
        stage = self._stages[index]
        return StageCycle(
            f"circular dependency detected on stage: {stage.name or f'stage-{index}'}",
            stage.base.span,
        )

    def _node(self, stage: Stage) -> StageNode:
        base, platform, need = self._names.base(stage)
        if self._names.replaced(stage):
            if need is not None and need.key not in self._resolved:
                self.missing[need] = None
            return StageNode(stage, base, platform, ())
        triggers: tuple[str, ...] = ()
        if need is not None and need.key not in self._resolved:
            self.missing[need] = None
        elif need is not None:
            triggers = self._resolved[need.key].config.execution.on_build
        elif isinstance(base, StageBase):
            below = self._stages[base.index]
            own = () if self._names.replaced(below) else below.instructions
            triggers = tuple(one.trigger for one in own if isinstance(one, OnBuild))
        parsed = tuple(
            parse_trigger(text, stage.base.span, self._names.dockerfile.escape) for text in triggers
        )
        return StageNode(
            stage,
            base,
            platform,
            (*parsed, *stage.instructions),
            triggers=len(parsed),
            adopts=need is not None and not need.exact,
        )


def _walk(
    start: int,
    below: Callable[[int], Iterator[int]],
    done: set[int],
    cycle: Callable[[int], Exception],
) -> Iterator[int]:
    """What `start` needs and then itself, each after what it needs. Raises what `cycle` gives."""
    if start in done:
        return
    path = [(start, below(start))]
    entered = {start}
    while path:
        index, pending = path[-1]
        following = next((one for one in pending if one not in done), None)
        if following is None:
            path.pop()
            entered.discard(index)
            done.add(index)
            yield index
        elif following in entered:
            raise cycle(following)
        else:
            entered.add(following)
            path.append((following, below(following)))


def _uses(instructions: tuple[Instruction, ...]) -> Iterator[Use]:
    for instruction in instructions:
        if isinstance(instruction, Copy) and instruction.from_:
            yield Use(instruction.from_, instruction.span)
        elif isinstance(instruction, Run):
            for text in instruction.mounts:
                try:
                    name, target = mount_source(text)
                except BadFlag as error:
                    raise BadFlag(error.message, instruction.span) from error
                if name:
                    yield Use(name, instruction.span, target)
