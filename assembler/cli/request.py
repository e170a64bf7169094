"""What `build`, `check` and `plan` share: options that say what is to be built, and the request
they amount to."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from assembler.cli.options import pairs, platform_of
from assembler.environment import PROXY_NAMES, Environment
from assembler.errors import UsageError

if TYPE_CHECKING:
    from assembler.builder import Builder, BuildRequest
    from assembler.cancellation import Cancellation
    from assembler.cli.inputs import Inputs
    from assembler.dockerfile.instructions import Dockerfile
    from assembler.events import Sink
    from assembler.oci.image import Annotations

Command = TypeVar("Command", bound=Callable[..., Any])

ENTITLEMENTS = ("network.host", "security.insecure", "device")
_OPTIONS = (
    click.option(
        "-f", "--file", "file", metavar="FILE", default="", help="The Dockerfile; - is stdin."
    ),
    click.option("--target", metavar="STAGE", default="", help="The stage to build."),
    click.option(
        "--build-arg", "build_args", metavar="K[=V]", multiple=True, help="Value of an ARG."
    ),
    click.option(
        "--build-context",
        "build_contexts",
        metavar="NAME=…",
        multiple=True,
        help="What stands in for a stage or image: a directory, URL or docker-image://.",
    ),
    click.option("--platform", metavar="OS/ARCH", default="", help="The platform of the image."),
    click.option("--label", "labels", metavar="K=V", multiple=True, help="Label of the image."),
    click.option(
        "--annotation", "annotations", metavar="[TYPE:]K=V", multiple=True, help="Annotation."
    ),
    click.option(
        "--secret", "secrets", metavar="id=…", multiple=True, help="Secret for RUN --mount."
    ),
    click.option(
        "--ssh", "ssh", metavar="default|ID[=…]", multiple=True, help="Agent for git over ssh."
    ),
    click.option("--network", type=click.Choice(["default", "none", "host"]), default="default"),
    click.option(
        "--add-host", "add_hosts", metavar="NAME:IP", multiple=True, help="Line of /etc/hosts."
    ),
    click.option(
        "--allow",
        "allow",
        metavar="ENTITLEMENT",
        multiple=True,
        help=f"Let RUN ask for it: {', '.join(ENTITLEMENTS)}.",
    ),
    click.option("--no-cache", is_flag=True, help="Run every step."),
    click.option(
        "--no-cache-filter",
        "no_cache_filter",
        metavar="STAGE,…",
        multiple=True,
        help="Run every step of these stages.",
    ),
    click.option("--pull", is_flag=True, help="Ask registries even for images the store has."),
)


def request_options(command: Command) -> Command:
    """The options that say what is to be built, in the order of the help."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def builder_for(
    options: Mapping[str, Any], environment: Environment, cancellation: Cancellation, sink: Sink
) -> Builder:
    """A builder with the store, runtime and secrets that the options name."""
    from assembler.builder import Builder
    from assembler.cli.inputs import secrets_of

    return Builder(
        environment,
        store=options["store"],
        runtime=options.get("runtime", "auto"),
        insecure=frozenset(options["insecure"]),
        jobs=options.get("jobs") or 0,
        secrets=secrets_of(options["secrets"], environment),
        agent=_agent(options["ssh"], environment),
        sink=sink,
        cancellation=cancellation,
    )


def read_inputs(builder: Builder, options: Mapping[str, Any], environment: Environment) -> Inputs:
    """The Dockerfile and the contexts."""
    from assembler.cli.inputs import inputs_of

    arguments = _build_args(options, environment)
    keep = arguments.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "").lower() in ("1", "t", "true")
    return inputs_of(
        options["file"], options["context"], options["build_contexts"], keep, builder.remotes
    )


def request_of(
    inputs: Inputs, options: Mapping[str, Any], environment: Environment
) -> BuildRequest:
    """The request that the options amount to. Raises SyntaxProblem for the Dockerfile."""
    from assembler.dockerfile.parser import parse

    return request_for(parse(inputs.dockerfile), inputs, options, environment)


