"""TLS: whom to trust, and as whom to speak."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Mapping

from assembler.errors import UsageError

Certificates = Callable[[str], tuple[str, str, str]]
"""Gives the (CA file, client certificate, key) for a host, empty where there is none."""


class Contexts:
    """The contexts of a client, made when they are first asked for. Threads share it.

    `variables` may hold SSL_CERT_FILE and SSL_CERT_DIR, which stand in the place of the system's
    authorities (as for OpenSSL and Go); those of `certificates` come on top. Hosts in `unverified`
    have their certificate not checked.
    """

    def __init__(
        self,
        certificates: Certificates,
        unverified: frozenset[str],
        variables: Mapping[str, str],
    ) -> None:
        self._certificates = certificates
        self._unverified = unverified
        self._authorities = (
            variables.get("SSL_CERT_FILE", ""),
            variables.get("SSL_CERT_DIR", ""),
        )
        self._lock = threading.Lock()
        self._made: dict[tuple[str, str, str, bool], ssl.SSLContext] = {}

    def of(self, host: str) -> ssl.SSLContext:
        """The context for `host` (with its port where that is not the usual one). Raises UsageError
        for a file that cannot be used."""
        authority, certificate, key = self._certificates(host)
        name = (authority, certificate, key, host in self._unverified)
        with self._lock:
            if name not in self._made:
                self._made[name] = self._make(*name)
            return self._made[name]

    def _make(self, authority: str, certificate: str, key: str, unverified: bool) -> ssl.SSLContext:
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
        if authority:
            _use(lambda: context.load_verify_locations(authority), "a CA certificate", authority)
        if certificate:
            _use(
                lambda: context.load_cert_chain(certificate, key or None, password=""),
                "a client certificate",
                certificate,
            )
        return context


def _use(load: Callable[[], None], what: str, path: str) -> None:
    try:
        load()
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror if not isinstance(error, ssl.SSLError) else "no certificates in PEM"
        raise UsageError(f"{path}: cannot be used as {what}: {reason}") from error
