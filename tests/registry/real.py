"""Debian's docker-registry as registries really are: over TLS with passwords, with a token server,
read-only as a mirror."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from assembler.testing.server import Answer, Exchange, Server
from assembler.testing.tokens import basic
from tests import served
from tests.registry.certificates import Authority

USER, PASSWORD = "me", "pass word"
HTPASSWD = f"{USER}:$2b$04$GXzbkZj3OmetPIICxs8aIeFe0ZMmrpIqKykIzdtK1Qcz2CtJ11.Su\n"
LEEWAY = 60  # seconds for which docker-registry takes a token that has ended


@contextmanager
def serving(
    directory: Path,
    authority: Authority | None = None,
    data: Path | None = None,
    **more: Mapping[str, object],
) -> Iterator[str]:
    """`served.serving`; with an `authority` it speaks TLS."""
    http: dict[str, object] = {}
    if authority is not None:
        name = f"registry-{uuid.uuid4().hex}"
        certificate, key = authority.issue(name, "IP:127.0.0.1", "DNS:localhost")
        http["tls"] = {"certificate": str(certificate), "key": str(key)}
    with served.serving(directory, data, http=http, **more) as host:
        yield host


def with_passwords(directory: Path) -> dict[str, Mapping[str, object]]:
    """Configuration of a registry that knows USER by PASSWORD."""
    (directory / "htpasswd").write_text(HTPASSWD)
    return {"auth": {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}}}


@dataclass
class TokenServer:
    """Signs tokens for USER which a docker-registry takes for `ttl` seconds (RS256, the key's
    certificate beside it as `x5c`). `asked` are the scopes of every request."""

    authority: Authority
    ttl: float = 300
    asked: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._certificate, self._key = self.authority.issue("tokens", "IP:127.0.0.1", kind="rsa")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate, self._key)
        self._server = Server(self._serve, tls=context)

    def __enter__(self) -> TokenServer:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"127.0.0.1:{self._server.port}"

    def configuration(self) -> dict[str, Mapping[str, object]]:
        """Configuration of a registry that wants its tokens."""
        token = {
            "realm": f"https://{self.host}/token",
            "service": "registry of the tests",
            "issuer": "tokens of the tests",
            "rootcertbundle": str(self.authority.certificate),
        }
        return {"auth": {"token": token}}

    def _serve(self, exchange: Exchange) -> None:
        asked = exchange.asked
        exchange.drain()
        if not basic(asked, {USER: PASSWORD}):
            exchange.answer(Answer(401, {"WWW-Authenticate": 'Basic realm="tokens"'}))
            return
        query = parse_qs(urlsplit(asked.target).query)
        scopes = [one for value in query.get("scope", []) for one in value.split()]
        self.asked.append(scopes)
        document = {"token": self._token(scopes), "expires_in": 60}
        body = json.dumps(document).encode()
        exchange.answer(Answer(200, {"Content-Type": "application/json"}, body))

    def _token(self, scopes: list[str]) -> str:
        now = time.time()
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        claims = {
            "iss": "tokens of the tests", "aud": "registry of the tests", "sub": USER,
            "exp": int(now + self.ttl - LEEWAY), "nbf": int(now - 600), "iat": int(now - 600),
            "jti": uuid.uuid4().hex, "access": access,
        }  # fmt: skip
        text = self._certificate.read_text()
        der = ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN") :])
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self._key)],
            input=signed.encode(), check=True, capture_output=True,
        ).stdout  # fmt: skip
        return f"{signed}.{_encoded(signature)}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def log_in(home: Path, host: str) -> None:
    """Have USER's password for `host` in the home's auth file, as `podman login` leaves it."""
    path = home / ".config/containers/auth.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    path.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    path.chmod(0o600)


def trust(home: Path, host: str, authority: Authority) -> None:
    """Have the authority's certificate in the home's certs.d."""
    directory = home / ".config/containers/certs.d" / host
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "ca.crt").write_bytes(authority.certificate.read_bytes())
