"""Logins: verified, kept, removed."""

from __future__ import annotations

from functools import partial

from assembler.access import Access
from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import Unauthorized, UsageError
from assembler.net.client import Request
from assembler.net.origin import Origin
from assembler.oci.reference import Reference, has_registry
from assembler.registry import messages, realms, token_servers
from assembler.registry.auth import Tokens
from assembler.registry.auth_files import (
    HUB,
    HUB_SERVER,
    Document,
    canonical,
    edit,
    matching,
    primary,
)
from assembler.registry.client import RegistryClient
from assembler.registry.credential import Credential, Found
from assembler.registry.credential_helpers import CredentialHelper
from assembler.registry.credentials import Credentials, Destination
from assembler.registry.repository import Repository
from assembler.values import replace, value

_CHECK = "check the user name and the password; some registries want a token in its place"


@value
class Subject:
    """What somebody logs in to: a registry, or one namespace or repository of it."""

    registry: str
    namespace: str = ""

    @classmethod
    def parse(cls, text: str) -> Subject:
        """`HOST[:PORT][/NAMESPACE]`, also as the URL that docker takes. Raises UsageError."""
        registry, _, namespace = canonical(text).partition("/")
        name = f"{registry}/{namespace}" if namespace else f"{registry}/x"
        try:
            Reference.parse(name)
        except ValueError as error:
            raise UsageError(f"{text} names no registry", hint="HOST[:PORT][/NAMESPACE]") from error
        if not has_registry(name):
            hint = f"{registry}:443 would be one" if registry else "HOST[:PORT][/NAMESPACE]"
            raise UsageError(f"{text} names no registry: it has no dot and no port", hint=hint)
        return cls(registry, namespace)

    def __str__(self) -> str:
        return f"{self.registry}/{self.namespace}" if self.namespace else self.registry


class _Anybody:
    """Whoever logs in has just said that the registry may have the password, and so whom it asks."""

    def __contains__(self, host: object) -> bool:
        return True


def verify(client: RegistryClient, subject: Subject, credential: Credential) -> str:
    """Show `credential` to the registry, as docker does: by GET /v2/ and the challenge it answers.
    The host of its token server, where that is of another site, else an empty text. Where /v2/ leads
    to another origin, that one's challenge is not the registry's (R1).

    Raises Unauthorized when it is refused, RegistryError.
    """
    base = client.base(client.configuration.registry(subject.registry))
    origin = Origin.of(base)
    found = Found(credential, "this login")
    tokens = Tokens(client.http, subject.registry, origin, lambda: found, learnt=_Anybody)
    reference = Reference(subject.registry, subject.namespace)
    there = Repository(f"{base}/v2", subject.registry, "", reference, tokens)
    request = Request("GET", f"{base}/v2/", subject.registry, "the login")
    response = client.http.request(request)
    here = Origin.of(response.url) == origin
    if response.status == 401 and here:
        challenge = response.header("www-authenticate")
        try:
            header = tokens.renew(frozenset(), challenge=challenge, zone=response.zone)
        except Unauthorized as error:
            error.hint = _CHECK
            raise
        if header:
            response = client.http.request(replace(request, private={"Authorization": header}))
    if response.status in (401, 403, 429) or response.status >= 500:
        refusal = messages.refused(response, there, request.operation)
        refusal.hint = _CHECK if here and isinstance(refusal, Unauthorized) else refusal.hint
        raise refusal
    html = "html" in response.header("content-type")
    if response.status != 200 or html:
        raise messages.not_a_registry(response, subject.registry)
    server = tokens.token_server
    known = not server or realms.belongs(Origin("https", server, 443), origin, frozenset())
    return "" if known else server


def keep(
    credentials: Credentials, subject: Subject, credential: Credential, token_server: str = ""
) -> Destination:
    """Keep a verified login where it will be found, and return where that is. Raises RegistryError."""
    place = credentials.destination(subject.registry, subject.namespace)
    if place.helper is not None:
        place.helper.store(place.server, credential)
    else:
        edit(place.path, partial(_put, place, credential))
    if token_server:
        token_servers.learn(credentials.environment, subject.registry, token_server)
    else:
        token_servers.forget(credentials.environment, subject.registry)
    return place


def _put(place: Destination, credential: Credential, document: Document) -> bool:
    auths = document.setdefault("auths", {})
    names = [name for name, _ in matching(auths, place.server)]
    for name in names:
        del auths[name]
    dockers = place.path.endswith(("/config.json", "/.dockercfg"))
    usual = HUB_SERVER if dockers and place.server == HUB else place.server
    auths[names[0] if names else usual] = {"auth": credential.encoded()}
    return True


def remove(credentials: Credentials, subject: Subject) -> bool:
    """Forget a login wherever it is kept; False when there was none. Raises RegistryError."""
    found = False
    for place in credentials.kept(subject.registry, subject.namespace):
        if place.helper is not None:
            if place.helper.get(place.server) is not None:
                found = place.helper.erase(place.server) or found
            continue
        found = edit(place.path, partial(_dropped, place.server)) or found
    token_servers.forget(credentials.environment, subject.registry)
    return found


def _dropped(name: str, document: Document) -> bool:
    auths: Document = document.get("auths") or {}
    return auths.pop(name, None) is not None


def remove_all(environment: Environment, access: Access, cancellation: Cancellation) -> str:
    """Forget every login of the file that logins are written to, and of the helpers that it names;
    the file's path. Raises RegistryError."""
    path = primary(environment, access)
    helpers: dict[str, str] = {}

    def change(document: Document) -> bool:
        helpers.update(document.get("credHelpers") or {})
        return bool(document.pop("auths", None))

    edit(path, change)
    for server, name in helpers.items():
        helper = CredentialHelper(name, environment, cancellation)
        if helper.get(server) is not None:
            helper.erase(server)
    return path
