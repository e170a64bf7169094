"""A certificate authority for a session of tests, by the openssl command."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

_KEYS = {
    "ec": ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
    "rsa": ("-newkey", "rsa:2048"),
}


@dataclass(frozen=True)
class Authority:
    """An authority whose files are in `directory`; `ca.crt` is what its friends trust."""

    directory: Path

    @classmethod
    def create(cls, directory: Path) -> Authority:
        """A new one."""
        _openssl(
            directory, "req", "-x509", *_KEYS["ec"], "-nodes", "-days", "2", "-keyout", "ca.key",
            "-out", "ca.crt", "-subj", "/CN=authority of the tests",
            "-addext", "basicConstraints=critical,CA:TRUE",
        )  # fmt: skip
        return cls(directory)

    @property
    def certificate(self) -> Path:
        """The authority's own certificate."""
        return self.directory / "ca.crt"

    def issue(self, name: str, *hosts: str, days: int = 2, kind: str = "ec") -> tuple[Path, Path]:
        """Certificate and key for `hosts` (`IP:127.0.0.1`, `DNS:localhost`), without hosts for a
        client. With `days=0` it has ended when it is read. `kind` is of the key: ec or rsa."""
        usage = "serverAuth" if hosts else "clientAuth"
        extensions = [f"extendedKeyUsage={usage}", "basicConstraints=CA:FALSE"]
        extensions += [f"subjectAltName={','.join(hosts)}"] if hosts else []
        (self.directory / f"{name}.ext").write_text("\n".join(extensions) + "\n")
        _openssl(
            self.directory, "req", *_KEYS[kind], "-nodes", "-keyout", f"{name}.key",
            "-out", f"{name}.csr", "-subj", f"/CN={name}",
        )  # fmt: skip
        _openssl(
            self.directory, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey",
            "ca.key", "-CAcreateserial", "-days", str(days), "-out", f"{name}.crt",
            "-extfile", f"{name}.ext",
        )  # fmt: skip
        return self.directory / f"{name}.crt", self.directory / f"{name}.key"

    def server(self, *hosts: str, name: str = "server", client: bool = False) -> ssl.SSLContext:
        """What a server of `hosts` speaks TLS with; with `client` it wants its client's
        certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(name, *(hosts or ("IP:127.0.0.1", "DNS:localhost"))))
        if client:
            context.load_verify_locations(self.certificate)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)
