"""The cache seam: what a step's key led to before."""

from __future__ import annotations

from typing import Protocol

from assembler.oci.digest import Digest
from assembler.values import value


@value
class Record:
    """The result of a step.

    `identity` is the step's content key: what later steps' keys build on. `created` is when it
    ran (RFC 3339, UTC). `inputs` is JSON text of what went into the key.
    """

    identity: Digest
    created: str
    inputs: str = "{}"


class Cache(Protocol):
    """Looks up and records. Both may be called from several threads."""

    def lookup(self, key: Digest) -> Record | None:
        """What is recorded under `key` (a definition key or an identity), None when nothing is."""
        ...

    def record(self, key: Digest, record: Record) -> None:
        """Remember `record` under `key`, replacing what was there."""
        ...
