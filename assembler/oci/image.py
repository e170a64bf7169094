"""An image: a manifest, its configuration, its layers. Complete at construction."""

from __future__ import annotations

from collections.abc import Mapping

from assembler.oci.config import ImageConfig
from assembler.oci.descriptor import CONFIG, CONFIGS, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.manifest import Manifest, build
from assembler.values import field, value

_BORNE = frozenset(("", "application/octet-stream", "application/json", "text/html"))
"""What old registries made of a configuration's media type; moby takes it for one too."""


@value
class Layer:
    """A packed layer: `descriptor` is of the stored blob, `diff_id` of the tar inside it."""

    descriptor: Descriptor
    diff_id: Digest


@value
class Annotations:
    """Annotations asked for, by what carries them (rule Y8)."""

    manifest: Mapping[str, str] = field(default_factory=dict)
    descriptor: Mapping[str, str] = field(default_factory=dict)
    """Of the manifest's descriptor, in a layout's index."""


@value
class Image:
    """A manifest and the configuration it names. `config_content` are the bytes of the latter."""

    manifest: Manifest
    config: ImageConfig
    config_content: bytes

    @property
    def digest(self) -> Digest:
        """The manifest's digest."""
        return self.manifest.descriptor.digest

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, lowest first."""
        return tuple(map(Layer, self.manifest.layers, self.config.diff_ids))

    @property
    def instructions(self) -> tuple[str, ...] | None:
        """What made each layer, lowest first; None where the history tells of another number of
        layers, as of an image that somebody squashed."""
        made = tuple(one.created_by for one in self.config.history if not one.empty_layer)
        return made if len(made) == len(self.manifest.layers) else None

    @classmethod
    def read(cls, manifest: Manifest, config_content: bytes) -> Image:
        """An image from stored documents. Raises ValueError where they contradict each other, and
        for an artifact that is no image. That history and layers disagree is borne, as by moby."""
        if manifest.config.media_type not in CONFIGS | _BORNE:
            raise ValueError(f"it is no image, but {manifest.config.media_type[:100]!r}")
        if not manifest.config.digest.matches(config_content):
            raise ValueError(f"image config does not have digest {manifest.config.digest}")
        config = ImageConfig.parse(config_content)
        if len(config.diff_ids) != len(manifest.layers):
            raise ValueError(
                f"image config names {len(config.diff_ids)} layers, its manifest {len(manifest.layers)}"
            )
        return cls(manifest, config, config_content)

    @classmethod
    def create(
        cls,
        config: ImageConfig,
        layers: tuple[Layer, ...],
        annotations: Mapping[str, str] | None = None,
        *,
        docker: bool = False,
    ) -> Image:
        """A new image of `layers`, whose diff_ids `config` has; with `docker` its media types are
        Docker's instead of OCI's."""
        if config.diff_ids != tuple(layer.diff_id for layer in layers):
            raise ValueError("configuration and layers disagree")
        content = config.serialise()
        described = Descriptor(CONFIG, Digest.of(content), len(content))
        descriptors = (layer.descriptor for layer in layers)
        return cls(build(described, descriptors, annotations, docker=docker), config, content)
