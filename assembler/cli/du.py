"""`assemble du`: what the store holds, and what could be removed from it."""

from __future__ import annotations

import time

import click

from assembler.cli.main import cancellable
from assembler.cli.options import store_option
from assembler.environment import Environment


@click.command("du")
@click.option("--filter", "words", metavar="KEY[=VALUE]", multiple=True, help="Show only these.")
@click.option("--verbose", is_flag=True, help="Show everything that is known of each.")
@click.option("--format", "style", type=click.Choice(["table", "pretty", "json"]), default="table")
@store_option
def command(words: tuple[str, ...], verbose: bool, style: str, store: str) -> None:
    """Show what takes space in the store, what is longest unused first.

    Filters are buildx's: id, parents, description and type with a value (`!=` and `~=` too), inuse,
    mutable, immutable, shared and private without, and until=DURATION for what was not used since.
    """
    from assembler.cli.usage import as_json, filters_of, paragraphs, summary, table

    filters, unused = filters_of(words)
    with cancellable() as cancellation:
        from assembler.builder import Builder

        now = time.time()
        with Builder(Environment.read(), store=store, cancellation=cancellation) as builder:
            found = [
                one
                for one in builder.usages()
                if all(matches(one) for matches in filters)
                and (not unused or one.last_used <= now - unused)
            ]
    if style == "json":
        for one in found:
            click.echo(as_json(one))
        return
    for line in (paragraphs if verbose or style == "pretty" else table)(found, now):
        click.echo(line)
    if not words:
        for line in summary(found):
            click.echo(line)
