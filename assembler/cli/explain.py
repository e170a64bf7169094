"""`assemble explain`: why each step of a build ran, or where its result was from."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from assembler.cli.main import cancellable
from assembler.cli.options import store_option
from assembler.environment import Environment
from assembler.errors import NotFound
from assembler.source import printable
from assembler.values import replace

if TYPE_CHECKING:
    from assembler.builder import Builder
    from assembler.store.builds import BuildRecord, StepRecord

VERSION = 1
_WIDEST = 60  # characters of a step's name in a table
_NUMBER = re.compile(r"\[(?:[^\]]*\s)?([0-9]+)/")
_PLACE = re.compile(r"(?:([^:/\s]+)[:/ ])?([0-9]+)(?:/[0-9]+)?")


@click.command("explain")
@click.option(
    "--step",
    "wanted",
    metavar="STEP",
    default="",
    help="Only these, at length: STAGE, N, STAGE:N, or words of the instruction.",
)
@click.option("--against", metavar="BUILD", default="", help="Compare each step with this build's.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@store_option
@click.argument("build", metavar="[BUILD|IMAGE]", default="")
def command(build: str, wanted: str, against: str, as_json: bool, store: str) -> None:
    """Say of each step of a build whether its result was known, from where and how old it was, or
    why the step ran: the first of its inputs that differed from the nearest earlier step.

    BUILD is an id of `assemble history` or its beginning, the name or digest of an image, or ^N for
    the Nth before the last; without it the last build is meant.
    """
    with cancellable() as cancellation:
        from assembler.builder import Builder
        from assembler.cli.records import build_named

        with Builder(Environment.read(), store=store, cancellation=cancellation) as builder:
            found = build_named(builder.store.builds, build)
            other = build_named(builder.store.builds, against) if against else None
            if other is not None:
                found = _compared(builder, found, other)
    steps = _wanted(found.steps, wanted)
    if wanted and not steps:
        names = ", ".join(sorted({step.stage for step in found.steps}))
        raise NotFound(
            f"--step {wanted}: build {found.id} has no such step",
            hint=f"its stages are {names}" if names else "it had no steps",
        )
    if as_json:
        from assembler.cli.serial import dumps

        click.echo(dumps(_document(found, other, steps), indent=2))
        return
    for line in _text(found, other, steps, bool(wanted), time.time()):
        click.echo(line)


def _wanted(steps: Sequence[StepRecord], wanted: str) -> list[StepRecord]:
    """The steps of the stage `wanted`, else with that number, else with these words in their name."""
    stage = [step for step in steps if not wanted or _is_in(step, wanted)]
    numbered = [step for step in steps if _is_at(step, wanted)]
    words = wanted.lower()
    return stage or numbered or [step for step in steps if words in step.name.lower()]


def _is_at(step: StepRecord, wanted: str) -> bool:
    match = _PLACE.fullmatch(wanted)
    shown = _NUMBER.match(step.name)
    if match is None or shown is None or match[2] != shown[1]:
        return False
    return match[1] is None or _is_in(step, match[1])


def _is_in(step: StepRecord, stage: str) -> bool:
    """Whether the step is of this stage, for whatever platform where there were several."""
    return stage in (step.stage, step.stage.rpartition(" ")[2])


def _compared(builder: Builder, build: BuildRecord, other: BuildRecord) -> BuildRecord:
    """`build`, each step with what differs from `other`."""
    from assembler.engine.earlier import Documents
    from assembler.engine.nearest import Past, Place, as_documents
    from assembler.plan.differences import parse

    documents = Documents(builder.store.builds, builder.inputs)
    past = Past([other], documents, builder.store.listings.load, lambda build: True)
    steps = []
    for step in build.steps:
        text = documents(build, step) if step.key else None
        document = None if text is None else parse(text)
        if document is None:
            because: tuple[Any, ...] = ({"what": "unknown"},) if step.key else ()
            steps.append(replace(step, because=because, differences=len(because)))
            continue
        names = [one.name for one in build.steps if one.stage == step.stage]
        place = Place(step.stage, names, step.number)
        found = past.nearest(place, step.key, document)
        count = found.comparison.count
        steps.append(replace(step, because=as_documents(found.comparison), differences=count))
    return replace(build, steps=tuple(steps))


def _document(
    build: BuildRecord, other: BuildRecord | None, steps: Sequence[StepRecord]
) -> dict[str, Any]:
    from assembler.cli.records import build_document

    return {
        "version": VERSION,
        "build": build_document(build),
        "against": None if other is None else build_document(other),
        "steps": [_step(step) for step in steps],
    }


def _step(step: StepRecord) -> dict[str, Any]:
    from assembler.engine.nearest import from_document
    from assembler.engine.recorder import timestamp
    from assembler.plan.differences import title
    from assembler.plan.wording import words

    return {
        "stage": step.stage,
        "name": step.name,
        "instruction": title(step.name),
        "kind": step.kind,
        "line": step.line,
        "verdict": step.verdict,
        "source": step.source,
        "ran": timestamp(step.ran) if step.ran else None,
        "seconds": step.seconds,
        "key": step.key,
        "differences": step.differences,
        "because": [{**one, "text": words(from_document(one), long=True)} for one in step.because],
    }


def _text(
    build: BuildRecord,
    other: BuildRecord | None,
    steps: Sequence[StepRecord],
    whole: bool,
    now: float,
) -> Iterable[str]:
    from assembler.ages import age, duration
    from assembler.cli.history import steps as counted

    yield (
        f"build {build.id}, {printable(build.name)}: {build.status} in {duration(build.seconds)}, "
        f"{age(now - build.started)} ago; {counted(build)}"
    )
    if other is not None:
        yield (
            f"against {other.id}, {printable(other.name)}: {other.status}, "
            f"{age(now - other.started)} ago"
        )
    if not steps:
        return
    yield ""
    names = [_cut(printable(step.name)) for step in steps]
    wide = max(map(len, names))
    for name, step in zip(names, steps, strict=True):
        lines = list(_reasons(step, other is not None, whole, now))
        yield f"{name:<{wide}}  {_verdict(build, step):<10}  {lines[0]}".rstrip()
        for line in lines[1:]:
            yield f"{'':<{wide}}  {'':<10}  {line}"


def _verdict(build: BuildRecord, step: StepRecord) -> str:
    from assembler.store.builds import COMPLETED, UNNEEDED

    if step.verdict != UNNEEDED:
        return step.verdict
    return "not needed" if build.status == COMPLETED else "unreached"


def _cut(name: str) -> str:
    return name if len(name) <= _WIDEST else f"{name[: _WIDEST - 1]}…"


def _reasons(step: StepRecord, compared: bool, whole: bool, now: float) -> Iterable[str]:
    """What is said of a step, in lines."""
    from assembler.ages import origin, since
    from assembler.engine.nearest import from_document
    from assembler.engine.recorder import where
    from assembler.plan.wording import more, words

    told = [words(from_document(one), long=True) for one in step.because]
    cached = step.verdict == "cached"
    if cached:
        yield origin(where(step.source), since(step.ran, now)) + (f"; {told[0]}" if told else "")
    elif not told:
        yield "the same" if compared and step.key else ""
    elif not whole:
        yield told[0] + more(step.differences - 1)
    if whole:
        yield from told[1:] if cached else told
        if step.differences > len(told):
            yield f"and {step.differences - len(told)} more"
