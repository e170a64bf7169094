"""registries.conf: prefixes, mirrors, blocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from assembler.environment import Environment
from assembler.errors import RegistryError, UsageError
from assembler.oci.reference import Reference
from assembler.registry.configuration import Endpoint, RegistryConfiguration


def configuration(tmp_path: Path, text: str, *insecure: str) -> RegistryConfiguration:
    path = tmp_path / "registries.conf"
    path.write_text(text)
    environment = Environment.read({"HOME": "/", "CONTAINERS_REGISTRIES_CONF": str(path)})
    return RegistryConfiguration.read(environment, frozenset(insecure))


def endpoints(configuration: RegistryConfiguration, name: str) -> list[tuple[str, str, bool]]:
    found = configuration.endpoints(Reference.parse(name))
    return [(one.host, one.repository, one.mirror) for one in found]


def test_without_rules_a_name_is_where_it_says(tmp_path: Path) -> None:
    plain = configuration(tmp_path, "")
    assert endpoints(plain, "debian") == [("docker.io", "library/debian", False)]
    assert plain.endpoint(Reference.parse("debian")).address == "registry-1.docker.io"


def test_mirrors_come_first_and_the_longest_prefix_wins(tmp_path: Path) -> None:
    rules = configuration(
        tmp_path,
        """
        [[registry]]
        prefix = "example.com"
        location = "other.example.com"
        [[registry]]
        prefix = "example.com/team"
        location = "example.com/moved"
        [[registry.mirror]]
        location = "mirror.example.com/cache"
        """,
    )
    assert endpoints(rules, "example.com/x:1") == [("other.example.com", "x", False)]
    assert endpoints(rules, "example.com/team/app:1") == [
        ("mirror.example.com", "cache/app", True),
        ("example.com", "moved/app", False),
    ]


def test_a_blocked_registry_is_refused(tmp_path: Path) -> None:
    rules = configuration(tmp_path, '[[registry]]\nlocation = "bad.example.com"\nblocked = true\n')
    with pytest.raises(RegistryError, match="blocked"):
        rules.endpoints(Reference.parse("bad.example.com/x"))


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"registries\.conf"):
        configuration(tmp_path, "[[registry\n")


@pytest.mark.parametrize(
    ("host", "insecure", "schemes"),
    [
        ("127.0.0.1:5000", False, ("http",)),
        ("localhost:5000", False, ("http",)),
        ("[::1]:5000", False, ("http",)),
        ("example.com", False, ("https",)),
        ("example.com:5000", True, ("https", "http")),
    ],
)
def test_only_loopback_and_insecure_hosts_may_be_plain(
    host: str, insecure: bool, schemes: tuple[str, ...]
) -> None:
    assert Endpoint(host, "a", insecure).schemes == schemes
