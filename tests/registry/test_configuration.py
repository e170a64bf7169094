"""registries.conf: prefixes, mirrors, blocks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from assembler.environment import Environment
from assembler.errors import RegistryError, UsageError
from assembler.net.tls import Certificates
from assembler.oci.reference import Reference
from assembler.registry.certificates import certificates, places
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
    written = rules.endpoint(Reference.parse("example.com/team/app:1"))
    assert (written.host, written.repository) == ("example.com", "moved/app"), "to no mirror"


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
        ("127.0.0.1:5000", True, ("http", "https")),
        ("example.com:5000", True, ("https", "http")),
    ],
)
def test_only_loopback_and_insecure_hosts_may_be_plain(
    host: str, insecure: bool, schemes: tuple[str, ...]
) -> None:
    assert Endpoint(host, "a", insecure).schemes == schemes


def names(configuration: RegistryConfiguration, name: str) -> list[str]:
    return [f"{host}/{repository}" for host, repository, _ in endpoints(configuration, name)]


def test_RG15_a_wildcard_covers_subdomains_and_keeps_the_path(tmp_path: Path) -> None:
    rules = configuration(
        tmp_path,
        """
        [[registry]]
        prefix = "*.example.com"
        [[registry.mirror]]
        location = "mirror.org/cache"
        [[registry]]
        prefix = "*.blocked.example.com"
        blocked = true
        [[registry]]
        prefix = "*.moved.org"
        location = "new.org/old"
        """,
    )
    assert names(rules, "a.b.example.com/x/y:1") == ["mirror.org/cache/x/y", "a.b.example.com/x/y"]
    assert names(rules, "example.com/x:1") == ["example.com/x"]
    assert names(rules, "notexample.com/x:1") == ["notexample.com/x"]
    assert names(rules, "a.moved.org/x:1") == ["new.org/old/x"]
    with pytest.raises(RegistryError, match=r"blocked in .*registries\.conf"):
        rules.endpoints(Reference.parse("a.blocked.example.com/x"))


def test_RG15_the_longest_prefix_wins_also_over_a_wildcard(tmp_path: Path) -> None:
    rules = configuration(
        tmp_path,
        """
        [[registry]]
        prefix = "*.example.com"
        location = "wild.org"
        [[registry]]
        prefix = "a.example.com"
        location = "host.org"
        [[registry]]
        prefix = "a.example.com/team/app"
        location = "app.org/x"
        [[registry]]
        prefix = "a.example.com/team/app:1"
        location = "tag.org/x:1"
        [[registry]]
        prefix = "a.example.com:5000"
        location = "port.org"
        """,
    )
    assert names(rules, "b.example.com/x") == ["wild.org/x"]
    assert names(rules, "a.example.com/other") == ["host.org/other"]
    assert names(rules, "a.example.com/team/app:2") == ["app.org/x"]
    assert names(rules, "a.example.com/team/app:1") == ["tag.org/x"]
    assert names(rules, "a.example.com/team/application:1") == ["host.org/team/application"]
    assert names(rules, "a.example.com:5000/x") == ["port.org/x"]


DIGEST = f"@sha256:{'0' * 64}"


def test_RG15_mirrors_are_for_digests_or_tags_only_when_they_say_so(tmp_path: Path) -> None:
    rules = configuration(
        tmp_path,
        """
        [[registry]]
        location = "a.com"
        [[registry.mirror]]
        location = "all.org"
        [[registry.mirror]]
        location = "digests.org"
        pull-from-mirror = "digest-only"
        [[registry.mirror]]
        location = "tags.org"
        pull-from-mirror = "tag-only"
        [[registry]]
        location = "b.com"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "m.org"
        """,
    )
    assert names(rules, "a.com/x:1") == ["all.org/x", "tags.org/x", "a.com/x"]
    assert names(rules, f"a.com/x{DIGEST}") == ["all.org/x", "digests.org/x", "a.com/x"]
    assert names(rules, "b.com/x:1") == ["b.com/x"]
    assert names(rules, f"b.com/x{DIGEST}") == ["m.org/x", "b.com/x"]


def test_RG15_a_repository_without_a_tag_is_mapped_too(tmp_path: Path) -> None:
    rules = configuration(tmp_path, '[[registry]]\nprefix="a.com/x"\nlocation="b.com/y"\n')
    endpoint = rules.endpoint(Reference("a.com", "x/z"))
    assert (endpoint.host, endpoint.repository) == ("b.com", "y/z")
    rules = configuration(tmp_path, '[[registry]]\nprefix="a.com/x"\nlocation="b.com/y:2"\n')
    with pytest.raises(RegistryError, match="another tag"):
        rules.endpoint(Reference("a.com", "x"))


def test_RG15_a_location_may_not_change_the_tag(tmp_path: Path) -> None:
    rules = configuration(tmp_path, '[[registry]]\nprefix="a.com/x:1"\nlocation="b.com/x:2"\n')
    with pytest.raises(RegistryError, match="another tag"):
        rules.endpoints(Reference.parse("a.com/x:1"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('registry = "x"', "registry must be an array of tables"),
        ("[[registry]]\nlocation = 5", "registry.location must be a string"),
        ("[[registry]]\nblocked = true", "neither prefix nor location"),
        ('[[registry]]\nlocation = "a"\ninsecure = "yes"', "insecure must be true or false"),
        ('[[registry]]\nlocation = "a"\nmirror = [1]', "registry.mirror must be an array of tables"),
        ('[[registry]]\nlocation = "a"\n[[registry.mirror]]', "has no location"),
        ('[[registry]]\nprefix = "*.a.com/x"\nlocation = "b"', "a wildcard is"),
        ('[[registry]]\nprefix = "a.*.com"\nlocation = "b"', "a wildcard is"),
        ('[[registry]]\nlocation = "a"\npull-from-mirror = "all"', "belongs into"),
        (
            '[[registry]]\nlocation="a"\n[[registry.mirror]]\nlocation="b"\n'
            'pull-from-mirror="never"', "pull-from-mirror must be one of"),
        (
            '[[registry]]\nlocation="a"\nmirror-by-digest-only=true\n[[registry.mirror]]\n'
            'location="b"\npull-from-mirror="all"', "exclude each other"),
        ('unqualified-search-registries = "a"', "must be an array of strings"),
        ('short-name-mode = "ask"', "short-name-mode must be one of"),
        ("aliases = 1", "aliases must be a table"),
        ("[aliases]\na = 1", "aliases.a must be a string"),
        ('[aliases]\na = "x.org/A b"', "aliases.a: 'x.org/A b' is none"),
        ('[aliases]\na = "b"', "aliases.a: b names no registry"),
        (
            'unqualified-search-registries = ["https://x.org"]',
            "unqualified-search-registries: https://x.org is none"),
        ('unqualified-search-registries = ["x"]', "x names no registry"),
        ("credential-helpers = [1]", "credential-helpers must be an array"),
        ('[registries.search]\nregistries = "a"', "registries.search.registries must be"),
        (
            '[registries.search]\nregistries=["a"]\n[[registry]]\nlocation="a"', "mixes version 1"),
    ],
)  # fmt: skip
def test_RG15_what_is_wrong_is_named_with_file_and_key(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        configuration(tmp_path, text)
    assert said in caught.value.message
    assert str(tmp_path / "registries.conf") in caught.value.message


def test_RG15_version_1_is_read(tmp_path: Path) -> None:
    rules = configuration(
        tmp_path,
        """
        [registries.search]
        registries = ["one.org", "two.org"]
        [registries.insecure]
        registries = ["plain.org"]
        [registries.block]
        registries = ["bad.org"]
        """,
    )
    assert rules.registries.short("app") == ("one.org/app:latest", "two.org/app:latest")
    assert rules.endpoint(Reference.parse("plain.org/x")).insecure
    with pytest.raises(RegistryError, match="blocked"):
        rules.endpoints(Reference.parse("bad.org/x"))


def test_RG15_drop_ins_override_by_prefix_and_alias_in_their_order(tmp_path: Path) -> None:
    home = tmp_path / ".config/containers"
    (home / "registries.conf.d").mkdir(parents=True)
    files = {
        "registries.conf": 'unqualified-search-registries = ["first.org"]\n'
        '[[registry]]\nlocation = "a.com"\ninsecure = true\n[aliases]\nx = "a.com/x"\n',
        "registries.conf.d/10.conf": '[[registry]]\nprefix = "a.com"\nlocation = "b.com"\n'
        '[aliases]\nx = "b.com/x"\ny = "b.com/y"\n',
        "registries.conf.d/20.conf": 'unqualified-search-registries = ["second.org"]\n'
        '[aliases]\ny = ""\n',
        "registries.conf.d/ignored.txt": "not TOML",
    }
    for name, text in files.items():
        (home / name).write_text(text)
    read = RegistryConfiguration.read(Environment.read({"HOME": str(tmp_path)}))
    assert names(read, "a.com/x") == ["b.com/x"]
    assert not read.endpoint(Reference.parse("a.com/x")).insecure, "the whole table is replaced"
    assert read.registries.short("x:2") == ("b.com/x:2",)
    assert read.registries.short("y") == ("second.org/y:latest",), "it was erased"


SHORT = '[aliases]\n"app" = "alias.org/team/app"\n'
SEARCH = 'unqualified-search-registries = ["one.org", "two.org"]\n'


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("", "debian", ["docker.io/library/debian:latest"]),
        (SHORT, "app:2", ["alias.org/team/app:2"]),
        (SHORT, f"app{DIGEST}", [f"alias.org/team/app{DIGEST}"]),
        (SHORT, "docker.io/app", ["docker.io/library/app:latest"]),
        (SEARCH, "app:1", ["one.org/app:1", "two.org/app:1"]),
        (SEARCH + 'short-name-mode = "disabled"', "team/app", ["one.org/team/app:latest",
                                                             "two.org/team/app:latest"]),
        (SEARCH, "other.org/app", ["other.org/app:latest"]),
        (SEARCH, "localhost/app", ["localhost/app:latest"]),
    ],
)  # fmt: skip
def test_short_names(tmp_path: Path, text: str, name: str, expected: list[str]) -> None:
    assert list(configuration(tmp_path, text).registries.short(name)) == expected


def test_an_enforced_choice_is_asked_of_nobody(tmp_path: Path) -> None:
    rules = configuration(tmp_path, 'short-name-mode = "enforcing"\n' + SEARCH)
    with pytest.raises(RegistryError, match=r"any of one\.org, two\.org"):
        rules.registries.short("app")


def test_networks_may_be_insecure_as_for_dockerd(tmp_path: Path) -> None:
    rules = configuration(tmp_path, "", "10.0.0.0/8", "plain.org", "port.org:5000")
    assert rules.endpoint(Reference.parse("10.1.2.3:5000/x")).insecure
    assert not rules.endpoint(Reference.parse("11.1.2.3:5000/x")).insecure
    assert rules.endpoint(Reference.parse("plain.org:5000/x")).insecure, "a host is all its ports"
    assert rules.endpoint(Reference.parse("port.org:5000/x")).insecure
    assert not rules.endpoint(Reference.parse("port.org/x")).insecure


def test_tls_verify_overrides_what_the_files_say(tmp_path: Path) -> None:
    text = '[[registry]]\nlocation = "a.com"\ninsecure = true\n'
    plain = configuration(tmp_path, text)
    strict, lax = replace(plain, tls_verify=True), replace(plain, tls_verify=False)
    here, there = Reference.parse("127.0.0.1:5000/x"), Reference.parse("a.com/x")
    assert plain.endpoint(there).schemes == ("https", "http")
    assert strict.endpoint(there).schemes == strict.endpoint(here).schemes == ("https",)
    assert lax.endpoint(Reference.parse("b.com/x")).schemes == ("https", "http")


def test_certificates_are_those_of_the_first_directory_for_the_host(tmp_path: Path) -> None:
    environment = Environment.read({"HOME": str(tmp_path)})
    here = tmp_path / ".config/containers/certs.d"
    for name in ("a.com:5000", "a.com"):
        (here / name).mkdir(parents=True)
    for name in ("one.crt", "two.crt", "me.cert", "me.key", "you.cert", "you.key", "README"):
        (here / "a.com" / name).touch()
    (here / "a.com:5000/port.crt").touch()
    plain, port = certificates(environment, "a.com"), certificates(environment, "a.com:5000")
    assert [os.path.basename(one) for one in plain.authorities] == ["one.crt", "two.crt"]
    assert [tuple(map(os.path.basename, one)) for one in plain.pairs] == [
        ("me.cert", "me.key"), ("you.cert", "you.key"),
    ]  # fmt: skip
    assert [os.path.basename(one) for one in port.authorities] == ["port.crt"]
    assert certificates(environment, "a.com:443") == plain
    assert certificates(environment, "b.com") == Certificates()
    (here / "docker.io").symlink_to("a.com")
    assert len(certificates(environment, "registry-1.docker.io").authorities) == 2
    assert certificates(environment, "b.com", str(here / "a.com")) == plain


def test_certificates_are_looked_for_in_three_places(tmp_path: Path) -> None:
    environment = Environment.read({"HOME": str(tmp_path)})
    assert list(places(environment, "a.com:5000")) == [
        f"{above}/certs.d/{name}"
        for above in (f"{tmp_path}/.config/containers", "/etc/containers", "/etc/docker")
        for name in ("a.com:5000", "a.com")
    ]
    other = Environment.read({"HOME": str(tmp_path), "XDG_CONFIG_HOME": "/x"})
    assert next(iter(places(other, "registry-1.docker.io"))) == "/x/containers/certs.d/docker.io"


@pytest.mark.parametrize("name", ["client.cert", "client.key"])
def test_half_a_client_certificate_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(RegistryError, match=f"{name} has no client"):
        certificates(Environment.read({"HOME": "/"}), "a.com", str(tmp_path))
