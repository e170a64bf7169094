"""`assemble prune`: remove from the store what no image needs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from assembler.cli.main import cancellable
from assembler.cli.options import store_option
from assembler.environment import Environment
from assembler.errors import UsageError

if TYPE_CHECKING:
    from assembler.cache.usage import Usage


@click.command("prune")
@click.option("-a", "--all", "everything", is_flag=True, help="Include internal records.")
@click.option("--filter", "words", metavar="KEY[=VALUE]", multiple=True, help="Remove only these.")
@click.option("--keep-duration", metavar="DURATION", default="", help="As --filter until=.")
@click.option("--max-used-space", metavar="BYTES", default="", help="How much may stay.")
@click.option("--reserved-space", metavar="BYTES", default="", help="How much always may stay.")
@click.option("--keep-storage", metavar="BYTES", default="", hidden=True)
@click.option("--min-free-space", metavar="BYTES", default="", help="How much is to be free.")
@click.option("--verbose", is_flag=True, help="Show everything that is known of each.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@store_option
def command(words: tuple[str, ...], verbose: bool, force: bool, **options: Any) -> None:
    """Remove what no image with a name needs and no command is using, the longest unused first.

    Without a space option all of it goes. Images go by `assemble rmi`, their blobs by this
    afterwards. Filters are those of `assemble du`.
    """
    from assembler.cache.bounds import Policy
    from assembler.cache.usage import human
    from assembler.cli.limits import space_of
    from assembler.cli.usage import filters_of, paragraphs, table

    if options["keep_duration"]:
        words = (*words, f"until={options['keep_duration']}")
    filters, unused = filters_of(words)
    policy = Policy(
        all=options["everything"],
        filters=filters,
        unused_for=unused,
        max_used=space_of("--max-used-space", options["max_used_space"]),
        reserved=space_of("--reserved-space", options["reserved_space"] or options["keep_storage"]),
        min_free=space_of("--min-free-space", options["min_free_space"]),
    )
    if not force:
        _ask(policy.all)
    now = time.time()
    gone: list[Usage] = []

    def show(moved: Sequence[Usage]) -> None:
        gone.extend(moved)
        for line in (paragraphs if verbose else table)(moved, now) if moved else ():
            click.echo(line)

    with cancellable() as cancellation:
        from assembler.builder import Builder

        environment = Environment.read()
        with Builder(environment, store=options["store"], cancellation=cancellation) as builder:
            builder.prune(policy, show)
    click.echo(f"Total: {human(sum(one.size for one in gone))}")


def _ask(everything: bool) -> None:
    what = "all build cache" if everything else "all dangling build cache"
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked whether to remove it", hint="add --force")
    question = f"WARNING! This will remove {what}. Are you sure you want to continue?"
    if not click.confirm(question, err=True):
        raise click.exceptions.Exit(0)
