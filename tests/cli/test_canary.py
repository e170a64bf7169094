"""R1, B5: secrets of registries and of steps, looked for wherever they might come out, with --debug and
when it fails."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from assembler.oci.config import ImageConfig
from assembler.oci.descriptor import LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer
from assembler.oci.platform import Platform
from assembler.testing import Answer, MemoryRegistry, Tokens
from assembler.testing.distribution import Session
from tests.conftest import Assemble, environment, needs
from tests.registry.faulty import FaultyRegistry
from tests.registry.rules import BLOB, MANIFEST, PING, UPLOAD, Case, reset

PASSWORD, STATE = "canary-of-the-password", "canary-of-the-location"
PAIR = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
LAYER = bytes(range(256)) * 1000


class Telling(FaultyRegistry):
    """Its upload locations hold a secret, and its refusals say what it was shown."""

    def _status(self, session: Session) -> dict[str, str]:
        headers = super()._status(session)
        return headers | {"Location": f"{headers['Location']}&secret={STATE}"}

    def provide(self) -> None:
        """Have `app:1`."""
        layer = Descriptor(LAYER_TAR, Digest.of(LAYER), len(LAYER))
        config = ImageConfig(Platform("linux", "amd64"), diff_ids=(layer.digest,))
        image = Image.create(config, (Layer(layer, layer.digest),))
        self.add_blob("app", LAYER)
        self.add_blob("app", image.config_content)
        self.add_manifest("app", "1", image.manifest.media_type, image.manifest.content)


def echo(case: Case) -> Answer:
    """A refusal that shows the credential."""
    said = case.exchange.asked.header("authorization")
    pair = base64.b64decode(said.removeprefix("Basic ")) if said.startswith("Basic ") else b""
    document = {"errors": [{"code": "DENIED", "message": f"no: {said} {pair.decode()}"}]}
    return Answer(403, {}, json.dumps(document).encode())


@dataclass
class User:
    """Runs commands with --debug; all that they print is kept."""

    home: Path
    store: Path
    assemble: Assemble
    printed: list[str] = field(default_factory=list)

    def run(self, *arguments: str, stdin: str = "", **env: str) -> int:
        done = subprocess.run(
            self.assemble.command("--debug", *arguments),
            env={**self.assemble.env, **env},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=600,
        )
        self.printed.append(done.stdout + done.stderr)
        return done.returncode

    def secrets_out(self, *secrets: str) -> list[str]:
        """Where one of `secrets` came out: lines, files of the store, arguments of helpers."""
        lines = [line for text in self.printed for line in text.splitlines()]
        found = [line for line in lines if any(secret in line for secret in secrets)]
        for path in (*self.store.rglob("*"), self.home / "arguments"):
            if path.is_file() and any(one.encode() in path.read_bytes() for one in secrets):
                found.append(str(path))
        return found


@pytest.fixture
def user(tmp_path: Path) -> User:
    store = tmp_path / "store"
    env = environment(store)
    home = Path(env["HOME"])
    more = {"PATH": f"{home}/bin:{env['PATH']}", "XDG_RUNTIME_DIR": f"{home}/run"}
    return User(home, store, Assemble({**env, **more}))


@pytest.fixture(params=["password", "identity token", "helper"])
def registry(request: pytest.FixtureRequest, user: User) -> Iterator[Telling]:
    """A registry with a token server, to which the user is logged in."""
    tokens = Tokens({"me": PASSWORD}, {PASSWORD}, frozenset())
    with Telling(tokens=tokens) as found:
        found.provide()
        document: dict[str, object] = {"auths": {found.host: {"auth": PAIR}}}
        if request.param == "identity token":
            document = {"auths": {found.host: {"identitytoken": PASSWORD}}}
        if request.param == "helper":
            document = {"credHelpers": {found.host: "canary"}}
            helper = user.home / "bin/docker-credential-canary"
            helper.parent.mkdir()
            answer = json.dumps({"Username": "me", "Secret": PASSWORD})
            helper.write_text(
                f'#!/bin/sh\ncat >/dev/null\necho "$0 $@" >>"$HOME/arguments"\necho \'{answer}\'\n'
            )
            helper.chmod(0o755)
        (user.home / ".docker").mkdir()
        (user.home / ".docker/config.json").write_text(json.dumps(document))
        yield found


def test_R1_no_secret_comes_out_of_transfers(user: User, registry: Telling) -> None:
    name = f"{registry.host}/app:1"
    assert user.run("pull", name) == 0
    assert user.run("push", name, f"{registry.host}/pushed:1") == 0
    assert user.run("copy", name, f"{registry.host}/copied:1") == 0
    for printed, method in zip(user.printed, ("GET", "PUT", "HEAD"), strict=True):
        assert f"DEBUG: {method} http://{registry.host}/v2/" in printed
        assert f"http://{registry.host}/token: status 200" in printed
    registry.where.clear()
    registry.on("PUT|PATCH", UPLOAD, reset())
    assert user.run("push", "--retry", "0", name, f"{registry.host}/broken:1") != 0
    registry.rules.clear()
    registry.on("*", BLOB, echo)
    registry.on("*", UPLOAD, echo)
    registry.on("*", MANIFEST, echo)
    assert user.run("push", name, f"{registry.host}/refused:1") != 0
    assert user.run("copy", name, f"{registry.host}/refused:2") != 0
    assert registry.tokens is not None
    assert registry.tokens.given and "Traceback" in user.printed[-1]
    assert not user.secrets_out(PASSWORD, PAIR, *registry.tokens.given)
    shown = user.secrets_out(STATE)
    assert shown and all(f"{user.store}/uploads/" in one for one in shown)


def test_R1_no_secret_comes_out_of_logins(user: User) -> None:
    arguments = ("login", "-u", "me", "--password-stdin")
    with Telling(users={"me": PASSWORD}) as registry:
        assert user.run(*arguments, registry.host, stdin=PASSWORD) == 0
        assert (user.home / "run/containers/auth.json").exists()
        assert f"DEBUG: GET http://{registry.host}/v2/: status 200" in user.printed[-1]
        assert user.run("login", "--get-login", registry.host) == 0
        registry.on("GET", PING, echo)
        assert user.run(*arguments, registry.host, stdin=PASSWORD) != 0
        assert user.run("logout", registry.host) == 0
    assert user.run(*arguments, registry.host, stdin=PASSWORD, ASSEMBLE_LOGIN_RETRY="0") != 0
    assert not user.secrets_out(PASSWORD, PAIR)


@pytest.mark.parametrize("fault", ["refused", "gone", "no address"])
def test_R1_no_secret_of_a_proxy_comes_out(user: User, fault: str) -> None:
    said = Answer(407, {"Proxy-Authenticate": "Basic"}, f"who is {PAIR}?".encode())
    with MemoryRegistry(lambda asked: said) as proxy:
        host = "not a host" if fault == "no address" else proxy.host
        if fault == "gone":
            proxy.__exit__()
        url = f"http://me:{PASSWORD}@{host}"
        more = ("--retry", "0", "--insecure-registry", "r.example:5000", "r.example:5000/app:1")
        assert user.run("pull", *more, HTTPS_PROXY=url, HTTP_PROXY=url) != 0
        assert user.run("pull", "--retry", "0", "r.example/app:1", HTTPS_PROXY=url) != 0
        asked = [one.header("proxy-authorization") for one in proxy.asked]
        assert fault != "refused" or f"Basic {PAIR}" in asked
    assert not user.secrets_out(PASSWORD, PAIR)
    assert all("Traceback" in text for text in user.printed)


PRINTED = """\
FROM scratch
COPY --chmod=755 busybox /bin/busybox
SHELL ["/bin/busybox", "sh", "-xec"]
RUN {mounts} $b cat /run/secrets/file; export -p; $b base64 /run/secrets/file
RUN {mounts} $b echo "failed: $TOKEN" >&2; "no-such-program-$TOKEN"
"""


@pytest.mark.parametrize("progress", ["plain", "rawjson"])
def test_B5_no_secret_comes_out_of_a_step_that_prints_it(
    user: User, tmp_path: Path, progress: str
) -> None:
    needs("busybox")
    context = tmp_path / "context"
    context.mkdir()
    mounts = "--mount=type=secret,id=file --mount=type=secret,id=file,env=TOKEN"
    text = PRINTED.format(mounts=mounts).replace("$b", "/bin/busybox")
    (context / "Dockerfile").write_text(text)
    shutil.copy(str(shutil.which("busybox")), context / "busybox")
    secret = ("--secret", "id=file,env=GIVEN")
    build = ("build", "--progress", progress, *secret, "-t", "printed", str(context))
    assert user.run(*build, GIVEN=PASSWORD) == 1
    assert user.run("history") == 0
    assert user.run("explain", "printed") == 0
    said = user.printed[0]
    if progress == "rawjson":
        documents = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        logs = [log["data"] for one in documents for log in one.get("logs", ())]
        said = b"".join(map(base64.b64decode, logs)).decode()
        user.printed.append(said)
    assert "failed: ***\n" in said and "no-such-program-***: not found" in said
    assert not user.secrets_out(PASSWORD, base64.b64encode(PASSWORD.encode()).decode())