def request_for(
    dockerfile: Dockerfile, inputs: Inputs, options: Mapping[str, Any], environment: Environment
) -> BuildRequest:
    """The request that the options amount to, for a Dockerfile that is parsed."""
    from assembler.builder import BuildRequest
    from assembler.plan.contexts import Contexts

    return BuildRequest(
        dockerfile=dockerfile,
        context=inputs.context,
        files=inputs.files,
        contexts=Contexts(inputs.named),
        target=options["target"],
        build_args=_build_args(options, environment),
        platform=platform_of(options["platform"], environment),
        labels=pairs(options["labels"], "--label", {}),
        annotations=_annotations(options["annotations"]),
        network=options["network"],
        allow=_allowed(options["allow"]),
        epoch=_epoch(environment),
        pull=options["pull"],
        no_cache=_no_cache(options),
        add_hosts=tuple(map(_host, options["add_hosts"])),
    )


def _build_args(options: Mapping[str, Any], environment: Environment) -> dict[str, str]:
    given = pairs(options["build_args"], "--build-arg", environment.variables)
    return _proxies(environment) | given


def _proxies(environment: Environment) -> dict[str, str]:
    """The proxies of this process, as build arguments that no key or history holds (rule A11)."""
    names = [form for name in PROXY_NAMES for form in (name, name.lower())]
    return {name: environment.get(name) for name in names if environment.get(name)}


def _epoch(environment: Environment) -> int | None:
    text = environment.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(
            f"invalid SOURCE_DATE_EPOCH: {text}", hint="a number of seconds since 1970"
        ) from error


def _no_cache(options: Mapping[str, Any]) -> frozenset[str]:
    """The stages that take nothing from the cache (rule S12)."""
    if options["no_cache"]:
        return frozenset("*")
    words = (word for value in options["no_cache_filter"] for word in value.split(","))
    return frozenset(word.strip().lower() for word in words if word.strip())


def _allowed(words: tuple[str, ...]) -> frozenset[str]:
    unknown = [word for word in words if word.partition("=")[0] not in ENTITLEMENTS]
    if unknown:
        raise UsageError(
            f"--allow {unknown[0]}: unknown entitlement", hint=f"one of {', '.join(ENTITLEMENTS)}"
        )
    return frozenset(word.partition("=")[0] for word in words)


def _annotations(words: tuple[str, ...]) -> Annotations:
    """`[type[platform]:]key=value` (rule Y8). Raises UsageError for a type nothing carries."""
    from assembler.oci.image import Annotations

    found: dict[str, dict[str, str]] = {"manifest": {}, "manifest-descriptor": {}}
    for word in words:
        head, equals, value = word.partition("=")
        kinds, colon, key = head.rpartition(":")
        if not equals or not key:
            raise UsageError(f"invalid --annotation {word!r}", hint="--annotation KEY=VALUE")
        for kind in kinds.split(",") if colon else ("manifest",):
            kind = kind.partition("[")[0].strip()
            if kind in ("index", "index-descriptor"):
                raise UsageError(
                    f"--annotation {word}: {kind} annotations not supported for single platform"
                    " export"
                )
            if kind not in found:
                raise UsageError(
                    f"--annotation {word}: unknown annotation type {kind!r}",
                    hint="manifest or manifest-descriptor",
                )
            found[kind][key] = value
    return Annotations(found["manifest"], found["manifest-descriptor"])


def _agent(words: tuple[str, ...], environment: Environment) -> str:
    """The agent's socket that git may use over ssh: of `default`, else of the first."""
    sockets = {}
    for word in words:
        id, equals, path = word.partition("=")
        sockets[id] = os.path.abspath(path) if equals else environment.get("SSH_AUTH_SOCK")
        if not sockets[id]:
            raise UsageError(f"--ssh {word}: no ssh agent is running", hint="set SSH_AUTH_SOCK")
    return sockets.get("default") or next(iter(sockets.values()), "")


def _host(word: str) -> tuple[str, str]:
    name, _, address = word.partition("=" if "=" in word else ":")
    if not name or not address:
        raise UsageError(f"invalid --add-host {word!r}", hint="--add-host NAME:ADDRESS")
    return name, address.strip("[]")
