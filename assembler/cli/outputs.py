"""`-o type=…` words to outputs (dockerfile-language.md 10.1)."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from assembler.cli.image_attributes import EVERY, NAMED, ImageAttributes, annotation_words
from assembler.cli.truths import parse_truth
from assembler.dockerfile.flags import parse_csv_fields
from assembler.errors import BadFlag, UsageError
from assembler.values import field, replace, value

if TYPE_CHECKING:
    from assembler.builder import Builder
    from assembler.layer.compression import Compression
    from assembler.linux.outside import Outside
    from assembler.oci.reference import Reference
    from assembler.output.base import Output

PACKAGING = {"compression", "compression-level", "force-compression", "oci-mediatypes"}
IMAGE = {"name"} | PACKAGING | EVERY
TYPES = {
    "oci": {"dest", "tar"} | IMAGE,
    "docker": {"dest", "tar", "context"} | IMAGE,
    "image": IMAGE | NAMED,
    "registry": IMAGE | NAMED,
    "cacheonly": set[str](),
}


@value
class Packaging:
    """How an image is packed: `level` None is the compression's default, `force` recompresses
    layers that exist, `docker` is for Docker's media types instead of OCI's, `annotations` are words
    of `--annotation`."""

    compression: str = "gzip"
    level: int | None = None
    force: bool = False
    docker: bool = False
    annotations: tuple[str, ...] = ()

    def checked(self) -> Compression:
        """The compression. Raises UsageError where there is none with this name and level, and
        where Docker's media types cannot say it (rule Y7)."""
        from assembler.layer.compression import by_name, oci_only

        compression = by_name(self.compression, self.level)
        if self.docker and oci_only(compression):
            raise UsageError(
                f"compression={self.compression} conflicts with oci-mediatypes=false",
                hint="Docker's media types are for gzip and uncompressed layers",
            )
        return compression


@value
class OutputRequest:
    """One `-o`, read and checked. `destination` is a path or `-`, empty for what `docker` or podman
    load; `context` is the one of docker's."""

    type: str
    destination: str = ""
    names: tuple[str, ...] = ()
    archive: bool = True
    packaging: Packaging = field(default_factory=Packaging)
    attributes: ImageAttributes = field(default_factory=ImageAttributes)
    context: str = ""

    @property
    def loads(self) -> bool:
        """Whether docker or podman are to load it."""
        return self.type == "docker" and not self.destination

    def pushed(self) -> OutputRequest:
        """The same, pushed."""
        return replace(self, type="registry", attributes=replace(self.attributes, push=True))

    @property
    def writes(self) -> bool:
        """Whether anything besides the store is written."""
        return self.type not in ("store", "cacheonly")

    @property
    def whole(self) -> bool:
        """Whether every layer is needed here. A registry may have those of base images."""
        return self.type not in ("registry", "cacheonly")


def requested(words: Sequence[str], push: bool, load: bool = False) -> tuple[OutputRequest, ...]:
    """What `-o`, `--push` and `--load` ask for. Raises UsageError for what they cannot mean."""
    found = [_read(word) for word in words]
    if push:  # as buildx does it: what is kept in the store anyway is pushed as it is packed there
        found = [one.pushed() if one.type == "store" else one for one in found]
    if push and not any(output.type == "registry" for output in found):
        found.append(OutputRequest("store").pushed())
    if load and not any(output.loads for output in found):
        found.append(OutputRequest("docker"))
    for packaging in {output.packaging for output in found}:
        packaging.checked()
    streams = [output.type for output in found if output.destination == "-"]
    if len(streams) > 1:
        raise UsageError("multiple outputs configured to write to stdout")
    if streams and sys.stdout.isatty():
        raise UsageError(
            f"-o: dest file is required for {streams[0]}, refusing to write to a terminal",
            hint=f"-o type={streams[0]},dest=FILE, or a pipe behind the command",
        )
    return tuple(found)


def concrete(
    request: OutputRequest,
    names: Sequence[Reference],
    builder: Builder,
    annotations: Mapping[str, str],
    programs: Mapping[str, Outside],
) -> Output:
    """The output that `request` means. `annotations` are of the manifest's descriptor; `programs`
    load images, by the contexts of docker."""
    if request.type == "registry":
        return builder.registry_output(request.attributes.targets(names))
    if request.loads:
        from assembler.output.load import Load

        return Load(programs[request.context], tuple(map(str, names)), annotations)
    name = str(names[0]) if names else ""
    if not request.archive:
        from assembler.output.layout import LayoutDirectory

        return LayoutDirectory(request.destination, name, annotations)
    from assembler.output.archive import Archive

    return Archive(
        request.destination,
        tuple(map(str, names)),
        docker=request.type == "docker",
        annotations=annotations,
    )


def _read(word: str) -> OutputRequest:
    try:
        fields = {key: text or "" for key, text in parse_csv_fields(word)}
    except BadFlag as error:
        raise UsageError(f"-o {word}: {error.message}") from error
    kind = fields.pop("type", "")
    if kind not in TYPES:
        raise UsageError(
            f"-o {word}: unknown or unsupported type {kind!r}", hint=f"one of {', '.join(TYPES)}"
        )
    annotations = annotation_words(fields) if kind != "cacheonly" else {}
    if unknown := sorted(fields.keys() - TYPES[kind] - annotations.keys()):
        raise UsageError(f"-o {word}: {kind} has no attribute {unknown[0]!r}")
    names = tuple(filter(None, fields.get("name", "").split(",")))
    packaging = parse_packaging(f"-o {word}", fields)
    packaging = replace(packaging, annotations=tuple(annotations.values()))
    attributes = ImageAttributes.read(f"-o {word}", fields)
    if kind not in ("oci", "docker"):
        # a registry is pushed to whatever it says of push, as under buildx
        pushed = attributes.push or kind == "registry"
        kind = "store" if kind == "image" else kind
        found = OutputRequest(kind, names=names, packaging=packaging, attributes=attributes)
        return found.pushed() if pushed else found
    archive = parse_truth(f"-o {word}", fields, "tar", True)
    return OutputRequest(
        kind,
        _destination(word, kind, archive, fields.get("dest", "")),
        names,
        archive,
        packaging,
        attributes,
        fields.get("context", ""),
    )


def _destination(word: str, kind: str, archive: bool, path: str) -> str:
    """Where an archive or a layout goes: without a path to stdout, or to docker. Raises UsageError."""
    if not archive and path in ("", "-"):
        hint = f"-o type={kind},tar=false,dest=DIR"
        raise UsageError(f"-o {word}: dest, a directory, is missing", hint=hint)
    if not path and kind == "oci":
        path = "-"
    return os.path.abspath(path) if path not in ("", "-") else path


def parse_packaging(option: str, fields: Mapping[str, str]) -> Packaging:
    """How the `fields` of `option` say to pack. Raises UsageError."""
    level = fields.get("compression-level", "")
    try:
        return Packaging(
            compression=fields.get("compression", "gzip"),
            level=int(level) if level else None,
            force=parse_truth(option, fields, "force-compression", False),
            docker=not parse_truth(option, fields, "oci-mediatypes", True),
        )
    except ValueError as error:
        raise UsageError(f"{option}: compression-level is not a number") from error
