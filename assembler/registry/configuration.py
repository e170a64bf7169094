"""Where a name's registry is: the rules of registries.conf, and how its host may be spoken to."""

from __future__ import annotations

import ipaddress
import socket

from assembler.environment import Environment
from assembler.errors import RegistryError
from assembler.net.origin import Origin, is_loopback
from assembler.oci.reference import Reference
from assembler.registry.registries_conf import (
    DIGEST_ONLY,
    TAG_ONLY,
    Registries,
    Rule,
    read,
)
from assembler.values import field, value

HUB = "docker.io"


@value
class Endpoint:
    """A place that has a repository: `https://host/v2/repository/…`, or http when `insecure`;
    `secure` are those that must speak TLS."""

    host: str
    repository: str
    insecure: bool = False
    mirror: bool = False
    secure: bool = False

    @property
    def schemes(self) -> tuple[str, ...]:
        """The schemes to try, in order. Loopback may be plain http, as under Docker."""
        if self.secure:
            return ("https",)
        if is_loopback(Origin.of(f"http://{self.host}").host):
            return ("http", "https") if self.insecure else ("http",)
        return ("https", "http") if self.insecure else ("https",)

    @property
    def address(self) -> str:
        """The host to connect to."""
        return "registry-1.docker.io" if self.host == HUB else self.host


@value
class RegistryConfiguration:
    """The rules of the files, and what the command line says over them: hosts and networks that are
    insecure, and whether all are (`tls_verify` False) or none (True)."""

    registries: Registries = field(default_factory=Registries)
    insecure: frozenset[str] = frozenset()
    tls_verify: bool | None = None

    @classmethod
    def read(
        cls,
        environment: Environment,
        insecure: frozenset[str] = frozenset(),
        tls_verify: bool | None = None,
    ) -> RegistryConfiguration:
        """Read the registries.conf files. Raises UsageError, which names the file and the key."""
        return cls(read(environment), insecure, tls_verify)

    def endpoints(self, reference: Reference) -> tuple[Endpoint, ...]:
        """Where to read `reference`: mirrors in order, then the registry itself.

        Raises RegistryError for a registry that is blocked.
        """
        name = str(reference)
        rule = self._rule(name)
        if rule is None:
            return (self._endpoint(reference, name, False),)
        if rule.blocked:
            raise RegistryError(
                f"{rule.prefix} is blocked in {rule.file or 'registries.conf'}",
                registry=reference.registry,
                hint="whoever runs this host does not want images from there",
            )
        rest = name[_matched(rule.prefix, name) :]
        unwanted = TAG_ONLY if reference.digest else DIGEST_ONLY
        mirrors = [
            self._endpoint(reference, mirror.location + rest, mirror.insecure, mirror=True)
            for mirror in rule.mirrors
            if mirror.use != unwanted
        ]
        own = rule.location + rest if rule.location else name
        return (*mirrors, self._endpoint(reference, own, rule.insecure))

    def endpoint(self, reference: Reference) -> Endpoint:
        """Where to write `reference`: never a mirror."""
        return self.endpoints(reference)[-1]

    def registry(self, host: str) -> Endpoint:
        """The registry `host` itself, as the rules for all of it have it; for logins."""
        rule = self._rule(host)
        insecure = rule is not None and rule.insecure and not self.tls_verify
        allowed = insecure or self.is_insecure(host)
        return Endpoint(host, "", allowed, secure=bool(self.tls_verify))

    def is_insecure(self, host: str) -> bool:
        """Whether the command line lets `host` (HOST[:PORT]) be plain or unverified."""
        if self.tls_verify is not None and not self.tls_verify:
            return True
        bare = Origin.of(f"http://{host}").host
        networks = [one for one in self.insecure if "/" in one]
        if host in self.insecure or bare in self.insecure:
            return True
        return bool(networks) and _is_within(bare, networks)

    def _rule(self, name: str) -> Rule | None:
        covering = [rule for rule in self.registries.rules if _matched(rule.prefix, name)]
        # of two as long, the one that says the name
        return max(
            covering, key=lambda one: (len(one.prefix), one.prefix[:2] != "*."), default=None
        )

    def _endpoint(
        self, reference: Reference, name: str, insecure: bool, mirror: bool = False
    ) -> Endpoint:
        try:
            there = Reference.parse(name)
        except ValueError as error:
            raise RegistryError(
                f"registries.conf makes {reference} into {name}, which is no image name",
                registry=reference.registry,
            ) from error
        bare = (
            not reference.tag and reference.digest is None
        )  # a repository, where nothing is tagged
        asked = ("latest" if bare else reference.tag, reference.digest)
        if (there.tag, there.digest) != asked:
            raise RegistryError(
                f"registries.conf makes {reference} into {there}, which has another tag",
                registry=reference.registry,
                hint="a location may name another registry and repository, not another tag",
            )
        allowed = (insecure and not self.tls_verify) or self.is_insecure(there.registry)
        secure = bool(self.tls_verify)
        return Endpoint(there.registry, there.repository, allowed, mirror, secure)


def _matched(prefix: str, name: str) -> int:
    """How much of `name` the prefix means, 0 when it is none of it."""
    if prefix.startswith("*."):
        host = name.partition("/")[0].partition(":")[0]
        return len(host) if host.endswith(prefix[1:]) else 0
    whole = name == prefix or name.startswith((f"{prefix}/", f"{prefix}:", f"{prefix}@"))
    return len(prefix) if whole else 0


def _is_within(host: str, networks: list[str]) -> bool:
    """Whether an address of `host` is in one of `networks`, as dockerd looks at them."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    addresses = [ipaddress.ip_address(str(item[4][0]).split("%")[0]) for item in found]
    within = [ipaddress.ip_network(one, strict=False) for one in networks]
    return any(address in network for address in addresses for network in within)
