"""What a plan needs from outside before it can be made: images, by name and platform."""

from __future__ import annotations

from dataclasses import dataclass, field

from assembler.oci.platform import Platform
from assembler.source import Span


@dataclass(frozen=True, slots=True)
class Need:
    """An image to be resolved. `image` is the full normalised name."""

    image: str
    platform: Platform
    span: Span = field(compare=False, repr=False)

    @property
    def key(self) -> str:
        """The key of the resolved image in `Plan.images`."""
        return f"{self.image} {self.platform}"
