"""RG-14: whose credential a registry gets, as docker and podman resolve it."""

from __future__ import annotations

import base64
import json
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assembler.access import Access
from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import RegistryError
from assembler.registry import credential_helpers
from assembler.registry.auth_files import edit
from assembler.registry.credential import Credential, Found
from assembler.registry.credentials import Credentials

SECRET = "canary-secret"


def auth(user: str, password: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


class Home:
    """A user's home, with helpers on the PATH."""

    def __init__(self, path: Path, cancellation: Cancellation) -> None:
        self.path = path
        self.cancellation = cancellation
        self.bin = path / "bin"
        self.bin.mkdir()
        self.variables = {
            "HOME": str(path),
            "XDG_RUNTIME_DIR": str(path / "run"),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
        }

    def write(self, name: str, document: Any) -> str:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return str(path)

    def helper(self, name: str, script: str) -> None:
        path = self.bin / f"docker-credential-{name}"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def credentials(self, access: Access | None = None, **variables: str) -> Credentials:
        environment = Environment.read(self.variables | variables)
        return Credentials(environment, access or Access(), self.cancellation)

    def find(self, registry: str, repository: str = "team/app", **variables: str) -> Found:
        return self.credentials(**variables).find(registry, repository)

    def user(self, registry: str, repository: str = "team/app", **variables: str) -> str:
        found = self.find(registry, repository, **variables).credential
        return "" if found is None else found.username or found.identity_token


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with Cancellation() as cancellation:
        yield Home(tmp_path, cancellation)


PLACES = [
    "run/containers/auth.json",
    ".config/containers/auth.json",
    ".docker/config.json",
    ".dockercfg",
]


def test_RG14_the_first_file_that_has_one_wins(home: Home) -> None:
    for name in reversed(PLACES):
        entry = {"example.com": auth(name.replace("/", "-"))}
        home.write(name, entry if name == ".dockercfg" else {"auths": entry})
        assert home.user("example.com") == name.replace("/", "-")


def test_RG14_a_file_without_the_registry_is_passed_over(home: Home) -> None:
    home.write(PLACES[0], {"auths": {"other.com": auth("x")}})
    path = home.write(PLACES[2], {"auths": {"example.com": auth("me")}})
    assert home.find("example.com").source == path


def test_RG14_where_it_was_looked_for_is_told(home: Home) -> None:
    found = home.find("example.com")
    assert found.credential is None
    assert found.looked == tuple(str(home.path / name) for name in PLACES)


def test_RG14_a_named_file_is_the_only_one(home: Home) -> None:
    home.write(PLACES[0], {"auths": {"example.com": auth("usual")}})
    named = home.write("named.json", {"auths": {}})
    assert home.user("example.com", REGISTRY_AUTH_FILE=named) == ""
    assert home.user("example.com") == "usual"
    found = home.credentials(Access(authfile=named), REGISTRY_AUTH_FILE="/nowhere")
    assert found.find("example.com").looked == (named,)


def test_RG14_a_file_that_was_named_and_is_missing_is_an_error(home: Home) -> None:
    with pytest.raises(RegistryError, match="--authfile /nowhere: no such file"):
        home.credentials(Access(authfile="/nowhere")).find("example.com")
    assert home.find("example.com", REGISTRY_AUTH_FILE="/nowhere").credential is None


def test_RG14_DOCKER_CONFIG_is_a_directory(home: Home) -> None:
    home.write("elsewhere/config.json", {"auths": {"example.com": auth("there")}})
    assert home.user("example.com", DOCKER_CONFIG=str(home.path / "elsewhere")) == "there"


def test_RG14_DOCKER_AUTH_CONFIG_is_text_and_comes_before_the_files(home: Home) -> None:
    home.write(PLACES[0], {"auths": {"example.com": auth("file"), "other.com": auth("file")}})
    text = json.dumps({"auths": {"example.com": auth("text")}})
    found = home.find("example.com", DOCKER_AUTH_CONFIG=text)
    assert found.credential == Credential("text", SECRET)
    assert found.source == "$DOCKER_AUTH_CONFIG"
    assert home.user("other.com", DOCKER_AUTH_CONFIG=text) == "file"
    named = home.write("named.json", {"auths": {"example.com": auth("named")}})
    assert home.user("example.com", DOCKER_AUTH_CONFIG=text, REGISTRY_AUTH_FILE=named) == "named"


def test_RG14_the_most_specific_namespace_wins(home: Home) -> None:
    entries = {"example.com": auth("host"), "example.com/team": auth("team")}
    home.write(PLACES[0], {"auths": entries | {"example.com/team/app": auth("app")}})
    assert home.user("example.com", "team/app") == "app"
    assert home.user("example.com", "team/application") == "team"
    assert home.user("example.com", "teams/app") == "host"


@pytest.mark.parametrize(
    "key",
    ["docker.io", "index.docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"],
)
def test_RG14_docker_hub_has_several_names(home: Home, key: str) -> None:
    home.write(PLACES[2], {"auths": {key: auth("hub")}})
    assert home.user("docker.io", "library/debian") == "hub"
    assert home.user("example.com") == ""


@pytest.mark.parametrize(
    "key", ["https://example.com:5000", "http://example.com:5000/v2/", "example.com:5000/v1/"]
)
def test_RG14_urls_of_old_logins_are_known(home: Home, key: str) -> None:
    home.write(PLACES[2], {"auths": {key: auth("me")}})
    assert home.user("example.com:5000") == "me"
    assert home.user("example.com") == "", "another port is another registry"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (auth("me", "with:colon"), Credential("me", "with:colon")),
        ({"username": "me", "password": SECRET}, Credential("me", SECRET)),
        ({"identitytoken": SECRET}, Credential(identity_token=SECRET)),
        ({"registrytoken": SECRET}, Credential(registry_token=SECRET)),
        (auth("me") | {"identitytoken": "t"}, Credential("me", SECRET, "t")),
        ({"auth": "!!!"}, None),
        ({}, None),
        ("nonsense", None),
    ],
)
def test_RG14_forms_of_an_entry(home: Home, entry: Any, expected: Credential | None) -> None:
    home.write(PLACES[0], {"auths": {"example.com": entry}})
    assert home.find("example.com").credential == expected


