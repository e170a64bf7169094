"""The second seed: a Go server compiled in one stage, served from a small one."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration
CONTEXT = Path(__file__).parent.parent.parent / "fixtures/seed/go-server"


def test_the_seed_is_built_pushed_and_answers(
    assemble: Any,
    registry: Any,
    hub: Callable[[str], None],
    podman: Any,
    require: Callable[..., None],
    without_namespaces: list[str],
    free_port: int,
    tmp_path: Path,
) -> None:
    require("umoci", "skopeo")
    hub("golang")
    mirrored = {"CONTAINERS_REGISTRIES_CONF": str(registry.mirror)}
    name = f"{registry.host}/seed/go-server:1"
    layout = tmp_path / "layout"
    build = ("build", "-t", name, "--push", "-o", f"type=oci,dest={layout},tar=false", CONTEXT)

    first = assemble(*build, **mirrored)
    second = assemble(*build, prefix=without_namespaces, **mirrored)  # it starts none
    assert second.stdout == first.stdout
    assert second.stderr.count(" CACHED") >= 6 and "#1 0." not in second.stderr

    other = f"{registry.host}/seed/go-server-again:latest"
    assemble("push", name, other, **mirrored)
    inspected = json.loads(podman.skopeo("inspect", "--tls-verify=false", f"docker://{other}"))
    assert inspected["Digest"] == first.stdout.strip()

    config = json.loads(assemble("inspect", "--format", "json", layout).stdout)["config"]["config"]
    assert config["ExposedPorts"] == {"80/tcp": {}}
    assert config["Cmd"] == ["my-server"]

    podman(
        "run", "-d", "--name=server", "--tls-verify=false", "--network=host", "--cgroups=no-conmon",
        f"--env=ADDRESS=127.0.0.1:{free_port}", other,
    )  # fmt: skip
    try:
        assert (
            answer(f"http://127.0.0.1:{free_port}/hello")
            == "greeting from the final stage: /hello\n"
        )
    finally:
        podman("rm", "-f", "-t", "0", "server")

    podman.umoci_unpack(layout, "1", tmp_path / "bundle")
    rootfs = tmp_path / "bundle/rootfs"
    assert (rootfs / "usr/local/bin/my-server").exists()
    assert (rootfs / "bin/my-server").is_symlink()
    assert not (rootfs / "go").exists() and not (rootfs / "usr/lib/go").exists()
    assert not list(rootfs.rglob("*.go")), "no source in the image"


def answer(url: str) -> str:
    """What the server says, once it is up."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return str(response.read().decode())
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} never answered")
