"""Credentials, in podman's and then docker's order (containers-auth.json(5), ecosystem 1.4)."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import RegistryError
from assembler.oci.reference import Reference

HELPER_DEADLINE = 30.0  # seconds
_LONGEST_ANSWER = 1 << 20
_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io")


@dataclass(frozen=True, slots=True)
class Credential:
    """A name and a password, or an identity token. Never shown."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    def basic(self) -> str:
        """The value of a Basic Authorization header."""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


def find(
    environment: Environment, reference: Reference, cancellation: Cancellation
) -> Credential | None:
    """The credential for `reference`: the most specific entry of the first file that has one.

    Raises RegistryError when a credential helper fails or takes longer than its deadline.
    """

    def ask(helper: str, key: str) -> Credential | None:
        return _asked(helper, key, environment, cancellation)

    for path in _files(environment):
        document = _read(path)
        for key in _keys(reference):
            found = _from(document, key, ask)
            if found is not None:
                return found
    return None


def _files(environment: Environment) -> Iterator[str]:
    if environment.registry_auth_file:
        yield environment.registry_auth_file
        return
    if environment.runtime_dir:
        yield os.path.join(environment.runtime_dir, "containers", "auth.json")
    yield os.path.join(environment.config_home, "containers", "auth.json")
    yield os.path.join(environment.docker_config, "config.json")
    yield os.path.join(environment.home, ".dockercfg")


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as stream:
            document = json.loads(stream.read(4 << 20))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise RegistryError(
            f"cannot read the credentials in {path}: {type(error).__name__}",
            hint="it must be JSON that you may read; `podman login` writes one",
        ) from error
    if not isinstance(document, dict):
        return {}
    return document if "auths" in document or "credsStore" in document else _legacy(document)


def _legacy(document: dict[str, Any]) -> dict[str, Any]:
    return document if "credHelpers" in document else {"auths": document}


def _keys(reference: Reference) -> list[str]:
    """Entries that fit, most specific first: `host/a/b`, `host/a`, `host`, and Hub's old names."""
    parts = reference.repository.split("/")
    keys = ["/".join((reference.registry, *parts[:n])) for n in range(len(parts), -1, -1)]
    for scheme in ("https://", "http://"):
        keys += [f"{scheme}{reference.registry}", f"{scheme}{reference.registry}/v1/"]
        keys += [f"{scheme}{reference.registry}/v2/"]
    return keys + (list(_HUB_KEYS) if reference.registry == "docker.io" else [])


Ask = Callable[[str, str], Credential | None]
"""Asks the helper of a name for a server."""


def _from(document: dict[str, Any], key: str, ask: Ask) -> Credential | None:
    helpers = document.get("credHelpers")
    if isinstance(helpers, dict) and isinstance(helpers.get(key), str):
        return ask(helpers[key], key)
    auths = document.get("auths")
    entry = auths.get(key) if isinstance(auths, dict) else None
    if isinstance(entry, dict) and (found := _entry(entry)) is not None:
        return found
    store = document.get("credsStore")
    if isinstance(store, str) and store and isinstance(entry, dict):
        return ask(store, key)
    return None


def _entry(entry: dict[str, Any]) -> Credential | None:
    token = str(entry.get("identitytoken") or "")
    username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    encoded = entry.get("auth")
    if isinstance(encoded, str) and encoded:
        try:
            text = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            text = ""
        name, colon, secret = text.partition(":")
        if colon:
            username, password = name, secret.rstrip("\0")
    if not (token or (username and password)):
        return None
    return Credential(username, password, token)


def _asked(
    helper: str, key: str, environment: Environment, cancellation: Cancellation
) -> Credential | None:
    """Ask `docker-credential-<helper>`; the server's name goes by stdin, nothing by argv."""
    from assembler.linux import programs

    program = f"docker-credential-{os.path.basename(helper)}"
    try:
        answer = programs.run(
            [program, "get"],
            env=environment.variables,
            content=key.encode(),
            cancellation=cancellation,
            seconds=HELPER_DEADLINE,
            most=_LONGEST_ANSWER,
        )
    except (OSError, OverflowError) as error:  # a TimeoutError is an OSError
        raise RegistryError(
            f"the credential helper {program} did not answer: {type(error).__name__}",
            hint="install it, or remove it from the configuration",
        ) from error
    if answer.status:
        return None  # "credentials not found in native keychain": go on without
    try:
        document = json.loads(answer.output)
        username, secret = str(document["Username"]), str(document["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise RegistryError(f"the credential helper {program} gave no valid answer") from error
    if username == "<token>":
        return Credential(identity_token=secret)
    return Credential(username, secret)
