"""What a plan needs from elsewhere: images, by name and platform, before it can be made; and the
names that steps take files by."""

from __future__ import annotations

from assembler.oci.platform import Platform
from assembler.source import Span
from assembler.values import field, value


@value
class Use:
    """A name after `COPY --from=` or in a mount's `from`; `target` is the mount's, as written."""

    name: str
    span: Span
    target: str | None = None


@value
class Need:
    """An image to be resolved. `image` is the full normalised name."""

    image: str
    platform: Platform
    span: Span = field(compare=False, repr=False)
    exact: bool = field(default=False, compare=False)
    """The platform was asked for; else an image of another one will do (rule S14)."""
    short: str = field(default="", compare=False)
    """The name as it was written, where it names no registry: hosts may have their own idea of it."""

    @property
    def key(self) -> str:
        """The key of the resolved image in `Plan.images`."""
        return f"{self.image} {self.platform}"
