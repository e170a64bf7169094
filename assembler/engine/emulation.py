"""Before anything runs: whether this host executes the programs of the stages whose RUNs are to be.

A platform is only what an image says of itself: its programs may be for another one, and run here. So a
build is refused where what a RUN executes is there to be looked at, is a program that the kernel refuses
(`linux.emulators`), and the RUN is sure to be done. Where one of these is not known yet, it is a warning;
the RUN itself fails then, and tells (`engine.refusals`). Results that the cache knows need no emulator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from assembler.engine.change import Change, base_snapshot
from assembler.engine.forecast import Ahead, look_ahead
from assembler.engine.program import Programs
from assembler.engine.realisation import Realisation
from assembler.engine.services import Remote, Services
from assembler.errors import DockerfileError, StepError
from assembler.events import Warned
from assembler.layer.tree import resolve
from assembler.linux.beneath import within
from assembler.linux.emulators import Host, remedy
from assembler.oci.platform import Platform
from assembler.plan.forecast import Fate, Forecast
from assembler.plan.plan import ImageBase, Plan, PlannedStage
from assembler.plan.steps import Copy, MakeDirectory, Run
from assembler.snapshot.base import Snapshotter
from assembler.values import replace


@dataclass(frozen=True, slots=True)
class _Next:
    """The first RUN of a stage that is to be executed, or (not `sure`) may be."""

    stage: PlannedStage
    number: int
    step: Run
    sure: bool


def check(
    plan: Plan,
    services: Services,
    snapshotter: Snapshotter,
    unfetched: Remote,
    enter: Callable[[], None],
) -> None:
    """Tell of stages whose RUNs this host does not, or may not, execute. `snapshotter` need only find
    layer directories, `unfetched` fetches nothing. `enter` is called before files are looked at, which
    threads may be needed for: it enters the namespace that the RUN needs anyway.

    Raises DockerfileError at a RUN that is sure to fail, and what fetching layers of its base does.
    """
    if not any(isinstance(step, Run) for stage in plan.stages for step in stage.steps):
        return
    host = services.host()
    suspects = foreign_stages(plan, host)
    if not suspects:
        return
    with services.store.scratch() as spool:
        services = replace(services, remote=unfetched)
        ahead = look_ahead(plan, services, snapshotter)
        realisation = Realisation(services, snapshotter, plan.epoch, spool)
        doubtful = []
        for one in _next_runs(plan, suspects, ahead):
            if one.sure:
                enter()
                reason = _refusal(one, ahead, realisation, host)
                if reason:
                    raise _refused(one, plan, reason, host)
                if reason is not None:
                    continue
            doubtful.append(one)
    for one in doubtful:
        services.sink(_warned(plan, one, services, host))


def foreseen(plan: Plan, forecast: Forecast, services: Services) -> Iterator[Warned]:
    """What a forecast tells of stages whose RUNs this host may not execute; nothing is looked at."""
    host = services.host()
    for one in _next_runs(plan, foreign_stages(plan, host), forecast):
        yield _warned(plan, one, services, host)


def foreign_stages(plan: Plan, host: Host) -> list[PlannedStage]:
    """The stages with a RUN whose platform, or whose base's, this host does not execute."""
    return [
        stage
        for stage in plan.stages
        if any(isinstance(step, Run) for step in stage.steps)
        and not all(
            host.executes(one.architecture) for one in _platforms(plan, stage) if one.os == "linux"
        )
    ]


def _warned(plan: Plan, one: _Next, services: Services, host: Host) -> Warned:
    foreign = _foreign(plan, one.stage, host)
    message = (
        f"{one.step.span}: stage {one.stage.title} is for {foreign}, whose programs this host"
        f" ({host.platform}) does not execute: RUN may fail; {remedy(foreign.architecture)}"
    )
    return Warned(message, services.clock())  # with a place it would be told at the end


def _refused(one: _Next, plan: Plan, reason: str, host: Host) -> DockerfileError:
    return DockerfileError(
        f"stage {one.stage.title} cannot be built on this host ({host.platform}): {reason}",
        one.step.span,
        hint=remedy(_foreign(plan, one.stage, host).architecture),
    )


def _foreign(plan: Plan, stage: PlannedStage, host: Host) -> Platform:
    """The platform that makes a stage one of the `foreign_stages`."""
    return next(
        one
        for one in _platforms(plan, stage)
        if one.os == "linux" and not host.executes(one.architecture)
    )


def _platforms(plan: Plan, stage: PlannedStage) -> Iterator[Platform]:
    """Those that a stage is said to be for: by the build, and by its base."""
    yield stage.platform
    *_, root = plan.lineage(stage.index)
    image = plan.images.get(root.base.image) if isinstance(root.base, ImageBase) else None
    if image is not None:
        yield image.config.platform


def _next_runs(plan: Plan, stages: list[PlannedStage], told: Ahead | Forecast) -> Iterator[_Next]:
    steps = (step for stage in plan.stages for step in stage.steps)
    # It may register an emulator in the binfmt_misc of the build's own namespace.
    registers = any(isinstance(step, Run) and step.security == "insecure" for step in steps)
    for stage in stages:
        for number, step in enumerate(stage.steps):
            fate = told.fates[stage.index, number]
            if isinstance(step, Run) and fate in (Fate.RUN, Fate.PENDING):
                yield _Next(stage, number, step, fate is Fate.RUN and not registers)
                break


def _refusal(one: _Next, ahead: Ahead, realisation: Realisation, host: Host) -> str | None:
    """Why what the step executes is sure to be refused; empty where it is not, None where that cannot
    be told: what it is may be made before."""
    found = _below(one, ahead, realisation)
    if found is None or one.step.devices:
        return None
    snapshot, copies = found
    programs = Programs(realisation.tree(snapshot, keep=True), one.step, host)
    try:
        verdicts = [programs.foreign(path) for path in programs.paths(one.step.argv[0])]
        reasons = [verdict for verdict in verdicts if verdict is not None]
        if not all(reasons):
            return ""
        return reasons[0] if reasons and not _reached(programs, copies) else None
    except (StepError, OSError):  # what cannot be looked at is told when it is executed
        return None


def _below(
    one: _Next, ahead: Ahead, realisation: Realisation
) -> tuple[tuple[Change, ...], list[Copy]] | None:
    """What is below a step and known, and the copies whose results are not; None where another RUN
    comes before it."""
    snapshot: list[Change] = []
    copies: list[Copy] = []
    for stage in reversed(list(ahead.plan.lineage(one.stage.index))):
        if isinstance(stage.base, ImageBase):
            snapshot += base_snapshot(ahead.plan.images[stage.base.image])
        changes = ahead.known[stage.index].changes
        end = one.number if stage.index == one.stage.index else len(stage.steps)
        for number, step in enumerate(stage.steps[:end]):
            if number < len(changes) and realisation.available(changes[number]):
                snapshot.append(changes[number])
            elif isinstance(step, Copy):
                copies.append(step)
            elif not isinstance(step, MakeDirectory):
                return None
    return tuple(snapshot), copies


def _reached(programs: Programs, copies: list[Copy]) -> bool:
    """Whether one of `copies` may change what was seen on the way to a program, be it through a link
    that another one makes."""
    places: list[str] = []
    for copy in copies:
        way = Programs(programs.tree, programs.step, programs.host)
        place = resolve(way, copy.destination)
        if any(within(path, place) for path in programs.seen):
            return True
        if any(path != other and within(path, other) for path in way.seen for other in places):
            return True
        places.append(place)
    return False
