"""Which steps read the files of a build's context."""

from __future__ import annotations

from collections.abc import Callable

from assembler.context.base import Context
from assembler.engine.selection import select
from assembler.engine.sources import reads_from
from assembler.errors import StepError
from assembler.plan.plan import Plan
from assembler.plan.steps import ContextOrigin, Step
from assembler.values import replace, value


@value
class Readers:
    """The steps that read each path of a context, in the order of the plan, and why some could not be
    asked: of those, a build would fail."""

    steps: dict[str, list[Step]]
    problems: tuple[StepError, ...]


def readers(plan: Plan, context: Context, check: Callable[[], None]) -> Readers:
    """Who reads what of `context`, by the rules for COPY (C4-C8) and bind mounts. No file is opened;
    `check` is called for each step and may raise."""
    found: dict[str, list[Step]] = {}
    problems: list[StepError] = []
    for stage in plan.stages:
        for step in stage.steps:
            check()
            for origin, copy, _ in reads_from(step):
                if origin != ContextOrigin():
                    continue
                paths = replace(copy, sources=copy.paths)
                try:
                    selection = select(paths, context.tree(), ignored=context.ignored)
                    for entry in selection.entries():
                        found.setdefault(entry.path, []).append(step)
                except StepError as error:
                    problems.append(error)
    return Readers(found, tuple(problems))
