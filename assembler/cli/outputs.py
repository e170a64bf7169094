"""`-o type=…` words to outputs (dockerfile-language.md 10.1)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assembler.errors import UsageError

if TYPE_CHECKING:
    from assembler.builder import Builder
    from assembler.oci.reference import Reference
    from assembler.output.base import Output

TYPES = {
    "oci": {"dest", "tar", "name"},
    "docker": {"dest", "name"},
    "image": {"name", "push"},
    "registry": {"name"},
    "cacheonly": set[str](),
}


@dataclass(frozen=True, slots=True)
class OutputRequest:
    """One `-o`, read and checked. `destination` is a path or `-`."""

    type: str
    destination: str = ""
    names: tuple[str, ...] = ()
    archive: bool = True

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
    if push and not any(output.type == "registry" for output in found):
        found.append(OutputRequest("registry"))
    return tuple(found)


def concrete(
    request: OutputRequest,
    names: Sequence[Reference],
    builder: Builder,
    annotations: Mapping[str, str] | None = None,
) -> Output:
    """The output that `request` means. `annotations` are of the manifest's descriptor."""
    if request.type == "registry":
        from assembler.output.registry import RegistryOutput

        images = builder.images
        return RegistryOutput(images.client, tuple(names), mount_from=images.sources)
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
    fields = dict(part.partition("=")[::2] for part in word.split(","))
    kind = fields.pop("type", "")
    if kind not in TYPES:
        raise UsageError(
            f"-o {word}: unknown or unsupported type {kind!r}", hint=f"one of {', '.join(TYPES)}"
        )
    if unknown := sorted(fields.keys() - TYPES[kind]):
        raise UsageError(f"-o {word}: {kind} has no attribute {unknown[0]!r}")
    names = tuple(filter(None, fields.get("name", "").split(",")))
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
        )
    return OutputRequest(kind, names=names)
