"""`assemble inspect`: one image, for people or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from assembler.cli.main import cancellable
from assembler.cli.options import platforms_of, store_option
from assembler.environment import Environment
from assembler.errors import UsageError

if TYPE_CHECKING:
    from assembler.oci.image import Image
    from assembler.oci.manifest import Index


@click.command("inspect")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
@click.option("--platform", metavar="OS/ARCH", default="", help="Of an index, the image for this.")
@store_option
@click.argument("image", metavar="IMAGE|LAYOUT|ARCHIVE")
def command(image: str, style: str, platform: str, store: str) -> None:
    """Show digest, platform, configuration, layers and history of IMAGE; of an index those of the
    image for this host, and what platforms there are."""
    environment = Environment.read()
    wanted = platforms_of((platform,), environment) if platform else ()
    if len(wanted) > 1:
        raise UsageError(f"--platform {platform}: one image is shown")
    with cancellable() as cancellation:
        from assembler.builder import Builder
        from assembler.cli.subjects import find, index_of

        with Builder(environment, store=store, cancellation=cancellation) as builder:
            found = find(builder, image, *wanted)
            entry = index_of(builder, image)
            index = None if entry is None else builder.store.index(entry)
    click.echo(_json(found, index) if style == "json" else text(found, index))


def _json(image: Image, index: Index | None) -> str:
    document: dict[str, Any] = {}
    if index is not None:
        digest = str(index.descriptor.digest)
        document["index"] = {"digest": digest, "manifest": json.loads(index.content)}
    document |= {
        "digest": str(image.digest),
        "manifest": json.loads(image.manifest.content),
        "config": json.loads(image.config_content),
    }
    return json.dumps(document, indent=2)


def text(image: Image, index: Index | None = None) -> str:
    """`image`, which is of `index` if of any, for people."""
    from assembler.source import printable

    execution = image.config.execution
    lines = []
    if index is not None:
        lines.append(f"Index:       {index.descriptor.digest}")
        lines.append(f"Platforms:   {printable(', '.join(map(str, index.platforms)))}")
    lines += [
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
