"""`assemble doctor`: how builds would run here, what is missing, what that costs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from assembler.cli.main import cancellable
from assembler.cli.options import store_option
from assembler.environment import Environment

if TYPE_CHECKING:
    from assembler.linux.probes import Answer, Report


@click.command("doctor")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
@store_option
def command(style: str, store: str) -> None:
    """Ask the kernel what builds can do on this host. The exit status is 1 when RUN cannot be
    executed at all."""
    from assembler.linux.probes import report

    with cancellable() as cancellation:
        found = report(store or Environment.read().store)
        cancellation.check()
    click.echo(as_json(found) if style == "json" else text(found), nl=False)
    if not usable(found):
        raise click.exceptions.Exit(1)


def usable(found: Report) -> bool:
    """Whether RUN can be executed."""
    needed = ("system call filters",)
    return bool(found.mode) and all(
        answer.works for answer in found.answers if answer.feature in needed
    )


def as_json(found: Report) -> str:
    """The report as an object of its fields."""
    document: dict[str, Any] = {"usable": usable(found), **asdict(found)}
    return json.dumps(document, indent=2) + "\n"


def text(found: Report) -> str:
    """The report for people: the mode, then every answer, and what would mend the missing ones."""
    lines = []
    if found.mode:
        lines.append(f"ids      {found.mode}: {found.reason}")
    else:
        lines.append(f"refused  {found.reason}")
    if found.remedy:
        lines.append(f"         {found.remedy}")
    others = f"; also here: {', '.join(found.runtimes)}" if found.runtimes else ""
    runtime = "chroot" if found.mode == "host" else "native"
    lines += [f"runtime  {runtime}{others}", ""]
    width = max((len(answer.feature) for answer in found.answers), default=0)
    for answer in found.answers:
        lines += _shown(answer, width)
    return "".join(f"{line}".rstrip() + "\n" for line in lines)


def _shown(answer: Answer, width: int) -> list[str]:
    mark = "ok" if answer.works else "no"
    head = f"{mark}  {answer.feature:<{width}}  {answer.seconds * 1000:5.1f} ms  {answer.detail}"
    if answer.works:
        return [head]
    return [head, f"    without: {answer.cost}", f"    mend:    {answer.remedy}"]
