"""certs.d: certificates for one registry (containers-certs.d(5), and docker's)."""

from __future__ import annotations

import os
from collections.abc import Iterator

from assembler.environment import Environment
from assembler.errors import RegistryError
from assembler.net.tls import Certificates


def certificates(environment: Environment, host: str, named: str = "") -> Certificates:
    """The certificates for `host` (HOST or HOST:PORT): those in the directory `named`, else in the
    first directory there is for it. Raises RegistryError for a certificate without its key."""
    for directory in (named,) if named else places(environment, host):
        try:
            names = sorted(os.listdir(directory))
        except (FileNotFoundError, NotADirectoryError):
            if named:
                raise RegistryError(
                    f"--cert-dir {named}: no such directory", registry=host
                ) from None
            continue
        except PermissionError:  # dockerd's, which is root's
            if named:
                raise RegistryError(f"--cert-dir {named}: permission denied") from None
            continue
        return _of(directory, names, host)
    return Certificates()


def places(environment: Environment, host: str) -> Iterator[str]:
    """The directories that may hold the certificates for `host`, in order. Docker Hub's are called
    by its own name, not that of the host that serves it."""
    host = "docker.io" if host == "registry-1.docker.io" else host
    for above in (
        os.path.join(environment.config_home, "containers", "certs.d"),
        "/etc/containers/certs.d",
        "/etc/docker/certs.d",
    ):
        yield os.path.join(above, host)
        bare, colon, port = host.rpartition(":")
        if colon and port.isdigit():
            yield os.path.join(above, bare)


def _of(directory: str, names: list[str], host: str) -> Certificates:
    there = set(names)
    pairs = []
    for name in names:
        stem, extension = os.path.splitext(name)
        other = {".cert": ".key", ".key": ".cert"}.get(extension)
        if other is None:
            continue
        if stem + other not in there:
            raise RegistryError(
                f"{os.path.join(directory, name)} has no {stem}{other} beside it",
                registry=host,
                operation="TLS",
                hint="a client certificate is NAME.cert with NAME.key; an authority is NAME.crt",
            )
        if extension == ".cert":
            pairs.append((os.path.join(directory, name), os.path.join(directory, stem + other)))
    authorities = tuple(os.path.join(directory, n) for n in names if n.endswith(".crt"))
    return Certificates(authorities, tuple(pairs))
