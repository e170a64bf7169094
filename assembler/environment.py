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
    fsync: str = "batch"
    reserved_space: str = ""
    max_used_space: str = ""
    min_free_space: str = ""
    max_layer: str = ""
    max_entries: str = ""
    notice: str = ""
    """What the user should know about the choices made here, empty for nothing."""

    @classmethod
    def read(cls, variables: Mapping[str, str] | None = None) -> Environment:
        """The environment of this process, or of `variables` (ecosystem 1.3, XDG base dirs).

        The store is $ASSEMBLE_STORE, else $XDG_DATA_HOME/assemble, else ~/.local/share/assemble;
        where that cannot be written, $TMPDIR/assemble-<uid> (reliability.md 1.1).
        """
        environ = dict(os.environ if variables is None else variables)
        home = environ.get("HOME") or _home_of_user() or "/"
        temporary = environ.get("TMPDIR") or "/var/tmp"
        data_home = environ.get("XDG_DATA_HOME")
        named = environ.get("ASSEMBLE_STORE") or f"{data_home or f'{home}/.local/share'}/assemble"
        store = os.path.abspath(named)
        notice = ""
        if not environ.get("ASSEMBLE_STORE") and not data_home and not _can_be_made(store):
            instead = os.path.abspath(f"{temporary}/assemble-{os.getuid()}")
            notice = (
                f"{home} cannot be written: the store is {instead} (ASSEMBLE_STORE names another)"
            )
            store = instead
        config_home = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
        return cls(
            variables=environ,
            home=home,
            store=store,
            config_home=config_home,
            runtime_dir=environ.get("XDG_RUNTIME_DIR", ""),
            docker_config=environ.get("DOCKER_CONFIG") or f"{home}/.docker",
            registry_auth_file=environ.get("REGISTRY_AUTH_FILE", ""),
            registries_conf=environ.get("CONTAINERS_REGISTRIES_CONF", ""),
            temporary=temporary,
            fsync=environ.get("ASSEMBLE_FSYNC") or "batch",
            reserved_space=environ.get("ASSEMBLE_RESERVED_SPACE", ""),
            max_used_space=environ.get("ASSEMBLE_MAX_USED_SPACE", ""),
            min_free_space=environ.get("ASSEMBLE_MIN_FREE_SPACE", ""),
            max_layer=environ.get("ASSEMBLE_MAX_LAYER", ""),
            max_entries=environ.get("ASSEMBLE_MAX_ENTRIES", ""),
            notice=notice,
        )

    def get(self, name: str) -> str:
        """The variable `name`, empty when not set."""
        return self.variables.get(name, "")


def _can_be_made(path: str) -> bool:
    """Whether `path`, or what exists of the way to it, is a directory that can be written."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)


def _home_of_user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # a random uid without a passwd entry, as in some pods
        return ""
