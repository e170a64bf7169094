"""Requests to one registry's repositories: scheme, authorization, errors with a remedy."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import (
    NotFound,
    ProtocolViolation,
    RateLimited,
    RegistryError,
    Unauthorized,
    Unreachable,
)
from assembler.net.client import HttpClient, Request, Response, Stream
from assembler.net.origin import Origin
from assembler.net.retry import RETRYABLE, RetryPolicy
from assembler.oci.reference import Reference
from assembler.registry.auth import Challenge, Tokens
from assembler.registry.configuration import Endpoint, RegistryConfiguration
from assembler.registry.credentials import find
from assembler.source import printable

PULL, PUSH = "pull", "pull,push"


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at an endpoint. `url` has no trailing slash: `https://host/v2/name`."""

    url: str
    registry: str
    name: str
    reference: Reference


class RegistryClient:
    """Speaks to registries for one command. Use it with `with`; threads share it."""

    def __init__(
        self,
        environment: Environment,
        configuration: RegistryConfiguration,
        *,
        cancellation: Cancellation,
        policy: RetryPolicy | None = None,
    ) -> None:
        self._environment = environment
        self.configuration = configuration
        self.cancellation = cancellation
        self._stack = ExitStack()
        self.http = self._stack.enter_context(
            HttpClient(
                cancellation=cancellation,
                policy=policy,
                unverified=configuration.insecure,
                certificates=lambda host: certificates(environment, host),
            )
        )
        self._lock = threading.Lock()
        self._tokens: dict[str, Tokens] = {}
        self._schemes: dict[str, str] = {}
        self.unreachable: set[str] = set()
        """The mirrors that did not answer: they are not asked again."""

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def repository(self, endpoint: Endpoint, reference: Reference) -> Repository:
        """The repository at `endpoint`; the scheme is found out once for each host."""
        scheme = self._scheme(endpoint, reference)
        url = f"{scheme}://{endpoint.address}/v2/{endpoint.repository}"
        return Repository(url, endpoint.host, endpoint.repository, reference)

    def send(
        self,
        repository: Repository,
        request: Request,
        actions: str,
        limit: int = 4 << 20,
        also: Sequence[str] = (),
    ) -> Response:
        """The answer to `request`, authorized for `actions` (PULL or PUSH) on the repository, and
        for the scopes `also`."""
        scope = " ".join((f"repository:{repository.name}:{actions}", *also))
        response = self.http.request(self._authorized(repository, request, scope), limit)
        if response.status != 401:
            return response
        again = self._answered(repository, request, scope, response.header("www-authenticate"))
        return self.http.request(again, limit)

    @contextmanager
    def stream(self, repository: Repository, request: Request, actions: str) -> Iterator[Stream]:
        """The same with the body unread."""
        scope = f"repository:{repository.name}:{actions}"
        authorized = self._authorized(repository, request, scope)
        with ExitStack() as stack:
            answer = stack.enter_context(self.http.stream(authorized))
            if answer.status == 401:
                header = answer.header("www-authenticate")
                stack.close()
                authorized = self._answered(repository, request, scope, header)
                answer = stack.enter_context(self.http.stream(authorized))
            yield answer

    def _authorized(self, repository: Repository, request: Request, scope: str) -> Request:
        same = Origin.of(request.url) == Origin.of(repository.url)
        header = self._tokens_of(repository).header(scope) if same else ""
        return replace(request, private={"Authorization": header}) if header else request

    def _answered(
        self, repository: Repository, request: Request, scope: str, challenge: str
    ) -> Request:
        if Origin.of(request.url) != Origin.of(repository.url):
            return request  # another origin asks: nothing of ours goes there
        credential = find(self._environment, repository.reference, self.cancellation)
        header = self._tokens_of(repository).answer(Challenge.parse(challenge), scope, credential)
        return replace(request, private={"Authorization": header})

    def _tokens_of(self, repository: Repository) -> Tokens:
        with self._lock:
            if repository.registry not in self._tokens:
                origin = Origin.of(repository.url)
                self._tokens[repository.registry] = Tokens(self.http, repository.registry, origin)
            return self._tokens[repository.registry]

    def _scheme(self, endpoint: Endpoint, reference: Reference) -> str:
        with self._lock:
            known = self._schemes.get(endpoint.host)
        if known is not None:
            return known
        scheme = endpoint.schemes[0]
        if len(endpoint.schemes) > 1:
            probe = Request("GET", f"https://{endpoint.address}/v2/", endpoint.host, "its version")
            try:
                self.http.request(probe)
            except Unreachable:
                scheme = endpoint.schemes[1]
        with self._lock:
            self._schemes[endpoint.host] = scheme
        return scheme


def refused(response: Response, repository: Repository, operation: str) -> RegistryError:
    """The error for a status that is no success: what happened, and what to do about it."""
    where = f"{repository.registry}/{repository.name}"
    status = response.status
    text = f"{where}: {operation} was answered with status {status}{_diagnosis(response)}"
    facts: dict[str, object] = {}
    kind: Callable[..., RegistryError] = ProtocolViolation
    hint = ""
    if status in (401, 403):
        kind = Unauthorized
        hint = f"log in with `podman login {repository.registry}`, or check that you may do this"
    elif status == 404:
        kind, hint = NotFound, "check the name and the tag"
        text = f"{where}: {operation}: not found{_diagnosis(response)}"
    elif status == 429:
        kind, hint = (
            RateLimited,
            "log in for a higher limit, wait, or use a mirror in registries.conf",
        )
    elif status == 413:
        hint = "the registry, or a proxy before it, limits the size of uploads"
    elif status in RETRYABLE:
        kind, hint = Unreachable, "the registry fails; try again later"
    return kind(
        text, registry=repository.registry, operation=operation, status=status, hint=hint, **facts
    )


def _diagnosis(response: Response) -> str:
    """What the server says of it, escaped and short."""
    try:
        errors = json.loads(response.body)["errors"]
        said = "; ".join(str(one.get("message") or one.get("code")) for one in errors[:3])
    except (ValueError, KeyError, TypeError, AttributeError):
        said = response.body[:200].decode("utf-8", "replace").strip()
    said = printable(" ".join(said.split()))[:200]
    return f" ({said})" if said else ""


def certificates(environment: Environment, host: str) -> tuple[str, str, str]:
    """(CA file, client certificate, key) for `host` from certs.d, empty where there is none."""
    for directory in (
        f"{environment.config_home}/containers/certs.d/{host}",
        f"/etc/containers/certs.d/{host}",
        f"/etc/docker/certs.d/{host}",
    ):
        if not os.path.isdir(directory):
            continue
        names = sorted(os.listdir(directory))
        authority = next((n for n in names if n.endswith(".crt")), "")
        certificate = next((n for n in names if n.endswith(".cert")), "")
        key = next((n for n in names if n.endswith(".key")), "")
        paths = [os.path.join(directory, n) if n else "" for n in (authority, certificate, key)]
        return paths[0], paths[1], paths[2]
    return "", "", ""
