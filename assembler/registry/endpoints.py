"""Where a name is read: its mirrors in order, then its registry (registries.conf(5))."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from assembler.errors import (
    NotFound,
    ProtocolViolation,
    RateLimited,
    RegistryError,
    Unreachable,
)
from assembler.oci.reference import Reference
from assembler.registry.client import RegistryClient, Repository

Found = TypeVar("Found")


class ContentChanged(ProtocolViolation):
    """Bytes that are not those of their digest."""


def from_any(
    client: RegistryClient, reference: Reference, ask: Callable[[Repository], Found]
) -> Found:
    """What `ask` gives for the first endpoint of `reference` that has it.

    A mirror that has it not, refuses, fails or is down is passed over; one that has something else
    in its place ends it: whoever changes content is to be noticed (RG-15). Raises RegistryError, the
    registry's own; its hint names a mirror that failed.
    """
    failed = ""
    for endpoint in client.endpoints(reference):
        if endpoint.mirror and endpoint.host in client.unreachable:
            continue
        try:
            return ask(client.repository(endpoint, reference))
        except ContentChanged:
            raise
        except RegistryError as error:
            if not endpoint.mirror:
                if failed:
                    error.hint = f"{error.hint}; {failed}" if error.hint else failed
                raise
            if isinstance(error, Unreachable | RateLimited):
                client.unreachable.add(endpoint.host)
            if not isinstance(error, NotFound):
                failed = failed or f"its mirror {endpoint.host} failed too: {error.message}"
    raise NotFound(f"{reference.familiar} has no registry to be read from")
