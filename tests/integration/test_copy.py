"""Indexes between real registries, made and read by hand and by skopeo."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def fetch(host: str, path: str) -> bytes:
    request = urllib.request.Request(
        f"http://{host}/v2/{path}", headers={"Accept": f"{INDEX}, {MANIFEST}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bytes(answer.read())


def put(host: str, path: str, content: bytes, kind: str) -> None:
    request = urllib.request.Request(
        f"http://{host}/v2/{path}", content, {"Content-Type": kind}, method="PUT"
    )
    with urllib.request.urlopen(request, timeout=30):
        pass


def test_an_index_made_by_hand_goes_to_another_registry_and_skopeo_reads_it(
    assemble: Any,
    registry: Any,
    own_registry: tuple[str, Path],
    podman: Any,
    require: Callable[..., None],
    tmp_path: Path,
) -> None:
    require("skopeo")
    here, there = registry.host, own_registry[0]
    entries = []
    for architecture in ("amd64", "arm64"):
        context = tmp_path / architecture
        context.mkdir()
        (context / "file").write_text(architecture)
        (context / "Dockerfile").write_text("FROM scratch\nCOPY file /file\n")
        name = f"{here}/multi:{architecture}"
        assemble(
            "build", "--platform", f"linux/{architecture}", "-t", name, "--push", context
        )  # fmt: skip
        content = fetch(here, f"multi/manifests/{architecture}")
        entries.append(
            {
                "mediaType": MANIFEST,
                "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
                "size": len(content),
                "platform": {"os": "linux", "architecture": architecture},
            }
        )
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries, "x": "kept"}
    index = json.dumps(document, indent=1).encode()
    put(here, "multi/manifests/1", index, INDEX)
    digest = f"sha256:{hashlib.sha256(index).hexdigest()}"

    done = assemble("copy", f"{here}/multi:1", f"{there}/copied:1", f"{tmp_path}/layout:one")
    assert done.stdout.strip() == digest
    assert fetch(there, "copied/manifests/1") == index
    raw = podman.skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{there}/copied:1")
    assert raw.encode() == index
    for architecture, entry in zip(("amd64", "arm64"), entries, strict=True):
        for source in (f"docker://{there}/copied:1", f"oci:{tmp_path}/layout:one"):
            remote = ["--tls-verify=false"] if source.startswith("docker:") else []
            options = [f"--override-arch={architecture}", "inspect", *remote, source]
            assert json.loads(podman.skopeo(*options))["Architecture"] == architecture
        alone = assemble(
            "copy", "--platform", f"linux/{architecture}", f"{there}/copied:1", f"{here}/alone:1"
        )
        assert alone.stdout.strip() == entry["digest"]

    pulled = assemble("pull", "--all-platforms", f"{there}/copied:1")
    assert pulled.stdout.strip() == digest
    assert "problem" not in assemble("store", "check").stdout
    back = assemble("copy", f"store:{there}/copied:1", f"{here}/back:1")
    assert back.stdout.strip() == digest
    for subject in (f"{there}/copied:1", f"{tmp_path}/layout:one"):
        assert assemble("push", subject, f"{here}/pushed:1").stdout.strip() == digest
        assert fetch(here, "pushed/manifests/1") == index
    two = assemble("pull", "--platform", "linux/arm64", f"{here}/back:1", f"{there}/copied:1")
    assert two.stdout.split() == [entries[1]["digest"]] * 2
    podman.skopeo(
        "copy", "--all", "--src-tls-verify=false", f"docker://{here}/back:1",
        f"oci:{tmp_path}/theirs:one",
    )  # fmt: skip
    assert (tmp_path / "theirs/blobs/sha256" / digest.removeprefix("sha256:")).read_bytes() == index


def test_CL1_pull_may_have_a_mode_behind_an_equals_sign(assemble: Any, tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    dockerfile = tmp_path / "context/Dockerfile"
    dockerfile.write_text("FROM busybox\nLABEL a=b\n")
    for word in ("--pull=never", "--pull=missing", "--pull=false"):
        assemble("build", word, tmp_path / "context")
    refused = assemble("build", "--pull=sometimes", tmp_path / "context", code=2)
    assert "sometimes" in refused.stderr
    dockerfile.write_text("FROM example.invalid/nothing:1\n")
    missing = assemble("build", "--pull=never", tmp_path / "context", code=1)
    assert "--pull=missing" in missing.stderr
