"""Origins, and which of them may be spoken to (RFC 6454; reliability.md 1.2)."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
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

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether `host` (without port) names this machine by the rules Docker has for registries."""
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_inside(host: str) -> bool:
    """Whether `host` is, or resolves to, an address that is not public: loopback, link-local,
    private. A name that does not resolve is not inside; connecting to it fails anyway."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(not ipaddress.ip_address(str(item[4][0]).split("%")[0]).is_global for item in found)
