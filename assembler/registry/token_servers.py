"""The token servers that logins were verified with: what `realms.belongs` cannot know otherwise.

They are kept beside the auth files, not in them: podman and docker drop keys that they do not know
when they write theirs.
"""

from __future__ import annotations

import os

from assembler.environment import Environment
from assembler.registry.auth_files import AuthFile, Document, edit


def path(environment: Environment) -> str:
    """The file: an object of registries, each with the hosts of its token servers."""
    return os.path.join(environment.config_home, "assemble", "token-servers.json")


def learnt(environment: Environment, registry: str) -> frozenset[str]:
    """The token servers of `registry`. Raises RegistryError for a file that cannot be read."""
    hosts = AuthFile(path(environment)).read().get(registry)
    return frozenset(map(str, hosts)) if isinstance(hosts, list) else frozenset()


def learn(environment: Environment, registry: str, host: str) -> None:
    """Take note that `host` gives the tokens of `registry`, and no other any more."""

    def change(document: Document) -> bool:
        document[registry] = [host]
        return True

    edit(path(environment), change)


def forget(environment: Environment, registry: str) -> None:
    """Know no token server of `registry`."""
    if os.path.exists(path(environment)):
        edit(path(environment), lambda document: document.pop(registry, None) is not None)