ANSWER = '{"ServerURL":"x","Username":"%s","Secret":"' + SECRET + '"}'


def test_RG14_credHelpers_come_before_credsStore(home: Home) -> None:
    home.helper("one", f"read -r server; printf '{ANSWER}' \"one-$server\"")
    home.helper("all", f"read -r server; printf '{ANSWER}' \"all-$server\"")
    home.write(PLACES[2], {"credHelpers": {"example.com": "one"}, "credsStore": "all"})
    assert home.user("example.com") == "one-example.com"
    assert home.user("other.com") == "all-other.com", "without an entry in auths, too"
    assert home.user("docker.io") == "all-https://index.docker.io/v1/", "as docker calls it"


def test_RG14_a_store_comes_before_what_the_file_says(home: Home) -> None:
    home.helper("all", f"read -r server; printf '{ANSWER}' store")
    home.write(PLACES[2], {"auths": {"example.com": auth("file")}, "credsStore": "all"})
    assert home.user("example.com") == "store"
    home.helper("all", "echo credentials not found in native keychain; exit 1")
    assert home.user("example.com") == "file"
    home.helper("all", "exit 3")
    assert home.user("example.com") == "file", "as for podman, which knows no stores"


def test_RG14_a_helper_knows_an_identity_token(home: Home) -> None:
    home.helper("one", f"printf '{ANSWER}' '<token>'")
    home.write(PLACES[0], {"credHelpers": {"example.com": "one"}})
    assert home.find("example.com").credential == Credential(identity_token=SECRET)


