"""`assemble store check`: everything in the store, looked at again."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from assembler.cli.main import cancellable
from assembler.cli.options import store_option
from assembler.environment import Environment
from assembler.errors import NotFound
from assembler.source import printable

if TYPE_CHECKING:
    from assembler.store.check import Problem, Progress


@click.group("store")
def command() -> None:
    """What is done to the store as a whole."""


@command.command("check")
@click.option("--repair", is_flag=True, help="Remove what is damaged and can be had again.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@store_option
def check(repair: bool, as_json: bool, store: str) -> None:
    """Hash every blob, look for everything that names lead to, check the cache and layer
    directories. The exit status is 1 when something is wrong and was not repaired."""
    from assembler.cache.local import damage
    from assembler.cache.pruning import remove
    from assembler.store.check import Check, Problem
    from assembler.store.disk import unusable

    environment = Environment.read()
    place = os.path.abspath(store or environment.store)
    if not os.path.isdir(place):
        raise NotFound(f"there is no store at {place}", hint="--store names one")
    try:
        left, broken = _left(place), damage(os.path.join(place, "cache.db"))
    except OSError as error:
        raise unusable(error, place) from error
    with cancellable() as cancellation:
        from assembler.builder import Builder

        found = [Problem("cache.db", broken, removable=True)] if broken else []
        with Builder(environment, store=store, cancellation=cancellation) as builder:
            run = Check(place, _Shown(quiet=as_json), cancellation.check)
            found += run.problems()
            removed = [
                repair and one.removable and remove(builder.store, one.path, cancellation)
                for one in found
            ]
    problems = list(zip(found, removed, strict=True))
    if as_json:
        documents = [{**asdict(one), "repaired": done} for one, done in problems]
        document = {**asdict(run.progress), "swept": left, "problems": documents}
        click.echo(json.dumps(document, indent=2))
    else:
        _print(place, run.progress, left, problems)
    if not all(removed):
        raise click.exceptions.Exit(1)


def _left(place: str) -> int:
    """How many commands that ended badly left work behind: opening the store removes it."""
    from assembler.linux.claims import dead

    count = 0
    for name in ("ingest", "scratch"):
        seen: set[str] = set()
        while found := dead(os.path.join(place, name), "", seen, 100):
            count += len(found)
            for one in found:
                os.close(one.lock)
    return count


class _Shown:
    """The progress, on one line of a terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self._next = float("inf") if quiet or not sys.stderr.isatty() else 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        last = progress.blobs == progress.total and self._next != float("inf")
        if now >= self._next or last:
            self._next = now + 0.1
            line = f"\r{progress.blobs} of {progress.total} blobs, {progress.size} bytes"
            click.echo(line, nl=last, err=True)


def _print(
    place: str, progress: Progress, left: int, problems: Sequence[tuple[Problem, bool]]
) -> None:
    for one, removed in problems:
        click.echo(f"{printable(one.path)}: {printable(one.message)}{'; removed' * removed}")
    click.echo(
        f"{place}: {progress.blobs} blobs of {progress.size} bytes, {progress.names} names, "
        f"{progress.layers} layer directories"
    )
    if progress.remote:
        click.echo(f"{progress.remote} layers of pulled images are fetched when they are needed")
    if left:
        click.echo(f"{left} unfinished pieces of work of commands that were killed were removed")
    wrong = sum(not removed for _, removed in problems)
    if not problems:
        click.echo("nothing is wrong")
        return
    click.echo(f"{len(problems)} problems, {len(problems) - wrong} repaired")
    if any(one.removable and not removed for one, removed in problems):
        click.echo("hint: --repair removes what can be fetched or made anew", err=True)
    elif wrong:
        click.echo("hint: build or pull the images that are named, or remove their names", err=True)
