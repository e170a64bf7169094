"""Auth files: podman's auth.json (containers-auth.json(5)), docker's config.json and ~/.dockercfg."""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from assembler.access import Access
from assembler.environment import Environment
from assembler.errors import RegistryError
from assembler.linux.replacing import replacing
from assembler.registry.credential import Credential
from assembler.values import value

HUB = "docker.io"
HUB_SERVER = "https://index.docker.io/v1/"
"""What docker and its credential helpers call Docker Hub."""
_HUB_HOSTS = frozenset({HUB, "index.docker.io", "registry-1.docker.io"})
MOST = 4 << 20  # bytes of a file that are read

Document = dict[str, Any]


@value
class AuthFile:
    """One place that may hold credentials, as users know it; `text` instead of a file's."""

    path: str
    text: str = ""

    def read(self) -> Document:
        """The document, empty when there is no such file. Raises RegistryError."""
        content: bytes | str = self.text
        try:
            if not content:
                with open(self.path, "rb") as stream:
                    content = stream.read(MOST + 1)
            if not content.strip():
                return {}
            document = json.loads(content)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
            raise _unreadable(self.path, str(reason)) from None  # its text may be secret
        if not isinstance(document, dict):
            raise _unreadable(self.path, "it is no JSON object")
        for key in ("auths", "credHelpers"):
            if not isinstance(document.get(key), dict | None):
                raise _unreadable(self.path, f"{key} is no object")
        if os.path.basename(self.path) == ".dockercfg":
            return {"auths": document}
        return document


def _unreadable(path: str, reason: str) -> RegistryError:
    return RegistryError(
        f"cannot read the credentials in {path}: {reason}",
        operation="a credential",
        hint="it must be JSON that you may read, as `assemble login` writes it",
    )


def places(environment: Environment, access: Access) -> tuple[AuthFile, ...]:
    """Where credentials are looked for, in order. A file that was named is the only one; else
    $DOCKER_AUTH_CONFIG comes first, as docker has it, which is JSON and no path."""
    named = access.authfile or environment.registry_auth_file
    if named:
        return (AuthFile(named),)
    found = [AuthFile(primary(environment, access))]
    if text := environment.get("DOCKER_AUTH_CONFIG").strip():
        found.insert(0, AuthFile("$DOCKER_AUTH_CONFIG", text))
    found += [
        AuthFile(os.path.join(environment.config_home, "containers", "auth.json")),
        AuthFile(os.path.join(environment.docker_config, "config.json")),
        AuthFile(os.path.join(environment.home, ".dockercfg")),
    ]
    return tuple(dict.fromkeys(found))


def primary(environment: Environment, access: Access) -> str:
    """The file that logins are written to: podman's, /run/containers/UID without a
    $XDG_RUNTIME_DIR where that can be made."""
    if named := access.authfile or environment.registry_auth_file:
        return named
    if environment.runtime_dir:
        return os.path.join(environment.runtime_dir, "containers", "auth.json")
    shared = f"/run/containers/{os.getuid()}"
    if os.path.isdir(shared) or os.access("/run", os.W_OK):
        return os.path.join(shared, "auth.json")
    return os.path.join(environment.config_home, "containers", "auth.json")


def keys(registry: str, repository: str) -> list[str]:
    """The entries that fit, most specific first: `host/a/b`, `host/a`, `host`."""
    parts = repository.split("/") if repository else []
    return ["/".join((registry, *parts[:n])) for n in range(len(parts), -1, -1)]


def canonical(key: str) -> str:
    """`key` of `auths` or `credHelpers` as `keys` has it: docker's older ones are URLs."""
    scheme, separator, rest = key.partition("://")
    name = rest if separator else scheme
    host, _, path = name.strip("/").partition("/")
    if separator or path in ("v1", "v2"):
        path = ""
    host = HUB if host in _HUB_HOSTS else host
    return f"{host}/{path}" if path else host


def matching(table: Mapping[str, Any] | None, key: str) -> Iterator[tuple[str, Any]]:
    """The entries of `table` that `key` means: the one of that name first."""
    if not table:
        return
    if key in table:
        yield key, table[key]
    for name, entry in table.items():
        if name != key and canonical(name) == key:
            yield name, entry


def credential_of(entry: object) -> Credential | None:
    """What an entry of `auths` says in the file itself, None where that is nothing."""
    if not isinstance(entry, dict):
        return None
    text = {name: value for name, value in entry.items() if isinstance(value, str)}
    username, password = text.get("username", ""), text.get("password", "")
    if encoded := text.get("auth", ""):
        with suppress(binascii.Error, UnicodeDecodeError):
            pair = base64.b64decode("".join(encoded.split()), validate=True).decode()
            name, colon, secret = pair.partition(":")
            if colon:
                username, password = name, secret.rstrip("\0")
    identity, registry = text.get("identitytoken", ""), text.get("registrytoken", "")
    if not (identity or registry or (username and password)):
        return None
    return Credential(username, password, identity, registry)


def edit(path: str, change: Callable[[Document], bool]) -> bool:
    """Let `change` alter the document of the file `path` and replace the file, whole and readable
    by its owner only, when it returns true, which is returned. Two that do so at once wait for each
    other. Raises RegistryError."""
    path = os.path.realpath(path)  # a link into somebody's dotfiles stays one
    directory = os.path.dirname(path)
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        with _alone(directory):
            legacy = os.path.basename(path) == ".dockercfg"
            document = AuthFile(path).read()
            if not change(document):
                return False
            content = document["auths"] if legacy else document
            with replacing(path, 0o600) as stream:
                stream.write(json.dumps(content, indent="\t").encode() + b"\n")
    except OSError as error:
        raise RegistryError(
            f"cannot write the credentials in {path}: {error.strerror}",
            operation="a credential",
            hint="name a file that you may write with --authfile",
        ) from error
    return True


@contextmanager
def _alone(directory: str) -> Iterator[None]:
    """The lock is the directory's own: it leaves no file behind, and ends with the process."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # file systems without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
