"""Which token servers may be asked, and which may have a credential (reliability 1.2, R2, R3).

A registry names its token server in a header, so whoever can change one answer of it could have the
password sent anywhere. A credential goes

- to the registry's own host,
- to a host of the same site, that is below the same registrable domain: `registry.gitlab.com` and
  `gitlab.com`, `registry.example.com` and `gitlab.example.com`,
- to the few other hosts that public registries are known to have (`KNOWN`),
- to the host that the user's own `assemble login` was verified with (`token_servers.py`).

There is no Public Suffix List in the standard library. A registrable domain is taken to be the last
two labels, or three below the country domains that register at the third level (`co.uk`). Below the
domains of hosting services (`SHARED`) neighbours are strangers: there only the host itself counts.
What this refuses wrongly only asks for an `assemble login`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Container

from assembler.net.origin import Origin

KNOWN = (
    (r"rg\.[a-z-]+\.scw\.cloud", "api.scaleway.com"),
    (r"registry(-vpc|)\.([a-z0-9-]+)\.aliyuncs\.com", r"dockerauth\1.\2.aliyuncs.com"),
)
"""Registries whose token server has another domain: a pattern, and the host that it gives. As clients
were answered: Docker by Scaleway, crane by Alibaba (github.com/kubernetes/minikube/pull/13782)."""

SHARED = frozenset(
    "amazonaws.com azurecr.io azurewebsites.net azure.com windows.net appspot.com run.app web.app"
    " pkg.dev googleusercontent.com cloudfront.net workers.dev pages.dev github.io gitlab.io"
    " githubusercontent.com github.dev herokuapp.com vercel.app netlify.app onrender.com fly.dev"
    " ngrok.io ngrok.app ngrok.dev ngrok-free.app jfrog.io cloudsmith.io scw.cloud ocir.io ts.net"
    " nip.io sslip.io duckdns.org dyndns.org ddns.net no-ip.org no-ip.com dynu.net hopto.org"
    " digitaloceanspaces.com ondigitalocean.app hetzner.cloud ovh.net aliyuncs.com"
    " myhuaweicloud.com tencentcloudcr.com tencentyun.com volces.com yandexcloud.net railway.app"
    " deno.dev gitpod.io trycloudflare.com loca.lt".split()
)
"""Domains below which every name may belong to somebody else."""

_THIRD_LEVEL = re.compile(
    r"(?:ac|asn|co|com|ed|edu|firm|gen|go|gob|gouv|gov|govt|id|ind|info|k12|ltd|me|mil|ne|net|nhs"
    r"|nic|nom|nsw|or|org|plc|police|pro|res|sch|school|web)\.[a-z]{2}"
)


def site(host: str) -> str:
    """The registrable domain of `host`; `host` itself where it has none of its own."""
    labels = host.rstrip(".").split(".")
    if _is_address(host) or any(".".join(labels[n:]) in SHARED for n in range(len(labels))):
        return host
    last = ".".join(labels[-2:])
    return ".".join(labels[-3:]) if _THIRD_LEVEL.fullmatch(last) else last


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def belongs(realm: Origin, registry: Origin, learnt: Container[str]) -> bool:
    """Whether a credential for `registry` may go to `realm`; `learnt` are the token servers that
    its logins were verified with."""
    if realm.host == registry.host or realm.host in learnt:
        return True
    for pattern, host in KNOWN:
        match = re.fullmatch(pattern, registry.host)
        if match is not None and match.expand(host) == realm.host:
            return True
    return site(realm.host) == site(registry.host)


def problem(realm: str, registry: Origin) -> str:
    """What is wrong with `realm` as the token server of `registry`, empty for nothing."""
    try:
        there = Origin.of(realm)
    except ValueError:
        return "names no valid token server"
    if "@" in realm.partition("://")[2].partition("/")[0]:
        return "names a token server with a user name in its address"
    if there.scheme == "http" and registry.scheme == "https":
        return f"names a token server over plain http ({there.host})"
    return ""
