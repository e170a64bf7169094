"""`assemble rmi`: forget names."""

from __future__ import annotations

import click

from assembler.cli.main import cancellable
from assembler.cli.options import store_option
from assembler.environment import Environment
from assembler.errors import NotFound


@click.command("rmi")
@store_option
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def command(names: tuple[str, ...], store: str) -> None:
    """Remove every NAME from the store. Blobs stay until the store is pruned."""
    with cancellable() as cancellation:
        from assembler.builder import Builder
        from assembler.image_names import parse_reference

        references = list(map(parse_reference, names))
        with Builder(Environment.read(), store=store, cancellation=cancellation) as builder:
            for reference in references:
                if builder.store.refs.get(str(reference)) is None:
                    raise NotFound(f"the store holds no image named {reference.familiar}")
                builder.store.refs.remove(str(reference))
