"""Digests, references, platforms, configurations, manifests."""

from __future__ import annotations

import json

import pytest

from assembler.oci.config import Execution, ImageConfig
from assembler.oci.descriptor import CONFIG, INDEX, LAYER_TAR, MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image
from assembler.oci.manifest import Index, Manifest, build, build_index, parse
from assembler.oci.platform import Platform
from assembler.oci.reference import Reference

D = Digest.of(b"x")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256:ab",
        f"sha256:{'A' * 64}",
        f"md5:{'a' * 32}",
        "sha256:../../etc",
        f"sha256:{'a' * 65}",
    ],
)
def test_M4_digests_are_checked_before_they_become_paths(text: str) -> None:
    with pytest.raises(ValueError, match="invalid digest"):
        Digest.parse(text)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("debian", "docker.io/library/debian:latest"),
        ("docker.io/debian:12", "docker.io/library/debian:12"),
        ("index.docker.io/a/b", "docker.io/a/b:latest"),
        ("localhost/foo", "localhost/foo:latest"),
        ("localhost:5000/foo:1", "localhost:5000/foo:1"),
        ("example.com/a/b:T-1", "example.com/a/b:T-1"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        (f"a@{D}", f"docker.io/library/a@{D}"),
        (f"a:1@{D}", f"docker.io/library/a:1@{D}"),
    ],
)
def test_S16_references_are_normalised(text: str, normal: str) -> None:
    assert str(Reference.parse(text)) == normal


@pytest.mark.parametrize(
    "text", ["", "UPPER", "a:b:c", "a@", "a b", "-x", "a//b", "a@sha256:12", ":1"]
)
def test_bad_references_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid"):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/x86_64", "linux/amd64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/arm", "linux/arm/v7"),
        ("arm64", "linux/arm64"),
    ],
)
def test_A10_platforms_are_normalised(text: str, normal: str) -> None:
    assert str(Platform.parse(text)) == normal


def test_a_configuration_keeps_what_it_does_not_know() -> None:
    document = {
        "architecture": "amd64", "os": "linux", "os.version": "10",
        "config": {"Env": None, "Cmd": ["x"], "Odd": {"a": 1}}, "rootfs": {"type": "layers", "diff_ids": [str(D)]},
        "history": [{"created_by": "x", "empty_layer": True}],
    }  # fmt: skip
    config = ImageConfig.parse(json.dumps(document).encode())
    again = json.loads(config.serialise())
    assert again["os.version"] == "10" and again["config"]["Odd"] == {"a": 1}
    assert ImageConfig.parse(config.serialise()) == config


def test_what_is_no_utf8_becomes_the_replacement_character() -> None:
    config = ImageConfig(Platform("linux", "amd64"), Execution(labels={"k": "a\udcff\ud800b"}))
    assert json.loads(config.serialise())["config"]["Labels"] == {"k": "a\ufffd\ufffdb"}


@pytest.mark.parametrize("broken", [{"Entrypoint": {}}, {"Env": [1]}, {"User": 5}])
def test_M7_wrong_types_are_refused(broken: dict[str, object]) -> None:
    document = {"architecture": "amd64", "os": "linux", "config": broken}
    with pytest.raises(ValueError, match="image config"):
        ImageConfig.parse(json.dumps(document).encode())


def manifest(**more: object) -> bytes:
    config = Descriptor(CONFIG, D, 1).to_document()
    return json.dumps({"schemaVersion": 2, "config": config, "layers": [], **more}).encode()


def test_M3_an_ambiguous_document_is_refused() -> None:
    with pytest.raises(ValueError, match="ambiguous"):
        parse(manifest(manifests=[]))


def test_M6_schema_1_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="schema 1"):
        parse(json.dumps({"schemaVersion": 1, "fsLayers": []}).encode())


def test_a_media_type_that_lies_is_refused() -> None:
    with pytest.raises(ValueError, match="not what its media type"):
        parse(manifest(), INDEX)


def test_a_built_manifest_reads_back() -> None:
    made = build(Descriptor(CONFIG, D, 1), [Descriptor(LAYER_TAR, D, 5)], {"k": "v"})
    read = parse(made.content, MANIFEST)
    assert isinstance(read, Manifest) and read == made


def test_an_index_selects_the_equal_platform_first() -> None:
    entries = []
    for number, platform in enumerate(("linux/arm/v6", "linux/arm/v7", "linux/amd64")):
        entries.append(
            Descriptor(MANIFEST, Digest.of(bytes([number])), 1, platform=Platform.parse(platform))
        )
    index = Index(b"", INDEX, tuple(entries))
    assert index.select(Platform.parse("linux/arm/v7")) == entries[1]
    assert index.select(Platform.parse("linux/arm/v6")) == entries[0]
    assert index.select(Platform.parse("linux/s390x")) is None