def test_RG14_a_helper_that_has_nothing_means_nobody(home: Home) -> None:
    home.helper("one", "echo credentials not found in native keychain; exit 1")
    home.write(PLACES[0], {"credHelpers": {"example.com": "one"}})
    assert home.find("example.com").credential is None


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (f"echo {SECRET}; echo {SECRET} >&2; exit 1", "ended with status 1"),
        ("kill -9 $$", "ended with status -9"),
        (f"echo {SECRET}", "gave no valid answer"),
        (f'echo \'{{"Username":1,"Secret":"{SECRET}"}}\'', "gave no valid answer"),
        ("exec head -c 1073741824 /dev/zero", "printed more than"),
        ("exec sleep 60", "did not answer within"),
    ],
    ids=["exit 1", "killed", "no JSON", "wrong types", "1 GiB", "hangs"],
)
def test_RG14_a_helper_that_fails_is_named_and_says_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    if "sleep" in script:
        monkeypatch.setattr(credential_helpers, "DEADLINE", 0.3)
    home.helper("one", script)
    home.write(PLACES[0], {"credHelpers": {"example.com": "one"}})
    with pytest.raises(RegistryError, match=said) as caught:
        home.find("example.com")
    assert "docker-credential-one" in caught.value.message
    assert caught.value.registry == "example.com" and caught.value.hint
    assert SECRET not in f"{caught.value.message} {caught.value.hint} {caught.value.__cause__}"


def test_RG14_a_helper_that_is_missing_is_named(home: Home) -> None:
    home.write(PLACES[0], {"credHelpers": {"example.com": "../../bin/no-such"}})
    with pytest.raises(RegistryError, match=r"docker-credential-no-such, .* is not installed"):
        home.find("example.com")


def test_RG14_helpers_of_registries_conf_are_asked_in_their_order(home: Home) -> None:
    home.helper("one", f"printf '{ANSWER}' helper")
    home.write(PLACES[0], {"auths": {"example.com": auth("file")}})
    for helpers, user in [
        (("one", "containers-auth.json"), "helper"),
        (("containers-auth.json", "one"), "file"),
    ]:
        found = replace(home.credentials(), helpers=helpers).find("example.com", "a")
        assert found.credential is not None and found.credential.username == user


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": []}', "[" * 100_000, '{"auth": "\xff'])
def test_RG14_a_file_that_is_no_auth_file_is_named_and_not_shown(home: Home, text: str) -> None:
    path = home.write(PLACES[1], text)
    with pytest.raises(RegistryError) as caught:
        home.find("example.com")
    assert path in caught.value.message


def test_creds_are_for_the_registries_they_were_given_for(home: Home) -> None:
    access = Access(creds=f"me:{SECRET}").creds_to("example.com")
    credentials = home.credentials(access)
    assert credentials.find("example.com", "a").credential == Credential("me", SECRET)
    assert credentials.find("example.com", "a").source == "--creds"
    assert credentials.find("evil.com", "a").credential is None
    assert SECRET not in repr(access) and SECRET not in repr(credentials.find("example.com", "a"))


def test_a_login_goes_where_it_will_be_found(home: Home) -> None:
    home.helper("one", f"printf '{ANSWER}' one")
    assert home.credentials().destination("a.com").path == str(home.path / PLACES[0])
    home.write(PLACES[2], {"credHelpers": {"a.com": "one"}, "credsStore": "one"})
    there = home.credentials().destination("a.com")
    assert there.helper is not None and there.server == "a.com"
    hub = home.credentials().destination("docker.io")
    assert hub.helper is not None and hub.server == "https://index.docker.io/v1/"
    home.write(PLACES[0], {"auths": {"a.com": auth("old")}})
    assert home.credentials().destination("a.com").helper is None, "the old one would hide it"


def test_an_edit_keeps_what_it_does_not_know_and_the_file_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "auth.json"
    edit(str(path), lambda document: document.update(auths={}, other=[1]) is None)
    path.chmod(0o644)
    link = tmp_path / "link.json"
    link.symlink_to(path)
    edit(str(link), lambda document: document["auths"].update(a={"auth": "x"}) is None)
    assert json.loads(path.read_text()) == {"auths": {"a": {"auth": "x"}}, "other": [1]}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and link.is_symlink()
    assert os.listdir(path.parent) == ["auth.json"]


def test_edits_at_once_lose_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "auth.json")

    def one(name: str) -> None:
        edit(path, lambda document: document.setdefault("auths", {}).update({name: {}}) is None)

    threads = [threading.Thread(target=one, args=(f"host{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(json.loads(Path(path).read_text())["auths"]) == 8


def test_a_file_that_is_damaged_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    path.write_text("{")
    with pytest.raises(RegistryError):
        edit(str(path), lambda document: True)
    assert path.read_text() == "{"
