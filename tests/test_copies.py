"""Copies between registries, layouts, archives and the store."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
from click.testing import CliRunner

from assembler.builder import Builder
from assembler.cache.local import LocalCache
from assembler.cache.pruning import Policy, prune
from assembler.cancellation import Cancellation
from assembler.cli.commands import cli
from assembler.cli.subjects import whole
from assembler.environment import Environment
from assembler.errors import AssemblerError, NotFound, StoreError, UsageError
from assembler.image_names import parse_reference
from assembler.images import Images, host_platform
from assembler.oci.config import ImageConfig
from assembler.oci.descriptor import (
    CACHE_CONFIG,
    DOCKER_LIST,
    INDEX,
    LAYER_GZIP,
    LAYER_TAR,
    REF_NAME,
    Descriptor,
)
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer
from assembler.oci.manifest import Index, build_index, parse
from assembler.oci.platform import Platform
from assembler.store.importing import import_top
from assembler.store.store import Store
from tests.registry.faulty import FaultyRegistry
from tests.registry.rules import cut, reply

BIG = os.urandom(3_000_000)
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


@pytest.fixture
def builder(tmp_path: Path) -> Iterator[Builder]:
    environment = Environment.read({"HOME": str(tmp_path)})
    store = str(tmp_path / "store")
    with (
        Cancellation() as cancellation,
        Builder(environment, store=store, cancellation=cancellation) as found,
    ):
        yield found


@pytest.fixture
def faulty() -> Iterator[FaultyRegistry]:
    with FaultyRegistry() as registry:
        yield registry


@pytest.fixture
def other() -> Iterator[FaultyRegistry]:
    with FaultyRegistry() as registry:
        yield registry


def image(platform: Platform, *contents: bytes) -> Image:
    layers = tuple(
        Layer(Descriptor(LAYER_TAR, Digest.of(one), len(one)), Digest.of(one)) for one in contents
    )
    config = ImageConfig(platform, diff_ids=tuple(layer.diff_id for layer in layers))
    return Image.create(config, layers)


def provide(registry: FaultyRegistry) -> Index:
    """An index of two platforms and an attestation of the first, as `app:1` of the registry. It is
    spelled as nobody here spells it."""
    entries = []
    for platform, content in ((AMD64, BIG), (ARM64, b"small")):
        made = image(platform, content)
        registry.add_blob("app", content)
        registry.add_blob("app", made.config_content)
        registry.add_manifest(
            "app", str(made.digest), made.manifest.media_type, made.manifest.content
        )
        entries.append(replace(made.manifest.descriptor, platform=platform))
    attested = image(Platform("unknown", "unknown"), b"statement")
    registry.add_blob("app", b"statement")
    registry.add_blob("app", attested.config_content)
    content = attested.manifest.content + b"\n"
    digest = registry.add_manifest("app", str(Digest.of(content)), "", content)
    entries.append(
        Descriptor(
            attested.manifest.media_type,
            Digest.parse(digest),
            len(content),
            {"vnd.docker.reference.digest": str(entries[0].digest)},
            Platform("unknown", "unknown"),
        )
    )
    document = json.loads(build_index(entries).content)
    content = json.dumps(document | {"x-unknown": [1, 2]}, indent=3).encode()
    registry.add_manifest("app", "1", INDEX, content)
    found = parse(content)
    assert isinstance(found, Index)
    return found


def test_an_index_goes_from_registry_to_registry_byte_for_byte(
    builder: Builder, faulty: FaultyRegistry, other: FaultyRegistry
) -> None:
    index = provide(faulty)
    digest = builder.copy(f"{faulty.host}/app:1", [], [f"{other.host}/copy:2"])
    assert digest == index.descriptor.digest
    assert other.manifests["copy", "2"][1] == index.content
    for entry in index.manifests:
        name = str(entry.digest)
        assert other.manifests["copy", name][1] == faulty.manifests["app", name][1]
    assert faulty.sent(str(Digest.of(BIG))) == len(BIG)
    assert other.received(str(Digest.of(BIG))) == len(BIG)
    kept = sum(path.stat().st_size for path in Path(builder.store.path).rglob("*"))
    assert kept < 100_000, "nothing of it is kept"


def provide_cache(registry: FaultyRegistry, kind: str, media_type: str) -> Index:
    """A shared cache as `app:cache` of the registry: an index of two layers and its configuration."""
    entries = []
    for content, said in ((BIG, LAYER_TAR), (b"small", LAYER_GZIP), (b"{}", kind)):
        registry.add_blob("app", content)
        entries.append(Descriptor(said, Digest.of(content), len(content)))
    made = build_index(entries, media_type=media_type)
    registry.add_manifest("app", "cache", media_type, made.content)
    return made


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [
        (CACHE_CONFIG, INDEX),
        (CACHE_CONFIG, DOCKER_LIST),
        ("application/vnd.buildkit.cacheconfig.v0", INDEX),
    ],
)
def test_a_cache_that_is_an_index_of_blobs_is_copied_with_them(
    builder: Builder,
    faulty: FaultyRegistry,
    other: FaultyRegistry,
    tmp_path: Path,
    kind: str,
    media_type: str,
) -> None:
    index = provide_cache(faulty, kind, media_type)
    layout = tmp_path / "layout"
    source = f"{faulty.host}/app:cache"
    targets = [f"{other.host}/copy:1", f"{faulty.host}/beside:1", f"{layout}:one"]
    assert builder.copy(source, [AMD64], targets) == index.descriptor.digest  # it has no platform
    assert builder.copy(f"{layout}:one", [], [f"{other.host}/again:1"]) == index.descriptor.digest
    archive(layout, tmp_path / "a.tar")
    assert builder.copy(str(tmp_path / "a.tar"), [], [f"{other.host}/tar:1"])
    for registry, name in ((other, "copy"), (other, "again"), (other, "tar"), (faulty, "beside")):
        assert registry.manifests[name, "1"] == faulty.manifests["app", "cache"]
    for entry in index.manifests:
        assert str(entry.digest) in other.contents
        assert (layout / f"blobs/sha256/{entry.digest.hex}").exists()
    assert faulty.received() == 0, "mounted"


def test_a_cache_without_one_of_its_blobs_is_not_copied(
    builder: Builder, faulty: FaultyRegistry, other: FaultyRegistry
) -> None:
    provide_cache(faulty, CACHE_CONFIG, INDEX)
    del faulty.contents[str(Digest.of(b"small"))]
    with pytest.raises(NotFound, match=Digest.of(b"small").hex):
        builder.copy(f"{faulty.host}/app:cache", [], [f"{other.host}/copy:1"])
    assert other.tags("copy") == []


def test_a_copy_again_sends_nothing(
    builder: Builder, faulty: FaultyRegistry, other: FaultyRegistry
) -> None:
    provide(faulty)
    for _ in range(2):
        builder.copy(f"{faulty.host}/app:1", [], [f"{other.host}/copy:1"])
    assert other.received(str(Digest.of(BIG))) == faulty.sent(str(Digest.of(BIG))) == len(BIG)


def test_R9_within_a_registry_blobs_are_mounted(builder: Builder, faulty: FaultyRegistry) -> None:
    index = provide(faulty)
    builder.copy(f"{faulty.host}/app:1", [], [f"{faulty.host}/copy:1"])
    assert faulty.manifests["copy", "1"][1] == index.content
    assert faulty.received() == faulty.sent() == 0


def test_R6_R8_both_sides_may_break_off(
    builder: Builder, faulty: FaultyRegistry, other: FaultyRegistry
) -> None:
    index = provide(faulty)
    blob = f"/v2/app/blobs/{Digest.of(BIG)}"
    faulty.on("GET", blob, cut(len(BIG) // 2, quietly=True), nth=1)
    lost = other.on(
        "PATCH|PUT", "/v2/copy/blobs/uploads/*", reply(503, {"Retry-After": "0"}), nth=1
    )
    builder.copy(f"{faulty.host}/app:1", [], [f"{other.host}/copy:1"])
    assert other.manifests["copy", "1"][1] == index.content
    assert faulty.sent(str(Digest.of(BIG))) == len(BIG)
    assert lost.fired == 1


def test_M1_nothing_is_completed_that_has_other_bytes(
    builder: Builder, faulty: FaultyRegistry, other: FaultyRegistry
) -> None:
    provide(faulty)
    blob = f"/v2/app/blobs/{Digest.of(BIG)}"
    faulty.on("GET", blob, reply(200, {}, BIG[:-1] + bytes([BIG[-1] ^ 1])))
    with pytest.raises(AssemblerError, match="other bytes"):
        builder.copy(f"{faulty.host}/app:1", [], [f"{other.host}/copy:1"])
    assert other.tags("copy") == []
    assert str(Digest.of(BIG)) not in other.contents


def test_two_registries_get_it_for_one_download(
    builder: Builder, faulty: FaultyRegistry, other: FaultyRegistry
) -> None:
    index = provide(faulty)
    with FaultyRegistry() as third:
        targets = [f"{other.host}/copy:1", f"{third.host}/copy:1", f"{third.host}/copy:2"]
        builder.copy(f"{faulty.host}/app:1", [], targets)
        for registry in (other, third):
            assert registry.manifests["copy", "1"][1] == index.content
        assert third.tags("copy") == ["1", "2"]
    assert faulty.sent(str(Digest.of(BIG))) == len(BIG)


def test_one_platform_is_an_image_and_several_are_an_index_with_their_attestations(
    builder: Builder, faulty: FaultyRegistry, other: FaultyRegistry
) -> None:
    index = provide(faulty)
    source = f"{faulty.host}/app:1"
    alone = builder.copy(source, [ARM64], [f"{other.host}/copy:arm"])
    assert alone == index.manifests[1].digest
    assert str(Digest.of(BIG)) not in other.contents
    builder.copy(source, [AMD64, ARM64], [f"{other.host}/copy:both"])
    made = parse(other.manifests["copy", "both"][1])
    assert isinstance(made, Index) and made.manifests == index.manifests
    with pytest.raises(NotFound, match="s390x"):
        builder.copy(source, [Platform("linux", "s390x")], [f"{other.host}/copy:no"])


def test_a_layout_is_written_and_read_in_place(
    builder: Builder, faulty: FaultyRegistry, other: FaultyRegistry, tmp_path: Path
) -> None:
    index = provide(faulty)
    layout = tmp_path / "layout"
    builder.copy(f"{faulty.host}/app:1", [], [f"{layout}:one"])
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    assert entry["annotations"] == {REF_NAME: "one"}
    assert entry["digest"] == str(index.descriptor.digest)
    assert (layout / f"blobs/sha256/{Digest.of(BIG).hex}").read_bytes() == BIG
    assert not (layout / "ingest").exists()
    for source in (f"{layout}:one", f"oci-layout://{layout}:one", str(layout)):
        digest = builder.copy(source, [], [f"{other.host}/copy:1"])
        assert digest == index.descriptor.digest
    assert other.manifests["copy", "1"][1] == index.content
    with pytest.raises(NotFound, match="two"):
        builder.copy(f"{layout}:two", [], [f"{other.host}/copy:1"])
    assert not builder.store.blobs.has(Digest.of(BIG)), "read in place"


def test_M10_a_link_in_a_layout_is_not_followed(
    builder: Builder, faulty: FaultyRegistry, other: FaultyRegistry, tmp_path: Path
) -> None:
    provide(faulty)
    layout = tmp_path / "layout"
    builder.copy(f"{faulty.host}/app:1", [], [f"{layout}:one"])
    blob = layout / f"blobs/sha256/{Digest.of(BIG).hex}"
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError):
        builder.copy(f"{layout}:one", [], [f"{other.host}/copy:1"])
    assert other.tags("copy") == []


def archive(layout: Path, path: Path) -> None:
    with tarfile.open(path, "w") as made:
        made.add(layout, ".")


def test_an_archive_and_a_name_of_the_store_are_copied_whole(
    builder: Builder, faulty: FaultyRegistry, other: FaultyRegistry, tmp_path: Path
) -> None:
    index = provide(faulty)
    layout, tar = tmp_path / "layout", tmp_path / "a.tar"
    builder.copy(f"{faulty.host}/app:1", [], [f"{layout}:one"])
    archive(layout, tar)
    assert builder.copy(str(tar), [], [f"{other.host}/tar:1"]) == index.descriptor.digest
    builder.store.refs.set("example.com/app:1", import_top(builder.store, str(tar), "one", None))
    name = "store:example.com/app:1"
    assert builder.copy(name, [], [f"{other.host}/store:1"]) == index.descriptor.digest
    assert other.manifests["store", "1"][1] == other.manifests["tar", "1"][1] == index.content
    with pytest.raises(NotFound, match="no image named"):
        builder.copy("store:example.com/no:1", [], [f"{other.host}/store:1"])


def test_push_takes_an_archive_as_copy_does(
    builder: Builder, faulty: FaultyRegistry, other: FaultyRegistry, tmp_path: Path
) -> None:
    index = provide(faulty)
    layout, tar = tmp_path / "layout", tmp_path / "a.tar"
    builder.copy(f"{faulty.host}/app:1", [], [f"{layout}:one"])
    archive(layout, tar)
    named = (f"oci-layout://{layout}:one", f"{layout}@{index.descriptor.digest}")
    for subject in (tar, f"{tar}:one", layout, *named, f"oci-layout://{tar}"):
        arguments = ("push", "--store", str(tmp_path / "pushed"), str(subject))
        done = CliRunner().invoke(
            cli, [*arguments, f"{other.host}/tar:1"], env={"HOME": str(tmp_path)}
        )
        assert done.exception is None, done.exception
        assert str(index.descriptor.digest) in done.output
        assert other.manifests.pop(("tar", "1"))[1] == index.content
    assert set(other.contents) == set(faulty.contents), "every platform's"


def test_of_an_archive_of_several_images_push_takes_this_hosts(
    builder: Builder, other: FaultyRegistry, tmp_path: Path
) -> None:
    ours = image(host_platform(), b"ours")
    foreign = image(Platform("linux", "s390x"), b"theirs")
    index = build_index(
        [replace(one.manifest.descriptor, platform=one.config.platform) for one in (ours, foreign)]
    )
    blobs = tmp_path / "layout/blobs/sha256"
    blobs.mkdir(parents=True)
    for one, content in ((ours, b"ours"), (foreign, b"theirs")):
        for data in (content, one.config_content, one.manifest.content):
            (blobs / Digest.of(data).hex).write_bytes(data)
    (tmp_path / "layout/index.json").write_bytes(index.content)
    (tmp_path / "layout/oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    archive(tmp_path / "layout", tmp_path / "a.tar")
    found = whole(builder, str(tmp_path / "a.tar"))
    assert isinstance(found, Image) and found.digest == ours.digest


def test_what_the_store_lacks_of_an_index_comes_from_its_registry(
    builder: Builder, faulty: FaultyRegistry, other: FaultyRegistry
) -> None:
    index = provide(faulty)
    name = parse_reference(f"{faulty.host}/app:1")
    builder.images.pull_index(name, [ARM64, AMD64])
    assert not builder.store.blobs.has(index.manifests[2].digest)
    digest = builder.copy(f"store:{name}", [], [f"{other.host}/copy:1"])
    assert digest == index.descriptor.digest
    assert other.manifests["copy", "1"][1] == index.content


def test_CR06_an_index_of_the_store_is_copied_though_it_is_removed_meanwhile(
    faulty: FaultyRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = provide(faulty)
    name = parse_reference(f"{faulty.host}/app:1")
    environment = Environment.read({"HOME": str(tmp_path)})
    real, path, gone = Images.open, str(tmp_path / "store"), list[str]()

    def removed(self: Images, layer: Descriptor) -> BinaryIO:
        with Store.open(path) as store, LocalCache(f"{path}/cache.db") as cache:
            if store.refs.get(str(name)):
                store.refs.remove(str(name))
            with Cancellation() as cancellation:
                prune(
                    store, cache, Policy(all=True), time.time(), cancellation,
                    lambda moved: gone.extend(one.path for one in moved),
                )  # fmt: skip
        return real(self, layer)

    with Cancellation() as cancellation:
        with Builder(environment, store=path, cancellation=cancellation) as builder:
            builder.images.pull_index(name)
            builder.store.refs.set(str(name), index.descriptor)  # as if it were built here
        monkeypatch.setattr(Images, "open", removed)
        with Builder(environment, store=path, cancellation=cancellation) as builder:
            builder.copy(f"store:{name}", [], [str(tmp_path / "layout")])
        assert gone == []
    assert (tmp_path / f"layout/blobs/sha256/{Digest.of(BIG).hex}").read_bytes() == BIG


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "./layer.tar/../../x", 7, None])
def test_M11_names_of_a_docker_archive_mean_what_is_in_it(
    builder: Builder, other: FaultyRegistry, tmp_path: Path, name: object
) -> None:
    (tmp_path / "x").write_bytes(b"not in the archive")
    made = image(AMD64, b"layer")
    document = [{"Config": "config.json", "RepoTags": ["a:1"], "Layers": [name]}]
    path = tmp_path / "directory/a.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for file, content in (
            ("config.json", made.config_content),
            ("manifest.json", json.dumps(document).encode()),
        ):
            member = tarfile.TarInfo(file)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(AssemblerError, match="does not hold"):
        builder.copy(str(path), [], [f"{other.host}/copy:1"])
    assert other.tags("copy") == []


@pytest.mark.parametrize(
    "document",
    [7, {}, [], [7], [{}], [{"Config": "config.json", "Layers": 5, "RepoTags": 5}], "x", None],
)
def test_M11_a_manifest_of_wrong_types_is_an_error_of_one_line(
    builder: Builder, other: FaultyRegistry, tmp_path: Path, document: object
) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        content = json.dumps(document).encode()
        member = tarfile.TarInfo("manifest.json")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    for choice in (str(path), f"{path}:a"):
        with pytest.raises(AssemblerError):
            builder.copy(choice, [], [f"{other.host}/copy:1"])


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{}", b"7", b'{"manifests": 5}', b"\xff"])
def test_RG13_a_layout_of_nonsense_is_an_error_of_one_line(
    builder: Builder, faulty: FaultyRegistry, tmp_path: Path, content: bytes
) -> None:
    provide(faulty)
    (tmp_path / "index.json").write_bytes(content)
    (tmp_path / "oci-layout").write_text("{}")
    with pytest.raises(AssemblerError):
        builder.copy(str(tmp_path), [], [f"{faulty.host}/copy:1"])
    if content not in (b"{}",):
        with pytest.raises(AssemblerError):
            builder.copy(f"{faulty.host}/app:1", [], [f"{tmp_path}:new"])


@pytest.mark.parametrize("subject", ["oci-layout:///nowhere", "./nowhere"])
def test_M4_a_digest_of_a_layout_that_is_none_is_a_mistake_of_the_command_line(
    builder: Builder, faulty: FaultyRegistry, subject: str
) -> None:
    provide(faulty)
    name = f"{subject}@md5:{'0' * 32}"
    for source, target in ((name, f"{faulty.host}/app:1"), (f"{faulty.host}/app:1", name)):
        with pytest.raises(UsageError, match="invalid digest"):
            builder.copy(source, (), [target])
    with pytest.raises(UsageError, match="invalid digest"):
        whole(builder, name)
