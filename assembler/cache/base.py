"""The cache seam: what a step's key led to before."""

from __future__ import annotations

from typing import Protocol

from assembler.oci.digest import Digest
from assembler.values import value


@value
class Record:
    """The result of a step.

    `identity` is the step's content key: what later steps' keys build on. `created` is when it
    ran (RFC 3339, UTC), or the time that SOURCE_DATE_EPOCH says. `inputs` is JSON text of what went
    into the key. `ran` is when it really ran, in seconds since the epoch, 0 where nobody knows;
    `source` is where the record was imported from, as people name it, empty for this store.
    """

    identity: Digest
    created: str
    inputs: str = "{}"
    ran: float = 0.0
    source: str = ""


class Cache(Protocol):
    """Looks up and records. Both may be called from several threads."""

    def lookup(self, key: Digest) -> Record | None:
        """What is recorded under `key` (a definition key or an identity), None when nothing is."""
        ...

    def record(self, key: Digest, record: Record) -> None:
        """Remember `record` under `key`, replacing what was there."""
        ...
