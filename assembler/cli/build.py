"""`assemble build`: the names and grammars of `docker buildx build`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from assembler.cli import declared as click
from assembler.cli.main import cancellable
from assembler.cli.options import CDI, NETWORK, PROGRESS, STORE, TIMEOUT, access_of, build_sink
from assembler.cli.request import OPTIONS, builder_for, place_of, read_inputs, request_of
from assembler.environment import Environment
from assembler.errors import BlobCorrupt, Cancelled, UsageError
from assembler.values import replace

if TYPE_CHECKING:
    from assembler.builder import Builder
    from assembler.cancellation import Cancellation
    from assembler.cli.budget import Budget
    from assembler.cli.outputs import OutputRequest, Packaging
    from assembler.oci.image import Result
    from assembler.oci.reference import Reference
    from assembler.plan.plan import Plan
    from assembler.request import BuildRequest


@click.command("build", click.Argument("context", "CONTEXT"))
@click.options(*OPTIONS)
@click.option("-t", "--tag", "tags", metavar="REF", multiple=True, help="Name of the image.")
@click.option("-o", "--output", "outputs", metavar="type=…", multiple=True, help="Where to write.")
@click.option("--push", is_flag=True, help="Push the image to the registries of its names.")
@click.option(
    "--require-cached", is_flag=True, help="Fail, before anything is done, if a step is not cached."
)
@click.option("--check", is_flag=True, help="Lint the Dockerfile; build nothing.")
@click.option(
    "--call",
    "method",
    metavar="METHOD[,format=json]",
    default="build",
    help="build, check, outline or targets.",
)
@click.option(
    "--snapshotter",
    type=click.Choice(["auto", "overlay", "fuse-overlayfs", "copy"]),
    default="auto",
    help="How a step gets its root: by the kernel, by a program, or by copying it.",
)
@click.option(
    "--runtime",
    type=click.Choice(["auto", "native", "podman", "crun", "runc", "chroot"]),
    default="auto",
)
@click.options(CDI, TIMEOUT)
@click.option("--jobs", type=click.IntRange(min=1), default=None, help="Steps that run at once.")
@click.option(
    "--max-size", metavar="SIZE", default="", help="Fail if the layers are larger, as in 200m."
)
@click.option(
    "--max-layers",
    metavar="N",
    type=click.IntRange(min=0),
    default=None,
    help="Fail if there are more.",
)
@click.option("--iidfile", metavar="FILE", default="", help="Write the image id here.")
@click.option("--metadata-file", metavar="FILE", default="", help="Write the result as JSON here.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the image digest.")
@click.options(PROGRESS, *NETWORK, STORE)
def command(**options: Any) -> int | None:
    """Build an image from the Dockerfile and the files of CONTEXT.

    CONTEXT is a directory, a git or http URL, or - for an archive or a Dockerfile on stdin.
    """
    environment = Environment.read()
    options["access"] = access_of(options)
    method = "check" if options["check"] else options["method"]
    if method.partition(",")[0] != "build":
        from assembler.cli.call import call

        return call(method, options, environment)
    from assembler.cli.configuration import bounds_of
    from assembler.cli.durations import timeout_of

    with cancellable(timeout_of(options["timeout"])) as cancellation:
        from assembler.cli.budget import budget_of
        from assembler.cli.display.stopped import Stopped
        from assembler.cli.outputs import requested

        asked = requested(options["outputs"], options["push"])
        budget = budget_of(options["max_size"], options["max_layers"])
        progress = "quiet" if options["quiet"] else options["progress"]
        sink = Stopped(build_sink(progress, environment, options["store"] or environment.store))
        names = _names(options["tags"], asked)
        access = options["access"]
        if access.creds and not names:
            raise UsageError(
                "--creds is for the registries of the image's names, and it has none",
                hint="`assemble login REGISTRY` for that of a base image",
            )
        options["access"] = access.creds_to(*(name.registry for name in names))
        try:
            with builder_for(options, environment, cancellation, sink) as builder:
                bounds = bounds_of(environment, builder.warn)
                inputs = read_inputs(builder, options, environment)
                request = request_of(inputs, options, environment)
                if bounds and not request.require_cached:
                    builder.collect(bounds, before=True)
                with builder.recorded(request, names, place_of(inputs, options["context"])):
                    image = _build(builder, request, names, asked, budget, cancellation)
                if bounds:
                    builder.collect(bounds)
        except Cancelled as error:
            error.running = sink.names
            raise
        _write_results(image, names, options)
        sys.stdout.write(f"{image.digest}\n")
        sys.stdout.flush()
    return None


def _build(
    builder: Builder,
    request: BuildRequest,
    names: tuple[Reference, ...],
    asked: tuple[OutputRequest, ...],
    budget: Budget,
    cancellation: Cancellation,
) -> Result:
    from assembler.cli.outputs import Packaging, concrete

    if request.indexed and any(one.type == "docker" for one in asked):
        raise UsageError(
            "docker exporter does not currently support exporting manifest lists",
            hint="an archive of -o type=oci has room for the images of all platforms",
        )
    request = replace(request, whole=not asked or any(one.whole for one in asked))
    plan = builder.checked(builder.plan(request))
    kept = [one for one in asked if one.type != "cacheonly"] or asked
    packagings = tuple(dict.fromkeys(one.packaging for one in kept)) or (Packaging(),)
    own = request.annotations.of(plan.platform)
    annotations = request.annotations if request.indexed else own
    if annotations.carried and any(one.docker for one in packagings):
        raise UsageError("annotations cannot be exported with oci-mediatypes=false")
    of_top = annotations.index_descriptor if request.indexed else annotations.descriptor

    def build(packaging: Packaging, plan: Plan, tags: tuple[Reference, ...]) -> Result:
        compression = packaging.checked()
        outputs = [
            concrete(one, names, builder, of_top)
            for one in asked
            if one.writes and one.packaging == packaging
        ]
        with builder.delivery(outputs) as delivery:
            packaged = replace(
                request,
                compression=compression,
                recompress=packaging.force,
                docker_types=packaging.docker,
                wanted=lambda layer: any(output.reads(layer) for output in outputs),
                destination=delivery,
            )
            image = builder.build(packaged, plan)
            budget.check(image)
            builder.tag(image, tags)
            builder.deliver(image, delivery)
        return image

    images: list[Result] = []
    for packaging in packagings:
        tags = () if images else names
        images.append(_repaired(partial(build, packaging, plan, tags), builder, cancellation))
        # what ran for the first image is not run again for the next
        plan = replace(plan, stages=tuple(replace(one, fresh=False) for one in plan.stages))
    pushed = names if any(one.type == "registry" for one in asked) else ()
    builder.export(replace(request, compression=packagings[0].checked()), plan, images[0], pushed)
    return images[0]


def _repaired(build: Callable[[], Result], builder: Builder, cancellation: Cancellation) -> Result:
    """What `build` gives. A blob of the store that proves damaged is gone then: what was in it is
    fetched or made anew by building again, once for each blob."""
    while True:
        try:
            return build()
        except BlobCorrupt as error:
            if not error.removed:
                raise
            cancellation.renew()
            if not error.told:
                builder.warn(f"{error.message}: building again")


def _names(tags: tuple[str, ...], asked: tuple[OutputRequest, ...]) -> tuple[Reference, ...]:
    from assembler.image_names import parse_reference

    extra = [name for output in asked for name in output.names]
    names = tuple(dict.fromkeys(map(parse_reference, (*tags, *extra))))
    if not names and any(output.type == "registry" for output in asked):
        raise UsageError("--push needs a name", hint="add -t REGISTRY/REPOSITORY[:TAG]")
    return names


def _write_results(image: Result, names: tuple[Reference, ...], options: Mapping[str, Any]) -> None:
    from assembler.oci.image import Image

    descriptor = image.document.descriptor
    id = image.manifest.config.digest if isinstance(image, Image) else image.digest
    if options["iidfile"]:
        _write(options["iidfile"], str(id))
    if options["metadata_file"]:
        one = {"containerimage.config.digest": str(id)} if isinstance(image, Image) else {}
        document = one | {
            "containerimage.descriptor": descriptor.to_document(),
            "containerimage.digest": str(descriptor.digest),
            "image.name": ",".join(map(str, names)),
        }
        _write(options["metadata_file"], json.dumps(document, indent=2) + "\n")


def _write(path: str, text: str) -> None:
    from assembler.linux.replacing import replacing

    with replacing(path) as stream:
        stream.write(text.encode())
