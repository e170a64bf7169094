"""The cache seam: what a step's key led to before."""

from __future__ import annotations

from typing import Protocol

from assembler.oci.digest import Digest
from assembler.values import value


@value
class Record:
    """The result of a step.

    `identity` is the step's content key: what later steps' keys build on. `created` is the time its
    history tells (RFC 3339, UTC), which may be the epoch's; `ran` is when it really ran, in seconds
    since the epoch, 0.0 where that is not known. `inputs` is JSON text of what went into the key
    (`plan.inputs`). `source` says where an imported record came from, such as
    `ghcr.io/o/app:cache`; it is empty for the local store's.
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
