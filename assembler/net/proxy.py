"""Which proxy a request takes: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in capitals or not,
by the rules that Go programs have (golang.org/x/net/http/httpproxy), and with ALL_PROXY."""

from __future__ import annotations

import ipaddress
import json
from base64 import b64decode
from collections.abc import Mapping
from urllib.parse import quote, unquote, urlsplit

from assembler.errors import UsageError
from assembler.net.basic import encoded
from assembler.net.origin import Origin, is_loopback
from assembler.values import field, value

_PORT = 80


@value
class Proxy:
    """A proxy that is spoken to in plain http. `authorization` is its Proxy-Authorization header."""

    host: str
    port: int
    variable: str
    authorization: str = field(default="", repr=False)

    def is_quoted(self, text: bytes) -> bool:
        """Whether `text` has the credential in it, or its password, in one of the forms that a page
        may have it in."""
        if not self.authorization:
            return False
        import html

        token = self.authorization.removeprefix("Basic ")
        pair = b64decode(token).decode("utf-8", "replace")
        password = pair.partition(":")[2]
        forms = {token, pair, password, html.escape(pair), html.escape(password)}
        forms |= {quote(password, safe=""), quote(password), json.dumps(password)[1:-1]}
        return any(form.encode() in text for form in forms if form)

    def __str__(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@value
class Proxies:
    """The proxies of an environment. Raises UsageError, when it is asked, for one that is none."""

    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    def choose(self, origin: Origin) -> Proxy | None:
        """The proxy that leads to `origin`, None for the direct way. This machine is always reached
        directly."""
        for name in (f"{origin.scheme}_proxy", "all_proxy"):
            for variable in (name.upper(), name):
                value = self.variables.get(variable, "").strip()
                if value and self._is_direct(origin):
                    return None
                if value:
                    return _parsed(variable, value)
        return None

    def _is_direct(self, origin: Origin) -> bool:
        listed = self.variables.get("NO_PROXY") or self.variables.get("no_proxy") or ""
        return is_loopback(origin.host) or any(
            _covers(entry, origin) for entry in listed.lower().replace(",", " ").split()
        )


def _covers(entry: str, origin: Origin) -> bool:
    if entry == "*":
        return True
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        pass
    else:
        try:
            return ipaddress.ip_address(origin.host) in network
        except ValueError:
            return False
    host, _, port = entry.rpartition(":")
    if not port.isdigit():
        host, port = entry, ""
    host = host.strip("[]").removeprefix("*")
    if not host or (port and int(port) != origin.port):
        return False
    if host.startswith("."):
        return origin.host.endswith(host)
    return origin.host == host or origin.host.endswith(f".{host}")


def _parsed(variable: str, value: str) -> Proxy:
    """A value may lack its scheme; http is meant then."""
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname, parts.port or _PORT
    except ValueError:
        host, port = None, 0
    if not host:
        raise UsageError(f"{variable} names no proxy", hint="give it as http://host:port")
    if parts.scheme.lower() != "http":
        raise UsageError(
            f"{variable} names a proxy that speaks {parts.scheme[:20]!r}",
            hint="only proxies that speak plain http are supported: http://host:port",
        )
    authorization = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {encoded(pair)}"
    return Proxy(host, port, variable, authorization)
