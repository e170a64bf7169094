"""Whether a repository takes what is pushed to it, asked before there is anything to push.

A token that was given proves nothing: Docker Hub gives one to whoever asks (hub-feedback#1771), Quay one
that is good for less. So an upload is begun, as go-containerregistry does it for Kaniko. What Kaniko's
users called false alarms were failures in passing (kaniko#1935, kaniko#2657) and options that its push
knew and its check did not (kaniko#628): here both are one client, and what may pass is no refusal.
"""

from __future__ import annotations

from assembler.errors import NotFound, RegistryError, Unauthorized, Unreachable
from assembler.net.failure import Cause
from assembler.oci.reference import Reference
from assembler.registry.client import RegistryClient
from assembler.registry.destination import Destination
from assembler.registry.upload import begin_and_forget

_NOT_ALLOWED = 405  # of distribution that is a mirror, whatever is sent


def refusal(client: RegistryClient, reference: Reference) -> RegistryError | None:
    """What a push to the repository of `reference` will end with, None where that is not sure. Leaves
    no upload behind, where the registry lets uploads be given up. Raises Cancelled."""
    try:
        endpoint = client.configuration.endpoint(reference)
    except RegistryError as error:  # what registries.conf says stays
        return error
    try:
        begin_and_forget(Destination(client, client.repository(endpoint, reference)))
    except RegistryError as error:
        return error if _lasts(error) else None
    return None


def _lasts(error: RegistryError) -> bool:
    if isinstance(error, Unreachable):
        return bool(error.cause) and Cause(error.cause).lasts
    return isinstance(error, Unauthorized | NotFound) or error.status == _NOT_ALLOWED
