"""What names mean: documents of registries that are wrong, many, or hostile (rules M1-M7, M12, R15)."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import NotFound, ProtocolViolation, RegistryError
from assembler.net.retry import TRIES, RetryPolicy
from assembler.oci.config import Execution, ImageConfig
from assembler.oci.descriptor import DOCKER_LIST, INDEX, LAYER_TAR, MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer
from assembler.oci.manifest import MAX_DEPTH, Index, Manifest, build_index
from assembler.oci.platform import Platform
from assembler.oci.reference import Reference
from assembler.registry.client import RegistryClient
from assembler.registry.configuration import RegistryConfiguration
from assembler.registry.documents import current, described, named
from assembler.registry.download import fetch_blob
from assembler.registry.pull import closure, resolve, selection
from assembler.registry.referrers import referrers, referrers_tag
from assembler.source import printable
from assembler.testing.server import Answer
from tests.registry.faulty import FaultyRegistry
from tests.registry.rules import BLOB, Case, amend, reply, stall

AMD64 = Platform("linux", "amd64")
MANIFESTS = "/v2/app/manifests/*"


def client_of(environment: Environment, cancellation: Cancellation) -> RegistryClient:
    configuration = RegistryConfiguration.read(environment, frozenset())
    policy = RetryPolicy(first=0.001, cap=0.002)
    return RegistryClient(environment, configuration, cancellation=cancellation, policy=policy)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[RegistryClient]:
    with (
        Cancellation() as cancellation,
        client_of(Environment.read({"HOME": str(tmp_path)}), cancellation) as found,
    ):
        yield found


def image(platform: str = "linux/amd64", **labels: str) -> Image:
    """An image without layers."""
    return Image.create(ImageConfig(Platform.parse(platform), Execution(labels=labels)), ())


def have(registry: FaultyRegistry, made: Image, tag: str = "") -> Descriptor:
    """Put an image into the registry; its entry of an index."""
    registry.add_blob("app", made.config_content)
    content = made.manifest.content
    registry.add_manifest("app", tag or str(made.digest), made.manifest.media_type, content)
    return replace(made.manifest.descriptor, platform=made.config.platform)


def have_index(registry: FaultyRegistry, *entries: Descriptor, tag: str = "") -> Descriptor:
    """Put an index into the registry; its entry of another."""
    made = build_index(entries)
    registry.add_manifest("app", tag or str(made.descriptor.digest), INDEX, made.content)
    return made.descriptor


def have_document(registry: FaultyRegistry, document: object, kind: str = MANIFEST) -> None:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    registry.add_manifest("app", "1", kind, content)


def found(client: RegistryClient, registry: FaultyRegistry, platform: Platform = AMD64) -> Image:
    return resolve(client, Reference.parse(f"{registry.host}/app:1"), platform).image


# Indexes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        ("linux/arm/v7", ("linux/arm/v5", "linux/arm/v6", "linux/amd64"), "linux/arm/v6"),
        ("linux/arm/v6", ("linux/arm/v7", "linux/arm/v5"), "linux/arm/v5"),
        ("linux/arm64", ("linux/arm/v7", "linux/arm64/v8"), "linux/arm64"),
        ("linux/arm64", ("linux/arm/v6", "linux/arm/v7"), "linux/arm/v7"),
        ("linux/arm64/v9", ("linux/arm64", "linux/arm64/v8.4"), "linux/arm64/v8.4"),
        ("linux/amd64/v4", ("linux/amd64", "linux/amd64/v2"), "linux/amd64/v2"),
        ("linux/amd64", ("linux/amd64/v2", "linux/amd64"), "linux/amd64"),
        ("linux/amd64", ("linux/386", "linux/arm64"), "linux/386"),
        ("windows(10.0.2.7)/amd64", ("windows(10.0.1.9)/amd64", "windows(10.0.2.3)/amd64",
                                     "windows(10.0.2.5)/amd64"), "windows(10.0.2.5)/amd64"),
    ],
)  # fmt: skip
def test_M5_an_index_gives_what_runs_on_a_platform(
    client: RegistryClient,
    faulty: FaultyRegistry,
    wanted: str,
    offered: tuple[str, ...],
    chosen: str,
) -> None:
    entries = []
    for text in offered:
        platform = Platform.parse(text)
        made = image(f"{platform.os}/{platform.architecture}", of=text)
        entries.append(replace(have(faulty, made), platform=platform))
    have_index(faulty, *entries, tag="1")
    where = Reference.parse(f"{faulty.host}/app:1")
    resolved = resolve(client, where, Platform.parse(wanted))
    assert str(resolved.platform) == chosen
    assert Platform.parse(resolved.image.config.execution.labels["of"]) == resolved.platform


def test_M5_no_match_lists_what_there_is_and_attestations_are_not_offered(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    attested = replace(have(faulty, image()), platform=Platform("unknown", "unknown"))
    have_index(faulty, have(faulty, image("linux/s390x")), attested, tag="1")
    with pytest.raises(NotFound) as caught:
        found(client, faulty)
    assert caught.value.hint == "it has linux/s390x"


def test_M5_entries_without_a_platform_are_looked_into(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    made = image()
    silent = [replace(have(faulty, image("linux/s390x")), platform=None)]
    inner = have_index(faulty, *silent, replace(have(faulty, made), platform=None))
    have_index(faulty, *silent, inner, tag="1")
    assert found(client, faulty) == made


def test_M5_indexes_in_indexes_end(client: RegistryClient, faulty: FaultyRegistry) -> None:
    made = image()
    entry = have(faulty, made)
    for _ in range(MAX_DEPTH - 1):
        entry = have_index(faulty, entry)
    have_index(faulty, entry, tag="1")
    assert found(client, faulty) == made
    have_index(faulty, have_index(faulty, entry), tag="1")
    with pytest.raises(ProtocolViolation, match="nested deeper"):
        found(client, faulty)


def test_M5_an_index_has_at_most_a_thousand_entries(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    entry = have(faulty, image())
    have_index(faulty, *[entry] * 1001, tag="1")
    with pytest.raises(ProtocolViolation, match="more than 1000"):
        found(client, faulty)


def test_M5_no_more_than_a_thousand_manifests_are_asked_for(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    asked: list[Digest] = []
    halves = [
        build_index(Descriptor(MANIFEST, Digest.of(f"{half} {n}".encode()), 1) for n in range(600))
        for half in range(2)
    ]

    def ask(entry: Descriptor) -> Index | Manifest:
        asked.append(entry.digest)
        by_digest = {half.descriptor.digest: half for half in halves}
        return by_digest.get(entry.digest, image().manifest)

    top = build_index(half.descriptor for half in halves)
    with pytest.raises(ProtocolViolation, match="more than 1000"):
        closure(Reference.parse("example.com/app:1"), top, ask)
    assert len(asked) <= 1000


def test_M5_a_document_that_several_entries_name_is_asked_for_once(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    entry = have(faulty, image())
    attested = replace(have(faulty, image(a="b")), platform=Platform("unknown", "unknown"))
    have_index(faulty, entry, entry, attested, tag="1")
    where = Reference.parse(f"{faulty.host}/app:1")
    top = named(client, where)
    whole = closure(where, top, lambda one: described(client, where, one))
    assert list(whole.documents)[:-1] == [entry.digest, attested.digest]
    assert list(whole.documents.values())[-1] is top
    assert len(whole.blobs) == 2
    assert len(faulty.asked("GET", MANIFESTS)) == 3


def test_M5_of_several_platforms_the_entries_are_chosen(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    entries = [have(faulty, image(f"linux/{name}")) for name in ("amd64", "arm64", "386")]
    top = build_index(entries)
    where = Reference.parse(f"{faulty.host}/app:1")
    wanted = selection(where, top, [AMD64, Platform.parse("linux/arm64")])
    assert wanted is not None and list(map(wanted, entries)) == [True, True, False]
    with pytest.raises(NotFound, match="linux/s390x"):
        selection(where, top, [AMD64, Platform.parse("linux/s390x")])


def test_a_docker_manifest_list_is_an_index(client: RegistryClient, faulty: FaultyRegistry) -> None:
    made = Image.create(ImageConfig(AMD64), (), docker=True)
    entry = have(faulty, made)
    document = {
        "schemaVersion": 2,
        "mediaType": DOCKER_LIST,
        "manifests": [entry.to_document()],
    }
    have_document(faulty, document, DOCKER_LIST)
    assert found(client, faulty) == made


# Digests, sizes, types ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [-1, None, "5", True, 2**70])
def test_M1_a_size_that_is_none_is_refused(
    client: RegistryClient, faulty: FaultyRegistry, size: object
) -> None:
    document = json.loads(image().manifest.content)
    document["config"]["size"] = size
    have_document(faulty, document)
    with pytest.raises(ProtocolViolation, match="size"):
        found(client, faulty)


@pytest.mark.parametrize("change", [-1, 1])
def test_M1_a_document_of_another_size_is_refused(
    client: RegistryClient, faulty: FaultyRegistry, change: int
) -> None:
    entry = have(faulty, image())
    have_index(faulty, replace(entry, size=entry.size + change), tag="1")
    with pytest.raises(ProtocolViolation):
        found(client, faulty)


def test_M1_a_configuration_of_another_digest_is_refused(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    made = image()
    have(faulty, made, "1")
    faulty.on("GET", "/v2/app/blobs/*", amend(body=lambda body: body[:-1] + b" "))
    with pytest.raises(ProtocolViolation, match="other bytes"):
        found(client, faulty)


def test_M2_a_digest_in_the_header_must_be_that_of_the_body(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    made = image()
    have(faulty, made, "1")
    name = "Docker-Content-Digest"
    sha512 = f"sha512:{hashlib.sha512(made.manifest.content).hexdigest()}"
    for right in (sha512, "md5:12", "sha256:../../x", None):
        faulty.rules.clear()
        faulty.on("GET", MANIFESTS, amend({name: right}))
        assert found(client, faulty) == made
    for wrong in (f"sha256:{'0' * 64}", f"sha512:{'0' * 128}"):
        faulty.rules.clear()
        faulty.on("GET", MANIFESTS, amend({name: wrong}))
        with pytest.raises(ProtocolViolation, match="other bytes"):
            found(client, faulty)


def test_M2_a_digest_in_the_name_is_that_of_the_body(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    have(faulty, image(), "1")
    have(faulty, image(other="one"), "2")
    content = faulty.manifests["app", "2"][1]
    faulty.on(
        "GET", MANIFESTS, reply(200, {"Content-Type": MANIFEST}, content)
    )  # and no header at all
    where = Reference.parse(f"{faulty.host}/app@{image().digest}")
    with pytest.raises(ProtocolViolation, match="other bytes"):
        resolve(client, where, AMD64)


@pytest.mark.parametrize(
    ("document", "kind", "said"),
    [
        ({"manifests": [], "layers": []}, INDEX, "ambiguous"),
        ({"manifests": [], "config": {}}, INDEX, "ambiguous"),
        ({"manifests": []}, MANIFEST, "not what its media type"),
        ({"mediaType": INDEX, "manifests": []}, MANIFEST, "not what its media type"),
        ({"mediaType": INDEX, "manifests": []}, DOCKER_LIST, "not what its media type"),
        ({"mediaType": MANIFEST, "manifests": []}, "", "not what its media type"),
        ({"mediaType": "text/plain", "manifests": []}, "", "no image"),
        ({"mediaType": 7, "manifests": []}, "", "no image"),
        ({"layers": []}, MANIFEST, "descriptor"),
        ({"manifests": {}}, INDEX, "not a list"),
        ({"manifests": [[]]}, INDEX, "not an object"),
        ({"manifests": [], "annotations": [1]}, INDEX, "annotations"),
    ],
)
def test_M3_a_document_that_contradicts_itself_or_its_type_is_refused(
    client: RegistryClient, faulty: FaultyRegistry, document: dict[str, Any], kind: str, said: str
) -> None:
    have_document(faulty, {"schemaVersion": 2, **document}, kind)
    with pytest.raises(ProtocolViolation, match=said):
        found(client, faulty)


def test_M3_an_entry_that_is_not_what_the_index_says_is_refused(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    entry = have(faulty, image())
    lie = "application/vnd.docker.distribution.manifest.v2+json"
    have_index(faulty, replace(entry, media_type=lie), tag="1")
    with pytest.raises(ProtocolViolation, match="not what its media type"):
        found(client, faulty)


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "", "text/plain"])
def test_M3_a_type_that_says_nothing_is_borne(
    client: RegistryClient, faulty: FaultyRegistry, kind: str
) -> None:
    made = image()
    have(faulty, made)
    have_document(faulty, made.manifest.content, kind)
    assert found(client, faulty) == made


@pytest.mark.parametrize(
    "digest", ["sha256:../../x", "sha256:12", f"sha256:{'A' * 64}", f"md5:{'a' * 32}", "", "x"]
)
def test_M4_no_url_is_made_of_what_is_no_digest(
    client: RegistryClient, faulty: FaultyRegistry, digest: str
) -> None:
    document = json.loads(image().manifest.content)
    document["config"]["digest"] = digest
    have_document(faulty, document)
    with pytest.raises(ProtocolViolation, match="digest"):
        found(client, faulty)
    assert len(faulty.log) == 1


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"schemaVersion": 1, "fsLayers": [], "signatures": [{}]}, "application/json"),
        ({"schemaVersion": 2}, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
    ],
)
def test_M6_schema_1_is_refused_by_name(
    client: RegistryClient, faulty: FaultyRegistry, document: object, kind: str
) -> None:
    have_document(faulty, document, kind)
    with pytest.raises(ProtocolViolation, match="schema 1"):
        found(client, faulty)


def test_M7_a_configuration_has_at_most_8_mib(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    document = json.loads(image().manifest.content)
    document["config"]["size"] = 100_000_000
    have_document(faulty, document)
    with pytest.raises(ProtocolViolation, match="100000000 bytes"):
        found(client, faulty)
    assert faulty.asked("GET", "/v2/app/blobs/*") == []


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"config": {"Entrypoint": {"a": 1}}}, "Entrypoint"),
        ({"config": {"Env": ["a=b"] * 1_000_000}}, "more than 250000 values"),
        ({"config": {"Labels": {"a": ["b"]}}}, "not a string"),
        ({"config": {"Healthcheck": {"Interval": [1]}}}, "whole number"),
        ({"rootfs": {"diff_ids": [str(Digest.of(b""))]}}, "names 1 layers"),
    ],
)
def test_M7_a_configuration_of_wrong_types_or_too_much_is_refused(
    client: RegistryClient, faulty: FaultyRegistry, broken: dict[str, Any], said: str
) -> None:
    content = json.dumps({"os": "linux", "architecture": "amd64", **broken}).encode()
    document = json.loads(image().manifest.content)
    document["config"] |= {"digest": str(Digest.of(content)), "size": len(content)}
    faulty.add_blob("app", content)
    have_document(faulty, document)
    with pytest.raises(ProtocolViolation, match=said):
        found(client, faulty)


def test_M7_history_that_does_not_fit_the_layers_is_borne_as_by_moby(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    layer = b"a layer"
    digest = Digest.of(layer)
    for history in ([], [{"created_by": "x"}] * 3):
        content = json.dumps(
            {
                "os": "linux",
                "architecture": "amd64",
                "config": {"Entrypoint": "sh"},
                "rootfs": {"diff_ids": [str(digest)]},
                "history": history,
            }
        ).encode()
        config = replace(
            image().manifest.config, digest=faulty_digest(faulty, content), size=len(content)
        )
        document = {
            "schemaVersion": 2,
            "config": config.to_document(),
            "layers": [Descriptor(LAYER_TAR, digest, len(layer)).to_document()],
        }
        have_document(faulty, document)
        config_found = found(client, faulty).config
        assert len(config_found.history) == len(history)
        assert config_found.execution.entrypoint == ("sh",)


def faulty_digest(registry: FaultyRegistry, content: bytes) -> Digest:
    return Digest.parse(registry.add_blob("app", content))


def test_an_artifact_that_is_no_image_is_refused_by_its_type(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    document = json.loads(image().manifest.content)
    document["config"] = {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": str(Digest.of(b"{}")),
        "size": 2,
        "data": base64.b64encode(b"{}").decode(),
    }
    have_document(faulty, document)
    with pytest.raises(ProtocolViolation, match=r"no image, but 'application/vnd\.oci\.empty"):
        found(client, faulty)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" + b"[]," * 300_000 + b"1]",
        b"\xff\xfe{}",
        b"[]",
        b"",
        b"<html>\x1b[31m",
        b'{"schemaVersion":2,"a":NaN}',
        b'{"schemaVersion":' + b"9" * 5000 + b"}",
    ],
)
def test_RG13_a_document_that_is_none_is_an_error_of_one_line(
    client: RegistryClient, faulty: FaultyRegistry, content: bytes
) -> None:
    have_document(faulty, content)
    with pytest.raises(ProtocolViolation) as caught:
        found(client, faulty)
    message = caught.value.message
    assert len(message) < 400 and message == printable(message)


def test_RG13_a_manifest_of_more_than_4_mib_is_refused(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    have_document(faulty, b" " * (5 << 20))
    with pytest.raises(ProtocolViolation, match="more than"):
        found(client, faulty)


def test_M9_entries_with_their_bytes_need_no_request(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    made = image()
    config = made.manifest.config.to_document()
    config["data"] = base64.b64encode(made.config_content).decode()
    document = json.loads(made.manifest.content) | {"config": config}
    content = json.dumps(document).encode()
    entry = Descriptor(MANIFEST, Digest.of(content), len(content), platform=AMD64).to_document()
    entry["data"] = base64.b64encode(content).decode()
    have_document(faulty, {"schemaVersion": 2, "manifests": [entry]}, INDEX)
    assert found(client, faulty).config == made.config
    assert len(faulty.log) == 1


# Tags by HEAD ------------------------------------------------------------------------------------


def test_R15_a_tag_is_looked_at_by_head(client: RegistryClient, faulty: FaultyRegistry) -> None:
    made = image()
    have(faulty, made, "1")
    where = Reference.parse(f"{faulty.host}/app:1")
    assert current(client, where) == made.digest
    for answer in (reply(404), reply(405), amend({"Docker-Content-Digest": "sha256:../x"})):
        faulty.rules.clear()
        faulty.on("HEAD", MANIFESTS, answer)
        assert current(client, where) is None
    assert faulty.asked("GET", MANIFESTS) == []


# Mirrors -----------------------------------------------------------------------------------------


def test_RG15_mirrors_are_passed_over_in_order_unless_they_change_content(
    tmp_path: Path, faulty: FaultyRegistry
) -> None:
    made = image()
    have(faulty, made, "1")
    with FaultyRegistry() as first, FaultyRegistry() as second, Cancellation() as cancellation:
        text = f'[[registry]]\nprefix="example.com"\nlocation="{faulty.host}"\n'
        for mirror in (first, second):
            text += f'[[registry.mirror]]\nlocation="{mirror.host}"\n'
        path = tmp_path / "registries.conf"
        path.write_text(text)
        environment = Environment.read(
            {"HOME": str(tmp_path), "CONTAINERS_REGISTRIES_CONF": str(path)}
        )
        where = Reference.parse("example.com/app:1")
        for status, tries in ((404, 2), (500, TRIES), (401, 2), (403, 2), (429, TRIES), (501, 1)):
            for mirror in (first, second):
                mirror.rules.clear()
                mirror.log.clear()
                mirror.on("*", "*", reply(status))
            with client_of(environment, cancellation) as client:
                assert resolve(client, where, AMD64).image == made
            # Of two requests: nothing more is lost with one that fails.
            assert len(first.log) == len(second.log) == tries
        with client_of(environment, cancellation) as client:
            first.rules.clear()
            first.on("*", "*", reply(404))
            second.rules.clear()
            have(second, made, "1")
            asked = len(faulty.log)
            assert resolve(client, where, AMD64).image == made
            assert len(faulty.log) == asked, "the second mirror has it"
            second.on("GET", MANIFESTS, amend(body=lambda body: body + b" "))
            with pytest.raises(ProtocolViolation, match="other bytes"):
                resolve(client, where, AMD64)
            assert len(faulty.log) == asked, "whoever changes content is not passed over"


def test_RG15_a_mirror_that_is_down_is_asked_once_and_named_when_all_fail(
    tmp_path: Path, faulty: FaultyRegistry, free_port: int
) -> None:
    path = tmp_path / "registries.conf"
    path.write_text(
        f'[[registry]]\nprefix="example.com"\nlocation="{faulty.host}"\n'
        f'[[registry.mirror]]\nlocation="127.0.0.1:{free_port}"\n'
    )
    environment = Environment.read({"HOME": str(tmp_path), "CONTAINERS_REGISTRIES_CONF": str(path)})
    with Cancellation() as cancellation, client_of(environment, cancellation) as client:
        where = Reference.parse("example.com/app:1")
        with pytest.raises(NotFound) as caught:
            resolve(client, where, AMD64)
        assert f"127.0.0.1:{free_port}" in caught.value.hint
        assert client.unreachable == {f"127.0.0.1:{free_port}"}
        have(faulty, image(), "1")
        assert resolve(client, where, AMD64).image == image()


@pytest.mark.parametrize("layer", [False, True], ids=["configuration", "layer"])
def test_RG15_a_mirror_that_falls_ill_is_not_tried_as_long_as_a_registry(
    tmp_path: Path, faulty: FaultyRegistry, layer: bool
) -> None:
    made = image()
    path = tmp_path / "registries.conf"
    environment = Environment.read({"HOME": str(tmp_path), "CONTAINERS_REGISTRIES_CONF": str(path)})
    with FaultyRegistry() as mirror, Cancellation() as cancellation:
        path.write_text(
            f'[[registry]]\nprefix="example.com"\nlocation="{faulty.host}"\n'
            f'[[registry.mirror]]\nlocation="{mirror.host}"\n'
        )
        for one in (mirror, faulty):
            have(one, made, "1")
            one.add_blob("app", b"a layer")
        mirror.on("GET", BLOB, reply(503))
        where = Reference.parse("example.com/app:1")
        with client_of(environment, cancellation) as client:
            named(client, where)
            if layer:
                blob = Descriptor(LAYER_TAR, Digest.of(b"a layer"), 7)
                fetch_blob(client, where, blob, lambda piece: None, cancellation=cancellation)
            else:
                assert resolve(client, where, AMD64).image == made
        assert len(mirror.asked("GET", BLOB)) == TRIES and len(faulty.asked("GET", BLOB)) == 1


@dataclass
class _Closing:
    """Takes a blob; with its first bytes the registry that sends it goes down."""

    registry: FaultyRegistry | None
    received: bytearray = field(default_factory=bytearray)

    def write(self, piece: memoryview) -> None:
        self.received += piece
        if self.registry is not None:
            self.registry.__exit__()
            self.registry = None


def begun(case: Case) -> Answer:
    """The first bytes of a blob, or all that is left of one."""
    return case.honest() if case.exchange.asked.header("range") else stall(100_000)(case)


def test_RG12_mirrors_go_down_one_by_one_amid_their_blobs(
    tmp_path: Path, faulty: FaultyRegistry
) -> None:
    contents = [os.urandom(300_000) for _ in range(4)]
    digests = tuple(map(Digest.of, contents))
    layers = [Descriptor(LAYER_TAR, digest, 300_000) for digest in digests]
    made = Image.create(ImageConfig(AMD64, diff_ids=digests), tuple(map(Layer, layers, digests)))
    path = tmp_path / "registries.conf"
    environment = Environment.read({"HOME": str(tmp_path), "CONTAINERS_REGISTRIES_CONF": str(path)})
    with ExitStack() as stack:
        mirrors = [stack.enter_context(FaultyRegistry()) for _ in range(3)]
        text = f'[[registry]]\nprefix="example.com"\nlocation="{faulty.host}"\n'
        path.write_text(
            text + "".join(f'[[registry.mirror]]\nlocation="{one.host}"\n' for one in mirrors)
        )
        for one in (*mirrors, faulty):
            have(one, made, "1")
            for content in contents:
                one.add_blob("app", content)
        for one in mirrors:
            one.on("GET", BLOB, begun)
        client = stack.enter_context(client_of(environment, stack.enter_context(Cancellation())))
        where = Reference.parse("example.com/app:1")
        assert resolve(client, where, AMD64).image == made
        for layer, content, alive in zip(layers, contents, (*mirrors, None), strict=True):
            into = _Closing(alive)
            fetch_blob(client, where, layer, into.write, cancellation=client.cancellation)
            assert into.received == content
        assert client.unreachable == {one.host for one in mirrors}
        for one, after, layer in zip(mirrors, (*mirrors[1:], faulty), layers, strict=False):
            (before,) = one.asked("GET", f"/v2/app/blobs/{layer.digest}")
            (rest,) = after.asked("GET", f"/v2/app/blobs/{layer.digest}")
            assert not before.header("range") and rest.header("range").startswith("bytes=")


# Referrers ---------------------------------------------------------------------------------------

SIGNATURE, SBOM = "application/x.signature", "application/x.sbom"


def refer(registry: FaultyRegistry, subject: Descriptor, kind: str) -> Descriptor:
    """Put an artifact about `subject` into the registry; its entry of a list."""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": kind,
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": str(Digest.of(b"{}")),
            "size": 2,
        },
        "layers": [],
        "subject": subject.to_document(),
    }
    content = json.dumps(document).encode()
    digest = registry.add_manifest("app", str(Digest.of(content)), MANIFEST, content)
    return Descriptor.from_document(
        {"mediaType": MANIFEST, "digest": digest, "size": len(content), "artifactType": kind}
    )


def test_M12_referrers_are_listed_page_by_page(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    subject = have(faulty, image(), "1")
    both = [refer(faulty, subject, SIGNATURE), refer(faulty, subject, SBOM)]
    where = Reference.parse(f"{faulty.host}/app:1")
    assert {one.digest for one in referrers(client, where, subject.digest)} == {
        one.digest for one in both
    }
    path = f"/v2/app/referrers/{subject.digest}"
    pages = [build_index([one]).content for one in both]
    link = f'<{path}?page=2>; rel="next"'
    faulty.on("GET", path, reply(200, {"Content-Type": INDEX, "Link": link}, pages[0]), nth=1)
    faulty.on("GET", path, reply(200, {"Content-Type": INDEX}, pages[1]), nth=2)
    found = referrers(client, where, subject.digest)
    assert [one.artifact_type for one in found] == [SIGNATURE, SBOM]


def test_M12_a_type_is_asked_for_and_selected_here_too(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    subject = have(faulty, image(), "1")
    both = build_index([refer(faulty, subject, SIGNATURE), refer(faulty, subject, SBOM)])
    where = Reference.parse(f"{faulty.host}/app:1")
    path = f"/v2/app/referrers/{subject.digest}"
    faulty.on("GET", path, reply(200, {"Content-Type": INDEX}, both.content))
    found = referrers(client, where, subject.digest, SBOM)
    assert [one.artifact_type for one in found] == [SBOM]
    assert faulty.asked("GET", path)[0].query["artifactType"] == SBOM


def test_M12_the_fallback_tag_stands_in_for_the_list(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.referrers = False
    subject = have(faulty, image(), "1")
    where = Reference.parse(f"{faulty.host}/app:1")
    assert referrers(client, where, subject.digest) == ()
    entry = refer(faulty, subject, SIGNATURE)
    have_index(faulty, entry, tag=referrers_tag(subject.digest))
    assert referrers(client, where, subject.digest) == (entry,)
    assert referrers_tag(subject.digest) == f"sha256-{subject.digest.hex}"


@pytest.mark.parametrize("elsewhere", ["http://127.0.0.1:1/x", "https://example.com/y"])
def test_M12_lists_that_never_end_or_lead_elsewhere_are_refused(
    client: RegistryClient, faulty: FaultyRegistry, elsewhere: str
) -> None:
    subject = have(faulty, image(), "1")
    where = Reference.parse(f"{faulty.host}/app:1")
    path = f"/v2/app/referrers/{subject.digest}"
    page = build_index([subject]).content
    answer = {"Content-Type": INDEX, "Link": f'<{path}?n=1>; rel="next"'}
    endless = faulty.on("GET", path, reply(200, answer, page))
    with pytest.raises(RegistryError, match="pages"):
        referrers(client, where, subject.digest)
    assert endless.fired == 100
    faulty.rules.clear()
    faulty.on("GET", path, reply(200, answer | {"Link": f"<{elsewhere}>; rel=next"}, page))
    with pytest.raises(ProtocolViolation, match="another host"):
        referrers(client, where, subject.digest)


def test_M12_a_list_has_at_most_4_mib(client: RegistryClient, faulty: FaultyRegistry) -> None:
    subject = have(faulty, image(), "1")
    where = Reference.parse(f"{faulty.host}/app:1")
    path = f"/v2/app/referrers/{subject.digest}"
    page = json.dumps(
        {"schemaVersion": 2, "manifests": [], "annotations": {"x": "y" * 3_000_000}}
    ).encode()
    answer = {"Content-Type": INDEX, "Link": f'<{path}?n=1>; rel="next"'}
    faulty.on("GET", path, reply(200, answer, page))
    with pytest.raises(ProtocolViolation, match="more than"):
        referrers(client, where, subject.digest)
    assert len(faulty.asked("GET", path)) == 2


def test_layers_are_named_once() -> None:
    layer = Layer(Descriptor(LAYER_TAR, Digest.of(b"x"), 1), Digest.of(b"x"))
    config = ImageConfig(AMD64, diff_ids=(layer.diff_id, layer.diff_id))
    assert len(Image.create(config, (layer, layer)).manifest.blobs) == 2
