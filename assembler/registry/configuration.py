"""Where a name's registry is: registries.conf version 2 and its mirrors (ecosystem 1.4)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from assembler.environment import Environment
from assembler.errors import RegistryError, UsageError
from assembler.net.origin import Origin, is_loopback
from assembler.oci.reference import Reference


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place that has a repository: `https://host/v2/repository/…`, or http when `insecure`."""

    host: str
    repository: str
    insecure: bool = False
    mirror: bool = False

    @property
    def schemes(self) -> tuple[str, ...]:
        """The schemes to try, in order. Loopback may be plain http, as under Docker."""
        name = Origin.of(f"http://{self.host}").host
        if is_loopback(name):
            return ("http",)
        return ("https", "http") if self.insecure else ("https",)

    @property
    def address(self) -> str:
        """The host to connect to."""
        return "registry-1.docker.io" if self.host == "docker.io" else self.host


@dataclass(frozen=True, slots=True)
class _Rule:
    prefix: str
    location: str
    insecure: bool
    blocked: bool
    mirrors: tuple[tuple[str, bool], ...]

    def covers(self, name: str) -> bool:
        if self.prefix.startswith("*."):
            return name.partition("/")[0].partition(":")[0].endswith(self.prefix[1:])
        return name == self.prefix or name.startswith((f"{self.prefix}/", f"{self.prefix}:"))


@dataclass(frozen=True, slots=True)
class RegistryConfiguration:
    """The rules of the files, and the hosts the command line calls insecure."""

    rules: tuple[_Rule, ...] = ()
    insecure: frozenset[str] = frozenset()

    @classmethod
    def read(cls, environment: Environment, insecure: frozenset[str]) -> RegistryConfiguration:
        """Read $CONTAINERS_REGISTRIES_CONF, else the user's file, else /etc's, and the drop-ins.

        Raises UsageError for a file that is not TOML.
        """
        rules: list[_Rule] = []
        for path in _files(environment):
            rules += _rules(path)
        return cls(tuple(rules), insecure)

    def endpoints(self, reference: Reference) -> tuple[Endpoint, ...]:
        """Where to read `reference`: mirrors in order, then the registry itself.

        Raises RegistryError for a registry that is blocked.
        """
        name = f"{reference.registry}/{reference.repository}"
        covering = [rule for rule in self.rules if rule.covers(name)]
        rule = max(covering, key=lambda one: len(one.prefix), default=None)
        if rule is None:
            return (self._endpoint(name, False),)
        if rule.blocked:
            raise RegistryError(
                f"registry {reference.registry} is blocked in registries.conf",
                registry=reference.registry,
            )
        rest = name[len(rule.prefix) :] if not rule.prefix.startswith("*.") else ""
        mirrors = [
            self._endpoint(location + rest, insecure, mirror=True)
            for location, insecure in rule.mirrors
        ]
        own = rule.location + rest if rule.location and rest else name
        return (*mirrors, self._endpoint(own, rule.insecure))

    def endpoint(self, reference: Reference) -> Endpoint:
        """Where to write `reference`: never a mirror."""
        return self.endpoints(reference)[-1]

    def _endpoint(self, name: str, insecure: bool, mirror: bool = False) -> Endpoint:
        host, _, repository = name.partition("/")
        return Endpoint(host, repository, insecure or host in self.insecure, mirror)


def _files(environment: Environment) -> Iterable[str]:
    if environment.registries_conf:
        return [environment.registries_conf]
    directory = os.path.join(environment.config_home, "containers")
    if not os.path.exists(os.path.join(directory, "registries.conf")):
        directory = "/etc/containers"
    found = [os.path.join(directory, "registries.conf")]
    drop_ins = os.path.join(directory, "registries.conf.d")
    if os.path.isdir(drop_ins):
        found += [os.path.join(drop_ins, name) for name in sorted(os.listdir(drop_ins))]
    return [path for path in found if path.endswith(".conf") and os.path.isfile(path)]


def _rules(path: str) -> list[_Rule]:
    import tomllib

    try:
        with open(path, "rb") as stream:
            document = tomllib.load(stream)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}", hint="the file is TOML, registries.conf(5)") from error
    tables = document.get("registry") or []
    return [_rule(table) for table in tables if isinstance(table, dict)]


def _rule(table: dict[str, Any]) -> _Rule:
    location = str(table.get("location") or "")
    mirrors = [one for one in table.get("mirror") or () if isinstance(one, dict)]
    return _Rule(
        prefix=str(table.get("prefix") or location),
        location=location,
        insecure=bool(table.get("insecure", False)),
        blocked=bool(table.get("blocked", False)),
        mirrors=tuple(
            (str(one["location"]), bool(one.get("insecure", False)))
            for one in mirrors
            if one.get("location")
        ),
    )
