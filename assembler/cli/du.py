"""`assemble du`: what the store holds, and what could be removed from it."""

from __future__ import annotations

import time
from collections.abc import Iterable

import click

from assembler.cli.main import cancellable
from assembler.cli.options import store_option
from assembler.environment import Environment
from assembler.errors import UsageError


@click.command("du")
@click.option("--filter", "words", metavar="KEY[=VALUE]", multiple=True, help="Show only these.")
@click.option("--verbose", is_flag=True, help="Show everything that is known of each.")
@click.option(
    "--format", "style", metavar="table|pretty|json|TEMPLATE", default="", help="How to show them."
)
@store_option
def command(words: tuple[str, ...], verbose: bool, style: str, store: str) -> None:
    """Show what takes space in the store, what is longest unused first.

    A TEMPLATE has buildx's names in it, as in '{{.ID}}: {{.Size}}'; after 'table ' it makes columns.

    Filters are buildx's: id, parents, description and type with a value (`!=` and `~=` too), inuse,
    mutable, immutable, shared and private without, and until=DURATION for what was not used since.
    """
    from assembler.cli.usage import as_json, filters_of, paragraphs, summary, table, templated

    if verbose and style:
        raise UsageError("--format and --verbose cannot be used together")
    style = style or ("pretty" if verbose else "table")
    filters, unused = filters_of(words)
    if style not in ("table", "pretty", "json"):
        templated(style, [], 0)  # what is wrong with it is said before the store is looked through
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
        lines: Iterable[str] = map(as_json, found)
    elif style in ("table", "pretty"):
        lines = (paragraphs if style == "pretty" else table)(found, now)
    else:
        lines = templated(style, found, now)
    for line in lines:
        click.echo(line)
    if not words and style in ("table", "pretty"):
        for line in summary(found):
            click.echo(line)
