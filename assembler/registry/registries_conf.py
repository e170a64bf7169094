"""registries.conf(5), version 2: its files, read and checked. What is wrong is named with its file
and key. Version 1 is read as containers/image does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from assembler.environment import Environment
from assembler.errors import RegistryError, UsageError
from assembler.oci.reference import Reference, has_registry
from assembler.registry.plain_toml import plain
from assembler.values import field, value

ALL, DIGEST_ONLY, TAG_ONLY = "all", "digest-only", "tag-only"
MODES = ("enforcing", "permissive", "disabled")


@value
class Mirror:
    """A `[[registry.mirror]]`; `use` is its `pull-from-mirror`."""

    location: str
    insecure: bool = False
    use: str = ALL


@value
class Rule:
    """A `[[registry]]`. `location` is empty for a wildcard that rewrites nothing."""

    prefix: str
    location: str
    insecure: bool
    blocked: bool
    mirrors: tuple[Mirror, ...]
    file: str = field(default="", compare=False)


@value
class Registries:
    """What all files say together: a later file's rule replaces that of the same prefix."""

    rules: tuple[Rule, ...] = ()
    search: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    mode: str = "permissive"
    helpers: tuple[str, ...] = ()

    def short(self, name: str) -> tuple[str, ...]:
        """What the name `name` may mean, in the order to try: its alias, else one of each
        unqualified-search registry, else Docker Hub's. A name with a registry means itself.

        Nobody is asked: where `enforcing` leaves a choice, RegistryError is raised. Raises
        ValueError for a name that is none.
        """
        plain = str(Reference.parse(name))
        if has_registry(name):
            return (plain,)
        path = name.partition("@")[0].partition(":")[0]
        suffix = name[len(path) :]
        if alias := self.aliases.get(path):
            return (str(Reference.parse(alias + suffix)),)
        if self.mode == "enforcing" and len(self.search) > 1:
            raise RegistryError(
                f"{name} may be of any of {', '.join(self.search)}",
                hint="short-name-mode is enforcing in registries.conf: say which registry",
            )
        found = (str(Reference.parse(f"{host}/{name}")) for host in self.search)
        return tuple(found) or (plain,)


def read(environment: Environment) -> Registries:
    """$CONTAINERS_REGISTRIES_CONF, else the user's file, else /etc's; then the drop-ins of /etc and
    of the user. Raises UsageError."""
    rules: dict[str, Rule] = {}
    aliases: dict[str, str] = {}
    search: tuple[str, ...] = ()
    mode, helpers = "permissive", search
    for path in _files(environment):
        document = _File(path, _document(path))
        for rule in _rules(document):
            rules[rule.prefix] = rule
        for name, meant in document.table("aliases").items():
            aliases[name] = document.text(meant, f"aliases.{name}")
            if aliases[name]:
                document.check_name(aliases[name], f"aliases.{name}")
        if "unqualified-search-registries" in document.content:
            search = document.texts("unqualified-search-registries")
        search = search + document.version_1("search")
        for host in search:
            document.check_name(f"{host}/x", "unqualified-search-registries", host)
        mode = _mode(document) or mode
        helpers = document.texts("credential-helpers") or helpers
    known = {name: value for name, value in aliases.items() if value}  # an empty one erases
    return Registries(tuple(rules.values()), search, known, mode, helpers)


def _files(environment: Environment) -> Iterator[str]:
    user = os.path.join(environment.config_home, "containers")
    system = "/etc/containers"
    if environment.registries_conf:
        yield environment.registries_conf
        return
    main = os.path.join(user, "registries.conf")
    found = [main if os.path.exists(main) else os.path.join(system, "registries.conf")]
    for directory in (system, user):
        drop_ins = os.path.join(directory, "registries.conf.d")
        if os.path.isdir(drop_ins):
            found += [os.path.join(drop_ins, name) for name in sorted(os.listdir(drop_ins))]
    yield from (path for path in found if path.endswith(".conf") and os.path.isfile(path))


def _document(path: str) -> Mapping[str, Any]:
    try:
        with open(path, "rb") as stream:
            content = stream.read().decode()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _no_toml(path, error) from error
    found = plain(content)
    if found is not None:
        return found
    import tomllib

    try:
        return tomllib.loads(content)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _no_toml(path, error) from error


def _no_toml(path: str, error: Exception) -> UsageError:
    return UsageError(f"{path}: {error}", hint="the file is TOML, registries.conf(5)")


