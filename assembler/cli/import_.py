"""`assemble import`: a layout or archive into the store under a name."""

from __future__ import annotations

import click

from assembler.cli.main import cancellable
from assembler.cli.options import store_option
from assembler.environment import Environment


@click.command("import")
@store_option
@click.argument("source", metavar="LAYOUT|ARCHIVE")
@click.argument("name", metavar="NAME")
def command(source: str, name: str, store: str) -> None:
    """Put the image in an OCI layout, OCI archive or docker archive into the store as NAME."""
    environment = Environment.read()
    with cancellable() as cancellation:
        from assembler.builder import Builder
        from assembler.cli.limits import archive_limits_of
        from assembler.image_names import parse_reference
        from assembler.images import host_platform
        from assembler.store.importing import import_image

        reference, limits = parse_reference(name), archive_limits_of(environment)
        with Builder(environment, store=store, cancellation=cancellation) as builder:
            image = import_image(builder.store, source, "", host_platform(), limits)
            builder.tag(image, [reference])
            click.echo(str(image.digest))
