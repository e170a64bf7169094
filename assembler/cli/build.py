"""`assemble build`: the names and grammars of `docker buildx build`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

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
    from assembler.linux.outside import Outside
    from assembler.oci.digest import Digest
    from assembler.oci.image import Annotations, Result
    from assembler.oci.reference import Reference
    from assembler.plan.plan import Plan
    from assembler.request import BuildRequest

Made = TypeVar("Made")


@click.command("build", click.Argument("context", "CONTEXT"))
@click.options(*OPTIONS)
@click.option("-t", "--tag", "tags", metavar="REF", multiple=True, help="Name of the image.")
@click.option(
    "-o",
    "--output",
    "outputs",
    metavar="DIR|-|type=…",
    multiple=True,
    help="Where to write: files to a directory or a tar (-), or an image.",
)
@click.option("--push", is_flag=True, help="Push the image to the registries of its names.")
@click.option(
    "--load", is_flag=True, help="Load the image into docker, or podman; it is -o type=docker."
)
@click.option(
    "--attest",
    "attests",
    metavar="type=…,disabled=true",
    multiple=True,
    help="Decline an attestation; none is made yet.",
)
@click.option("--provenance", metavar="false", default="", help="Decline provenance.")
@click.option("--sbom", metavar="false", default="", help="Decline an SBOM.")
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
@click.option(
    "--digest-file",
    "--digestfile",
    metavar="FILE",
    default="",
    help="Write the digest of the image's manifest here.",
)
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

    with cancellable(timeout_of(options["timeout"])) as cancellation, ExitStack() as stack:
        from assembler.cli.budget import Budget, budget_of
        from assembler.cli.display.stopped import Stopped
        from assembler.cli.outputs import imaged, requested

        if options["attests"] or options["provenance"] or options["sbom"]:
            from assembler.cli.attestations import refuse_attestations

            refuse_attestations(options["attests"], options["provenance"], options["sbom"])
        asked = requested(options["outputs"], options["push"], options["load"], options["allow"])
        programs = _programs(asked, environment, cancellation, stack)
        budget = budget_of(options["max_size"], options["max_layers"])
        if budget != Budget() and not imaged(asked):
            raise UsageError("--max-size and --max-layers are for images, and none is made")
        progress = "quiet" if options["quiet"] else options["progress"]
        store = options["store"] or environment.store
        sink = Stopped(build_sink(progress, environment, store, cancellation))
        names = _names(options["tags"], asked)
        access = options["access"]
        targets = (one.attributes.targets(names) for one in asked if one.attributes.push)
        registries = [name.registry for name in (*names, *chain.from_iterable(targets))]
        if access.creds and not registries:
            raise UsageError(
                "--creds is for the registries of the image's names, and it has none",
                hint="`assemble login REGISTRY` for that of a base image",
            )
        access = access.creds_to(*registries)
        if any(one.attributes.insecure for one in asked):
            access = access.insecure_for(*registries)
        options["access"] = access
        try:
            with builder_for(options, environment, cancellation, sink) as builder:
                bounds = bounds_of(environment, builder.warn)
                inputs = read_inputs(builder, options, environment)
                request = request_of(inputs, options, environment)
                if bounds and not request.require_cached:
                    builder.collect(bounds, before=True)
                place = place_of(inputs, options["context"])
                noted = names if imaged(asked) else ()
                with builder.recorded(request, noted, place) as reference:
                    image = _build(builder, request, names, asked, budget, programs, cancellation)
                if bounds:
                    builder.collect(bounds)
        except Cancelled as error:
            error.running = sink.names
            raise
        _write_results(image, _told(names, asked, image), reference, options)
        if image is not None and all(one.destination != "-" for one in asked):
            sys.stdout.write(f"{image.digest}\n")
            sys.stdout.flush()
    return None


def _told(
    names: tuple[Reference, ...], asked: tuple[OutputRequest, ...], image: Result | None
) -> tuple[Reference, ...]:
    """What the results say that `image` is called; nothing where there is none."""
    if image is None:
        return ()
    from assembler.cli.image_attributes import named

    return named(names, [one.attributes for one in asked], image.digest)


def _programs(
    asked: tuple[OutputRequest, ...],
    environment: Environment,
    cancellation: Cancellation,
    stack: ExitStack,
) -> dict[str, Outside]:
    """What loads images, by the contexts of docker, as long as `stack` is open. Raises HostError where
    there is nothing that does."""
    contexts = {one.context for one in asked if one.loads}
    if not contexts:
        return {}
    from assembler.linux.outside import Outside
    from assembler.output.load import loader

    commands = {context: loader(environment.get("PATH"), context) for context in sorted(contexts)}
    return {
        context: stack.enter_context(Outside(argv, environment.variables, cancellation))
        for context, argv in commands.items()
    }


def _build(
    builder: Builder,
    request: BuildRequest,
    names: tuple[Reference, ...],
    asked: tuple[OutputRequest, ...],
    budget: Budget,
    programs: Mapping[str, Outside],
    cancellation: Cancellation,
) -> Result | None:
    """The first image or index that is made; None where only files are written."""
    from assembler.cli.image_attributes import kept_names
    from assembler.cli.outputs import concrete, files_output, imaged

    if request.indexed and any(one.type == "docker" for one in asked):
        raise UsageError(
            "docker exporter does not currently support exporting manifest lists",
            hint="an archive of -o type=oci has room for the images of all platforms",
        )
    request = replace(
        request,
        whole=not asked or any(one.whole for one in asked),
        files_into=tuple(one.destination for one in asked if one.type == "local"),
    )
    annotated = _annotated(request, asked)
    packagings = tuple(annotated)
    plan = builder.checked(builder.plan(request))
    if plan.epoch is not None and any(one.attributes.rewrite is False for one in asked):
        raise UsageError(
            "rewrite-timestamp=false: new layers have no times after SOURCE_DATE_EPOCH",
            hint="build without SOURCE_DATE_EPOCH for the times that files have",
        )

    def build(packaging: Packaging, plan: Plan, first: bool) -> Result:
        compression, annotations = packaging.checked(), annotated[packaging]
        of_top = annotations.index_descriptor if request.indexed else annotations.descriptor
        outputs = [
            concrete(one, names, builder, of_top, programs)
            for one in asked
            if one.writes and not one.files and one.packaging == packaging
        ]
        attributes = [one.attributes for one in asked]
        with builder.delivery(outputs) as delivery:
            packaged = replace(
                request,
                compression=compression,
                recompress=packaging.force,
                docker_types=packaging.docker,
                annotations=annotations,
                wanted=lambda layer: any(output.reads(layer) for output in outputs),
                destination=delivery,
                files_to=files_to if first else None,
            )
            image = builder.build(packaged, plan)
            budget.check(image)
            builder.tag(image, kept_names(names, attributes, image.digest) if first else ())
            builder.deliver(image, delivery)
        return image

    images: list[Result] = []
    files = builder.files_delivery(
        [files_output(one, plan.epoch, request.indexed) for one in asked if one.files]
    )
    files_to = files.write if any(one.files for one in asked) else None
    if not imaged(asked):
        only = replace(request, files_to=files_to)
        _repaired(partial(builder.build_files, only, plan), builder, cancellation)
    for packaging in packagings if imaged(asked) else ():
        first = not images
        images.append(_repaired(partial(build, packaging, plan, first), builder, cancellation))
        # what ran for the first image is not run again for the next
        plan = replace(plan, stages=tuple(replace(one, fresh=False) for one in plan.stages))
    files.end()
    image = images[0] if images else None
    registries = [one.attributes.targets(names) for one in asked if one.type == "registry"]
    pushed = tuple(dict.fromkeys(name for targets in registries for name in targets))
    builder.export(replace(request, compression=packagings[0].checked()), plan, image, pushed)
    return image


def _annotated(
    request: BuildRequest, asked: tuple[OutputRequest, ...]
) -> dict[Packaging, Annotations]:
    """How the image is packed, in the order of the outputs, each with what it is annotated with. Raises
    UsageError."""
    from assembler.cli.outputs import Packaging

    kept = [one for one in asked if one.type != "cacheonly" and not one.files] or asked
    packagings = dict.fromkeys(one.packaging for one in kept) or {Packaging(): None}
    found = {one: _annotations(one, request) for one in packagings}
    if any(annotations.carried for one, annotations in found.items() if one.docker):
        raise UsageError("annotations cannot be exported with oci-mediatypes=false")
    return found


def _annotations(packaging: Packaging, request: BuildRequest) -> Annotations:
    """Those of one output and those of all, which win, as under buildx; of one image what is for its
    platform."""
    from assembler.images import host_platform

    found = request.annotations
    if packaging.annotations:
        from assembler.cli.annotations import annotations_of

        own = annotations_of(packaging.annotations, indexed=request.indexed, option="-o")
        found = own.under(found)
    return found if request.indexed else found.of(request.platform or host_platform())


def _repaired(build: Callable[[], Made], builder: Builder, cancellation: Cancellation) -> Made:
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
    from assembler.image_names import parse_reference, parse_repository

    words = (*tags, *(name for output in asked for name in output.names))
    names = tuple(dict.fromkeys(map(parse_reference, words)))
    pushed = [one.attributes for one in asked if one.attributes.push]
    if any(one.by_digest for one in pushed):
        for word in words:
            parse_repository(word, "push-by-digest")
    if not all(one.targets(names) for one in pushed):
        raise UsageError("--push needs a name", hint="add -t REGISTRY/REPOSITORY[:TAG]")
    return names


def _write_results(
    image: Result | None,
    names: tuple[Reference, ...],
    build: str,
    options: Mapping[str, Any],
) -> None:
    """What `--iidfile`, `--digest-file` and `--metadata-file` ask for. Where no image was made they
    say so: nothing that an earlier build left there is taken for this one's."""
    if options["iidfile"]:
        _write(options["iidfile"], "" if image is None else str(_id(image)))
    if options["digest_file"]:
        _write(options["digest_file"], "" if image is None else str(image.digest))
    if options["metadata_file"]:
        document = {"buildx.build.ref": build, **({} if image is None else _metadata(image, names))}
        _write(options["metadata_file"], json.dumps(document, indent=2) + "\n")


def _id(image: Result) -> Digest:
    """The digest of an image's configuration; an index has only its own."""
    from assembler.oci.image import Image

    return image.manifest.config.digest if isinstance(image, Image) else image.digest


def _metadata(image: Result, names: tuple[Reference, ...]) -> dict[str, object]:
    descriptor, id = image.document.descriptor, _id(image)
    configured = {} if id == image.digest else {"containerimage.config.digest": str(id)}
    return configured | {
        "containerimage.descriptor": descriptor.to_document(),
        "containerimage.digest": str(descriptor.digest),
        "image.name": ",".join(map(str, names)),
    }


def _write(path: str, text: str) -> None:
    from assembler.linux.replacing import written

    written(path, text.encode())