@value
class _File:
    path: str
    content: Mapping[str, Any]

    def wrong(self, what: str) -> UsageError:
        return UsageError(f"{self.path}: {what}", hint="registries.conf(5) describes the file")

    def text(self, value: object, key: str) -> str:
        if not isinstance(value, str):
            raise self.wrong(f"{key} must be a string")
        return value

    def check_name(self, name: str, key: str, said: str = "") -> None:
        """Raise UsageError unless `name`, which is in the file as `said`, begins with a registry."""
        try:
            Reference.parse(name)
        except ValueError as error:
            raise self.wrong(f"{key}: {said or repr(name)} is none: {error}") from error
        if not has_registry(name):
            raise self.wrong(f"{key}: {said or name} names no registry: it has no dot and no port")

    def flag(self, table: Mapping[str, Any], key: str, where: str) -> bool:
        value = table.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(f"{where}{key} must be true or false")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.content.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.wrong(f"{key} must be an array of strings")
        return tuple(value)

    def table(self, key: str) -> dict[str, Any]:
        value = self.content.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(f"{key} must be a table")
        return value

    def tables(self, value: object, key: str) -> list[dict[str, Any]]:
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise self.wrong(f"{key} must be an array of tables, [[{key}]]")
        return value

    def version_1(self, name: str) -> tuple[str, ...]:
        """The `registries` of `[registries.NAME]`, version 1's."""
        table = self.table("registries").get(name, {})
        where = f"registries.{name}"
        if not isinstance(table, dict):
            raise self.wrong(f"{where} must be a table")
        inner = _File(self.path, table)
        try:
            return inner.texts("registries")
        except UsageError:
            raise self.wrong(f"{where}.registries must be an array of strings") from None


def _mode(document: _File) -> str:
    mode = document.text(document.content.get("short-name-mode", ""), "short-name-mode")
    if mode and mode not in MODES:
        raise document.wrong(f"short-name-mode must be one of {', '.join(MODES)}, not {mode!r}")
    return mode


def _rules(document: _File) -> Iterator[Rule]:
    tables = document.tables(document.content.get("registry", []), "registry")
    first = "registries" in document.content
    if first and (tables or "unqualified-search-registries" in document.content):
        raise document.wrong("it mixes version 1 ([registries.…]) and version 2 ([[registry]])")
    for table in tables:
        yield _rule(document, table)
    insecure, blocked = document.version_1("insecure"), document.version_1("block")
    for name in dict.fromkeys((*insecure, *blocked)):
        yield Rule(name, name, name in insecure, name in blocked, (), document.path)


def _rule(document: _File, table: Mapping[str, Any]) -> Rule:
    location = _trimmed(document.text(table.get("location", ""), "registry.location"))
    prefix = _trimmed(document.text(table.get("prefix", ""), "registry.prefix")) or location
    wildcard = prefix.startswith("*.")
    if not prefix:
        raise document.wrong("a [[registry]] has neither prefix nor location")
    if "*" in prefix.removeprefix("*.") or (wildcard and ("/" in prefix or ":" in prefix)):
        raise document.wrong(f"registry.prefix {prefix!r}: a wildcard is *.HOST and no more")
    if not wildcard:
        location = location or prefix
    by_digest = document.flag(table, "mirror-by-digest-only", "registry.")
    if "pull-from-mirror" in table:
        raise document.wrong("pull-from-mirror belongs into a [[registry.mirror]]")
    mirrors = []
    for mirror in document.tables(table.get("mirror", []), "registry.mirror"):
        place = _trimmed(document.text(mirror.get("location", ""), "registry.mirror.location"))
        if not place:
            raise document.wrong(f"a [[registry.mirror]] of {prefix!r} has no location")
        use = document.text(mirror.get("pull-from-mirror", ""), "registry.mirror.pull-from-mirror")
        if use not in ("", ALL, DIGEST_ONLY, TAG_ONLY):
            raise document.wrong(
                f"pull-from-mirror must be one of {ALL}, {DIGEST_ONLY}, {TAG_ONLY}, not {use!r}"
            )
        if use and by_digest:
            raise document.wrong(
                f"{prefix!r}: mirror-by-digest-only and pull-from-mirror exclude each other"
            )
        use = use or (DIGEST_ONLY if by_digest else ALL)
        mirrors.append(Mirror(place, document.flag(mirror, "insecure", "registry.mirror."), use))
    return Rule(
        prefix,
        location,
        document.flag(table, "insecure", "registry."),
        document.flag(table, "blocked", "registry."),
        tuple(mirrors),
        document.path,
    )


def _trimmed(name: str) -> str:
    """`name` without a scheme, which people write, and slashes at its end."""
    for scheme in ("https://", "http://"):
        name = name.removeprefix(scheme)
    return name.rstrip("/")
