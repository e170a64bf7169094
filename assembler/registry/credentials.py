"""Whose credential goes to a registry: podman's and then docker's order (ecosystem 1.4)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from assembler.access import Access
from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import RegistryError
from assembler.registry.auth_files import (
    HUB,
    HUB_SERVER,
    AuthFile,
    Document,
    canonical,
    credential_of,
    keys,
    matching,
    places,
    primary,
)
from assembler.registry.credential import Credential, Found
from assembler.registry.credential_helpers import CredentialHelper
from assembler.values import value

FILES = "containers-auth.json"
"""The name of the auth files among `credential-helpers` of registries.conf(5)."""


@value
class Destination:
    """Where a login is kept: in the file `path`, or by `helper` under the name `server`."""

    path: str
    server: str
    helper: CredentialHelper | None = None


@value
class Credentials:
    """The places of one command. `helpers` are the `credential-helpers` of registries.conf."""

    environment: Environment
    access: Access
    cancellation: Cancellation
    helpers: tuple[str, ...] = (FILES,)

    def find(self, registry: str, repository: str = "") -> Found:
        """The credential for `repository` of `registry`: the most specific one of the first place
        that has any. Raises RegistryError for a file or a helper that fails."""
        if self.access.creds and registry in self.access.creds_for:
            username, _, password = self.access.creds.partition(":")
            return Found(Credential(username, password), "--creds")
        if self.access.authfile and not os.path.exists(self.access.authfile):
            raise RegistryError(
                f"--authfile {self.access.authfile}: no such file", registry=registry
            )
        looked: list[str] = []
        for helper in self.helpers:
            if helper == FILES:
                for place in places(self.environment, self.access):
                    found, source = self._in(place, registry, repository)
                    if found is not None:
                        return Found(found, source)
                    looked.append(place.path)
                continue
            program = self._helper(helper)
            looked.append(program.program)
            if (found := program.get(registry)) is not None:
                return Found(found, program.program)
        return Found(looked=tuple(looked))

    def destination(self, registry: str, repository: str = "") -> Destination:
        """Where a login to `registry` or one of its namespaces is to be kept, so that `find` finds
        it: with the helper that is configured for it, else in the primary file."""
        key = keys(registry, repository)[0]
        kept = Destination(primary(self.environment, self.access), key)
        for place in places(self.environment, self.access):
            document = place.read()
            if (configured := _helper_for(document, key)) is not None:
                name, server = configured
                return Destination(place.path, server, self._helper(name))
            entries = matching(document.get("auths"), key)
            if any(credential_of(entry) is not None for _, entry in entries):
                return kept
            if (store := _store_of(document)) and not repository:
                return Destination(place.path, _server(registry), self._helper(store))
        return kept

    def kept(self, registry: str, repository: str = "") -> Iterator[Destination]:
        """Everywhere that a login to exactly this registry or namespace is kept."""
        key = keys(registry, repository)[0]
        for place in places(self.environment, self.access):
            document = place.read()
            if not place.text:
                for name, _ in matching(document.get("auths"), key):
                    yield Destination(place.path, name)
            if (configured := _helper_for(document, key)) is not None:
                yield Destination(place.path, configured[1], self._helper(configured[0]))
            elif (store := _store_of(document)) and not repository:
                yield Destination(place.path, _server(registry), self._helper(store))

    def _in(self, place: AuthFile, registry: str, repository: str) -> tuple[Credential | None, str]:
        """The credential that one file has, itself or by a helper, and what users know that by.

        docker asks `credsStore` for whatever has no helper of its own, and never looks at what is
        written in `auths` then; podman knows nothing of it. What the file says itself is better
        than nothing, so it comes last, and a store that fails does no harm then.
        """
        document = place.read()
        for key in keys(registry, repository):
            failure: RegistryError | None = None
            found: Credential | None = None
            configured = _helper_for(document, key)
            if configured is None and key == registry and (store := _store_of(document)):
                configured = store, _server(registry)
            if configured is not None:
                helper = self._helper(configured[0])
                try:
                    found = helper.get(configured[1])
                except RegistryError as error:
                    failure = error
                if found is not None:
                    return found, f"{helper.program} of {place.path}"
            for _, entry in matching(document.get("auths"), key):
                if (found := credential_of(entry)) is not None:
                    return found, place.path
            if failure is not None:
                raise failure
        return None, ""

    def _helper(self, name: str) -> CredentialHelper:
        return CredentialHelper(name, self.environment, self.cancellation)


def registries(names: Sequence[str]) -> list[str]:
    """The registries that the keys `names` of an auth file are for, each once."""
    return list(dict.fromkeys(canonical(name).partition("/")[0] for name in names))


def _helper_for(document: Document, key: str) -> tuple[str, str] | None:
    """The helper that `credHelpers` has for `key`, and the name that it knows it by."""
    for name, helper in matching(document.get("credHelpers"), key):
        if isinstance(helper, str) and helper:
            return helper, name
    return None


def _store_of(document: Document) -> str:
    store = document.get("credsStore")
    return store if isinstance(store, str) else ""


def _server(registry: str) -> str:
    return HUB_SERVER if registry == HUB else registry
