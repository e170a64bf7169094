"""`assemble login` and `logout`: verified, kept privately, found again, removed."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from assembler.cli.commands import cli
from assembler.errors import ProtocolViolation, RegistryError, Unauthorized, UsageError
from assembler.registry import realms
from assembler.testing import Answer, Asked, MemoryRegistry

PASSWORD = "canary-password"


class User:
    """Runs commands with a home of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.bin = home / "bin"
        self.bin.mkdir()
        self.auth_file = home / "run/containers/auth.json"
        self.env = {
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home / "run"),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "DOCKER_CONFIG": str(home / ".docker"),
            "CONTAINERS_REGISTRIES_CONF": str(home / "registries.conf"),
            "REGISTRY_AUTH_FILE": "",
            "DOCKER_AUTH_CONFIG": "",
            "PATH": f"{self.bin}:/usr/bin:/bin",
        }
        (home / "registries.conf").write_text("")

    def run(self, *arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(cli, arguments, input=stdin, env=self.env)

    def said(self, *arguments: str, stdin: str = "") -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.exception is None, done.exception
        assert PASSWORD not in done.output
        return done.output

    def error(self, *arguments: str, stdin: str = "") -> Any:
        done = self.run(*arguments, stdin=stdin)
        error: Any = done.exception
        assert error is not None, done.output
        assert PASSWORD not in f"{done.output} {error} {getattr(error, 'hint', '')}"
        return error

    def login(self, registry: str, *more: str, password: str = PASSWORD) -> str:
        arguments = ("login", "-u", "me", "--password-stdin", *more, registry)
        return self.said(*arguments, stdin=f"{password}\n")

    def auths(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.auth_file.read_text())["auths"]
        return found


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


@pytest.fixture
def registry() -> Iterator[MemoryRegistry]:
    with MemoryRegistry(users={"me": PASSWORD}) as found:
        yield found


def test_a_login_is_verified_and_kept_privately(user: User, registry: MemoryRegistry) -> None:
    assert "Login Succeeded" in user.login(registry.host)
    assert [asked.path for asked in registry.asked] == ["/v2/", "/v2/"]
    assert "authorization" not in registry.asked[0].headers, "nothing before a challenge"
    pair = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    assert user.auths() == {registry.host: {"auth": pair}}
    assert stat.S_IMODE(user.auth_file.stat().st_mode) == 0o600
    assert user.said("login", "--get-login", registry.host) == "me\n"


def test_a_wrong_password_is_not_kept(user: User, registry: MemoryRegistry) -> None:
    arguments = ("login", "-u", "me", "--password-stdin", registry.host)
    error = user.error(*arguments, stdin="wrong-canary")
    assert (
        isinstance(error, Unauthorized)
        and "the credential from this login was refused" in error.message
    )
    assert "canary" not in error.message
    assert not user.auth_file.exists()
    assert isinstance(user.error("login", "--get-login", registry.host), RegistryError)


def test_a_login_by_token_is_verified_at_the_token_server(user: User) -> None:
    with MemoryRegistry(token="given") as registry:
        user.login(registry.host)
        paths = [asked.path for asked in registry.asked]
        assert paths == ["/v2/", "/token", "/v2/"]
        assert registry.asked[1].headers["authorization"].startswith("Basic ")


def test_a_namespace_has_a_login_of_its_own(user: User, registry: MemoryRegistry) -> None:
    user.login(f"{registry.host}/team")
    assert list(user.auths()) == [f"{registry.host}/team"]


def test_what_else_the_file_holds_stays(user: User, registry: MemoryRegistry) -> None:
    user.auth_file.parent.mkdir(parents=True)
    user.auth_file.write_text(json.dumps({"auths": {"other.com": {"auth": "x"}}, "more": 1}))
    user.login(registry.host)
    assert set(user.auths()) == {"other.com", registry.host}
    assert json.loads(user.auth_file.read_text())["more"] == 1


def test_a_login_to_a_named_file(user: User, registry: MemoryRegistry) -> None:
    named = user.home / "named.json"
    user.login(registry.host, "--authfile", str(named))
    assert list(json.loads(named.read_text())["auths"]) == [registry.host]
    assert not user.auth_file.exists()
    user.said("logout", "--authfile", str(named), registry.host)
    assert json.loads(named.read_text())["auths"] == {}


def test_docker_hub_is_kept_by_the_name_that_its_file_has_for_it(user: User) -> None:
    from assembler.access import Access
    from assembler.cancellation import Cancellation
    from assembler.environment import Environment
    from assembler.registry.credential import Credential
    from assembler.registry.credentials import Credentials
    from assembler.registry.login import Subject, keep

    environment = Environment.read(user.env)
    for name, key in [("auth.json", "docker.io"), ("config.json", "https://index.docker.io/v1/")]:
        path = str(user.home / name)
        with Cancellation() as cancellation:
            credentials = Credentials(environment, Access(authfile=path), cancellation)
            keep(credentials, Subject.parse("index.docker.io"), Credential("me", "x"))
            assert list(json.loads(Path(path).read_text())["auths"]) == [key]
            assert credentials.find("docker.io", "library/debian").credential


def keychain(user: User, name: str) -> Path:
    """A credential helper that keeps one login in a file, and notes its arguments."""
    kept = user.home / "keychain"
    script = user.bin / f"docker-credential-{name}"
    script.write_text(
        f'#!/bin/sh\necho "$@" >>{user.home}/argv\ncase $1 in\n'
        f"store) cat >{kept};;\nerase) rm {kept};;\n"
        f"get) cat {kept} 2>/dev/null || "
        "{ echo credentials not found in native keychain; exit 1; };;\nesac\n"
    )
    script.chmod(0o755)
    return kept


@pytest.mark.parametrize("setting", ["credHelpers", "credsStore"])
def test_a_login_goes_to_the_helper_that_is_configured(
    user: User, registry: MemoryRegistry, setting: str
) -> None:
    kept = keychain(user, "test")
    value: Any = {registry.host: "test"} if setting == "credHelpers" else "test"
    (user.home / ".docker").mkdir()
    (user.home / ".docker/config.json").write_text(json.dumps({setting: value}))
    user.login(registry.host)
    document = json.loads(kept.read_text())
    assert document == {"ServerURL": registry.host, "Username": "me", "Secret": PASSWORD}
    assert not user.auth_file.exists()
    assert user.said("login", "--get-login", registry.host) == "me\n"
    assert user.said("logout", registry.host) == f"Removing login credentials for {registry.host}\n"
    assert not kept.exists()
    assert user.said("logout", registry.host) == f"Not logged in to {registry.host}\n"
    assert PASSWORD not in (user.home / "argv").read_text()


def test_logout_forgets_in_every_file(user: User, registry: MemoryRegistry) -> None:
    user.login(registry.host)
    (user.home / ".docker").mkdir()
    entry = {"auths": {f"https://{registry.host}/v2/": {"auth": "eDp5"}, "other.com": {}}}
    (user.home / ".docker/config.json").write_text(json.dumps(entry))
    user.said("logout", registry.host)
    assert user.auths() == {}
    left = json.loads((user.home / ".docker/config.json").read_text())
    assert list(left["auths"]) == ["other.com"]
    assert isinstance(user.error("login", "--get-login", registry.host), RegistryError)


def test_logout_all(user: User, registry: MemoryRegistry) -> None:
    user.login(registry.host)
    assert str(user.auth_file) in user.said("logout", "--all")
    assert "auths" not in json.loads(user.auth_file.read_text())


def test_a_password_in_the_arguments_is_warned_of(user: User, registry: MemoryRegistry) -> None:
    said = user.said("login", "-u", "me", "-p", PASSWORD, registry.host)
    assert "WARNING! Using --password via the CLI is insecure" in said


def test_on_a_terminal_the_password_is_asked_for_without_an_echo(
    user: User, registry: MemoryRegistry
) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-m", "assembler", "login", registry.host],
            stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
            env=os.environ | user.env, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        with process:
            assert process.stderr is not None and process.stdout is not None
            for prompt, answer in [(b"Username: ", "me"), (b"Password: ", PASSWORD)]:
                asked = b""
                while not asked.endswith(prompt):
                    asked += process.stderr.read(1) or pytest.fail(asked.decode())
                terminal.write(f"{answer}\n".encode())
            assert process.stdout.read() == b"Login Succeeded\n"
            assert PASSWORD.encode() not in process.stderr.read()
        os.set_blocking(ours, False)
        shown = b""
        with suppress(OSError):  # EIO: nobody holds the other end
            shown = terminal.read(4096) or b""
        assert b"me" in shown and PASSWORD.encode() not in shown
    assert list(user.auths()) == [registry.host]


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (("--password-stdin", "a.com"), "x", "Must provide --username"),
        (("-u", "me", "--password-stdin", "-p", "y", "a.com"), "x", "exclude each other"),
        (("-u", "me", "--password-stdin", "a.com"), "\n", "holds no password"),
        (("-u", "me", "a.com"), "", "non TTY"),
        (("-u", "me:you", "--password-stdin", "a.com"), "x", "no colon"),
        (("-u", "me", "--password-stdin", "single"), "x", "no dot and no port"),
        (("-u", "me", "--password-stdin", "a b.com"), "x", "names no registry"),
    ],
)
def test_what_cannot_be_is_said(
    user: User, arguments: tuple[str, ...], stdin: str, said: str
) -> None:
    error = user.error("login", *arguments, stdin=stdin)
    assert isinstance(error, UsageError) and said in error.message


