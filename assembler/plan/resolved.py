"""An image that a name was found to mean."""

from __future__ import annotations

from assembler.oci.config import ImageConfig
from assembler.oci.descriptor import Descriptor
from assembler.values import value


@value
class ResolvedImage:
    """An image pinned for this build: its name, manifest, configuration and layers, lowest first.

    `layers[i]` is the packed form of `config.diff_ids[i]`.
    """

    name: str
    manifest: Descriptor
    config: ImageConfig
    layers: tuple[Descriptor, ...]
