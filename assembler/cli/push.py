"""`assemble push`: from the store, an OCI layout or an archive to registries."""

from __future__ import annotations

import click

from assembler.cli.main import cancellable
from assembler.cli.options import network_options, progress_option, sink_for, store_option
from assembler.environment import Environment


@click.command("push")
@progress_option
@network_options
@store_option
@click.argument("words", metavar="[IMAGE|LAYOUT|ARCHIVE] REF...", nargs=-1, required=True)
def command(words: tuple[str, ...], progress: str, insecure: tuple[str, ...], store: str) -> None:
    """Push an image to every REF.

    With one word, the image of that name in the store is pushed under its own name.
    """
    environment = Environment.read()
    subject, targets = words[0], words[1:] or words[:1]
    with cancellable() as cancellation:
        from assembler.builder import Builder
        from assembler.cli.subjects import find
        from assembler.images import parse_reference
        from assembler.output.registry import RegistryOutput

        references = tuple(map(parse_reference, targets))
        with Builder(
            environment,
            store=store,
            insecure=frozenset(insecure),
            sink=sink_for(progress, environment),
            cancellation=cancellation,
        ) as builder:
            image = find(builder, subject)
            images = builder.images
            output = RegistryOutput(images.client, references, mount_from=images.sources)
            builder.write(image, [output])
            click.echo(str(image.digest))
