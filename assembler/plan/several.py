"""One Dockerfile's plans for several platforms as one plan: stages that are the same for all, as those
on the build platform mostly are, are in it once (rules O3, S18)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from assembler.errors import UsageError
from assembler.oci.platform import Platform
from assembler.plan.plan import Base, Plan, PlannedStage, StageBase, Target
from assembler.plan.steps import BindMount, CacheMount, Mount, Origin, Run, StageOrigin, Step
from assembler.plan.steps import Copy as CopyStep
from assembler.values import replace


def merged(plans: Sequence[Plan], *, alone: bool) -> Plan:
    """The plan that makes the images of all `plans`, in their order. Their stages have numbers of
    their own in it, and labels. `alone` says that the Dockerfile has one stage, which goes without a
    name. Raises UsageError where SOURCE_DATE_EPOCH is not the same for all of them."""
    first = plans[0]
    for plan in plans:
        if plan.epoch != first.epoch:
            raise UsageError(
                f"SOURCE_DATE_EPOCH is {first.epoch} for {first.platform}, and {plan.epoch} for"
                f" {plan.platform}",
                hint="give one time with --build-arg SOURCE_DATE_EPOCH",
            )
    found = _Stages(alone)
    targets: list[Target] = []
    required: dict[int, None] = {}
    for plan in plans:
        numbers = found.add(plan)
        targets.append(Target(numbers[plan.target], plan.platform))
        required |= dict.fromkeys(numbers[index] for index in plan.required)
    every = {key: image for plan in plans for key, image in plan.images.items()}
    return Plan(
        stages=tuple(found.labelled()),
        target=targets[0].index,
        images=dict(sorted(every.items())),
        platform=first.platform,
        required=tuple(required),
        epoch=first.epoch,
        warnings=tuple(dict.fromkeys(one for plan in plans for one in plan.warnings)),
        violations=tuple(sorted({rule for plan in plans for rule in plan.violations})),
        missing=tuple(dict.fromkeys(need for plan in plans for need in plan.missing)),
        also=tuple(targets[1:]),
    )


class _Stages:
    """The stages of several plans, each once."""

    def __init__(self, alone: bool) -> None:
        self._alone = alone
        self._stages: list[PlannedStage] = []
        self._numbers: dict[int, list[int]] = {}
        self._users: list[list[Platform]] = []

    def add(self, plan: Plan) -> dict[int, int]:
        """Add those of `plan` that are not here; the numbers here of all of them, by its own."""
        numbers: dict[int, int] = {}
        for stage in plan.stages:
            moved = self._moved(stage, numbers)
            same = self._numbers.setdefault(stage.index, [])
            number = next((one for one in same if self._is(one, moved)), len(self._stages))
            if number == len(self._stages):
                self._stages.append(replace(moved, index=number))
                self._users.append([])
                same.append(number)
            self._users[number].append(plan.platform)
            numbers[stage.index] = number
        return numbers

    def _moved(self, stage: PlannedStage, numbers: Mapping[int, int]) -> PlannedStage:
        """`stage` with the stages that it names by their `numbers`, and a name if others have."""
        return replace(
            stage,
            name=stage.name if self._alone else stage.title,
            base=_base(stage.base, numbers),
            steps=tuple(_step(step, numbers) for step in stage.steps),
        )

    def _is(self, number: int, stage: PlannedStage) -> bool:
        return self._stages[number] == replace(stage, index=number)

    def labelled(self) -> list[PlannedStage]:
        """The stages, and their steps, called by their platform as well; by the target's too where it
        is for that one alone."""
        return [
            _labelled(stage, _label(stage.platform, users))
            for stage, users in zip(self._stages, self._users, strict=True)
        ]


def _base(base: Base, numbers: Mapping[int, int]) -> Base:
    return StageBase(numbers[base.index]) if isinstance(base, StageBase) else base


def _step(step: Step, numbers: Mapping[int, int]) -> Step:
    if isinstance(step, CopyStep):
        return replace(step, origin=_origin(step.origin, numbers))
    if isinstance(step, Run):
        return replace(step, mounts=tuple(_mount(mount, numbers) for mount in step.mounts))
    return step


def _mount(mount: Mount, numbers: Mapping[int, int]) -> Mount:
    if isinstance(mount, BindMount):
        return replace(mount, origin=_origin(mount.origin, numbers))
    if isinstance(mount, CacheMount) and mount.origin is not None:
        return replace(mount, origin=_origin(mount.origin, numbers))
    return mount


def _origin(origin: Origin, numbers: Mapping[int, int]) -> Origin:
    return StageOrigin(numbers[origin.index]) if isinstance(origin, StageOrigin) else origin


def _label(own: Platform, users: Sequence[Platform]) -> str:
    """`linux/arm64`, or `linux/amd64->arm64` for what runs on one and is for another."""
    target = users[0]
    if len(users) > 1 or target == own:
        return str(own)
    if target.os != own.os:
        return f"{own}->{target}"
    return f"{own}->{str(target).partition('/')[2]}"


def _labelled(stage: PlannedStage, label: str) -> PlannedStage:
    def named(step: Step) -> Step:
        return replace(step, name=f"[{label} {step.name.removeprefix('[')}")

    return replace(stage, label=label, steps=tuple(map(named, stage.steps)))
