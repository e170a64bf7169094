"""Requests to a registry: whose challenges are answered, and with what."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import NotFound, ProtocolViolation, Unauthorized, Unreachable
from assembler.net import dial, transport
from assembler.net.origin import Zone
from assembler.net.retry import RetryPolicy
from assembler.oci.descriptor import INDEX, LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.manifest import build_index
from assembler.oci.reference import Reference
from assembler.registry import client as client_module
from assembler.registry.client import RegistryClient
from assembler.registry.configuration import RegistryConfiguration
from assembler.registry.credential import Credential
from assembler.registry.destination import Destination
from assembler.registry.documents import named
from assembler.registry.download import fetch_blob
from assembler.registry.login import Subject, verify
from assembler.registry.source import Stored
from assembler.registry.upload import upload
from assembler.testing import Answer, Asked, MemoryRegistry, Tokens
from tests.registry.certificates import Authority
from tests.registry.faulty import FaultyRegistry
from tests.registry.rules import TOKEN, Case, reply

BLOB = Descriptor(LAYER_TAR, Digest.of(b"a layer"), 7)
PASSWORD = "canary-password"


class Home:
    """A user's home: its logins and certificates, and clients that wait for nothing long."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self.variables = {"HOME": str(path)}
        self._stack = stack

    def log_in(self, host: str, **entry: str) -> None:
        """Have what `docker login` leaves."""
        pair = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
        file = self.path / ".docker/config.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"auths": {host: entry or {"auth": pair}}}))

    def trust(self, host: str, authority: Authority) -> Path:
        """The directory of certs.d that trusts it."""
        directory = self.path / ".config/containers/certs.d" / host
        directory.mkdir(parents=True)
        shutil.copy(authority.certificate, directory / "ca.crt")
        return directory

    def client(self) -> RegistryClient:
        environment = Environment.read(self.variables)
        configuration = RegistryConfiguration.read(environment, frozenset())
        cancellation = self._stack.enter_context(Cancellation())
        policy = RetryPolicy(tries=2, first=0.001, cap=0.002)
        return self._stack.enter_context(
            RegistryClient(environment, configuration, cancellation=cancellation, policy=policy)
        )


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with ExitStack() as stack:
        yield Home(tmp_path, stack)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority"))


def localhost(registry: MemoryRegistry) -> str:
    """Its URL by a name: another origin than that of its address."""
    return registry.origin.replace("127.0.0.1", "localhost")


def leads_to(url: str) -> Callable[[Asked], Answer | None]:
    """Redirects whoever is authorized."""

    def fault(asked: Asked) -> Answer | None:
        known = asked.path != "/token" and asked.header("authorization")
        return Answer(307, {"Location": f"{url}{asked.path}"}) if known else None

    return fault


def fetch_manifest(client: RegistryClient, name: Reference) -> None:
    named(client, name)


def fetch_layer(client: RegistryClient, name: Reference) -> None:
    fetch_blob(client, name, BLOB, lambda piece: None, cancellation=client.cancellation)


@pytest.mark.parametrize("fetch", [fetch_manifest, fetch_layer])
def test_R1_a_challenge_of_another_origin_is_not_the_registrys(
    home: Home, fetch: Callable[[RegistryClient, Reference], None]
) -> None:
    with MemoryRegistry(users={"me": PASSWORD}) as registry, MemoryRegistry() as storage:
        home.log_in(registry.host)
        challenge = f'Bearer realm="{registry.origin}/token",service="x", Basic realm="y"'
        storage.fault = lambda asked: Answer(401, {"WWW-Authenticate": challenge})
        registry.fault = leads_to(localhost(storage))
        client, name = home.client(), Reference.parse(f"{registry.host}/team/app:1")
        with pytest.raises(Unauthorized) as caught:
            fetch(client, name)
        there = localhost(storage).removeprefix("http://")
        assert f"status 401 by {there}, where the registry led" in caught.value.message
        assert f"{registry.host}/team/app" in caught.value.message
        assert there in caught.value.hint and "assemble login" not in caught.value.hint
        assert len(storage.asked) == 1 and "authorization" not in storage.asked[0].headers
        assert len(registry.asked) == 2, "without and with the credential, and no token"
        with pytest.raises(Unauthorized, match=f"status 401 by {there}"):
            fetch(client, name)  # where the first answer is that of the storage
        assert len(storage.asked) == 2 and "authorization" not in storage.asked[1].headers
        assert [asked.path for asked in registry.asked].count("/token") == 0


