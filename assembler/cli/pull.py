"""`assemble pull`: an image from its registry into the store."""

from __future__ import annotations

import click

from assembler.access import Access
from assembler.cli.main import cancellable
from assembler.cli.options import (
    network_options,
    platform_of,
    progress_option,
    sink_for,
    store_option,
)
from assembler.environment import Environment


@click.command("pull")
@click.option("--platform", metavar="OS/ARCH", default="", help="The platform of the image.")
@progress_option
@network_options
@store_option
@click.argument("name", metavar="REF")
def command(name: str, platform: str, progress: str, access: Access, store: str) -> None:
    """Pull REF into the store, all of its layers."""
    environment = Environment.read()
    with cancellable() as cancellation:
        from assembler.builder import Builder, host_platform
        from assembler.images import parse_reference

        reference = parse_reference(name)
        wanted = platform_of(platform, environment) or host_platform()
        with Builder(
            environment,
            store=store,
            access=access.creds_to(reference.registry),
            sink=sink_for(progress, environment),
            cancellation=cancellation,
        ) as builder:
            image = builder.images.pull_manifest(reference, wanted)
            builder.images.complete(image)
            click.echo(str(image.digest))
