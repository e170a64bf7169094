"""What went wrong below an answer, in words: the kind of failure, and what to do about it."""

from __future__ import annotations

import errno
import socket
import ssl
from enum import StrEnum

from assembler.errors import Unreachable, causes
from assembler.net.origin import Origin, is_loopback
from assembler.source import printable


class Cause(StrEnum):
    """Kinds of failure."""

    NAME_UNKNOWN = "the name does not exist"
    NAME_UNANSWERED = "the name could not be looked up"
    REFUSED = "nothing listens there"
    UNANSWERED = "no connection came about"
    BROKEN = "the connection broke"
    SLOW = "the other end is too slow"
    MALFORMED = "the answer is no HTTP"
    PROXY = "the proxy failed"
    WRONG_NAME = "its certificate is for another name"
    EXPIRED = "its certificate has expired"
    NOT_YET_VALID = "its certificate is not valid yet"
    SELF_SIGNED = "its certificate is signed by itself"
    UNKNOWN_AUTHORITY = "its certificate is signed by an authority that is not known here"
    CLIENT_CERTIFICATE = "it wants a client certificate"
    HANDSHAKE = "it refuses to shake hands: it wants a client certificate, or no cipher is shared"
    SPEAKS_PLAIN = "it speaks plain http there, not TLS"
    SPEAKS_TLS = "it speaks TLS there, not plain http"
    TLS = "no TLS connection came about"

    @property
    def worth(self) -> int:
        """So many attempts, 0 for any number: a port that refuses stays so for a while, a certificate
        for longer."""
        if self in (Cause.NAME_UNKNOWN, Cause.REFUSED, Cause.UNANSWERED, Cause.HANDSHAKE):
            return 3
        lasting = self.is_certificate or self in (
            Cause.CLIENT_CERTIFICATE, Cause.SPEAKS_PLAIN, Cause.SPEAKS_TLS
        )  # fmt: skip
        return 1 if lasting else 0

    @property
    def lasts(self) -> bool:
        """Whether it will be so at the end of a build, too, unless somebody mends it: that nothing
        listens is how registries restart, and networks of new pods begin (kaniko#2657)."""
        passes = self is Cause.NOT_YET_VALID
        return self is Cause.NAME_UNKNOWN or (self.worth == 1 and not passes)

    @property
    def is_certificate(self) -> bool:
        """Whether the server's certificate was not accepted."""
        return self in (
            Cause.WRONG_NAME, Cause.EXPIRED, Cause.NOT_YET_VALID, Cause.SELF_SIGNED,
            Cause.UNKNOWN_AUTHORITY,
        )  # fmt: skip


_VERIFICATION = {  # X509_V_ERR_… of OpenSSL's x509_vfy.h
    9: Cause.NOT_YET_VALID,
    10: Cause.EXPIRED,
    18: Cause.SELF_SIGNED,
    19: Cause.UNKNOWN_AUTHORITY,
    20: Cause.UNKNOWN_AUTHORITY,
    21: Cause.UNKNOWN_AUTHORITY,
    62: Cause.WRONG_NAME,
    64: Cause.WRONG_NAME,
}
_UNANSWERED = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL)


def classify(error: BaseException) -> Cause:
    """The kind of failure that `error`, as `net.transport.ERRORS` has them, stands for."""
    for one in causes(error):
        name = type(one).__name__
        if name == "ProxyError":
            return Cause.PROXY
        if isinstance(one, ssl.SSLCertVerificationError):
            return _VERIFICATION.get(one.verify_code, Cause.UNKNOWN_AUTHORITY)
        if isinstance(one, ssl.SSLError):
            return _of_tls(one)
        if isinstance(one, socket.gaierror):
            passing = one.errno == socket.EAI_AGAIN
            return Cause.NAME_UNANSWERED if passing else Cause.NAME_UNKNOWN
        if isinstance(one, ConnectionRefusedError):
            return Cause.REFUSED
        if isinstance(one, OSError) and one.errno in _UNANSWERED:
            return Cause.UNANSWERED
        if name.endswith("Timeout"):
            return Cause.SLOW
        if name == "RemoteProtocolError" and "disconnected" not in str(one):
            if "TLS alert" in str(one):
                return Cause.SPEAKS_TLS
            return Cause.BROKEN if "peer closed" in str(one) else Cause.MALFORMED
    return Cause.BROKEN


def _of_tls(error: ssl.SSLError) -> Cause:
    reason = error.reason or str(error)
    if any(one in reason for one in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER")):
        return Cause.SPEAKS_PLAIN
    if "CERTIFICATE_REQUIRED" in reason or "ALERT_BAD_CERTIFICATE" in reason:
        return Cause.CLIENT_CERTIFICATE
    if "ALERT_HANDSHAKE_FAILURE" in reason:  # all that TLS 1.2 has for it (RFC 5246 7.4.6)
        return Cause.HANDSHAKE
    return Cause.BROKEN if isinstance(error, ssl.SSLEOFError) else Cause.TLS


def unreachable(
    registry: str, operation: str, origin: Origin, cause: Cause, detail: str, hint: str = ""
) -> Unreachable:
    """The error for a failure of kind `cause`. `detail` is what the system says of it, and `hint`
    stands for the usual one."""
    said = printable(" ".join(detail.split()))[:200]
    where = "" if origin.name == registry else f" at {origin.name}"
    text = f"cannot reach {registry} for {operation}{where}: {cause}"
    if said and said not in text:
        text += f" ({said})"
    error = Unreachable(
        text,
        registry=registry,
        operation=operation,
        hint=hint or remedy(cause, origin),
    )
    error.cause = cause
    return error


def remedy(cause: Cause, origin: Origin) -> str:
    """What to do about a failure of kind `cause` at `origin`."""
    here = f"~/.config/containers/certs.d/{origin.name}"
    insecure = f"allow it with --insecure-registry {origin.name}"
    ours = f"put a certificate and its key into {here}/client.cert and {here}/client.key"
    secure = "use https for it, without --insecure-registry"
    if is_loopback(origin.host):
        secure = (
            "a registry of this machine is taken to speak plain http: give --tls-verify, or put its"
            f" certificate authority into {here}/ca.crt"
        )
    hints = {
        Cause.WRONG_NAME: "use the name that the certificate is for, or have one made for"
        f" {origin.host}; or {insecure}",
        Cause.EXPIRED: f"have the certificate renewed, check this machine's clock, or {insecure}",
        Cause.NOT_YET_VALID: "is this machine's clock right?",
        Cause.SELF_SIGNED: f"put the certificate itself into {here}/ca.crt, or {insecure}",
        Cause.UNKNOWN_AUTHORITY: f"put its certificate authority into {here}/ca.crt, or {insecure}",
        Cause.CLIENT_CERTIFICATE: ours,
        Cause.HANDSHAKE: ours,
        Cause.SPEAKS_PLAIN: insecure,
        Cause.SPEAKS_TLS: secure,
        Cause.TLS: f"which TLS does it speak? certificates for it belong into {here}",
        Cause.NAME_UNKNOWN: "is its name right?",
        Cause.NAME_UNANSWERED: "is there a network, and a name server in /etc/resolv.conf?",
        Cause.REFUSED: "is the registry running, and its port right?",
        Cause.UNANSWERED: "is the registry running, and does a firewall or a proxy stand between?",
        Cause.PROXY: "check HTTPS_PROXY and HTTP_PROXY, with the name and password in them, or name"
        f" {origin.host} in NO_PROXY",
    }
    return hints.get(cause, "try again; a proxy or a load balancer in between may be at fault")