def test_R1_a_login_answers_no_challenge_of_another_origin(home: Home) -> None:
    with MemoryRegistry() as registry, MemoryRegistry(token="given") as other:
        registry.fault = lambda asked: Answer(307, {"Location": f"{localhost(other)}/v2/"})
        with pytest.raises(Unauthorized, match="where the registry led") as caught:
            verify(home.client(), Subject(registry.host), Credential("me", PASSWORD))
        assert "canary" not in f"{caught.value.message} {caught.value.hint}"
        assert [asked.path for asked in other.asked] == ["/v2/"]
        assert "authorization" not in other.asked[0].headers


def tokens_at(registry: MemoryRegistry, answer: Callable[[Asked], Answer | None]) -> None:
    """Have `answer` speak for the token server at the registry."""
    registry.fault = lambda asked: answer(asked) if asked.path == "/token" else None


def test_R1_a_redirect_of_the_token_server_takes_no_credential_along(home: Home) -> None:
    with MemoryRegistry(token="given") as registry, MemoryRegistry(token="given") as other:
        home.log_in(registry.host)
        tokens_at(registry, lambda asked: Answer(307, {"Location": f"{localhost(other)}/token"}))
        with pytest.raises(NotFound):
            fetch_manifest(home.client(), Reference.parse(f"{registry.host}/team/app:1"))
        (asked,) = other.asked
        assert "authorization" not in asked.headers and "canary" not in repr(asked)
        pairs = [one.header("authorization") for one in registry.asked if one.path == "/token"]
        assert len(pairs) == 1 and pairs[0].startswith("Basic ")


def test_R1_an_identity_token_follows_no_redirect(home: Home) -> None:
    with MemoryRegistry(token="given") as registry, MemoryRegistry(token="given") as other:
        home.log_in(registry.host, identitytoken=PASSWORD)
        tokens_at(registry, lambda asked: Answer(307, {"Location": f"{localhost(other)}/token"}))
        with pytest.raises(ProtocolViolation, match="answered with status 307"):
            fetch_manifest(home.client(), Reference.parse(f"{registry.host}/team/app:1"))
        assert not other.asked


def test_R3_a_redirect_of_the_token_server_leads_from_https_to_no_http(
    home: Home, authority: Authority
) -> None:
    tls = authority.server(name="redirecting")
    with MemoryRegistry(token="given", tls=tls) as registry, MemoryRegistry() as plain:
        home.trust(registry.host, authority)
        home.log_in(registry.host)
        tokens_at(registry, lambda asked: Answer(307, {"Location": f"{plain.origin}/token"}))
        with pytest.raises(ProtocolViolation, match="from https to http") as caught:
            fetch_manifest(home.client(), Reference.parse(f"{registry.host}/team/app:1"))
        assert "canary" not in caught.value.message and not plain.asked


