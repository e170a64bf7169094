"""Registries as they really are, and what other tools read from them (MF-03, RG-17)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from assembler.oci.descriptor import INDEX, MANIFEST
from assembler.testing.distribution import sha256
from tests.registry.certificates import Authority
from tests.registry.faulty import FaultyRegistry
from tests.registry.real import (
    PASSWORD,
    USER,
    TokenServer,
    log_in,
    serving,
    trust,
    with_passwords,
)  # fmt: skip
from tests.registry.rules import BLOB, reset

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Site:
    """A registry that wants a password over TLS, however it asks for it, and who has one."""

    host: str
    assemble: Any
    authority: Authority
    tokens: TokenServer | None
    data: Path

    def cold(self, store: Path) -> Any:
        """The command line with an empty store."""
        return replace(self.assemble, env={**self.assemble.env, "ASSEMBLE_STORE": str(store)})

    def options(self, direction: str = "") -> list[str]:
        """How skopeo, podman and buildah are told the password and whom to trust."""
        return [
            f"--{direction}creds={USER}:{PASSWORD}",
            f"--{direction}cert-dir={self.authority.directory / 'trusted'}",
        ]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority.create(tmp_path_factory.mktemp("authority"))
    (made.directory / "trusted").mkdir()
    (made.directory / "trusted/ca.crt").write_bytes(made.certificate.read_bytes())
    return made


@pytest.fixture(params=["htpasswd", "token"])
def site(
    request: pytest.FixtureRequest,
    assemble: Any,
    authority: Authority,
    tmp_path: Path,
    require: Callable[..., None],
) -> Iterator[Site]:
    require("docker-registry", "openssl", "skopeo", "umoci", "buildah")
    directory = tmp_path / "registry"
    directory.mkdir()
    with ExitStack() as stack:
        tokens = None
        if request.param == "token":
            tokens = stack.enter_context(TokenServer(authority))
            configuration = tokens.configuration()
        else:
            configuration = with_passwords(directory)
        host = stack.enter_context(serving(directory, authority, **configuration))
        home = Path(assemble.env["HOME"])
        log_in(home, host)
        trust(home, host, authority)
        if tokens is not None:
            trust(home, tokens.host, authority)
        yield Site(host, assemble, authority, tokens, directory / "data")


def built(site: Site, tmp_path: Path, *options: str) -> str:
    """Build an image of three layers by a real RUN, push it, and pull no name of it."""
    context = tmp_path / "context"
    context.mkdir(exist_ok=True)
    (context / "random").write_bytes(os.urandom(3_000_000))
    (context / "Dockerfile").write_text(
        "FROM busybox\nRUN mkdir /made && echo one > /made/one && chmod 4755 /made/one\n"
        "COPY random /random\n"
    )
    done = site.assemble("build", "--push", "-t", f"{site.host}/team/app:1", *options, context)
    found: str = done.stdout.strip()
    return found


def indexed(layout: Path, digest: str) -> bytes:
    """Tag `both` of a layout: an index that has the image `digest` for two platforms."""
    content = (layout / "blobs/sha256" / digest.partition(":")[2]).read_bytes()
    entry = {"mediaType": MANIFEST, "digest": digest, "size": len(content)}
    platforms = [{"os": "linux", "architecture": name} for name in ("amd64", "arm64")]
    document = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [entry | {"platform": platform} for platform in platforms],
    }
    index = json.dumps(document).encode()
    (layout / "blobs/sha256" / sha256(index).partition(":")[2]).write_bytes(index)
    top = json.loads((layout / "index.json").read_text())
    named = {"org.opencontainers.image.ref.name": "both"}
    described = {"mediaType": INDEX, "digest": sha256(index), "size": len(index)}
    top["manifests"].append(described | {"annotations": named})
    (layout / "index.json").write_text(json.dumps(top))
    return index


def test_an_image_is_built_pushed_and_read_by_everybody(
    site: Site, podman: Any, tmp_path: Path
) -> None:
    gzip = built(site, tmp_path)
    name = f"{site.host}/team/app:1"
    # The second image mounts or finds the layers of the first, and adds one in zstd.
    (tmp_path / "context/Dockerfile").write_text(f"FROM {name}\nCOPY random /twice/random\n")
    mixed = f"{site.host}/team/other:2"
    digest = site.assemble(
        "build", "-t", mixed, "-o", f"type=image,name={mixed},push=true,compression=zstd",
        tmp_path / "context",
    ).stdout.strip()  # fmt: skip
    assert digest != gzip
    cold = site.cold(tmp_path / "cold")
    assert cold("pull", mixed).stdout.strip() == digest
    shown = json.loads(cold("inspect", "--format", "json", mixed).stdout)
    kinds = {layer["mediaType"].rpartition("+")[2] for layer in shown["manifest"]["layers"]}
    assert kinds == {"gzip", "zstd"}
    again = f"{site.host}/copied/app:3"
    assert cold("push", mixed, again).stdout.strip() == digest

    inspected = json.loads(podman.skopeo("inspect", *site.options(), f"docker://{again}"))
    assert inspected["Digest"] == digest and len(inspected["Layers"]) == 4
    layout = tmp_path / "layout"
    podman.skopeo("copy", *site.options("src-"), f"docker://{name}", f"oci:{layout}:1")
    podman.umoci_unpack(layout, "1", tmp_path / "bundle")  # umoci 0.4 knows no zstd
    assert (tmp_path / "bundle/rootfs/made/one").read_text() == "one\n"
    index = indexed(layout, gzip)
    both = f"{site.host}/team/both:1"
    assert site.assemble("push", f"{layout}:both", both).stdout.strip() == sha256(index)
    assert podman.skopeo("inspect", "--raw", *site.options(), f"docker://{both}") == index.decode()
    podman.skopeo("copy", "--all", *site.options("src-"), f"docker://{both}", f"oci:{layout}:all")
    assert cold("pull", "--platform", "linux/arm64", both).stdout.strip()
    for read in (podman, podman.buildah):
        read("pull", *site.options(), mixed)
        assert mixed.partition(":2")[0] in read("images")
    output = podman(
        "run", "--rm", "--network=host", "--cgroups=no-conmon", mixed, "ls", "-l", "/made/one"
    )
    assert output.startswith("-rwsr-xr-x")


def test_without_a_password_it_is_said_how_to_get_in(site: Site, tmp_path: Path) -> None:
    (Path(site.assemble.env["HOME"]) / ".config/containers/auth.json").unlink()
    done = site.assemble("push", "busybox", f"{site.host}/team/app:1", code=1)
    assert site.host in done.stderr and "login" in done.stderr


def test_RG16_a_certificate_that_nobody_knows_names_the_place_for_its_authority(
    site: Site, tmp_path: Path
) -> None:
    place = Path(site.assemble.env["HOME"]) / ".config/containers/certs.d" / site.host
    other = tmp_path / "other"
    other.mkdir()
    (place / "ca.crt").write_bytes(Authority.create(other).certificate.read_bytes())
    done = site.assemble("push", "busybox", f"{site.host}/team/app:1", code=1)
    assert f"certs.d/{site.host}" in done.stderr


def test_a_read_only_mirror_is_pulled_from_and_not_pushed_to(
    assemble: Any, tmp_path: Path, require: Callable[..., None]
) -> None:
    require("docker-registry")
    directory = tmp_path / "registry"
    directory.mkdir()
    readonly = {"maintenance": {"readonly": {"enabled": True}}}
    data = directory / "data"
    with serving(directory) as host:
        name = f"{host}/team/app:1"
        digest = assemble("push", "busybox", name).stdout.strip()
        with serving(directory, data=data, storage=readonly) as mirror:
            conf = tmp_path / "registries.conf"
            conf.write_text(
                f'[[registry]]\nprefix = "{host}"\nlocation = "{host}"\ninsecure = true\n'
                f'[[registry.mirror]]\nlocation = "{mirror}"\ninsecure = true\n'
            )
            through = replace(
                assemble,
                env={
                    **assemble.env,
                    "CONTAINERS_REGISTRIES_CONF": str(conf),
                    "ASSEMBLE_STORE": str(tmp_path / "cold"),
                },
            )
            assert through("pull", name).stdout.strip() == digest
            assert through("push", name, f"{host}/team/app:2").stdout.strip() == digest
            refused = assemble("push", "busybox", f"{mirror}/team/new:1", code=1)
            assert mirror in refused.stderr and "405" in refused.stderr
            conf.write_text(
                conf.read_text().replace(f'location = "{host}"', 'location = "127.0.0.1:1"')
            )
            offline = replace(through, env={**through.env, "ASSEMBLE_STORE": str(tmp_path / "off")})
            assert offline("pull", f"{host}/team/app:2").stdout.strip() == digest


def test_R9_what_was_pulled_is_in_another_repository_without_a_byte_of_a_blob(
    assemble: Any, tmp_path: Path
) -> None:
    with FaultyRegistry() as registry:
        first, second = f"{registry.host}/first:1", f"{registry.host}/second:1"
        digest = assemble("push", "busybox", first).stdout.strip()
        other = replace(assemble, env={**assemble.env, "ASSEMBLE_STORE": str(tmp_path / "other")})
        other("pull", first)
        before = registry.received()
        assert before > 0
        assert other("push", first, second).stdout.strip() == digest
        assert registry.received() == before
        assert registry.tags("second") == ["1"]


def test_a_registry_that_dies_amid_a_pull_is_named_in_the_end(
    assemble: Any, tmp_path: Path
) -> None:
    with FaultyRegistry() as registry:
        name = f"{registry.host}/app:1"
        assemble("push", "busybox", name)
        registry.on("GET", BLOB, reset(), at=1000)
        empty = tmp_path / "empty"
        failed = assemble("pull", "--retry=1", name, code=1, timeout=60, ASSEMBLE_STORE=str(empty))
    assert f"cannot reach {registry.host}" in failed.stderr
