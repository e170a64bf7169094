"""A repository at one place, and who we are there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from assembler.oci.reference import Reference

if TYPE_CHECKING:
    from assembler.registry.auth import Tokens


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at an endpoint. `url` has no trailing slash: `https://host/v2/name`. `mirror`
    says that the endpoint is not the registry that `reference` names."""

    url: str
    registry: str
    name: str
    reference: Reference
    tokens: Tokens | None = field(default=None, repr=False, compare=False)
    mirror: bool = False
