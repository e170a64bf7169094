"""`assemble inspect`: one image, for people or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from assembler.cli.main import cancellable
from assembler.cli.options import store_option
from assembler.environment import Environment

if TYPE_CHECKING:
    from assembler.oci.image import Image


@click.command("inspect")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
@store_option
@click.argument("image", metavar="IMAGE|LAYOUT|ARCHIVE")
def command(image: str, style: str, store: str) -> None:
    """Show digest, platform, configuration, layers and history of IMAGE."""
    with cancellable() as cancellation:
        from assembler.builder import Builder
        from assembler.cli.subjects import find

        with Builder(Environment.read(), store=store, cancellation=cancellation) as builder:
            found = find(builder, image)
    click.echo(_json(found) if style == "json" else text(found))


def _json(image: Image) -> str:
    document = {
        "digest": str(image.digest),
        "manifest": json.loads(image.manifest.content),
        "config": json.loads(image.config_content),
    }
    return json.dumps(document, indent=2)


def text(image: Image) -> str:
    """`image` for people."""
    from assembler.source import printable

    execution = image.config.execution
    lines = [
        f"Digest:      {image.digest}",
        f"Config:      {image.manifest.config.digest}",
        f"Platform:    {image.config.platform}",
        f"Created:     {image.config.created}",
        f"Size:        {sum(layer.size for layer in image.manifest.layers)} bytes in "
        f"{len(image.manifest.layers)} layers",
    ]
    for title, value in (
        ("Entrypoint", execution.entrypoint),
        ("Cmd", execution.cmd),
        ("Env", execution.env),
        ("Ports", execution.exposed_ports),
        ("Volumes", execution.volumes),
    ):
        if value:
            lines.append(f"{title + ':':<12} {printable(json.dumps(list(value)))}")
    for title, word in (
        ("User", execution.user),
        ("Workdir", execution.working_dir),
        ("StopSignal", execution.stop_signal),
    ):
        if word:
            lines.append(f"{title + ':':<12} {printable(word)}")
    for key, label in sorted(execution.labels.items()):
        lines.append(f"Label:       {printable(key)}={printable(label)}")
    lines.append("Layers:")
    for layer in image.layers:
        kind = printable(layer.descriptor.media_type)
        lines.append(
            f"  {layer.descriptor.digest}  {layer.descriptor.size:>12}  {layer.diff_id}  {kind}"
        )
        for key, label in sorted(layer.descriptor.annotations.items()):
            lines.append(f"    {printable(key)}={printable(label)}")
    lines.append("History:")
    lines += [f"  {line}" for line in _history(image)]
    return "\n".join(lines)


def _history(image: Image) -> Iterator[str]:
    """What made the image, with the bytes of each layer if it is known which that is."""
    from assembler.source import printable

    sizes = [f"{layer.size:>12}  " for layer in image.manifest.layers]
    if image.instructions is None:
        sizes = [""] * len(image.config.history)
    none, left = " " * len(sizes[0]) if sizes else "", iter(sizes)
    for entry in image.config.history:
        mark, size = ("-", none) if entry.empty_layer else ("+", next(left))
        yield f"{mark} {size}{printable(entry.created_by)}"
