"""`assemble pull`: images from their registries into the store."""

from __future__ import annotations

import sys
from typing import Any

from assembler.cli import declared as click
from assembler.cli.main import cancellable
from assembler.cli.options import (
    NETWORK,
    PROGRESS,
    STORE,
    TIMEOUT,
    access_of,
    platforms_of,
    sink_for,
)
from assembler.environment import Environment
from assembler.errors import UsageError


@click.command("pull", click.Argument("names", "REF...", many=True))
@click.option(
    "--platform",
    "platforms",
    metavar="OS/ARCH[,...]",
    multiple=True,
    help="Pull for this platform; for several the index is kept.",
)
@click.option("--all-platforms", is_flag=True, help="Pull the whole index, attestations too.")
@click.options(PROGRESS, *NETWORK, TIMEOUT, STORE)
def command(
    names: tuple[str, ...],
    platforms: tuple[str, ...],
    all_platforms: bool,
    progress: str,
    timeout: str,
    store: str,
    **network: Any,
) -> None:
    """Pull every REF into the store, all of its layers, and print the digests."""
    from assembler.cli.durations import timeout_of

    environment = Environment.read()
    access = access_of(network)
    if platforms and all_platforms:
        raise UsageError("--all-platforms with --platform: say which")
    with cancellable(timeout_of(timeout), "pull") as cancellation:
        from assembler.image_names import parse_reference
        from assembler.images import host_platform
        from assembler.pulling import pulling

        references = list(map(parse_reference, names))
        wanted = platforms_of(platforms, environment) or (host_platform(),)
        digests = []
        try:
            with pulling(
                environment,
                store=store,
                access=access.creds_to(*(one.registry for one in references)),
                sink=sink_for(progress, environment, "Pulling", cancellation),
                cancellation=cancellation,
            ) as (_, images):
                for reference in references:
                    if all_platforms or len(wanted) > 1:
                        chosen = () if all_platforms else wanted
                        digest = images.pull_index(reference, chosen).descriptor.digest
                    else:
                        image = images.pull_manifest(reference, wanted[0], alone=True)
                        images.complete(image)
                        digest = image.digest
                    digests.append(str(digest))
        finally:  # of those that came; the terminal is no more the display's
            for one in digests:
                sys.stdout.write(f"{one}\n")
