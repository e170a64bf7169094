"""Whether a repository takes what is pushed to it, asked before there is anything to push.

A token that was given proves nothing: Docker Hub gives one to whoever asks (hub-feedback#1771). So an
upload is opened, as go-containerregistry does it for Kaniko. It is kept for the first blob that is sent:
docker-registry 2 keeps the hash state of one that is given up for ever. What Kaniko's users called false
alarms were failures in passing (kaniko#1935, kaniko#2657) and options that its push knew and its check did
not (kaniko#628): here both are one client, and what may pass is no refusal.
"""

from __future__ import annotations

from contextlib import suppress

from assembler.errors import RegistryError, Unauthorized, Unreachable
from assembler.net.client import Request, Response
from assembler.net.failure import Cause
from assembler.oci.reference import Reference
from assembler.registry.client import PUSH, RegistryClient, Repository, refused
from assembler.registry.locations import located
from assembler.registry.messages import codes

_FINAL = frozenset({401, 403, 404})
"""And 405 UNSUPPORTED, which distribution says where it is a mirror. While it is read-only to collect
garbage it says 405 without a code."""

_OPERATION = "the upload of a layer"  # as the push calls what it does not know yet


def refusal(client: RegistryClient, reference: Reference) -> RegistryError | None:
    """What a push to the repository of `reference` will end with, None where that is not sure. Else
    there is an upload in `client.ahead`, to be ended by `forget`. Raises Cancelled."""
    try:
        endpoint = client.configuration.endpoint(reference)
    except RegistryError as error:  # what registries.conf says stays
        return error
    repository = client.repository(endpoint, reference)
    url = _uploads(repository)
    request = Request("POST", url, repository.registry, _OPERATION, length=0)
    try:
        answer = client.send(repository, request, PUSH)
    except RegistryError as error:
        return error if _lasts(error) else None
    if answer.status == 202:
        _keep(client, repository, answer)
        return None
    final = answer.status in _FINAL or (answer.status == 405 and "UNSUPPORTED" in codes(answer))
    return refused(answer, repository, _OPERATION) if final else None


def forget(client: RegistryClient) -> None:
    """Have registries forget the uploads in `client.ahead`, which nobody went on with."""
    for url in list(client.ahead):
        opened = client.ahead.pop(url, None)
        if opened is not None:
            _give_up(client, *opened)


def _keep(client: RegistryClient, repository: Repository, answer: Response) -> None:
    """Keep the upload that `answer` opened; one for each repository will do."""
    opened = repository, answer
    if answer.header("location") and client.ahead.setdefault(repository.url, opened) is not opened:
        _give_up(client, repository, answer)


def _give_up(client: RegistryClient, repository: Repository, answer: Response) -> None:
    operation = f"the end of {_OPERATION}"
    with suppress(RegistryError):  # a location that may not be gone to
        url = located(answer, _uploads(repository), repository, operation)
        client.farewell(repository, Request("DELETE", url, repository.registry, operation))


def _uploads(repository: Repository) -> str:
    return f"{repository.url}/blobs/uploads/"


def _lasts(error: RegistryError) -> bool:
    """Whether the next attempt will end so too: when a token server refused, or nothing answered for
    a reason that stays."""
    if isinstance(error, Unreachable):
        return bool(error.cause) and Cause(error.cause).lasts
    return isinstance(error, Unauthorized)