def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 127.0.0.2 stand for a public address."""
    for module in (dial, transport):
        monkeypatch.setattr(
            module,
            "zone_of",
            lambda address: Zone.PUBLIC if address == "127.0.0.2" else Zone.INSIDE,
        )


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_R2_the_place_of_an_upload_is_no_further_inside_than_its_registry(
    home: Home, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    outside(monkeypatch)
    layer = os.urandom(300_000)
    blob = Descriptor(LAYER_TAR, Digest.of(layer), len(layer))
    with FaultyRegistry(address="127.0.0.2") as registry, MemoryRegistry() as inside:
        answer = reply(202, {"Location": f"{inside.origin}/v2/app/blobs/uploads/1"})
        registry.on(method, "/v2/app/blobs/uploads/*", answer)
        client, name = home.client(), Reference.parse(f"{registry.host}/app:1")
        repository = client.repository(client.configuration.endpoint(name), name)
        with pytest.raises(ProtocolViolation, match="to an address inside"):
            upload(
                Destination(client, repository, None, chunk=100_000),
                Stored(blob, lambda blob: io.BytesIO(layer)),
            )
        assert registry.asked(method) and not inside.asked


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_R3_the_place_of_an_upload_at_https_is_not_at_http(
    home: Home, authority: Authority, method: str
) -> None:
    layer = os.urandom(300_000)
    blob = Descriptor(LAYER_TAR, Digest.of(layer), len(layer))
    tls = authority.server(name=f"uploading-{method}")
    with MemoryRegistry(tls=tls) as registry, MemoryRegistry() as plain:
        home.trust(registry.host, authority)
        answer = Answer(202, {"Location": f"{plain.origin}/v2/app/blobs/uploads/1"})
        registry.fault = lambda asked: answer if asked.method == method else None
        client, name = home.client(), Reference.parse(f"{registry.host}/app:1")
        repository = client.repository(client.configuration.endpoint(name), name)
        with pytest.raises(ProtocolViolation, match="a location over plain http; refused"):
            upload(
                Destination(client, repository, None, chunk=100_000),
                Stored(blob, lambda blob: io.BytesIO(layer)),
            )
        assert not plain.asked


@pytest.mark.parametrize("target", ["127.0.0.1", "[::ffff:127.0.0.1]", "localhost"])
def test_R2_a_redirect_of_the_token_server_leads_to_no_address_inside(
    home: Home, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    outside(monkeypatch)
    registry = FaultyRegistry(address="127.0.0.2", tokens=Tokens(users={"me": PASSWORD}))
    with registry, MemoryRegistry() as inside:
        home.log_in(registry.host)
        url = f"http://{target}:{inside.host.rpartition(':')[2]}/token"
        registry.on("GET", TOKEN, reply(307, {"Location": url}))
        with pytest.raises(ProtocolViolation, match="to an address inside"):
            fetch_manifest(home.client(), Reference.parse(f"{registry.host}/team/app:1"))
        assert registry.asked("GET", TOKEN) and not inside.asked


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_R16_a_registry_that_wants_a_client_certificate_gets_that_of_certs_d(
    home: Home, authority: Authority, version: ssl.TLSVersion
) -> None:
    tls = authority.server(name=version.name, client=True)
    tls.maximum_version = version
    with MemoryRegistry(tls=tls) as registry:
        registry.add_blob("app", b"a layer")
        name = Reference.parse(f"{registry.host}/app:1")
        directory = home.trust(registry.host, authority)
        with pytest.raises(Unreachable, match="it wants a client certificate") as caught:
            fetch_layer(home.client(), name)
        assert f"certs.d/{registry.host}/client.cert" in caught.value.hint
        assert not registry.asked
        for path in authority.issue("me"):
            shutil.copy(path, directory / path.name.replace("me.crt", "client.cert"))
        (directory / "me.key").rename(directory / "client.key")
        fetch_layer(home.client(), name)


def test_R10_an_identity_token_is_exchanged_as_often_as_tokens_of_two_seconds_end(
    home: Home,
) -> None:
    moment = 0.0

    def clock() -> float:  # of the token server: each look at it is 0.7 s later
        nonlocal moment
        moment += 0.7
        return moment

    layer = os.urandom(1_000_000)
    blob = Descriptor(LAYER_TAR, Digest.of(layer), len(layer))
    tokens = Tokens(users={"me": "x"}, refresh={PASSWORD}, ttl=2, clock=clock)
    with MemoryRegistry(tokens=tokens) as registry:
        home.log_in(registry.host, identitytoken=PASSWORD)
        client, name = home.client(), Reference.parse(f"{registry.host}/app:1")
        repository = client.repository(client.configuration.endpoint(name), name)
        destination = Destination(client, repository, None, chunk=100_000)
        upload(destination, Stored(blob, lambda blob: io.BytesIO(layer)))
        received = bytearray()
        fetch_blob(client, name, blob, received.extend, cancellation=client.cancellation)
        assert bytes(received) == registry.blobs[str(blob.digest)] == layer
        asked = [one for one in registry.asked if one.path == "/token"]
        assert len(asked) == len(tokens.given) >= 4
        for one in asked:
            form = parse_qs(one.body.decode())
            assert one.method == "POST" and not one.query and "authorization" not in one.headers
            assert form["grant_type"] == ["refresh_token"] and form["refresh_token"] == [PASSWORD]
            assert form["service"] == ["faulty"] and form["client_id"] == ["assemble"]
            assert form["scope"] in (["repository:app:pull,push"], ["repository:app:pull"])
        refused = [one for one in registry.asked if one.status == 401]
        assert len(refused) <= len(asked), "each refusal brings one token"
        assert not any(PASSWORD in repr(one) for one in registry.asked if one.path != "/token")


class Changing:
    """A credential helper whose password is another one each time that it is asked."""

    def __init__(self, home: Home, host: str) -> None:
        script = home.path / "bin/docker-credential-changing"
        script.parent.mkdir()
        script.write_text(
            '#!/bin/sh\necho x >>"$HOME/asked"\nn=$(wc -l <"$HOME/asked")\n'
            'echo "{\\"Username\\":\\"me\\",\\"Secret\\":\\"canary$n\\"}"\n'
        )
        script.chmod(0o755)
        home.variables["PATH"] = f"{script.parent}:{os.environ['PATH']}"
        file = home.path / ".docker/config.json"
        file.parent.mkdir()
        file.write_text(json.dumps({"credHelpers": {host: "changing"}}))
        self._asked = home.path / "asked"

    @property
    def asked(self) -> int:
        return len(self._asked.read_text().splitlines())


@pytest.mark.parametrize("kind", ["token", "basic"])
def test_R10_a_credential_that_ends_in_a_long_push_is_asked_of_its_helper_again(
    home: Home, kind: str
) -> None:
    """As the access tokens are that docker-credential-gcloud gives for passwords."""
    layer = os.urandom(500_000)
    blob = Descriptor(LAYER_TAR, Digest.of(layer), len(layer))
    users = {"me": "canary1"}
    tokens = Tokens(users, anonymous=frozenset()) if kind == "token" else None
    with FaultyRegistry(tokens=tokens, users=None if tokens else users) as registry:
        helper = Changing(home, registry.host)

        def changed(case: Case) -> Answer:
            users["me"] = "canary2"
            if tokens is not None:
                tokens.given.clear()
            return case.honest()

        registry.on("PATCH", "/v2/app/blobs/uploads/*", changed, nth=3)
        client, name = home.client(), Reference.parse(f"{registry.host}/app:1")
        repository = client.repository(client.configuration.endpoint(name), name)
        destination = Destination(client, repository, None, chunk=100_000, largest=100_000)
        upload(destination, Stored(blob, lambda blob: io.BytesIO(layer)))
        assert registry.blob(str(blob.digest)) == layer and registry.received() <= 600_000
        assert helper.asked == 2
        users["me"] = "other"
        if tokens is not None:
            tokens.given.clear()
        with pytest.raises(Unauthorized, match="docker-credential-changing"):
            fetch_blob(client, name, blob, lambda piece: None, cancellation=client.cancellation)
        assert helper.asked == 3, "once for each refusal"


@pytest.mark.parametrize("slowly", [True, False])
def test_R10_a_token_that_ends_while_a_registry_is_waited_for_is_renewed(
    home: Home, monkeypatch: pytest.MonkeyPatch, slowly: bool
) -> None:
    """As one of a minute does while its registry is started anew."""
    monkeypatch.setattr(client_module, "AT_ONCE", 0.0 if slowly else 60.0)
    tokens = Tokens()
    with FaultyRegistry(tokens=tokens) as registry:

        def ill(case: Case) -> Answer:
            tokens.given.clear()
            return Answer(503)

        registry.add_manifest("app", "1", INDEX, build_index(()).content)
        registry.on("GET", "/v2/app/manifests/*", ill, nth=(2, 4))
        client, name = home.client(), Reference.parse(f"{registry.host}/app:1")
        if slowly:
            assert named(client, name).content == build_index(()).content
            assert len(tokens.asked) == 3
        else:
            with pytest.raises(Unauthorized):
                named(client, name)
            assert len(tokens.asked) == 1, "who refuses at once refuses"


def test_R10_an_identity_token_that_was_revoked_is_named_and_not_shown(home: Home) -> None:
    tokens = Tokens(users={"me": "x"}, refresh={"another"}, anonymous=frozenset())
    with MemoryRegistry(tokens=tokens) as registry:
        home.log_in(registry.host, identitytoken=PASSWORD)
        with pytest.raises(Unauthorized, match=r"the credential from .* was refused") as caught:
            fetch_manifest(home.client(), Reference.parse(f"{registry.host}/app:1"))
        assert PASSWORD not in f"{caught.value.message} {caught.value.hint}"
        assert f"assemble login {registry.host}" in caught.value.hint
