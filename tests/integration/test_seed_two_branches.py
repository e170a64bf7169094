"""The first seed: two C programs built in parallel branches of one Debian stage."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration
CONTEXT = Path(__file__).parent.parent.parent / "fixtures/seed/two-branches"


def intervals(rawjson: str) -> dict[str, tuple[str, str]]:
    """Start and end of every vertex, by name."""
    found = {}
    for line in rawjson.splitlines():
        if line.startswith("{"):
            for vertex in json.loads(line).get("vertexes", ()):
                if "completed" in vertex:
                    found[vertex["name"]] = (vertex["started"], vertex["completed"])
    return found


def branch(times: dict[str, tuple[str, str]], name: str) -> tuple[str, str]:
    """Start and end of the steps of a stage: which of them meet another's is up to the machine."""
    steps = [
        span
        for title, span in times.items()
        if title.startswith(f"[{name} ") and ("] copy " in title or "] run " in title)
    ]
    assert len(steps) == 2, times
    return min(start for start, _ in steps), max(end for _, end in steps)


def names_in(layout: Path) -> set[str]:
    """Every path in every layer of the layout's only image."""
    index = json.loads((layout / "index.json").read_text())
    blobs = layout / "blobs/sha256"
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_text())
    found: set[str] = set()
    for layer in manifest["layers"]:
        with tarfile.open(blobs / layer["digest"][7:]) as archive:
            found |= {name.rstrip("/") for name in archive.getnames()}
    return found


def test_the_seed_is_built_pushed_run_and_cached(
    assemble: Any,
    registry: Any,
    hub: Callable[[str], None],
    podman: Any,
    require: Callable[..., None],
    without_namespaces: list[str],
    mirror_of_apt: str,
    tmp_path: Path,
) -> None:
    require("umoci", "skopeo")
    hub("debian")
    mirrored = {"CONTAINERS_REGISTRIES_CONF": str(registry.mirror)}
    name = f"{registry.host}/seed/two-branches:1"
    layout = tmp_path / "layout"
    build = (
        "build", "--progress", "rawjson", "-t", name, "--push", "--build-arg",
        f"APT_MIRROR={mirror_of_apt}", "-o", f"type=oci,dest={layout},tar=false", CONTEXT,
    )  # fmt: skip

    first = assemble(*build, **mirrored)
    foo, bar = (branch(intervals(first.stderr), name) for name in ("foo", "bar"))
    assert max(foo[0], bar[0]) < min(foo[1], bar[1]), "the two branches ran at the same time"

    second = assemble(*build, prefix=without_namespaces, **mirrored)  # it starts none
    assert second.stdout == first.stdout, "the same digest"
    ran = [
        vertex
        for line in second.stderr.splitlines()
        if line.startswith("{")
        for vertex in json.loads(line).get("vertexes", ())
        if "completed" in vertex and "run " in vertex["name"] and not vertex.get("cached")
    ]
    assert ran == [], "the second build runs no step"

    other = f"{registry.host}/seed/other-name:2"
    assemble("push", name, other, **mirrored)
    for pushed in (name, other):
        inspected = json.loads(podman.skopeo("inspect", "--tls-verify=false", f"docker://{pushed}"))
        assert inspected["Digest"] == first.stdout.strip()
    output = podman(
        "run", "--rm", "--tls-verify=false", "--network=host", "--cgroups=no-conmon", other
    )
    assert output.split("\n")[:2] == ["0 1 1 2 3 5 8 13 21 34", "sehcnarb owt"]

    names = names_in(layout)
    assert {"bin/foo", "bin/bar"} <= names
    assert not [
        path for path in names if path.endswith((".c", ".o", "Makefile", "bin/gcc", "bin/make"))
    ]
    podman.umoci_unpack(layout, "1", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/bin/foo").exists()
    assert not (tmp_path / "bundle/rootfs/src").exists(), "no trace of the build stages"
