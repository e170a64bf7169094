"""`-o type=…` words to outputs (dockerfile-language.md 10.1)."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from assembler.cli.image_attributes import EVERY, NAMED, ImageAttributes, annotation_words
from assembler.cli.request import DELETE
from assembler.cli.truths import parse_truth
from assembler.dockerfile.flags import parse_csv_fields
from assembler.errors import BadFlag, UsageError
from assembler.values import field, replace, value

if TYPE_CHECKING:
    from assembler.builder import Builder
    from assembler.layer.compression import Compression
    from assembler.linux.outside import Outside
    from assembler.oci.reference import Reference
    from assembler.output.base import FilesOutput, Output

PACKAGING = {"compression", "compression-level", "force-compression", "oci-mediatypes"}
IMAGE = {"name"} | PACKAGING | EVERY
TYPES = {
    "oci": {"dest", "tar"} | IMAGE,
    "docker": {"dest", "tar", "context"} | IMAGE,
    "image": IMAGE | NAMED,
    "registry": IMAGE | NAMED,
    "local": {"dest", "mode", "platform-split", "attestation-prefix", "source-date-epoch"},
    "tar": {"dest", "platform-split", "attestation-prefix", "source-date-epoch"},
    "cacheonly": set[str](),
}
FILES = ("local", "tar")
_STDOUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


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
    load; `context` is the one of docker's. Files get the time `epoch`, in seconds, if it is given;
    with `only`, what else is in their directory is removed; with `split` they are in a directory for
    each platform, where it is None only if there are several."""

    type: str
    destination: str = ""
    names: tuple[str, ...] = ()
    archive: bool = True
    packaging: Packaging = field(default_factory=Packaging)
    attributes: ImageAttributes = field(default_factory=ImageAttributes)
    context: str = ""
    epoch: int | None = None
    only: bool = False
    split: bool | None = None

    @property
    def files(self) -> bool:
        """Whether the files of the target are written, and no image."""
        return self.type in FILES

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
        """Whether every layer is needed here. A registry may have those of base images, and of files
        those that show are read."""
        return self.type not in ("registry", "cacheonly", *FILES)


def requested(
    words: Sequence[str], push: bool, load: bool = False, allow: Sequence[str] = ()
) -> tuple[OutputRequest, ...]:
    """What `-o`, `--push` and `--load` ask for, with `--allow`. Raises UsageError for what they cannot
    mean."""
    found = [_read(word) for word in filter(None, words)]
    if push:  # as buildx does it: what is kept in the store anyway is pushed as it is packed there
        found = [one.pushed() if one.type == "store" else one for one in found]
    if push and not any(output.type == "registry" for output in found):
        found.append(OutputRequest("store").pushed())
    if load and not any(output.loads for output in found):
        found.append(OutputRequest("docker"))
    for packaging in {output.packaging for output in found}:
        packaging.checked()
    for output in found:
        if output.only and DELETE not in allow and not _is_below_here(output.destination):
            raise UsageError(
                f"-o mode=delete: {output.destination} is not below the working directory",
                hint=f"--allow {DELETE} lets what is there be removed",
            )
    streams = [output.type for output in found if output.destination == "-"]
    if len(streams) > 1:
        raise UsageError("multiple outputs configured to write to stdout")
    if streams and sys.stdout.isatty():
        raise UsageError(
            f"-o: dest file is required for {streams[0]}, refusing to write to a terminal",
            hint=f"-o type={streams[0]},dest=FILE, or a pipe behind the command",
        )
    return tuple(found)


def imaged(asked: Sequence[OutputRequest]) -> bool:
    """Whether an image is made: not where only files are asked for."""
    others = (one for one in asked if one.type != "cacheonly")
    return all(not one.files for one in asked) or any(not one.files for one in others)


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


def files_output(request: OutputRequest, epoch: int | None, several: bool) -> FilesOutput:
    """The output of files that `request` means, in a build of the time `epoch`, which may be for
    `several` platforms."""
    split = several if request.split is None else request.split
    if request.epoch is not None:
        epoch = request.epoch
    if request.type == "tar":
        from assembler.output.tarball import Tarball

        return Tarball(request.destination, epoch, split=split)
    from assembler.output.directory import Directory

    return Directory(request.destination, epoch, only=request.only, split=split)


def _read(word: str) -> OutputRequest:
    if not word.startswith(("type=", '"')) and "," not in word:  # rule O1
        return _read_files(word, "tar" if word == "-" else "local", {"dest": word})
    try:
        fields = {key: text or "" for key, text in parse_csv_fields(word)}
    except BadFlag as error:
        raise UsageError(f"-o {word}: {error.message}") from error
    kind = fields.pop("type", "")
    if kind not in TYPES:
        raise UsageError(
            f"-o {word}: unknown or unsupported type {kind!r}", hint=f"one of {', '.join(TYPES)}"
        )
    annotations = annotation_words(fields) if kind not in ("cacheonly", *FILES) else {}
    if unknown := sorted(fields.keys() - TYPES[kind] - annotations.keys()):
        raise UsageError(f"-o {word}: {kind} has no attribute {unknown[0]!r}")
    if kind in FILES:
        return _read_files(word, kind, fields)
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
    path = "-" if path in _STDOUT else path
    if not archive and path in ("", "-"):
        hint = f"-o type={kind},tar=false,dest=DIR"
        raise UsageError(f"-o {word}: dest, a directory, is missing", hint=hint)
    if not path and kind == "oci":
        path = "-"
    return os.path.abspath(path) if path not in ("", "-") else path


def _read_files(word: str, kind: str, fields: Mapping[str, str]) -> OutputRequest:
    """An output of files: what buildx checks of it, and of what is not there that it is not asked for."""
    option, destination = f"-o {word}", fields.get("dest", "")
    if kind == "tar":
        destination = "-" if destination in ("", *_STDOUT) else destination
        if destination != "-" and os.path.isdir(destination):
            raise UsageError(f"{option}: {destination} is a directory")
    elif not destination:
        raise UsageError(f"{option}: dest is missing", hint="-o DIR, or -o type=local,dest=DIR")
    elif destination == "-":
        raise UsageError(f"{option}: dest cannot be stdout", hint="-o - is a tar on stdout")
    elif os.path.exists(destination) and not os.path.isdir(destination):
        raise UsageError(f"{option}: {destination} is no directory")
    split = None
    if "platform-split" in fields:
        split = parse_truth(option, fields, "platform-split", True)
    if fields.get("attestation-prefix"):
        raise UsageError(f"{option}: attestation-prefix has no meaning: no attestation is written")
    mode = fields.get("mode") or "copy"
    if mode not in ("copy", "delete"):
        raise UsageError(f"{option}: invalid mode {mode!r}", hint="copy or delete")
    time = fields.get("source-date-epoch", "")
    if time and not (time.isdecimal() and time.isascii() and len(time) <= 11):
        raise UsageError(f"{option}: source-date-epoch is not a number of seconds since 1970")
    path = destination if destination == "-" else os.path.abspath(destination)
    when = int(time) if time else None
    return OutputRequest(kind, path, epoch=when, only=mode == "delete", split=split)


def _is_below_here(path: str) -> bool:
    """Whether `path`, wherever links lead, is in the working directory, and not that itself."""
    here = os.path.join(os.path.realpath("."), "")
    return os.path.realpath(path).startswith(here)


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
