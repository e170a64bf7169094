"""The plan: a value to print, compare, save as JSON, or hand to a worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from assembler.oci.config import History, ImageConfig
from assembler.oci.platform import Platform
from assembler.plan.resolution import Need
from assembler.plan.resolved import ResolvedImage as ResolvedImage
from assembler.plan.steps import StageOrigin, Step, origins_of
from assembler.source import Span
from assembler.values import field, replace, value


@value
class ScratchBase:
    """FROM scratch: nothing."""


@value
class StageBase:
    """FROM an earlier stage."""

    index: int


@value
class ImageBase:
    """FROM an image; `image` is a key of `Plan.images`."""

    image: str


@value
class ContextBase:
    """FROM a named context that is a tree of files; the stage's first step copies it."""

    context: str


Base = ScratchBase | StageBase | ImageBase | ContextBase


@value
class HistoryLine:
    """A history entry made by this build; `step` is the index of the step whose layer it
    describes, None for an empty layer. `created` is filled in when the image is assembled."""

    history: History
    step: int | None = None


@value(kw_only=True)
class PlannedStage:
    """One stage: its base, its steps in order, and the configuration its image would have.

    `config.history` and `config.diff_ids` are the base image's; `history` are the lines of this
    stage and of the stages it is built from (those lines' `step` is None-or-index into their own
    stage's steps, so an inherited line is never listed here: the engine chains them).
    """

    index: int
    name: str
    base: Base
    steps: tuple[Step, ...]
    config: ImageConfig
    history: tuple[HistoryLine, ...]
    platform: Platform
    fresh: bool = False
    """Nothing of it is taken from the cache (rule S12)."""
    span: Span = field(compare=False, repr=False)
    label: str = ""
    """What tells it from the same stage for another platform (rule S18)."""

    @property
    def title(self) -> str:
        """The name progress shows: the AS-name, else `stage-N`, after its label (rule S18)."""
        if self.label:
            return f"{self.label} {self.name}".rstrip()
        return self.name or f"stage-{self.index}"


@value
class PlanWarning:
    """A remark about the Dockerfile or the command line."""

    message: str
    span: Span | None = None
    rule: str = ""


@value
class Target:
    """A stage that an image is made of, and the platform that was asked for."""

    index: int
    platform: Platform


@value
class Plan:
    """Every stage that is needed, in an order in which each comes after what it needs.

    A plan for several platforms (`plan.several`) has a target for each: `also` are those after the
    first.
    """

    stages: tuple[PlannedStage, ...]
    target: int
    images: Mapping[str, ResolvedImage]
    platform: Platform
    required: tuple[int, ...] = ()
    """The stages that must have succeeded before there is an image, besides the target."""
    epoch: int | None = None
    """SOURCE_DATE_EPOCH in seconds, None when not set."""
    warnings: tuple[PlanWarning, ...] = ()
    violations: tuple[str, ...] = ()
    """Lint rules that found something where that is an error (rule D7)."""
    missing: tuple[Need, ...] = ()
    """Images that are not resolved; a plan with any cannot be executed."""
    also: tuple[Target, ...] = ()

    @property
    def targets(self) -> tuple[Target, ...]:
        """Every target, in the order of the images."""
        return (Target(self.target, self.platform), *self.also)

    def part(self, target: Target) -> Plan:
        """The plan of one of the `targets` alone, its stages under the same indexes."""
        needed = {target.index}
        for stage in reversed(self.stages):  # each comes after what it needs
            if stage.index in needed:
                needed |= self.sources(stage)
        stages = tuple(stage for stage in self.stages if stage.index in needed)
        return replace(
            self,
            stages=stages,
            target=target.index,
            platform=target.platform,
            required=(),
            also=(),
        )

    def stage(self, index: int) -> PlannedStage:
        """The stage with this index in the Dockerfile."""
        return next(stage for stage in self.stages if stage.index == index)

    def lineage(self, index: int) -> Iterator[PlannedStage]:
        """The stage with this index and those it is built from, each before its own base."""
        for stage in reversed(self.stages):
            if stage.index == index:
                yield stage
                if not isinstance(stage.base, StageBase):
                    return
                index = stage.base.index

    def sources(self, stage: PlannedStage) -> frozenset[int]:
        """Indexes of the stages that `stage` needs directly: its base, COPY --from, mounts."""
        needed = {index for step in stage.steps for index in self.step_sources(step)}
        if isinstance(stage.base, StageBase):
            needed.add(stage.base.index)
        return frozenset(needed)

    @staticmethod
    def step_sources(step: Step) -> tuple[int, ...]:
        """Indexes of the stages whose files `step` reads."""
        found = origins_of(step)
        return tuple(origin.index for origin in found if isinstance(origin, StageOrigin))
