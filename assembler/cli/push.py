"""`assemble push`: from the store, an OCI layout or an archive to registries."""

from __future__ import annotations

import sys
from typing import Any

from assembler.cli import declared as click
from assembler.cli.main import cancellable
from assembler.cli.options import NETWORK, PROGRESS, STORE, TIMEOUT, access_of, sink_for
from assembler.environment import Environment
from assembler.errors import UsageError


@click.command("push", click.Argument("words", "[IMAGE|LAYOUT|ARCHIVE] REF...", many=True))
@click.option(
    "--compression",
    metavar="NAME",
    default="",
    help="Recompress layers that have another: gzip, zstd, estargz, zstd:chunked, uncompressed.",
)
@click.option(
    "--compression-level",
    metavar="N",
    type=click.IntRange(),
    default=None,
    help="The level of --compression.",
)
@click.options(PROGRESS, *NETWORK, TIMEOUT, STORE)
def command(
    words: tuple[str, ...],
    compression: str,
    compression_level: int | None,
    progress: str,
    timeout: str,
    store: str,
    **network: Any,
) -> None:
    """Push an image, or an index with all that it leads to, to every REF.

    With one word, the image of that name in the store is pushed under its own name. With
    --compression it is the image for this host, without an index.
    """
    from assembler.cli.durations import timeout_of

    environment = Environment.read()
    access = access_of(network)
    subject, targets = words[0], words[1:] or words[:1]
    if compression_level is not None and not compression:
        raise UsageError("--compression-level needs --compression")
    with cancellable(timeout_of(timeout), "push") as cancellation:
        from assembler.builder import Builder
        from assembler.cli.limits import archive_limits_of
        from assembler.cli.subjects import find, whole
        from assembler.image_names import parse_reference
        from assembler.oci.image import Image

        wanted = None
        if compression:
            from assembler.layer.compression import by_name

            wanted = by_name(compression, compression_level)
        references = tuple(map(parse_reference, targets))
        with Builder(
            environment,
            store=store,
            access=access.creds_to(*(one.registry for one in references)),
            archive_limits=archive_limits_of(environment),
            sink=sink_for(progress, environment, "Pushing", cancellation),
            cancellation=cancellation,
        ) as builder:
            if wanted is None:
                found = whole(builder, subject)
            else:
                found = builder.recompressed(find(builder, subject), wanted)
            if isinstance(found, Image):
                builder.write(found, [builder.registry_output(references)])
                digest = found.digest
            else:
                digest = builder.copy(found, (), targets)
        sys.stdout.write(f"{digest}\n")
