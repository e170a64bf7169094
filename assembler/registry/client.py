"""Requests to one registry's repositories: scheme and authorization."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from urllib.parse import parse_qs, urlsplit

from assembler.access import Access
from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import AssemblerError, ProtocolViolation, Unreachable
from assembler.net.client import HttpClient, Request, Response, Stream
from assembler.net.limits import Limits
from assembler.net.origin import Origin, Zone, is_loopback
from assembler.net.retry import RetryPolicy
from assembler.net.tls import Certificates
from assembler.net.trace import Exchanged
from assembler.oci.reference import Reference
from assembler.registry import token_servers
from assembler.registry.auth import Tokens
from assembler.registry.certificates import certificates
from assembler.registry.challenges import Scopes
from assembler.registry.configuration import Endpoint, RegistryConfiguration
from assembler.registry.credential import Found
from assembler.registry.credentials import FILES, Credentials
from assembler.registry.messages import refused as refused
from assembler.registry.repository import Repository as Repository
from assembler.values import replace, value

PULL, PUSH = "pull", "pull,push"
FAREWELL = 1.5  # seconds
AT_ONCE = 10.0  # seconds within which no token ends that was good
_RENEWALS = 5


class RegistryClient:
    """Speaks to registries for one command. Use it with `with`; threads share it."""

    def __init__(
        self,
        environment: Environment,
        configuration: RegistryConfiguration,
        *,
        access: Access | None = None,
        cancellation: Cancellation,
        policy: RetryPolicy | None = None,
        limits: Limits | None = None,
        warn: Callable[[str], None] = lambda text: None,
        trace: Callable[[Exchanged], None] | None = None,
    ) -> None:
        self._trace = trace
        self._environment = environment
        self._limits = limits
        self._access = access or Access()
        self.configuration = configuration
        self.cancellation = cancellation
        helpers = configuration.registries.helpers or (FILES,)
        self.credentials = Credentials(environment, self._access, cancellation, helpers)
        if policy is None and self._access.retries is not None:
            policy = RetryPolicy(tries=self._access.retries + 1)
        self._stack = ExitStack()
        self._policy = policy
        self.http = self._stack.enter_context(self._connected(cancellation, policy, warn))
        self._lock = threading.Lock()
        self._finding = threading.Lock()
        self._insecure: set[str] = set()
        self._zones: dict[str, Zone] = {}
        self._tokens: dict[str, Tokens] = {}
        self._schemes: dict[str, str] = {}
        self._endpoints: dict[Reference, tuple[Endpoint, ...]] = {}
        self._repositories: dict[tuple[Endpoint, Reference], Repository] = {}
        self.unreachable: set[str] = set()
        """The mirrors that did not answer, or with nothing but failures: they are not asked again."""
        self.ahead: dict[str, tuple[Repository, Response]] = {}
        """Uploads that were opened before there was something to send, by the URLs of repositories:
        the answers. The next upload there takes one out and goes on with it."""

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def endpoints(self, reference: Reference) -> tuple[Endpoint, ...]:
        """Where to read `reference`, found out once. Raises what the configuration raises."""
        if reference not in self._endpoints:
            self._endpoints[reference] = self.configuration.endpoints(reference)
        return self._endpoints[reference]

    def repository(self, endpoint: Endpoint, reference: Reference) -> Repository:
        """The repository at `endpoint`; the scheme is found out once for each host."""
        key = endpoint, reference
        if key not in self._repositories:
            url = f"{self.base(endpoint)}/v2/{endpoint.repository}"
            self._repositories[key] = Repository(
                url,
                endpoint.host,
                endpoint.repository,
                reference,
                self._tokens_of(url, endpoint.host, endpoint.repository),
                endpoint.mirror,
            )
        return self._repositories[key]

    def base(self, endpoint: Endpoint) -> str:
        """`https://host` of `endpoint`."""
        if endpoint.insecure:
            with self._lock:
                self._insecure.add(Origin.of(f"https://{endpoint.address}").name)
        return f"{self._scheme(endpoint)}://{endpoint.address}"

    def send(
        self,
        repository: Repository,
        request: Request,
        actions: str,
        limit: int = 4 << 20,
    ) -> Response:
        """The answer to `request`, authorized for `actions` (PULL or PUSH) on the repository.

        A 401 is answered with a new token once, also in the middle of a push (R10), unless another
        origin sent it, to which a redirect led (R1); and again where it took so long to come through
        that the token may have ended meanwhile. A mount is authorized to read from the
        repository that it names, if that can be had (R9).
        """
        scopes = _scopes(repository, request, actions)
        authorized = self._authorized(repository, request, *scopes)
        response = self.http.request(authorized, limit)
        self._note(repository, response)
        for _ in range(_RENEWALS):
            if response.status != 401:
                break
            again = self._answered(repository, authorized, response, *scopes)
            if again is None:
                break
            authorized, began = again, time.monotonic()
            response = self.http.request(authorized, limit)
            if time.monotonic() - began < AT_ONCE:
                break
        return response

    @contextmanager
    def stream(self, repository: Repository, request: Request, actions: str) -> Iterator[Stream]:
        """The same with the body unread."""
        scopes = _scopes(repository, request, actions)
        authorized = self._authorized(repository, request, *scopes)
        with ExitStack() as stack:
            answer = stack.enter_context(self.http.stream(authorized))
            self._note(repository, answer)
            if answer.status == 401:
                again = self._answered(repository, authorized, answer, *scopes)
                if again is not None:
                    stack.close()
                    answer = stack.enter_context(self.http.stream(again))
            yield answer

    @contextmanager
    def until(self, limit: Cancellation) -> Iterator[RegistryClient]:
        """This client for what nobody waits for: its requests end with `limit`, and nothing is said of
        those that are tried again. What one of them learns the other knows."""
        other = copy.copy(self)
        other.cancellation = limit
        with self._connected(limit, self._policy) as other.http:
            yield other

    def farewell(self, repository: Repository, request: Request) -> None:
        """Send `request` though the command may be cancelled, for at most `FAREWELL` seconds. Whether
        it came through makes no difference."""
        with suppress(AssemblerError), Cancellation() as limit:
            authorized = self._authorized(repository, request, *_scopes(repository, request, PUSH))
            timer = threading.Timer(FAREWELL, limit.cancel)
            timer.start()
            try:
                with self._connected(limit, RetryPolicy(tries=1)) as http:
                    http.request(authorized)
            finally:
                timer.cancel()
                timer.join()

    def _connected(
        self,
        cancellation: Cancellation,
        policy: RetryPolicy | None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> HttpClient:
        return HttpClient(
            cancellation=cancellation,
            policy=policy,
            unverified=_Unverified(self._is_unverified),
            certificates=self._certificates,
            variables=self._environment.variables,
            limits=self._limits,
            warn=warn,
            trace=self._trace,
        )

    def _authorized(
        self, repository: Repository, request: Request, wanted: Scopes, optional: Scopes
    ) -> Request:
        if _is_elsewhere(repository, request.url):
            return replace(request, zone=self._zones.get(repository.registry, Zone.PUBLIC))
        header = repository.tokens.header(wanted, optional) if repository.tokens else ""
        private = {"Authorization": header} if header else request.private
        if header or repository.mirror:
            return replace(request, private=private, brief=repository.mirror)
        return request

    def _note(self, repository: Repository, answer: Response | Stream) -> None:
        """Know where a registry is by its first answer: the places that it names, as those of uploads,
        may be no further inside (R2)."""
        if repository.registry not in self._zones and not _is_elsewhere(repository, answer.url):
            self._zones[repository.registry] = answer.zone

    def _answered(
        self,
        repository: Repository,
        request: Request,
        answer: Response | Stream,
        wanted: Scopes,
        optional: Scopes,
    ) -> Request | None:
        """The request with another header, None when there is no other to be had."""
        tokens = repository.tokens
        if tokens is None or _is_elsewhere(repository, request.url, answer.url):
            return None
        used = request.private.get("Authorization", "")
        header = tokens.renew(
            wanted,
            optional,
            used=used,
            challenge=answer.header("www-authenticate"),
            zone=answer.zone,
        )
        return replace(request, private={"Authorization": header}) if header else None

    def _tokens_of(self, url: str, host: str, repository: str) -> Tokens:
        with self._lock:
            if url not in self._tokens:
                self._tokens[url] = Tokens(
                    self.http,
                    host,
                    Origin.of(url),
                    partial(self._find, host, repository),
                    learnt=lambda: token_servers.learnt(self._environment, host),
                )
            return self._tokens[url]

    def _find(self, host: str, repository: str) -> Found:
        """The credential for a repository; helpers, which may ask people, one at a time."""
        with self._finding:
            return self.credentials.find(host, repository)

    def _certificates(self, host: str) -> Certificates:
        return certificates(self._environment, host, self._access.cert_dir)

    def _is_unverified(self, host: str) -> bool:
        if self.configuration.tls_verify:
            return False
        return host in self._insecure or self.configuration.is_insecure(host)

    def _scheme(self, endpoint: Endpoint) -> str:
        with self._lock:
            known = self._schemes.get(endpoint.host)
        if known is not None:
            return known
        schemes = endpoint.schemes
        if schemes[0] == "http" and is_loopback(Origin.of(f"http://{endpoint.host}").host):
            ours = self._certificates(endpoint.host)
            if ours.authorities or ours.pairs:
                schemes = ("https",)  # whoever put certificates there means TLS
        scheme = self._first(schemes, endpoint) if len(schemes) > 1 else schemes[0]
        with self._lock:
            self._schemes[endpoint.host] = scheme
        return scheme

    def _first(self, schemes: tuple[str, ...], endpoint: Endpoint) -> str:
        """The scheme that an insecure registry answers by, the last one if none does."""
        for scheme in schemes[:-1]:
            url = f"{scheme}://{endpoint.address}/v2/"
            try:
                response = self.http.request(Request("GET", url, endpoint.host, "its version"))
            except (Unreachable, ProtocolViolation):
                continue
            if not (scheme == "http" and response.status == 400):  # how servers answer to no TLS
                return scheme
        return schemes[-1]


@value
class _Unverified:
    """The hosts whose certificate is not checked: more than can be listed."""

    holds: Callable[[str], bool]

    def __contains__(self, host: object) -> bool:
        return isinstance(host, str) and self.holds(host)


def _scopes(repository: Repository, request: Request, actions: str) -> tuple[Scopes, Scopes]:
    """What `request` must be allowed, and what it had better be: to read where it mounts from."""
    resource = f"repository:{repository.name}"
    wanted = frozenset((resource, action) for action in actions.split(","))
    query = parse_qs(urlsplit(request.url).query) if "mount=" in request.url else {}
    return wanted, frozenset((f"repository:{name}", "pull") for name in query.get("from", ()))


def _is_elsewhere(repository: Repository, *urls: str) -> bool:
    """Whether one of `urls` is at another origin: nothing of ours goes there, and nothing that is said
    there is the registry's word."""
    others = [url for url in urls if not url.startswith(f"{repository.url}/")]
    if not others:
        return False
    here = Origin.of(repository.url)
    return any(Origin.of(url) != here for url in others)
