"""`assemble images`: what the store holds, by name."""

from __future__ import annotations

import json

import click

from assembler.cli.main import cancellable
from assembler.cli.options import store_option
from assembler.environment import Environment


@click.command("images")
@click.option("--format", "style", type=click.Choice(["table", "json"]), default="table")
@store_option
def command(style: str, store: str) -> None:
    """List the names in the store with digest, platform and the size of their blobs."""
    with cancellable() as cancellation:
        from assembler.builder import Builder
        from assembler.oci.reference import Reference

        rows = []
        with Builder(Environment.read(), store=store, cancellation=cancellation) as builder:
            for name, descriptor in sorted(builder.store.refs.items()):
                image = builder.images.stored(Reference.parse(name), None)
                if image is None:
                    continue
                size = sum(layer.size for layer in image.manifest.layers)
                rows.append(
                    {
                        "name": Reference.parse(name).familiar,
                        "digest": str(descriptor.digest),
                        "platform": str(image.config.platform),
                        "size": size + image.manifest.config.size,
                    }
                )
        if style == "json":
            click.echo(json.dumps(rows, indent=2))
            return
        width = max([4, *(len(str(row["name"])) for row in rows)])
        click.echo(f"{'NAME':<{width}}  {'DIGEST':<19}  {'PLATFORM':<14}  SIZE")
        for row in rows:
            click.echo(
                f"{row['name']:<{width}}  {str(row['digest'])[:19]}  {row['platform']:<14}  {row['size']}"
            )
