"""`--build-context name=value`: what stands in for stages and images, by name (rules X3, S4)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from assembler.expressions import expression
from assembler.oci.platform import Platform
from assembler.oci.reference import Reference
from assembler.values import field, value

NEVER = frozenset({"scratch", "context"})
_STAGE = expression(r"[a-z][a-z0-9._-]*")


@value
class FilesContext:
    """A named context that is a tree of files: a directory, a repository, an archive."""

    name: str


@value
class ImageContext:
    """A named context that is an image; `image` is the name it is resolved by."""

    image: str


NamedContext = FilesContext | ImageContext


@value
class Contexts:
    """The named contexts of a build, by the names `context_key` gives."""

    named: Mapping[str, NamedContext] = field(default_factory=dict)

    def find(self, name: str, platform: Platform) -> NamedContext | None:
        """What stands in for `name`: `name::os/arch` first, then `name` (rule S4)."""
        if not self.named or name.lower() in NEVER:
            return None
        name = context_name(name)
        return self.named.get(f"{name}::{platform}") or self.named.get(name)


def context_name(text: str) -> str:
    """The name a context is found by: an image's familiar name without `:latest`; in lower case
    where it is no image's, as stages have it."""
    for spelling in (text, text.lower()):
        with contextlib.suppress(ValueError):
            return Reference.parse(spelling).familiar.removesuffix(":latest")
    return text.lower()


def context_key(text: str) -> str:
    """`text` of the command line as a name contexts are kept under: `context_name`, and the
    platform after `::` normalised. Raises ValueError for what names no stage, image or platform."""
    name, separator, platform = text.rpartition("::")
    if not name or "]" in platform:  # part of an IPv6 address
        name, separator, platform = text, "", ""
    name = context_name(name)
    if not _STAGE.fullmatch(name):
        Reference.parse(name)
    return f"{name}::{Platform.parse(platform)}" if separator else name
