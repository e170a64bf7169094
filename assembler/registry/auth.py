"""Challenges and tokens (RFC 6750, distribution's token specification)."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from assembler.errors import ProtocolViolation, Unauthorized
from assembler.net.client import HttpClient, Request
from assembler.net.origin import Origin, is_inside
from assembler.registry.credentials import Credential

MAX_TOKEN = 1 << 20
_PARAMETER = re.compile(r'([A-Za-z_]+)=(?:"((?:[^"\\]|\\.)*)"|([^,\s]+))')


@dataclass(frozen=True, slots=True)
class Challenge:
    """A WWW-Authenticate header: its scheme in lower case, its parameters."""

    scheme: str
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, header: str) -> Challenge:
        """The first challenge in `header`."""
        scheme, _, rest = header.strip().partition(" ")
        found = {
            match[1].lower(): re.sub(r"\\(.)", r"\1", match[2])
            if match[2] is not None
            else match[3]
            for match in _PARAMETER.finditer(rest)
        }
        return cls(scheme.lower(), found)


class Tokens:
    """Authorization headers for one registry, by scope. Threads share it."""

    def __init__(self, http: HttpClient, registry: str, origin: Origin) -> None:
        self._http = http
        self._registry = registry
        self._origin = origin
        self._lock = threading.Lock()
        self._headers: dict[str, str] = {}

    def header(self, scope: str) -> str:
        """The header that worked last for `scope`, empty before the first challenge."""
        with self._lock:
            return self._headers.get(scope, "")

    def answer(self, challenge: Challenge, scope: str, credential: Credential | None) -> str:
        """A new Authorization header for `challenge`. Raises Unauthorized, ProtocolViolation."""
        if challenge.scheme == "basic":
            if credential is None or not credential.username:
                raise self._denied("it wants a name and a password")
            header = credential.basic()
        elif challenge.scheme == "bearer":
            header = f"Bearer {self._token(challenge, scope, credential)}"
        else:
            raise ProtocolViolation(
                f"{self._registry} asks for an authentication scheme that is not supported",
                registry=self._registry,
            )
        with self._lock:
            self._headers[scope] = header
        return header

    def _token(self, challenge: Challenge, scope: str, credential: Credential | None) -> str:
        realm = challenge.parameters.get("realm", "")
        self._check_realm(realm)
        scopes = challenge.parameters.get("scope") or scope
        service = challenge.parameters.get("service", "")
        request = _token_request(realm, service, scopes, credential, self._registry)
        response = self._http.request(request, MAX_TOKEN)
        if response.status in (400, 401, 403):
            raise self._denied(f"its token server refused with status {response.status}")
        try:
            document = json.loads(response.body)
            token = document.get("token") or document.get("access_token")
        except (ValueError, AttributeError):
            token = None
        if response.status != 200 or not isinstance(token, str) or not _is_token(token):
            raise ProtocolViolation(
                f"the token server of {self._registry} gave no token (status {response.status})",
                registry=self._registry,
                operation="a token",
                status=response.status,
            )
        return token

    def _check_realm(self, realm: str) -> None:
        """Credentials go only to a realm as safe as the registry (reliability 1.2, R2, R3)."""
        try:
            there = Origin.of(realm)
        except ValueError as error:
            raise self._refused("names no valid token server") from error
        if there.scheme == "http" and self._origin.scheme == "https":
            raise self._refused("names a token server over plain http")
        elsewhere = there.host != self._origin.host
        if elsewhere and is_inside(there.host) and not is_inside(self._origin.host):
            raise self._refused("names a token server at a private address")

    def _refused(self, what: str) -> ProtocolViolation:
        return ProtocolViolation(
            f"{self._registry} {what}; refused", registry=self._registry, operation="a token"
        )

    def _denied(self, why: str) -> Unauthorized:
        return Unauthorized(
            f"{self._registry} denied access: {why}",
            registry=self._registry,
            operation="a token",
            status=401,
            hint=f"log in with `podman login {self._registry}`, or check the name",
        )


def _token_request(
    realm: str, service: str, scope: str, credential: Credential | None, registry: str
) -> Request:
    if credential is not None and credential.identity_token:
        form = {
            "grant_type": "refresh_token",
            "refresh_token": credential.identity_token,
            "client_id": "assemble",
            "service": service,
            "scope": scope,
        }
        return Request(
            "POST",
            realm,
            registry,
            "a token",
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            body=urlencode(form).encode(),
            follow=False,
        )
    query = urlencode(
        [("service", service)] * bool(service)
        + [("scope", one) for one in scope.split(" ") if one],
        quote_via=quote,
    )
    joint = "&" if "?" in realm else "?"
    private = {"Authorization": credential.basic()} if credential is not None else {}
    return Request("GET", f"{realm}{joint}{query}", registry, "a token", private=private)


def _is_token(token: str) -> bool:
    return token.isascii() and token.isprintable() and " " not in token