def test_T17_an_image_whose_layers_disagree_is_refused() -> None:
    content = ImageConfig(Platform("linux", "amd64"), diff_ids=(D,)).serialise()
    described = Descriptor(CONFIG, Digest.of(content), len(content))
    with pytest.raises(ValueError, match="names 1 layers"):
        Image.read(build(described, []), content)


def test_a_configuration_is_utf8_whatever_a_dockerfile_holds() -> None:
    config = ImageConfig(Platform("linux", "amd64"), author="\udcff ä \udc80")
    assert json.loads(config.serialise())["author"] == "\ufffd ä \ufffd"


def test_a_descriptor_keeps_what_it_does_not_know() -> None:
    document = {
        "mediaType": MANIFEST, "digest": str(D), "size": 1, "annotations": {"a": "b"},
        "platform": {"architecture": "arm64", "os": "linux", "variant": "v8", "os.features": ["x"]},
        "urls": ["https://example.com"], "artifactType": "application/x", "data": "eA==",
    }  # fmt: skip
    read = Descriptor.from_document(document)
    assert read.to_document() == document
    assert (read.artifact_type, read.data) == ("application/x", b"x")
    assert read.platform == Platform("linux", "arm64")


def test_M9_data_that_is_not_what_is_described_is_ignored() -> None:
    good = {"mediaType": LAYER_TAR, "digest": str(D), "size": 1}
    for data in ("eQ==", "eA", "eHg=", "\N{SNOWMAN}", None, 5, "A" * 1_000_000):
        assert Descriptor.from_document(good | {"data": data}).data is None
    huge = b"x" * 100_000
    described = {"mediaType": LAYER_TAR, "digest": str(Digest.of(huge)), "size": len(huge)}
    assert Descriptor.from_document(described | {"data": "eHh4" * 33_334}).data is None


def test_M5_an_entry_for_no_platform_is_never_selected() -> None:
    odd: list[object] = [
        {"os": "unknown", "architecture": "unknown"}, {"os": "linux", "architecture": ""},
        {"os": "a b", "architecture": "c/d"}, {"os": ["linux"], "architecture": {}},
    ]  # fmt: skip
    entries = [
        {"mediaType": MANIFEST, "digest": str(D), "size": 1, "platform": platform}
        for platform in odd
    ]
    content = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    index = parse(content)
    assert isinstance(index, Index) and index.platforms == ()
    assert index.select(Platform("linux", "amd64")) is None
    assert [entry.to_document()["platform"] for entry in index.manifests] == odd


def test_indexes_hold_indexes_and_are_serialised_once() -> None:
    inner = build_index([Descriptor(MANIFEST, D, 1, platform=Platform("linux", "amd64"))])
    outer = build_index([inner.descriptor], {"b": "1", "a": "2"})
    read = parse(outer.content, INDEX)
    assert read == outer and outer.manifests == (inner.descriptor,)
    assert json.loads(outer.content)["annotations"] == {"a": "2", "b": "1"}


@pytest.mark.parametrize(
    ("platform", "runs"),
    [
        ("linux/amd64/v3", ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"]),
        ("linux/amd64", ["linux/amd64", "linux/386"]),
        ("linux/arm/v7", ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm/v6", ["linux/arm/v6", "linux/arm/v5"]),
        (
            "linux/arm64/v8.1",
            ["linux/arm64/v8.1", "linux/arm64"] + [f"linux/arm/v{n}" for n in (8, 7, 6, 5)],
        ),
        ("linux/s390x", ["linux/s390x"]),
        ("linux/ppc64le/power9", ["linux/ppc64le/power9", "linux/ppc64le"]),
    ],
)
def test_A10_what_runs_on_a_platform_is_what_containerd_says(
    platform: str, runs: list[str]
) -> None:
    assert list(map(str, Platform.parse(platform).runs)) == runs


def test_A10_only_windows_has_a_version() -> None:
    assert str(Platform.parse("windows(10.0.17763)/amd64")) == "windows(10.0.17763)/amd64"
    assert Platform.parse("linux(5.10)/amd64") == Platform("linux", "amd64")
    server = Platform.parse("windows(10.0.17763.1)/amd64")
    assert server.matches(Platform.parse("windows(10.0.17763.999)/amd64"))
    assert not server.matches(Platform.parse("windows(10.0.20348.1)/amd64"))
    assert Platform.parse("windows/amd64").matches(server)


def test_RG13_documents_are_read_within_bounds() -> None:
    for content in (b"[" * 100_000, b'{"a":' * 100_000, b'{"a":[' + b"[]," * 130_000 + b"1]}"):
        with pytest.raises(ValueError, match="manifest"):
            parse(content)
        with pytest.raises(ValueError, match="config"):
            ImageConfig.parse(content)
    with pytest.raises(ValueError, match="bytes"):
        ImageConfig.parse(b" " * (9 << 20))
