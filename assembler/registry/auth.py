"""Authorization for a repository: challenges answered, tokens kept and renewed (RFC 6750,
distribution's "token" and "oauth" specifications). Nothing is sent before a challenge."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Container, Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from itertools import takewhile
from urllib.parse import quote, urlencode

from assembler.errors import ProtocolViolation, Unauthorized
from assembler.net.client import HttpClient, Request, Response
from assembler.net.origin import Origin, Zone
from assembler.registry import challenges, messages, realms
from assembler.registry.challenges import Challenge, Scopes
from assembler.registry.credential import Credential, Found
from assembler.values import field, value

MAX_TOKEN = 1 << 20  # bytes of a token server's answer
LIFETIME = 60.0  # seconds, of a token whose server says nothing (distribution's token spec)
MARGIN = 10.0  # seconds before its end, or a quarter of its life, in which a token is not used
_CLIENT = "assemble"


@value
class _Held:
    """A header, what it is good for (None: everything), and until when."""

    header: str = field(repr=False)
    scopes: Scopes | None = None
    ends: float = float("inf")


class Tokens:
    """The Authorization headers for one repository. Threads share it: of those that need the same
    new token one asks for it, and the others wait.

    `find` gives the credential, and is asked again when that is refused: what helpers give may end
    (gcloud's within an hour). `learnt` are the token servers that a login was verified with.
    """

    def __init__(
        self,
        http: HttpClient,
        registry: str,
        origin: Origin,
        find: Callable[[], Found],
        *,
        learnt: Callable[[], Container[str]] = frozenset,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = http
        self._registry = registry
        self._origin = origin
        self._find = find
        self._learnt = learnt
        self._clock = clock
        self._lock = threading.Lock()  # of what is below; never held while somebody is asked
        self._asking = threading.Lock()
        self._held: list[_Held] = []
        self._challenges: tuple[Challenge, ...] = ()
        self._refused: set[tuple[str, str]] = set()
        self._found: Found | None = None
        self._refreshed = ""
        self._zone = Zone.PUBLIC

    @property
    def found(self) -> Found | None:
        """The credential, None before one was asked for."""
        return self._found

    @property
    def token_server(self) -> str:
        """The host that gives tokens for the registry, empty where none does."""
        for challenge in self._challenges:
            if challenge.scheme == "bearer":
                return Origin.of(challenge.get("realm")).host
        return ""

    def secrets(self) -> Iterator[str]:
        """Every text that no message may show."""
        if self._found is not None and self._found.credential is not None:
            yield from self._found.credential.secrets()
        with self._lock:
            yield from [held.header.partition(" ")[2] for held in self._held]
        yield self._refreshed

    def header(self, wanted: Scopes, optional: Scopes = frozenset()) -> str:
        """The header for `wanted`, empty before the first challenge. A token that is about to end
        is replaced first. Raises as `renew`."""
        held = self._usable(wanted | self._allowed(optional))
        if held is not None:
            return held.header
        return self.renew(wanted, optional) if self._challenges else ""

    def renew(
        self,
        wanted: Scopes,
        optional: Scopes = frozenset(),
        *,
        used: str = "",
        challenge: str = "",
        zone: Zone | None = None,
    ) -> str:
        """A header other than `used`, which the WWW-Authenticate header `challenge` answered; empty
        where there is none to be had. `optional` scopes, and those of the challenge beside `wanted`,
        are given up when they are refused. `zone`
        is that of the address that the challenge came from: that of a token server on another host
        may be no further inside.

        Raises Unauthorized when the token server refuses, ProtocolViolation when it cannot be asked.
        """
        with self._asking:
            with self._lock:
                # The newest is the first: what is older than a token that ended has ended, too.
                self._held = list(takewhile(lambda held: held.header != used, self._held))
                self._challenges = challenges.parse(challenge) or self._challenges
                self._zone = self._zone if zone is None else zone
            held = self._usable(wanted | self._allowed(optional))
            if held is None:
                held = self._new(wanted, optional)
            if held is not None and held.header == used and self._found_another():
                held = self._new(wanted, optional)
            if held is None or held.header == used:
                return ""
            with self._lock:
                now = self._clock()
                self._held = [held, *(one for one in self._held if one.ends > now)]
            return held.header

    def _usable(self, wanted: Scopes) -> _Held | None:
        with self._lock:
            now = self._clock()
            for held in self._held:
                if now < held.ends and (held.scopes is None or held.scopes >= wanted):
                    return held
        return None

    def _allowed(self, optional: Scopes) -> Scopes:
        return optional - self._refused

    def _new(self, wanted: Scopes, optional: Scopes) -> _Held | None:
        schemes = {challenge.scheme: challenge for challenge in reversed(self._challenges)}
        if "bearer" in schemes:
            return self._bearer(schemes["bearer"], wanted, optional)
        if "basic" in schemes:
            credential = self._credential()
            header = credential.basic() if credential is not None else ""
            return _Held(header) if header else None
        if schemes:
            raise ProtocolViolation(
                f"{self._registry} wants authentication by {', '.join(sorted(schemes))}, which is"
                " not supported",
                registry=self._registry,
                operation="authentication",
                status=401,
                hint="registries are spoken to with Bearer tokens or by Basic authentication",
            )
        return None

    def _credential(self) -> Credential | None:
        if self._found is None:
            self._found = self._find()
        return self._found.credential

    def _found_another(self) -> bool:
        """Whether there is another credential by now than the one that was refused."""
        before, refreshed = self._credential(), self._refreshed
        if before is None:
            return False
        self._found, self._refreshed = self._find(), ""
        return self._found.credential != before or bool(refreshed)

    def _bearer(self, challenge: Challenge, wanted: Scopes, optional: Scopes) -> _Held:
        credential = self._credential()
        if credential is not None and credential.registry_token:
            return _Held(f"Bearer {credential.registry_token}")
        extra = self._allowed(optional | challenges.scopes(challenge.get("scope"))) - wanted
        try:
            return self._granted(challenge, wanted | extra)
        except Unauthorized:
            if not extra:
                raise
        self._refused |= extra  # containerd, too, mounts without then, and mostly uploads
        return self._granted(challenge, wanted)

    def _granted(self, challenge: Challenge, asked: Scopes) -> _Held:
        try:
            return self._token(challenge, asked, self._credential())
        except Unauthorized:
            if not self._found_another():
                raise
        return self._token(challenge, asked, self._credential())

    def _token(self, challenge: Challenge, asked: Scopes, credential: Credential | None) -> _Held:
        realm = challenge.get("realm")
        self._check(realm, credential)
        started = self._clock()
        request = self._request(realm, challenge.get("service"), asked, credential)
        response = self._http.request(request, MAX_TOKEN)
        if response.status != 200:
            raise messages.token_refused(
                response, self._registry, Origin.of(realm).host, self._found, self.secrets()
            )
        try:
            document = json.loads(response.body)
            token = document.get("token") or document.get("access_token")
            refreshed = document.get("refresh_token")
        except (ValueError, AttributeError, RecursionError):
            document, token, refreshed = {}, None, None
        if not isinstance(token, str) or not _is_token(token):
            raise ProtocolViolation(
                f"{self._registry}: its token server {Origin.of(realm).host} gave no token",
                registry=self._registry,
                operation="a token",
                status=response.status,
                hint="is something between you and the registry answering in its place?",
            )
        if isinstance(refreshed, str) and _is_token(refreshed):
            self._refreshed = refreshed  # for this command; what a login keeps stays as it is
        life = _lifetime(document, response)
        return _Held(f"Bearer {token}", asked, started + life - min(MARGIN, life / 4))

    def _check(self, realm: str, credential: Credential | None) -> None:
        """Raises ProtocolViolation for a realm that may not be asked."""
        wrong = realms.problem(realm, self._origin)
        hint = "this is the registry's, or somebody's who stands between you and it"
        if not wrong:
            there = Origin.of(realm)
            if credential is not None and not realms.belongs(there, self._origin, self._learnt()):
                wrong = f"names the token server {there.host}, which is not known to belong to it"
                hint = f"if it does, `assemble login {self._registry}` remembers that"
        if wrong:
            raise ProtocolViolation(
                f"{self._registry} {messages.shown(wrong)}; no credential was sent",
                registry=self._registry,
                operation="a token",
                hint=hint,
            )

    def _request(
        self, realm: str, service: str, asked: Scopes, credential: Credential | None
    ) -> Request:
        scopes = challenges.render(asked)
        zone = Zone.LINK if Origin.of(realm).host == self._origin.host else self._zone
        if credential is not None and (credential.identity_token or self._refreshed):
            form = {
                "grant_type": "refresh_token",
                "refresh_token": self._refreshed or credential.identity_token,
                "client_id": _CLIENT,
                "service": service,
                "scope": " ".join(scopes),
            }
            return Request(
                "POST",
                realm,
                self._registry,
                "a token",
                headers={"Content-Type": "application/x-www-form-urlencoded"},
                body=urlencode(form).encode(),
                follow=False,
                zone=zone,
            )
        header = credential.basic() if credential is not None else ""
        pairs = [("service", service)] * bool(service) + [("scope", one) for one in scopes]
        if header and credential is not None:
            pairs.insert(0, ("account", credential.username))
        query = urlencode(pairs, quote_via=quote)
        joint = "&" if "?" in realm else "?"
        private = {"Authorization": header} if header else {}
        url = f"{realm}{joint}{query}" if query else realm
        return Request("GET", url, self._registry, "a token", private=private, zone=zone)


def _is_token(token: str) -> bool:
    return bool(token) and token.isascii() and token.isprintable() and " " not in token


def _lifetime(document: dict[str, object], response: Response) -> float:
    """Seconds from now that a token will be taken. A token may be older than its answer: that is
    told by the server's own clock, `issued_at` and Date; ours may be wrong."""
    expires, life = document.get("expires_in"), LIFETIME
    if isinstance(expires, str) and expires.isascii() and expires.isdigit():
        expires = float(expires[:9])
    if isinstance(expires, int | float) and expires > 0:
        life = float(min(expires, 1e9))
    try:
        issued = datetime.fromisoformat(str(document.get("issued_at")))
        age = (parsedate_to_datetime(response.header("date")) - issued).total_seconds()
    except (ValueError, TypeError, OverflowError):
        age = 0.0
    return max(0.0, life - max(0.0, age))
