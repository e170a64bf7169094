"""`--build-context name=value`: what stands in for stages and images, by name (rules X3, S4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from assembler.oci.platform import Platform
from assembler.oci.reference import Reference

NEVER = frozenset({"scratch", "context"})


@dataclass(frozen=True, slots=True)
class FilesContext:
    """A named context that is a tree of files: a directory, a repository, an archive."""

    name: str


@dataclass(frozen=True, slots=True)
class ImageContext:
    """A named context that is an image; `image` is the name it is resolved by."""

    image: str


NamedContext = FilesContext | ImageContext


@dataclass(frozen=True, slots=True)
class Contexts:
    """The named contexts of a build, by the names `context_name` gives."""

    named: Mapping[str, NamedContext] = field(default_factory=dict)

    def find(self, name: str, platform: Platform) -> NamedContext | None:
        """What stands in for `name`: `name::os/arch` first, then `name` (rule S4)."""
        if not self.named or name.lower() in NEVER:
            return None
        name = context_name(name)
        return self.named.get(f"{name}::{platform}") or self.named.get(name)


def context_name(text: str) -> str:
    """The name a context is found by: an image's familiar name without `:latest`, in lower case
    where it is no image's; a `::os/arch` at the end stays."""
    name, separator, platform = text.partition("::")
    if separator:
        platform = str(Platform.parse(platform))
    try:
        name = Reference.parse(name.lower()).familiar.removesuffix(":latest")
    except ValueError:
        name = name.lower()
    return f"{name}{separator}{platform}"
