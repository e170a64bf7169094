"""`--require-cached`: a build that finds everything, or does nothing.

Packing a layer from files that are here, and fetching layers of a base that the image is to have, is
no step: only what runs, copies or makes something is. What a step would read may have to be made or
fetched before it can be told whether its result is known: that is not done, so it is not.
"""

from __future__ import annotations

from assembler.engine.forecast import look_ahead
from assembler.engine.services import Remote, Services
from assembler.errors import NotCached
from assembler.plan.forecast import Fate
from assembler.plan.plan import Plan
from assembler.plan.steps import Copy
from assembler.snapshot.base import Snapshotter
from assembler.values import replace


def require_cached(
    plan: Plan, services: Services, snapshotter: Snapshotter, unfetched: Remote
) -> None:
    """Raises NotCached for the first step of `plan` that would have to be done. Where none is sure to
    be, what ADD fetches is asked for, as in any build; `unfetched` does not. `snapshotter` need only
    find layer directories."""
    steps = (step for stage in plan.stages for step in stage.steps)
    if any(isinstance(step, Copy) and step.fetched for step in steps):
        _refuse(plan, replace(services, remote=unfetched), snapshotter, Fate.RUN)
    _refuse(plan, services, snapshotter, Fate.RUN, Fate.PENDING)


def _refuse(plan: Plan, services: Services, snapshotter: Snapshotter, *fates: Fate) -> None:
    ahead = look_ahead(plan, services, snapshotter)
    for stage in plan.stages:
        for number, step in enumerate(stage.steps):
            fate = ahead.fates[stage.index, number]
            if fate in fates:
                reason = ahead.reason(stage.index, number)
                would = "would have to be done" if fate is Fate.RUN else "may have to be done"
                raise NotCached(
                    f"{step.name} {would}: {reason}",
                    step.span,
                    hint="--require-cached does not allow it; `assemble plan` shows what is known",
                )
