"""What a step or a base layer changed, wherever its bytes are at the moment."""

from __future__ import annotations

from assembler.layer.changeset import Changeset
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.plan.plan import ResolvedImage
from assembler.values import value


@value
class BaseChange:
    """A layer of a pulled image. Its blob may not be here yet."""

    image: ResolvedImage
    descriptor: Descriptor
    diff_id: Digest

    @property
    def id(self) -> str:
        """The id of its layer directory."""
        return self.diff_id.hex


@value
class StepChange:
    """The result of a step. `identity` is its content key, `created` RFC 3339 text.

    `changeset` is None where the bytes are in a layer directory or in a packed blob.
    `from_run` says that the layer directory is the upper side of an overlay, which is compared
    with what is below before it is packed. `ran` and `source` are those of its `cache.base.Record`.
    """

    identity: Digest
    created: str
    from_run: bool
    changeset: Changeset | None = None
    ran: float = 0.0
    source: str = ""

    @property
    def id(self) -> str:
        """The id of its layer directory."""
        return self.identity.hex


Change = BaseChange | StepChange

Snapshot = tuple[Change, ...]
"""A file system as a stack of changes, lowest first."""


def base_snapshot(image: ResolvedImage) -> tuple[BaseChange, ...]:
    """The stack of an image's own layers."""
    return tuple(
        BaseChange(image, descriptor, diff_id)
        for descriptor, diff_id in zip(image.layers, image.config.diff_ids, strict=True)
    )
