"""The one look at the process environment; everything else receives the value."""

from __future__ import annotations

import os
from collections.abc import Mapping

from assembler.values import value

PROXY_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")


@value
class Environment:
    """Where things are, and what the user set. Paths are absolute; absent settings are empty."""

    variables: Mapping[str, str]
    home: str
    store: str
    config_home: str
    runtime_dir: str
    docker_config: str
    registry_auth_file: str
    registries_conf: str
    temporary: str

    @classmethod
    def read(cls, variables: Mapping[str, str] | None = None) -> Environment:
        """The environment of this process, or of `variables` (ecosystem 1.3, XDG base dirs).

        The store is $ASSEMBLE_STORE, else $XDG_DATA_HOME/assemble, else ~/.local/share/assemble.
        """
        environ = dict(os.environ if variables is None else variables)
        home = environ.get("HOME") or _home_of_user() or "/"
        data_home = environ.get("XDG_DATA_HOME") or f"{home}/.local/share"
        config_home = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
        return cls(
            variables=environ,
            home=home,
            store=os.path.abspath(environ.get("ASSEMBLE_STORE") or f"{data_home}/assemble"),
            config_home=config_home,
            runtime_dir=environ.get("XDG_RUNTIME_DIR", ""),
            docker_config=environ.get("DOCKER_CONFIG") or f"{home}/.docker",
            registry_auth_file=environ.get("REGISTRY_AUTH_FILE", ""),
            registries_conf=environ.get("CONTAINERS_REGISTRIES_CONF", ""),
            temporary=environ.get("TMPDIR") or "/var/tmp",
        )

    def get(self, name: str) -> str:
        """The variable `name`, empty when not set."""
        return self.variables.get(name, "")


def _home_of_user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # a random uid without a passwd entry, as in some pods
        return ""
