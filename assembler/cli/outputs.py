"""`-o type=…` words to outputs (dockerfile-language.md 10.1)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from assembler.dockerfile.flags import parse_csv_fields
from assembler.errors import BadFlag, UsageError
from assembler.values import field, replace, value

if TYPE_CHECKING:
    from assembler.builder import Builder
    from assembler.layer.compression import Compression
    from assembler.oci.reference import Reference
    from assembler.output.base import Output

PACKAGING = {"compression", "compression-level", "force-compression", "oci-mediatypes"}
TYPES = {
    "oci": {"dest", "tar", "name"} | PACKAGING,
    "docker": {"dest", "name"} | PACKAGING,
    "image": {"name", "push"} | PACKAGING,
    "registry": {"name"} | PACKAGING,
    "cacheonly": set[str](),
}


@value
class Packaging:
    """How an image is packed: `level` None is the compression's default, `force` recompresses
    layers that exist, `docker` is for Docker's media types instead of OCI's."""

    compression: str = "gzip"
    level: int | None = None
    force: bool = False
    docker: bool = False

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
    """One `-o`, read and checked. `destination` is a path or `-`."""

    type: str
    destination: str = ""
    names: tuple[str, ...] = ()
    archive: bool = True
    packaging: Packaging = field(default_factory=Packaging)

    @property
    def writes(self) -> bool:
        """Whether anything besides the store is written."""
        return self.type not in ("store", "cacheonly")

    @property
    def whole(self) -> bool:
        """Whether every layer is needed here. A registry may have those of base images."""
        return self.type not in ("registry", "cacheonly")


def requested(words: Sequence[str], push: bool) -> tuple[OutputRequest, ...]:
    """What `-o` and `--push` ask for. Raises UsageError for what they cannot mean."""
    found = [_read(word) for word in words]
    if push:  # as buildx does it: what is kept in the store anyway is pushed as it is packed there
        found = [replace(one, type="registry") if one.type == "store" else one for one in found]
    if push and not any(output.type == "registry" for output in found):
        found.append(OutputRequest("registry"))
    for packaging in {output.packaging for output in found}:
        packaging.checked()
    return tuple(found)


def concrete(
    request: OutputRequest,
    names: Sequence[Reference],
    builder: Builder,
    annotations: Mapping[str, str] | None = None,
) -> Output:
    """The output that `request` means. `annotations` are of the manifest's descriptor."""
    if request.type == "registry":
        return builder.registry_output(tuple(names))
    name = str(names[0]) if names else ""
    if request.type == "oci" and not request.archive:
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
    if unknown := sorted(fields.keys() - TYPES[kind]):
        raise UsageError(f"-o {word}: {kind} has no attribute {unknown[0]!r}")
    names = tuple(filter(None, fields.get("name", "").split(",")))
    packaging = parse_packaging(f"-o {word}", fields)
    if kind == "image":
        kind = "registry" if fields.get("push") == "true" else "store"
    if kind in ("oci", "docker"):
        destination = fields.get("dest", "")
        if not destination:
            raise UsageError(f"-o {word}: dest is missing", hint=f"-o type={kind},dest=PATH")
        return OutputRequest(
            kind,
            destination if destination == "-" else os.path.abspath(destination),
            names,
            fields.get("tar", "true") != "false",
            packaging,
        )
    return OutputRequest(kind, names=names, packaging=packaging)


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


_TRUTHS = {
    text: truth
    for truth, texts in ((True, "1 t T TRUE true True"), (False, "0 f F FALSE false False"))
    for text in texts.split()
}


def parse_truth(option: str, fields: Mapping[str, str], key: str, default: bool) -> bool:
    """A value as Go's ParseBool reads it, which buildx uses; a key alone is true. Raises
    UsageError."""
    text = fields.get(key)
    if text is None:
        return default
    if text and text not in _TRUTHS:
        raise UsageError(f"{option}: {key} is neither true nor false")
    return _TRUTHS.get(text, True)
