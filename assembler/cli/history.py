"""`assemble history`: the builds that the store has records of."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from assembler.cli.main import cancellable
from assembler.cli.options import store_option
from assembler.environment import Environment

if TYPE_CHECKING:
    from assembler.store.builds import BuildRecord


@click.command("history")
@click.option("--format", "style", type=click.Choice(["table", "json"]), default="table")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@store_option
def command(style: str, as_json: bool, store: str) -> None:
    """List builds, the last one first: what they are of, how they ended, how many steps were cached.

    JSON is one object a line, with the keys of `docker buildx history ls`. The newest 100 builds are
    remembered; `assemble explain ID` says of each step why it ran.
    """
    with cancellable() as cancellation:
        from assembler.builder import Builder

        with Builder(Environment.read(), store=store, cancellation=cancellation) as builder:
            found = list(builder.store.builds.recent())
    if as_json or style == "json":
        from assembler.cli.serial import dumps

        for build in found:
            click.echo(dumps(_document(build)))
        return
    from assembler.cli.usage import columns

    now = time.time()
    rows: list[tuple[str, ...]] = [
        ("BUILD ID", "NAME", "STATUS", "STEPS", "CREATED AT", "DURATION")
    ]
    rows += [_row(build, now) for build in found]
    for line in columns(rows):
        click.echo(line)


def _row(build: BuildRecord, now: float) -> tuple[str, ...]:
    from assembler.ages import duration
    from assembler.cli.usage import ago
    from assembler.source import printable

    return (
        build.id,
        printable(build.name),
        build.status.capitalize(),
        steps(build),
        ago(now - build.started),
        duration(build.seconds),
    )


def steps(build: BuildRecord) -> str:
    """What became of the steps, in numbers: `5 cached, 2 run`."""
    from assembler.store.builds import CACHED, CANCELED, FAILED, RUN

    counts = {verdict: build.count(verdict) for verdict in (CACHED, RUN, FAILED, CANCELED)}
    least = (CACHED, RUN)
    return ", ".join(
        f"{count} {verdict}" for verdict, count in counts.items() if count or verdict in least
    )


def _document(build: BuildRecord) -> dict[str, object]:
    from assembler.engine.recorder import timestamp
    from assembler.store.builds import CACHED, RUN

    return {
        "ref": build.id,
        "name": build.name,
        "status": build.status.capitalize(),
        "created_at": timestamp(build.started),
        "completed_at": timestamp(build.started + build.seconds),
        "total_steps": len(build.steps),
        "completed_steps": build.count(CACHED, RUN),
        "cached_steps": build.count(CACHED),
    }
