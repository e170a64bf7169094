"""`--max-size` and `--max-layers`: an image that may be only so large."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assembler.errors import OverBudget, UsageError
from assembler.values import value

if TYPE_CHECKING:
    from assembler.oci.image import Image, Result

_SHOWN = 5  # layers that are to blame
_LONGEST = 100  # characters of an instruction


@value
class Budget:
    """What an image may have: bytes of its layers, as they are sent, and layers; None for any."""

    size: int | None = None
    layers: int | None = None

    def check(self, result: Result) -> None:
        """Raises OverBudget, with the largest layers and what made them, for an image, or the first of
        an index, that has more."""
        from assembler.oci.image import Image

        if isinstance(result, Image):
            self._check(result, "the image")
        else:
            for image in result.images:
                self._check(image, f"the image for {image.config.platform}")

    def _check(self, image: Image, called: str) -> None:
        layers = image.manifest.layers
        size = sum(layer.size for layer in layers)
        if self.size is not None and size > self.size:
            problem = f"{called} has {size} bytes, and may have {self.size} (--max-size)"
        elif self.layers is not None and len(layers) > self.layers:
            problem = (
                f"{called} has {len(layers)} layers, and may have {self.layers} (--max-layers)"
            )
        else:
            return
        raise OverBudget(problem, hint=f"the largest layers: {'; '.join(_largest(image))}")


def budget_of(size: str, layers: int | None) -> Budget:
    """What the options say. Raises UsageError."""
    if not size:
        return Budget(None, layers)
    from assembler.cli.limits import size_of

    found = size_of(size)
    if found is None:
        raise UsageError(f"--max-size {size}: not a size", hint="--max-size 200m")
    return Budget(found, layers)


def _largest(image: Image) -> list[str]:
    from assembler.source import printable

    made = image.instructions or [str(layer.digest) for layer in image.manifest.layers]
    sizes = [layer.size for layer in image.manifest.layers]
    order = sorted(zip(sizes, made, strict=True), key=lambda one: -one[0])
    return [f"{size} bytes by {printable(text)[:_LONGEST]}" for size, text in order[:_SHOWN]]
