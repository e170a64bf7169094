"""compression=, compression-level=, force-compression=, oci-mediatypes= (rules Z7, Y7): what is
written, and that other tools read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

DOCKERFILE = """\
FROM busybox AS build
RUN mkdir /made && echo one > /made/one && chmod 4755 /made/one && ln /made/one /made/two \\
    && dd if=/dev/zero of=/made/big bs=1M count=5
FROM busybox
COPY --from=build /made /made/
RUN rm /etc/group && echo text > /text
CMD ["cat", "/made/two"]
"""
KINDS = {
    "uncompressed": "application/vnd.oci.image.layer.v1.tar",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "estargz": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "zstd:chunked": "application/vnd.oci.image.layer.v1.tar+zstd",
}


@pytest.fixture
def context(tmp_path: Path) -> Path:
    path = tmp_path / "context"
    path.mkdir()
    (path / "Dockerfile").write_text(DOCKERFILE)
    return path


def blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / digest.replace(":", "/")).read_bytes()


def manifest_of(layout: Path) -> Any:
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    return json.loads(blob(layout, entry["digest"]))


def build(assemble: Any, context: Path, layout: Path, packaging: str = "", **more: Any) -> Any:
    """Build into `layout`; the manifest there."""
    word = f"type=oci,dest={layout},tar=false{',' if packaging else ''}{packaging}"
    assemble("build", "-t", "packed:1", "-o", word, context, **more)
    return manifest_of(layout)


def diff_ids(layout: Path) -> Any:
    return json.loads(blob(layout, manifest_of(layout)["config"]["digest"]))["rootfs"]["diff_ids"]


def test_Z7_every_layer_has_the_compression_that_is_forced(
    assemble: Any, podman: Any, require: Callable[..., None], context: Path, tmp_path: Path,
    lazily: Any,
) -> None:  # fmt: skip
    require("skopeo")
    found = {}
    for name, media_type in KINDS.items():
        layout = tmp_path / name.replace(":", "-")
        packaging = f"compression={name},force-compression=true"
        manifest = build(assemble, context, layout, packaging)
        assert {layer["mediaType"] for layer in manifest["layers"]} == {media_type}, name
        assert len(manifest["layers"]) == 3
        for layer in manifest["layers"]:
            assert ("annotations" in layer) == (name in ("estargz", "zstd:chunked"))
            if "annotations" in layer:
                lazily(blob(layout, layer["digest"]), layer["annotations"]).files()
        found[name] = diff_ids(layout)
        copy = tmp_path / f"{layout.name}-copy"
        podman.skopeo("copy", f"oci:{layout}:1", f"dir:{copy}")
    again = build(assemble, context, layout, packaging)
    assert again == manifest, "what the cache remembers is not what was made"
    assert found["gzip"] == found["zstd"] == found["zstd:chunked"] == found["uncompressed"]
    assert not set(found["gzip"]) & set(found["estargz"])


def test_Z7_layers_of_the_base_keep_theirs_unless_another_is_forced(
    assemble: Any, context: Path, tmp_path: Path
) -> None:
    first = build(assemble, context, tmp_path / "first")["layers"]
    second = build(assemble, context, tmp_path / "second", "compression=zstd")["layers"]
    assert second[0] == first[0]
    assert [layer["mediaType"][-4:] for layer in second] == ["gzip", "zstd", "zstd"]
    same = build(assemble, context, tmp_path / "same", "force-compression=true")["layers"]
    assert same == first
    low = build(assemble, context, tmp_path / "low", "compression-level=1")["layers"]
    assert low[0] == first[0]
    assert low[1]["digest"] != first[1]["digest"]


def test_Z7_two_outputs_of_one_build_have_each_their_own(
    assemble: Any, context: Path, tmp_path: Path
) -> None:
    """What ran for one of them is not run again, even where the cache is not to be used."""
    (context / "Dockerfile").write_text(
        "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /random\n"
    )
    one, two = tmp_path / "one", tmp_path / "two"
    done = assemble(
        "build", "--no-cache", "-t", "packed:1", "-o", f"type=oci,dest={one},tar=false",
        "-o", f"type=oci,dest={two},tar=false,compression=zstd", context,
    )  # fmt: skip
    layers = [manifest_of(layout)["layers"][1] for layout in (one, two)]
    assert [layer["mediaType"][-4:] for layer in layers] == ["gzip", "zstd"]
    assert diff_ids(one) == diff_ids(two)
    assert json.loads((one / "index.json").read_text())["manifests"][0]["digest"] in done.stdout


def test_Z7_other_tools_pull_and_load_layers_with_a_table(
    assemble: Any, podman: Any, require: Callable[..., None], registry: Any, context: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    require("umoci")
    run = ("run", "--rm", "--network=host", "--cgroups=no-conmon")
    for name in ("estargz", "zstd:chunked"):
        docker = tmp_path / "docker.tar"
        packaging = f"compression={name},force-compression=true"
        reference = f"{registry.host}/compressions/{name.replace(':', '-')}:1"
        outputs = (
            "-o",
            f"type=registry,{packaging}",
            "-o",
            f"type=docker,dest={docker},{packaging}",
        )
        assemble("build", "-t", reference, *outputs, context)
        podman("pull", "--tls-verify=false", reference)
        words = podman(*run, reference, "sh", "-c", "cat /made/two; ls -a /; ls /etc").split()
        assert words[0] == "one"
        assert not {"group", "stargz.index.json", ".no.prefetch.landmark"} & set(words)
        podman("rmi", reference)
        podman("load", "-i", str(docker))
        assert podman(*run, reference) == "one\n"
    layout = tmp_path / "estargz"
    build(assemble, context, layout, "compression=estargz,force-compression=true")
    podman.umoci_unpack(layout, "1", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/made/two").read_text() == "one\n"


def test_Z7_layers_with_a_table_are_base_layers_like_others(
    assemble: Any, own_registry: tuple[str, Path], context: Path, tmp_path: Path, lazily: Any
) -> None:
    host, _ = own_registry
    for number, name in enumerate(("estargz", "zstd:chunked")):
        base = f"{host}/base/{number}:1"
        packaging = f"compression={name},force-compression=true"
        assemble("build", "-t", base, "-o", f"type=image,push=true,{packaging}", context)
        using = tmp_path / f"using{number}"
        using.mkdir()
        (using / "Dockerfile").write_text(
            f"FROM {base}\nRUN test -s /made/big && ls -a / > /listing\n"
        )
        layout = tmp_path / f"layout{number}"
        other = {"ASSEMBLE_STORE": str(tmp_path / f"store{number}")}
        layers = build(assemble, using, layout, packaging, **other)["layers"]
        assert [bool(layer.get("annotations")) for layer in layers] == [True] * 4
        files = lazily(blob(layout, layers[3]["digest"]), layers[3]["annotations"]).files()
        listing = files["listing"][1].decode().split()
        assert "made" in listing
        assert not {"stargz.index.json", ".no.prefetch.landmark"} & set(listing)
        shown = assemble("inspect", base, **other).stdout
        assert KINDS[name] in shown
        assert "io.containers.estargz" in shown or "zstd-chunked.manifest-position" in shown


def test_Z7_push_recompresses_when_it_is_told_to(
    assemble: Any, own_registry: tuple[str, Path], tmp_path: Path
) -> None:
    host, _ = own_registry
    plain = assemble("push", "busybox", f"{host}/plain:1").stdout
    packed = assemble(
        "push", "--compression", "zstd", "--compression-level", "9", "busybox", f"{host}/packed:1"
    ).stdout
    assert packed != plain
    document = json.loads(assemble("inspect", "--format", "json", "busybox").stdout)
    assemble("pull", f"{host}/packed:1")
    other = json.loads(assemble("inspect", "--format", "json", f"{host}/packed:1").stdout)
    assert [layer["mediaType"] for layer in other["manifest"]["layers"]] == [KINDS["zstd"]]
    assert other["config"] == document["config"]


def test_Y7_docker_media_types(
    assemble: Any, podman: Any, require: Callable[..., None], own_registry: tuple[str, Path],
    context: Path, tmp_path: Path,
) -> None:  # fmt: skip
    require("skopeo")
    reference = f"{own_registry[0]}/docker:1"
    assemble("build", "-t", reference, "-o", "type=registry,oci-mediatypes=false", context)
    options = ("--raw", "--tls-verify=false")
    manifest = json.loads(podman.skopeo("inspect", *options, f"docker://{reference}"))
    assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert manifest["config"]["mediaType"] == "application/vnd.docker.container.image.v1+json"
    assert {layer["mediaType"] for layer in manifest["layers"]} == {
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
    }
    podman.skopeo("copy", "--src-tls-verify=false", f"docker://{reference}", f"dir:{tmp_path}/copy")
    (context / "Dockerfile").write_text(f"FROM {reference}\nLABEL a=b\n")
    oci = build(assemble, context, tmp_path / "oci")
    assert {layer["mediaType"] for layer in oci["layers"]} == {KINDS["gzip"]}
    assert [one["digest"] for one in oci["layers"]] == [one["digest"] for one in manifest["layers"]]
    refused = assemble(
        "build", "-o", "type=image,compression=zstd,oci-mediatypes=false", context, code=2
    )
    assert "compression=zstd conflicts with oci-mediatypes=false" in refused.stderr
