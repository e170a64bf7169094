"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

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


def progress_option(command: Command) -> Command:
    """`--progress`."""
    return click.option(
        "--progress",
        type=click.Choice(["auto", "plain", "rawjson", "quiet"]),
        default="auto",
        help="How progress is shown on stderr.",
    )(command)


def sink_for(progress: str, environment: Environment) -> Sink:
    """The display `progress` names; `auto` is plain (or BUILDKIT_PROGRESS)."""
    if progress == "auto":
        asked = environment.get("BUILDKIT_PROGRESS")
        progress = asked if asked in ("plain", "rawjson", "quiet") else "plain"
    if progress == "quiet":
        return discard
    stream = sys.stderr
    if progress == "rawjson":
        from assembler.cli.display.rawjson import RawJson

        return RawJson(stream)
    from assembler.cli.display.plain import Plain

    context = click.get_current_context(silent=True)
    debug = context is not None and bool((context.find_root().obj or {}).get("debug"))
    return Plain(stream, expand=debug)


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
