"""Origins, and which of them may be spoken to (RFC 6454; reliability.md 1.2)."""

from __future__ import annotations

import enum
import ipaddress
from urllib.parse import urlsplit

from assembler.values import value

_PORTS = {"http": 80, "https": 443}
_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200")))
"""Where clouds tell a machine its secrets, as at 169.254.169.254: AWS by IPv6, Alibaba."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@value
class Origin:
    """Scheme, host and port: what a credential belongs to."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """The origin of `url`. Raises ValueError for anything but http and https."""
        parts = urlsplit(url)
        scheme = parts.scheme.lower()
        if scheme not in _PORTS or not parts.hostname:
            raise ValueError(f"not an http URL: {url[:80]!r}")
        return cls(scheme, parts.hostname.lower(), parts.port or _PORTS[scheme])

    @property
    def name(self) -> str:
        """The host, with its port unless that goes without saying: how certs.d names it."""
        return self.host if self.port in (80, 443) else f"{self.bracketed}:{self.port}"

    @property
    def bracketed(self) -> str:
        """The host as it stands before a port."""
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bracketed}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether `host` (without port) names this machine by the rules Docker has for registries."""
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Zone(enum.IntEnum):
    """How far inside an address is, the innermost first: of this link, where clouds have their metadata;
    of this machine or a private network; of the internet at large."""

    LINK = 0
    INSIDE = 1
    PUBLIC = 2


def zone_of(address: str) -> Zone:
    """The zone of an IP address. INSIDE is what is loopback, private, shared (RFC 6598) or multicast;
    an IPv6 address that stands for an IPv4 one is where that is."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return zone_of(str(inner))
    if found.is_link_local or found in _METADATA:
        return Zone.LINK
    return Zone.PUBLIC if found.is_global and not found.is_multicast else Zone.INSIDE


def zone_of_host(host: str) -> Zone:
    """The zone of `host` (without port), which is an address or a name of this machine. Other names
    are not looked up and taken to be public: behind a proxy only it knows."""
    if is_loopback(host):
        return Zone.INSIDE
    try:
        return zone_of(host)
    except ValueError:
        return Zone.PUBLIC
