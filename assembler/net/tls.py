"""TLS: whom to trust, and as whom to speak."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Container, Mapping
from functools import partial

from assembler.errors import UsageError
from assembler.values import value


@value
class Certificates:
    """Files for the connections to one host: authorities beside the usual ones, and certificates of
    ours with their keys."""

    authorities: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()


class Contexts:
    """The contexts of a client, made when they are first asked for. Threads share it.

    `variables` may hold SSL_CERT_FILE and SSL_CERT_DIR, which stand in the place of the system's
    authorities (as for OpenSSL and Go); those of `certificates` come on top. Hosts in `unverified`
    have their certificate not checked.
    """

    def __init__(
        self,
        certificates: Callable[[str], Certificates] | None,
        unverified: Container[str],
        variables: Mapping[str, str],
    ) -> None:
        self._certificates = certificates or (lambda host: Certificates())
        self._unverified = unverified
        self._authorities = (
            variables.get("SSL_CERT_FILE", ""),
            variables.get("SSL_CERT_DIR", ""),
        )
        self._lock = threading.Lock()
        self._made: dict[tuple[Certificates, bool], ssl.SSLContext] = {}

    def of(self, host: str) -> ssl.SSLContext:
        """The context for `host` (with its port where that is not the usual one). Raises UsageError
        for a file that cannot be used."""
        name = (self._certificates(host), host in self._unverified)
        with self._lock:
            if name not in self._made:
                self._made[name] = self._make(*name)
            return self._made[name]

    def _make(self, certificates: Certificates, unverified: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(["http/1.1"])
        file, directory = self._authorities
        if unverified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif file or directory:
            _use(
                lambda: context.load_verify_locations(file or None, directory or None),
                "SSL_CERT_FILE and SSL_CERT_DIR" if file and directory
                else "SSL_CERT_FILE" if file else "SSL_CERT_DIR",
                file or directory,
            )  # fmt: skip
        else:
            context.load_default_certs()
        for authority in certificates.authorities:
            _use(partial(context.load_verify_locations, authority), "a CA certificate", authority)
        for certificate, key in certificates.pairs:
            load = partial(context.load_cert_chain, certificate, key, password="")
            _use(load, "a client certificate", certificate)
        return context


def _use(load: Callable[[], None], what: str, path: str) -> None:
    try:
        load()
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror if not isinstance(error, ssl.SSLError) else "no certificates in PEM"
        raise UsageError(f"{path}: cannot be used as {what}: {reason}") from error