def test_R13_a_login_page_is_no_registry(user: User) -> None:
    page = Answer(200, {"Content-Type": "text/html"}, b"<html>\x1b[1mWelcome to the hotel</html>")
    with MemoryRegistry(lambda asked: page) as portal:
        error = user.error("login", "-u", "me", "--password-stdin", portal.host, stdin="x")
    assert isinstance(error, ProtocolViolation) and "\x1b" not in error.message
    assert "does not answer as a registry does" in error.message and "login page" in error.hint


def test_R2_a_login_remembers_the_token_server_it_was_verified_with(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realms, "site", lambda host: host)  # addresses have no sites
    with MemoryRegistry(token="given") as elsewhere:

        def fault(asked: Asked) -> Answer | None:
            if asked.headers.get("authorization") == "Bearer given":
                return None
            port = elsewhere.host.rpartition(":")[2]
            realm = f'Bearer realm="http://localhost:{port}/token"'
            return Answer(401, {"WWW-Authenticate": realm})

        with MemoryRegistry(fault) as registry:
            assert "The token server" in user.login(registry.host)
            learnt = user.home / ".config/assemble/token-servers.json"
            assert json.loads(learnt.read_text()) == {registry.host: ["localhost"]}
            user.said("logout", registry.host)
            assert json.loads(learnt.read_text()) == {}
