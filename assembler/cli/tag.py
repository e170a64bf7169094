"""`assemble tag`: another name for an image of the store."""

from __future__ import annotations

import click

from assembler.cli.main import cancellable
from assembler.cli.options import store_option
from assembler.environment import Environment


@click.command("tag")
@store_option
@click.argument("image", metavar="IMAGE")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def command(image: str, names: tuple[str, ...], store: str) -> None:
    """Give IMAGE, or the index of that name with its images, every NAME."""
    with cancellable() as cancellation:
        from assembler.builder import Builder
        from assembler.cli.subjects import find, index_of
        from assembler.image_names import parse_reference

        references = list(map(parse_reference, names))
        with Builder(Environment.read(), store=store, cancellation=cancellation) as builder:
            index = index_of(builder, image)
            if index is not None:
                builder.tag_index(index, references)
                return
            found = find(builder, image)
            builder.images.complete(found)  # under another name it could not be fetched
            builder.tag(found, references)
