"""An image: a manifest, its configuration, its layers. Complete at construction."""

from __future__ import annotations

from collections.abc import Mapping

from assembler.oci.config import ImageConfig
from assembler.oci.descriptor import CONFIG, CONFIGS, DOCKER_LIST, INDEX, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.manifest import Document, Index, Manifest, build, build_index
from assembler.oci.platform import Platform
from assembler.values import field, replace, value

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
    """Of the manifest's descriptor, in an index."""
    index: Mapping[str, str] = field(default_factory=dict)
    index_descriptor: Mapping[str, str] = field(default_factory=dict)
    """Of the index' descriptor, in a layout's index."""
    only: Mapping[Platform, Annotations] = field(default_factory=dict)
    """What is for the images of some platforms besides, which wins."""

    def of(self, platform: Platform) -> Annotations:
        """Those for the image of `platform`."""
        return replace(self.under(self.only.get(platform, Annotations())), only={})

    def under(self, other: Annotations) -> Annotations:
        """Those of both; `other` wins."""
        none = Annotations()
        platforms = {**self.only, **other.only}
        return Annotations(
            {**self.manifest, **other.manifest},
            {**self.descriptor, **other.descriptor},
            {**self.index, **other.index},
            {**self.index_descriptor, **other.index_descriptor},
            {one: self.only.get(one, none).under(other.only.get(one, none)) for one in platforms},
        )

    @property
    def carried(self) -> bool:
        """Whether a manifest or an index is to carry any, which Docker's have no room for."""
        return any((self.manifest, self.index, *(one.manifest for one in self.only.values())))


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
    def document(self) -> Document:
        """What its name means: the manifest."""
        return self.manifest

    @property
    def described(self) -> Descriptor:
        """The manifest's descriptor, with the platform."""
        return replace(self.manifest.descriptor, platform=self.config.platform)

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The blobs of layers, each once."""
        return tuple({layer.digest: layer for layer in self.manifest.layers}.values())

    @property
    def documents(self) -> Mapping[Digest, bytes]:
        """Configuration and manifest by their digests, in an order in which they may be written."""
        config = {self.manifest.config.digest: self.config_content}
        return {**config, self.digest: self.manifest.content}

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


@value
class ImageIndex:
    """Images for several platforms, and the index that names them (image-spec image-index.md)."""

    index: Index
    images: tuple[Image, ...]

    @property
    def digest(self) -> Digest:
        """The index' digest."""
        return self.index.descriptor.digest

    @property
    def document(self) -> Document:
        """What its name means: the index."""
        return self.index

    @property
    def described(self) -> Descriptor:
        """The index' descriptor, which is for no platform."""
        return self.index.descriptor

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The blobs of all layers, each once."""
        found = [layer for image in self.images for layer in image.manifest.layers]
        return tuple({layer.digest: layer for layer in found}.values())

    @property
    def documents(self) -> Mapping[Digest, bytes]:
        """As those of an image; the index is the last."""
        found: dict[Digest, bytes] = {}
        for image in self.images:
            found |= image.documents
        return {**found, self.digest: self.index.content}

    @classmethod
    def create(
        cls,
        images: Mapping[Platform, Image],
        annotations: Annotations,
        *,
        docker: bool = False,
    ) -> ImageIndex:
        """An index of `images`, in their order; with `docker` it is Docker's manifest list."""
        entries = [
            replace(
                image.manifest.descriptor,
                platform=_with_version(platform, image.config.platform),
                annotations=annotations.of(platform).descriptor,
            )
            for platform, image in images.items()
        ]
        kind = DOCKER_LIST if docker else INDEX
        return cls(build_index(entries, annotations.index, media_type=kind), tuple(images.values()))


def _with_version(platform: Platform, own: Platform) -> Platform:
    return replace(platform, os_version=own.os_version) if own.os_version else platform


Result = Image | ImageIndex
"""What a build gives."""
