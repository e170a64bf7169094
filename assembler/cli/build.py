"""`assemble build`: the names and grammars of `docker buildx build`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from assembler.cli.main import cancellable
from assembler.cli.options import (
    network_options,
    pairs,
    platform_of,
    progress_option,
    sink_for,
    store_option,
)
from assembler.environment import PROXY_NAMES, Environment
from assembler.errors import UsageError

if TYPE_CHECKING:
    from assembler.builder import Builder, BuildRequest
    from assembler.cli.outputs import OutputRequest
    from assembler.oci.image import Image
    from assembler.oci.reference import Reference


@click.command("build")
@click.option(
    "-f", "--file", "file", metavar="FILE", default="", help="The Dockerfile; - is stdin."
)
@click.option("-t", "--tag", "tags", metavar="REF", multiple=True, help="Name of the image.")
@click.option("--target", metavar="STAGE", default="", help="The stage to build.")
@click.option("--build-arg", "build_args", metavar="K[=V]", multiple=True, help="Value of an ARG.")
@click.option("--platform", metavar="OS/ARCH", default="", help="The platform of the image.")
@click.option("-o", "--output", "outputs", metavar="type=…", multiple=True, help="Where to write.")
@click.option("--push", is_flag=True, help="Push the image to the registries of its names.")
@click.option("--label", "labels", metavar="K=V", multiple=True, help="Label of the image.")
@click.option("--secret", "secrets", metavar="id=…", multiple=True, help="Secret for RUN --mount.")
@click.option("--network", type=click.Choice(["default", "none", "host"]), default="default")
@click.option(
    "--add-host", "add_hosts", metavar="NAME:IP", multiple=True, help="Line of /etc/hosts."
)
@click.option("--no-cache", is_flag=True, help="Run every step.")
@click.option("--pull", is_flag=True, help="Ask registries even for images the store has.")
@click.option("--runtime", type=click.Choice(["auto", "native", "podman"]), default="auto")
@click.option("--jobs", type=click.IntRange(min=1), default=None, help="Steps that run at once.")
@click.option("--iidfile", metavar="FILE", default="", help="Write the image id here.")
@click.option("--metadata-file", metavar="FILE", default="", help="Write the result as JSON here.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the image digest.")
@progress_option
@network_options
@store_option
@click.argument("context", metavar="CONTEXT")
def command(**options: Any) -> None:
    """Build an image from the Dockerfile and the files of CONTEXT.

    CONTEXT is a directory, or - for a Dockerfile on stdin without a context.
    """
    environment = Environment.read()
    with cancellable() as cancellation:
        from assembler.builder import Builder
        from assembler.cli.outputs import requested

        asked = requested(options["outputs"], options["push"])
        sink = sink_for("quiet" if options["quiet"] else options["progress"], environment)
        names = _names(options["tags"], asked)
        request = _request(options, environment)
        with Builder(
            environment,
            store=options["store"],
            runtime=options["runtime"],
            insecure=frozenset(options["insecure"]),
            jobs=options["jobs"] or 0,
            sink=sink,
            cancellation=cancellation,
        ) as builder:
            image = _build(builder, request, names, asked, sink, environment)
        _write_results(image, names, options)
        click.echo(str(image.digest))


def _build(
    builder: Builder,
    request: BuildRequest,
    names: tuple[Reference, ...],
    asked: tuple[OutputRequest, ...],
    sink: Callable[[Any], None],
    environment: Environment,
) -> Image:
    import time

    from assembler.cli.outputs import concrete
    from assembler.events import Warned

    plan = builder.plan(request)
    for warning in plan.warnings:
        sink(Warned(warning.message, time.time()))
    image = builder.build(request, plan)
    builder.tag(image, names)
    mount_from = [resolved.name for resolved in plan.images.values()]
    builder.write(image, [concrete(one, names, builder, mount_from) for one in asked if one.writes])
    return image


def _request(options: Mapping[str, Any], environment: Environment) -> BuildRequest:
    from assembler.builder import BuildRequest
    from assembler.cli.inputs import context_of, dockerfile_of, secrets_of
    from assembler.dockerfile.parser import parse

    source, path = dockerfile_of(options["file"], options["context"])
    build_args = _proxies(environment) | pairs(
        options["build_args"], "--build-arg", environment.variables
    )
    return BuildRequest(
        dockerfile=parse(source),
        context=context_of(options["context"], path),
        target=options["target"],
        build_args=build_args,
        platform=platform_of(options["platform"], environment),
        labels=pairs(options["labels"], "--label", {}),
        network=options["network"],
        epoch=_epoch(environment),
        pull=options["pull"],
        no_cache=options["no_cache"],
        secrets=secrets_of(options["secrets"], environment),
        add_hosts=tuple(map(_host, options["add_hosts"])),
    )


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


def _host(word: str) -> tuple[str, str]:
    name, _, address = word.partition("=" if "=" in word else ":")
    if not name or not address:
        raise UsageError(f"invalid --add-host {word!r}", hint="--add-host NAME:ADDRESS")
    return name, address.strip("[]")


def _names(tags: tuple[str, ...], asked: tuple[OutputRequest, ...]) -> tuple[Reference, ...]:
    from assembler.images import parse_reference

    extra = [name for output in asked for name in output.names]
    names = tuple(dict.fromkeys(map(parse_reference, (*tags, *extra))))
    if not names and any(output.type == "registry" for output in asked):
        raise UsageError("--push needs a name", hint="add -t REGISTRY/REPOSITORY[:TAG]")
    return names


def _write_results(image: Image, names: tuple[Reference, ...], options: Mapping[str, Any]) -> None:
    descriptor = image.manifest.descriptor
    if options["iidfile"]:
        _replace(options["iidfile"], str(image.manifest.config.digest))
    if options["metadata_file"]:
        document = {
            "containerimage.config.digest": str(image.manifest.config.digest),
            "containerimage.descriptor": descriptor.to_document(),
            "containerimage.digest": str(descriptor.digest),
            "image.name": ",".join(map(str, names)),
        }
        _replace(options["metadata_file"], json.dumps(document, indent=2) + "\n")


def _replace(path: str, text: str) -> None:
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
