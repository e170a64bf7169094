"""`assemble copy`: images and indexes between registries, layouts, archives and the store."""

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


@click.command(
    "copy", click.Argument("source", "SRC"), click.Argument("targets", "DST...", many=True)
)
@click.option(
    "--platform",
    "platforms",
    metavar="OS/ARCH[,...]",
    multiple=True,
    help="Copy these only; for one it is the image, without the index.",
)
@click.options(PROGRESS, *NETWORK, TIMEOUT, STORE)
def command(
    source: str,
    targets: tuple[str, ...],
    platforms: tuple[str, ...],
    progress: str,
    timeout: str,
    store: str,
    **network: Any,
) -> None:
    """Copy SRC to every DST, for all of its platforms and byte for byte.

    SRC is a name in a registry, store:NAME, or the path of a layout or archive; DST is a name in a
    registry or PATH[:TAG] of a layout, spelled /PATH, ./PATH or oci-layout://PATH.
    """
    from assembler.cli.durations import timeout_of

    environment = Environment.read()
    access = access_of(network)
    wanted = platforms_of(platforms, environment) if platforms else ()
    with cancellable(timeout_of(timeout), "copy") as cancellation:
        from assembler.builder import Builder
        from assembler.cli.limits import archive_limits_of
        from assembler.copies import registries

        hosts = registries(source, targets)
        if access.creds and len(hosts) > 1:
            raise UsageError(
                f"--creds: for which of {', '.join(hosts)}?",
                hint="log in to each with `assemble login`, or use --authfile",
            )
        with Builder(
            environment,
            store=store,
            access=access.creds_to(*hosts),
            archive_limits=archive_limits_of(environment),
            sink=sink_for(progress, environment, "Copying", cancellation),
            cancellation=cancellation,
        ) as builder:
            digest = builder.copy(source, wanted, targets)
        sys.stdout.write(f"{digest}\n")
