"""A repository at one place, and who we are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assembler.oci.reference import Reference
from assembler.values import field, value

if TYPE_CHECKING:
    from assembler.registry.auth import Tokens


@value
class Repository:
    """A repository at an endpoint. `url` has no trailing slash: `https://host/v2/name`. `mirror`
    says that the endpoint is not the registry that `reference` names."""

    url: str
    registry: str
    name: str
    reference: Reference
    tokens: Tokens | None = field(default=None, repr=False, compare=False)
    mirror: bool = False
