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
    """List the names in the store with digest, platforms and the size of their blobs, each once."""
    with cancellable() as cancellation:
        from assembler.builder import Builder
        from assembler.errors import AssemblerError
        from assembler.oci.reference import Reference

        rows = []
        with Builder(Environment.read(), store=store, cancellation=cancellation) as builder:
            for name, descriptor in sorted(builder.store.refs.items()):
                try:
                    images = list(builder.store.images(descriptor))
                except (AssemblerError, ValueError):
                    continue  # an incomplete image is as good as none
                if not images:
                    continue
                blobs = {blob.digest: blob.size for one in images for blob in one.manifest.blobs}
                platforms = dict.fromkeys(str(one.config.platform) for one in images)
                rows.append(
                    {
                        "name": Reference.parse(name).familiar,
                        "digest": str(descriptor.digest),
                        "platform": ",".join(platforms),
                        "size": sum(blobs.values()),
                    }
                )
        if style == "json":
            click.echo(json.dumps(rows, indent=2))
            return
        width = max([4, *(len(str(row["name"])) for row in rows)])
        wide = max([14, *(len(str(row["platform"])) for row in rows)])
        click.echo(f"{'NAME':<{width}}  {'DIGEST':<19}  {'PLATFORM':<{wide}}  SIZE")
        for row in rows:
            digest = str(row["digest"])[:19]
            click.echo(
                f"{row['name']:<{width}}  {digest}  {row['platform']:<{wide}}  {row['size']}"
            )
