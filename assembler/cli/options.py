"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO, TypeVar

import click

from assembler.environment import Environment
from assembler.errors import UsageError
from assembler.events import Sink, discard
from assembler.oci.platform import Platform

Command = TypeVar("Command", bound=Callable[..., Any])
RESOURCES = (
    "memory", "memory-swap", "cpu-shares", "cpu-period", "cpu-quota", "cpuset-cpus", "cpuset-mems",
)  # fmt: skip
"""The keys of `--resource`, which are also options of their own, as `docker build` had them."""


def store_option(command: Command) -> Command:
    """`--store DIR`."""
    return click.option("--store", metavar="DIR", default="", help="The store directory.")(command)


def network_options(command: Command) -> Command:
    """`--insecure-registry HOST`, repeatable."""
    return click.option(
        "--insecure-registry",
        "insecure",
        metavar="HOST[:PORT]",
        multiple=True,
        help="Allow plain http or an unverified certificate for this registry.",
    )(command)


def cdi_option(command: Command) -> Command:
    """`--cdi-spec-dir DIR`, repeatable; dockerd's and buildkitd's name for it."""
    return click.option(
        "--cdi-spec-dir",
        "cdi_spec_dirs",
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False, resolve_path=True),
        multiple=True,
        help="Read what RUN --device means from here, not from /etc/cdi, /var/run/cdi and"
        " /etc/buildkit/cdi.",
    )(command)


def progress_option(command: Command) -> Command:
    """`--progress`."""
    return click.option(
        "--progress",
        type=click.Choice(["auto", "tty", "plain", "rawjson", "quiet"]),
        default="auto",
        help="How progress is shown on stderr.",
    )(command)


def sink_for(progress: str, environment: Environment) -> Sink:
    """The display `progress` names; `auto` is BUILDKIT_PROGRESS, else `tty` on a terminal and `plain`
    elsewhere."""
    stream = sys.stderr
    if progress == "auto":
        asked = environment.get("BUILDKIT_PROGRESS")
        moves = stream.isatty() and environment.get("TERM") not in ("", "dumb")
        progress = "tty" if moves else "plain"
        progress = asked if asked in ("tty", "plain", "rawjson", "quiet") else progress
    if progress == "quiet":
        return discard
    if progress == "rawjson":
        from assembler.cli.display.rawjson import RawJson

        return RawJson(stream)
    from assembler.cli.display.plain import Plain

    context = click.get_current_context(silent=True)
    debug = context is not None and bool((context.find_root().obj or {}).get("debug"))
    footer = None
    if progress == "tty":
        from assembler.cli.display.footer import Footer

        footer = Footer(lambda: _columns(stream))
    return Plain(stream, expand=debug, footer=footer)


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def build_sink(progress: str, environment: Environment, store: str) -> Sink:
    """As `sink_for`; all output of steps is kept below the directory `store`, and what of it is
    shown is bounded."""
    sink = sink_for(progress, environment)
    if sink is discard:
        return sink
    from assembler.cli.display.step_logs import StepLogs, limits

    return StepLogs(sink, os.path.join(store, "logs"), *limits(environment.variables))


def pairs(
    values: tuple[str, ...], flag: str, variables: Mapping[str, str] | None = None
) -> dict[str, str]:
    """`K=V` words as a mapping, the last one winning. A bare `K` takes its value of `variables`,
    and is left out where they have none; without them it is empty."""
    found: dict[str, str] = {}
    for word in values:
        key, equals, value = word.partition("=")
        if not key:
            raise UsageError(f"{flag} {word!r}: the name is empty", hint=f"{flag} NAME=VALUE")
        if equals or variables is None:
            found[key] = value
        elif key in variables:
            found[key] = variables[key]
    return found


def platform_of(text: str, environment: Environment) -> Platform | None:
    """The platform asked for by flag or DOCKER_DEFAULT_PLATFORM, None when neither was given."""
    text = text or environment.get("DOCKER_DEFAULT_PLATFORM")
    if "," in text:
        raise UsageError(
            f"--platform {text}: several platforms in one build are not supported yet",
            hint="build one platform at a time",
        )
    try:
        return Platform.parse(text) if text else None
    except ValueError as error:
        raise UsageError(
            f"--platform {text}: {error}", hint="say linux/amd64, linux/arm64 or linux/arm/v7"
        ) from error
