"""Manifests, indexes and tags, to one registry or several, by the order that readers rely on."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import (
    NotFound,
    ProtocolViolation,
    RegistryError,
    Unauthorized,
    UsageError,
)
from assembler.net.retry import LIVELY_TRIES, RetryPolicy
from assembler.oci.config import Execution, ImageConfig
from assembler.oci.descriptor import CACHE_CONFIG, INDEX, LAYER_TAR, MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer
from assembler.oci.manifest import Document, Index, build_index, parse
from assembler.oci.platform import Platform
from assembler.oci.reference import Reference
from assembler.registry.client import RegistryClient
from assembler.registry.configuration import RegistryConfiguration
from assembler.registry.push import means, push
from assembler.registry.referrers import referrers_tag
from assembler.testing.server import Answer
from assembler.testing.tokens import Tokens
from tests.registry.faulty import FaultyRegistry
from tests.registry.rules import (
    MANIFEST as MANIFESTS,
)
from tests.registry.rules import (
    TOKEN,
    Action,
    Case,
    Chaos,
    amend,
    reply,
    reset,
)

QUICK = RetryPolicy(first=0.001, cap=0.002)
CONTENTS = tuple(os.urandom(50_000) for _ in range(3))


def made(*contents: bytes, architecture: str = "amd64") -> tuple[Image, dict[Digest, bytes]]:
    """An image of these layers, and its blobs."""
    blobs = {Digest.of(content): content for content in contents}
    layers = tuple(
        Layer(Descriptor(LAYER_TAR, digest, len(content)), digest)
        for digest, content in blobs.items()
    )
    platform = Platform("linux", architecture)
    image = Image.create(ImageConfig(platform, Execution(cmd=("x",)), tuple(blobs)), layers)
    return image, blobs | {image.manifest.config.digest: image.config_content}


IMAGE, BLOBS = made(*CONTENTS)


def opened(blob: Descriptor) -> io.BytesIO:
    return io.BytesIO(BLOBS[blob.digest])


@pytest.fixture
def warned() -> list[str]:
    return []


@pytest.fixture
def new_client(tmp_path: Path, warned: list[str]) -> Iterator[Callable[[], RegistryClient]]:
    environment = Environment.read({"HOME": str(tmp_path)})
    configuration = RegistryConfiguration.read(environment, frozenset())
    with Cancellation() as cancellation:

        def new() -> RegistryClient:
            return RegistryClient(
                environment,
                configuration,
                cancellation=cancellation,
                policy=QUICK,
                warn=warned.append,
            )

        yield new


@pytest.fixture
def client(new_client: Callable[[], RegistryClient]) -> Iterator[RegistryClient]:
    with new_client() as found:
        yield found


def send(client: RegistryClient, *names: str) -> Descriptor:
    references = [Reference.parse(name) for name in names]
    return push(client, references, IMAGE.manifest, opened, cancellation=client.cancellation)


def holds(registry: FaultyRegistry, name: str) -> bool:
    repository, _, tag = name.partition(":")
    return registry.manifests.get((repository, tag)) == (MANIFEST, IMAGE.manifest.content) and all(
        registry.blob(str(blob.digest)) == BLOBS[blob.digest] for blob in IMAGE.manifest.blobs
    )


def test_manifests_go_behind_blobs_and_tags_behind_all(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    send(client, f"{faulty.host}/app:1", f"{faulty.host}/app:2")
    order = [(seen.method, seen.path.rpartition("/")[2]) for seen in faulty.log]
    assert order[-4:] == [
        ("PUT", str(IMAGE.digest)), ("GET", str(IMAGE.digest)), ("PUT", "1"), ("PUT", "2"),
    ]  # fmt: skip
    assert all("/blobs/" in seen.path for seen in faulty.log[:-4])
    assert holds(faulty, "app:1") and holds(faulty, "app:2")


def test_a_digest_in_the_name_is_that_of_what_is_pushed(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    strong = f"sha512:{hashlib.sha512(IMAGE.manifest.content).hexdigest()}"
    send(client, f"{faulty.host}/app@{IMAGE.digest}", f"{faulty.host}/app:1@{strong}")
    assert faulty.tags("app") == ["1"] and ("app", str(IMAGE.digest)) in faulty.manifests
    faulty.log.clear()
    with pytest.raises(UsageError, match=str(IMAGE.digest)):
        send(client, f"{faulty.host}/app:1", f"{faulty.host}/app:2@{Digest.of(b'other')}")
    assert not faulty.log


def test_a_second_push_sends_no_blob(client: RegistryClient, faulty: FaultyRegistry) -> None:
    send(client, f"{faulty.host}/app:1")
    faulty.log.clear()
    send(client, f"{faulty.host}/app:2")
    assert faulty.asked("POST") == []


def test_who_may_only_write_pushes_all_the_same(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.on("HEAD|GET", "*", reply(403))
    send(client, f"{faulty.host}/app:1")
    assert holds(faulty, "app:1")


def test_R10_a_token_server_that_lets_nobody_read_lets_push(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    def no_reading(case: Case) -> Answer:
        reads = case.exchange.asked.query["scope"].endswith(":pull")
        return Answer(403) if reads else case.honest()

    faulty.tokens = Tokens()
    faulty.on("GET", TOKEN, no_reading)
    challenge = f'Bearer realm="{faulty.origin}/token",error="insufficient_scope"'
    faulty.on("HEAD|GET", "/v2/*", reply(401, {"WWW-Authenticate": challenge}))
    assert not means(client, Reference.parse(f"{faulty.host}/app:1"), IMAGE.manifest)
    send(client, f"{faulty.host}/app:1")
    assert holds(faulty, "app:1")


def test_R12_an_odd_success_that_nobody_may_look_at_is_none(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.on("PUT", MANIFESTS, amend(status=202))
    faulty.on("GET", MANIFESTS, reply(403))
    with pytest.raises(Unauthorized, match="the check of manifest"):
        send(client, f"{faulty.host}/app:1")
    assert not faulty.tags("app")


def test_R11_a_registry_that_is_late_is_waited_for(
    client: RegistryClient, faulty: FaultyRegistry, warned: list[str]
) -> None:
    faulty.on("GET", MANIFESTS, reply(404), nth=range(1, 4))
    faulty.on("PUT", MANIFESTS, _unknown("BLOB_UNKNOWN"), nth=range(1, 3))
    send(client, f"{faulty.host}/app:1")
    assert holds(faulty, "app:1")
    assert len(warned) == 5 and all("; trying again in " in one for one in warned)
    digest = IMAGE.digest
    lacks = f"{faulty.host}/app: the manifest {digest} was refused, for it lacks blobs that it had"
    assert sum(one.startswith(lacks) for one in warned) == 2
    late = f"{faulty.host}/app does not have the manifest {digest} yet that it took"
    assert sum(one.startswith(late) for one in warned) == 3


@pytest.mark.parametrize("code", ["BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN"])
def test_R11_blobs_that_went_missing_are_sent_again(
    client: RegistryClient, faulty: FaultyRegistry, code: str
) -> None:
    gone = str(IMAGE.manifest.layers[0].digest)

    def lost(case: Case) -> Answer:
        faulty.where.discard(("app", gone))
        return _unknown(code)(case)

    faulty.on("PUT", MANIFESTS, lost, nth=1)
    send(client, f"{faulty.host}/app:1")
    assert holds(faulty, "app:1") and ("app", gone) in faulty.where


def test_R11_manifests_that_an_index_misses_are_sent_again(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    images = [made(CONTENTS[0], architecture="amd64"), made(CONTENTS[1], architecture="arm64")]
    index = index_of(*(image for image, _ in images))
    gone = ("app", str(images[0][0].digest))

    def lost(case: Case) -> Answer:
        faulty.manifests.pop(gone)
        return case.honest()

    faulty.on("PUT", f"/v2/app/manifests/{index.descriptor.digest}", lost, nth=1)
    send_index(client, faulty, index, images)
    assert gone in faulty.manifests and faulty.tags("app") == ["multi"]


def test_R11_a_registry_that_never_knows_its_blobs_is_given_up(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.on("PUT", MANIFESTS, _unknown("BLOB_UNKNOWN"))
    with pytest.raises(NotFound, match="manifest"):
        send(client, f"{faulty.host}/app:1")
    assert len(faulty.asked("PUT", MANIFESTS)) == 4


def test_R12_a_manifest_that_was_stored_as_another_is_refused(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.on("PUT", MANIFESTS, amend({"Docker-Content-Digest": str(Digest.of(b"other"))}))
    with pytest.raises(ProtocolViolation, match="another digest"):
        send(client, f"{faulty.host}/app:1")
    assert faulty.tags("app") == []


@pytest.mark.parametrize("status", [200, 202, 204])
def test_R12_another_success_is_one_when_the_manifest_comes_back(
    client: RegistryClient, faulty: FaultyRegistry, status: int
) -> None:
    faulty.on("PUT", MANIFESTS, amend(status=status))
    send(client, f"{faulty.host}/app:1")
    assert holds(faulty, "app:1")


def test_R12_a_manifest_that_comes_back_changed_moves_no_tag(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.on("GET", MANIFESTS, amend(body=lambda body: body + b" "))
    with pytest.raises(ProtocolViolation, match="other bytes"):
        send(client, f"{faulty.host}/app:1")
    assert faulty.tags("app") == []


def test_R10_tokens_that_end_after_every_second_request_stop_nothing(
    client: RegistryClient,
) -> None:
    tokens = Tokens(uses=2)
    with FaultyRegistry(tokens=tokens) as registry:
        push(
            client,
            [Reference.parse(f"{registry.host}/app:1")],
            IMAGE.manifest,
            opened,
            cancellation=client.cancellation,
            jobs=1,
        )
        assert holds(registry, "app:1")
        refused = [seen for seen in registry.log if seen.status == 401]
        assert refused and len(tokens.asked) <= len(refused) + 1, "one new token for each refusal"
        assert registry.received() < 2 * sum(map(len, BLOBS.values()))


def test_R9_further_repositories_of_a_registry_mount_from_the_first(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    send(client, f"{faulty.host}/a:1", f"{faulty.host}/b:1")
    assert holds(faulty, "a:1") and holds(faulty, "b:1")
    assert faulty.received() == sum(map(len, BLOBS.values()))


def test_a_registry_that_fails_stops_no_other(client: RegistryClient) -> None:
    with FaultyRegistry() as one, FaultyRegistry() as two, FaultyRegistry() as three:
        two.on("*", "*", reply(403))
        three.on("PUT", "*", reply(500))
        names = [f"{two.host}/app:1", f"{three.host}/app:1", f"{one.host}/app:1"]
        with pytest.raises(RegistryError) as caught:
            send(client, *names)
        assert "2 of 3" in caught.value.message
        assert two.host in caught.value.message and three.host in caught.value.message
        assert one.host not in caught.value.message
        assert holds(one, "app:1")


def test_a_repository_that_fails_stops_no_other(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.on("POST", "/v2/a/*", reply(403))
    with pytest.raises(RegistryError, match="/a:") as caught:
        send(client, f"{faulty.host}/a:1", f"{faulty.host}/b:1")
    assert caught.value.status == 403 and holds(faulty, "b:1")


def test_R15_no_more_than_four_blobs_go_to_a_registry_at_once(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    image, blobs = made(*(os.urandom(1000) for _ in range(40)))
    push(
        client,
        [Reference.parse(f"{faulty.host}/app:1")],
        image.manifest,
        lambda blob: io.BytesIO(blobs[blob.digest]),
        cancellation=client.cancellation,
    )
    assert faulty.counts.most_open <= 4


TAG = "/v2/*/manifests/1"
REFUSALS = {
    "ECR": (400, "TAG_INVALID", "The image tag '1' already exists and the tag is immutable."),
    "Artifact Registry": (400, "MANIFEST_INVALID", "The repository has enabled tag immutability"),
    "Docker Hub": (403, "DENIED", "tag is immutable"),
    "Harbor": (412, "PRECONDITION", "configured as immutable"),
    "a conflict": (409, "TAG_INVALID", ""),
    "a mirror": (405, "UNSUPPORTED", ""),
}
"""How registries refuse to have an immutable tag written, be it as it is."""


def immutable(name: str) -> Action:
    status, code, message = REFUSALS[name]
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return reply(status, {"Content-Type": "application/json"}, body)


@pytest.mark.parametrize("name", REFUSALS)
def test_an_immutable_tag_that_means_the_image_already_is_pushed(
    client: RegistryClient, faulty: FaultyRegistry, name: str
) -> None:
    send(client, f"{faulty.host}/app:1")
    faulty.on("PUT", TAG, immutable(name))
    send(client, f"{faulty.host}/app:1", f"{faulty.host}/app:2")
    assert holds(faulty, "app:1") and holds(faulty, "app:2")


@pytest.mark.parametrize("name", REFUSALS)
def test_an_immutable_tag_that_means_another_image_is_said_to_be(
    client: RegistryClient, faulty: FaultyRegistry, name: str
) -> None:
    other = made(b"other")[0].manifest
    faulty.add_manifest("app", "1", MANIFEST, other.content)
    faulty.on("PUT", TAG, immutable(name))
    with pytest.raises(RegistryError, match="the manifest 1") as caught:
        send(client, f"{faulty.host}/app:1")
    assert caught.value.status == REFUSALS[name][0]
    assert REFUSALS[name][2] in caught.value.message and "the tag immutable?" in caught.value.hint
    assert faulty.manifests["app", "1"] == (MANIFEST, other.content)
    assert ("app", str(IMAGE.digest)) in faulty.manifests


def test_an_immutable_tag_of_an_index(client: RegistryClient, faulty: FaultyRegistry) -> None:
    images = [made(CONTENTS[0], architecture="amd64"), made(CONTENTS[1], architecture="arm64")]
    index = index_of(*(image for image, _ in images))
    send_index(client, faulty, index, images)
    faulty.on("PUT", "/v2/app/manifests/multi", immutable("ECR"))
    send_index(client, faulty, index, images)
    assert faulty.manifests["app", "multi"] == (INDEX, index.content)


@pytest.mark.parametrize("seen", [None, reply(403), reply(500), reset()])
def test_a_tag_that_is_refused_and_cannot_be_seen_is_refused(
    client: RegistryClient, faulty: FaultyRegistry, seen: Action | None
) -> None:
    """There is none, or whoever pushes may not look."""
    faulty.on("PUT", TAG, reply(400, {}, b'{"errors":[{"code":"TAG_INVALID"}]}'))
    if seen is not None:
        faulty.on("GET", TAG, seen)
    with pytest.raises(ProtocolViolation, match="TAG_INVALID") as caught:
        send(client, f"{faulty.host}/app:1")
    assert caught.value.status == 400 and not caught.value.hint


def test_a_tag_whose_registry_fails_is_no_immutable_one(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    send(client, f"{faulty.host}/app:1")
    faulty.on("PUT", TAG, reply(503))
    with pytest.raises(RegistryError) as caught:
        send(client, f"{faulty.host}/app:1")
    assert caught.value.status == 503 and not faulty.asked("GET", TAG)


def test_who_may_not_write_is_not_told_that_the_image_is_there(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    send(client, f"{faulty.host}/app:1")
    faulty.on("PUT", MANIFESTS, reply(403))
    with pytest.raises(Unauthorized):
        send(client, f"{faulty.host}/app:1")


def index_of(*images: Image) -> Index:
    return build_index(image.manifest.descriptor for image in images)


def send_index(
    client: RegistryClient,
    registry: FaultyRegistry,
    index: Index,
    images: Sequence[tuple[Image, dict[Digest, bytes]]],
) -> None:
    blobs = {digest: content for _, some in images for digest, content in some.items()}
    manifests: dict[Digest, Document] = {image.digest: image.manifest for image, _ in images}
    push(
        client,
        [Reference.parse(f"{registry.host}/app:multi")],
        index,
        lambda blob: io.BytesIO(blobs[blob.digest]),
        documents=lambda entry: manifests.get(entry.digest),
        cancellation=client.cancellation,
    )


def test_an_index_goes_behind_all_that_it_names(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    images = [made(CONTENTS[0], architecture="amd64"), made(CONTENTS[1], architecture="arm64")]
    index = index_of(*(image for image, _ in images))
    send_index(client, faulty, index, images)
    puts = [seen.path.rpartition("/")[2] for seen in faulty.asked("PUT", MANIFESTS)]
    assert puts == [
        *(str(image.digest) for image, _ in images),
        str(index.descriptor.digest),
        "multi",
    ]
    assert faulty.manifests["app", "multi"] == (INDEX, index.content)


def test_a_child_goes_by_the_digest_that_its_index_names(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    image, blobs = made(CONTENTS[0])
    content = image.manifest.content
    strong = Digest("sha512", hashlib.sha512(content).hexdigest())
    index = build_index([replace(image.manifest.descriptor, digest=strong)])
    push(
        client,
        [Reference.parse(f"{faulty.host}/app:multi")],
        index,
        lambda blob: io.BytesIO(blobs[blob.digest]),
        documents=lambda entry: {strong: image.manifest}[entry.digest],
        cancellation=client.cancellation,
    )
    assert faulty.manifests["app", str(strong)] == (MANIFEST, content)
    assert faulty.manifests["app", "multi"] == (INDEX, index.content)


def test_an_attestation_in_an_index_stays_what_it_was(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    image, attestation = made(CONTENTS[0]), made(b"{}", architecture="unknown")
    document = json.loads(index_of(image[0], attestation[0]).content)
    document["manifests"][1] |= {
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
    }
    index = parse(json.dumps(document).encode(), INDEX)
    assert isinstance(index, Index)
    send_index(client, faulty, index, [image, attestation])
    assert faulty.manifests["app", "multi"] == (INDEX, index.content)
    assert ("app", str(attestation[0].digest)) in faulty.manifests


def test_what_of_an_index_only_the_registry_has_must_be_there(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    here, elsewhere = made(CONTENTS[0]), made(CONTENTS[1], architecture="arm64")
    index = index_of(here[0], elsewhere[0])
    with pytest.raises(NotFound):
        send_index(client, faulty, index, [here])
    assert faulty.tags("app") == []
    for digest, content in elsewhere[1].items():
        assert faulty.add_blob("app", content) == str(digest)
    manifest = elsewhere[0].manifest
    faulty.add_manifest("app", str(manifest.descriptor.digest), MANIFEST, manifest.content)
    send_index(client, faulty, index, [here])
    assert faulty.tags("app") == ["multi"]


def test_an_index_may_name_blobs_as_a_cache_does(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    layers = IMAGE.manifest.layers
    config = replace(IMAGE.manifest.config, media_type=CACHE_CONFIG)
    cache, reference = build_index((*layers, config)), Reference.parse(f"{faulty.host}/cache:1")
    with Cancellation() as cancellation:
        push(client, [reference], cache, opened, cancellation=cancellation)
        assert means(client, reference, cache)
        assert not means(client, reference, IMAGE.manifest)
        before = len(faulty.log)
        push(client, [reference], cache, opened, cancellation=cancellation)
    assert {str(blob.digest) for blob in (*layers, config)} <= {
        digest for name, digest in faulty.where if name == "cache"
    }
    written = [one for one in faulty.log[before:] if one.method in ("POST", "PATCH", "PUT")]
    later = [one.path.rpartition("/")[2] for one in written]
    assert later == [str(cache.descriptor.digest), "1"]  # no blob goes twice


def test_M5_an_index_in_itself_ends(client: RegistryClient, faulty: FaultyRegistry) -> None:
    nested = index_of(IMAGE)
    documents: dict[Digest, Document] = {IMAGE.digest: IMAGE.manifest}
    for _ in range(5):
        documents[nested.descriptor.digest] = nested
        nested = build_index([nested.descriptor])
    with pytest.raises(ProtocolViolation, match="deeper"):
        push(
            client,
            [Reference.parse(f"{faulty.host}/app:1")],
            nested,
            opened,
            documents=lambda entry: documents[entry.digest],
            cancellation=client.cancellation,
        )


def artifact(subject: Descriptor, kind: str) -> Document:
    """A manifest of an artifact that refers to `subject`."""
    document = json.loads(IMAGE.manifest.content)
    document |= {"subject": subject.to_document(), "artifactType": kind}
    return parse(json.dumps(document).encode(), MANIFEST)


def refer(client: RegistryClient, registry: FaultyRegistry, document: Document) -> None:
    reference = Reference.parse(f"{registry.host}/app@{document.descriptor.digest}")
    push(
        client, [reference], document, opened, documents=lambda entry: None,
        cancellation=client.cancellation,
    )  # fmt: skip


def listed(registry: FaultyRegistry) -> list[tuple[str, str]]:
    """What the fall-back index says: types and digests."""
    _, content = registry.manifests["app", referrers_tag(IMAGE.digest)]
    entries = json.loads(content)["manifests"]
    return [(entry["artifactType"], entry["digest"]) for entry in entries]


def test_M12_without_a_referrers_API_an_index_lists_what_refers(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.referrers = False
    send(client, f"{faulty.host}/app:1")
    some = [artifact(IMAGE.manifest.descriptor, f"example/{number}") for number in range(3)]
    for one in (*some, some[0]):
        refer(client, faulty, one)
    assert listed(faulty) == [
        (f"example/{number}", str(one.descriptor.digest)) for number, one in enumerate(some)
    ]


def test_M12_a_registry_with_a_referrers_API_gets_no_index(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    send(client, f"{faulty.host}/app:1")
    refer(client, faulty, artifact(IMAGE.manifest.descriptor, "example/one"))
    assert faulty.tags("app") == ["1"]


def test_M12_when_another_one_wrote_the_index_between_both_are_in_it(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.referrers = False
    tag, other = referrers_tag(IMAGE.digest), made(b"other")[0].manifest.descriptor

    def overwritten(case: Case) -> Answer:
        answer = case.honest()
        theirs = json.loads(build_index([other]).content)
        theirs["manifests"][0]["artifactType"] = "example/theirs"
        faulty.add_manifest("app", tag, INDEX, json.dumps(theirs).encode())
        return answer

    send(client, f"{faulty.host}/app:1")
    faulty.add_manifest("app", str(other.digest), MANIFEST, made(b"other")[0].manifest.content)
    faulty.on("PUT", f"/v2/app/manifests/{tag}", overwritten, nth=1)
    ours = artifact(IMAGE.manifest.descriptor, "example/ours")
    refer(client, faulty, ours)
    assert [kind for kind, _ in listed(faulty)] == ["example/theirs", "example/ours"]


def test_M12_an_index_that_is_too_large_is_refused(
    client: RegistryClient, faulty: FaultyRegistry
) -> None:
    faulty.referrers = False
    send(client, f"{faulty.host}/app:1")
    faulty.on(
        "GET", f"/v2/app/manifests/{referrers_tag(IMAGE.digest)}", reply(200, {}, b" " * (5 << 20))
    )
    with pytest.raises(ProtocolViolation):
        refer(client, faulty, artifact(IMAGE.manifest.descriptor, "example/one"))


def _unknown(code: str) -> Action:
    body = json.dumps({"errors": [{"code": code, "message": "?"}]}).encode()
    return reply(404, {"Content-Type": "application/json"}, body)


@pytest.mark.parametrize("seed", range(10))
def test_pushes_through_chaos_end_right(
    new_client: Callable[[], RegistryClient], seed: int
) -> None:
    """Every request fails with a probability of 0.3, though none more often than is tried."""
    with (
        FaultyRegistry(chaos=Chaos(0.3, seed, LIVELY_TRIES - 1)) as registry,
        new_client() as client,
    ):
        send(client, f"{registry.host}/app:1")
        assert holds(registry, "app:1")


def test_R17_eight_pushers_of_one_tag_all_succeed(tmp_path: Path, faulty: FaultyRegistry) -> None:
    """The layers are made anew by each, from the same bytes."""
    program = (
        "import sys, io, pickle\n"
        "from assembler.cancellation import Cancellation\n"
        "from assembler.environment import Environment\n"
        "from assembler.oci.reference import Reference\n"
        "from assembler.registry.client import RegistryClient\n"
        "from assembler.registry.configuration import RegistryConfiguration\n"
        "from assembler.registry.push import push\n"
        "from assembler.store.uploads import Uploads\n"
        "image, blobs = pickle.load(open(sys.argv[1], 'rb'))\n"
        "environment = Environment.read({'HOME': sys.argv[3]})\n"
        "configuration = RegistryConfiguration.read(environment, frozenset())\n"
        "with Cancellation() as wish, RegistryClient(environment, configuration,"
        " cancellation=wish) as client:\n"
        "    push(client, [Reference.parse(sys.argv[2])], image.manifest,"
        " lambda blob: io.BytesIO(blobs[blob.digest]), cancellation=wish,"
        " uploads=Uploads(sys.argv[3] + '/uploads'))\n"
    )
    (tmp_path / "image").write_bytes(pickle.dumps((IMAGE, BLOBS)))
    command = [sys.executable, "-c", program, tmp_path / "image", f"{faulty.host}/app:1", tmp_path]
    pushers = [subprocess.Popen(command) for _ in range(8)]
    assert [pusher.wait(300) for pusher in pushers] == [0] * 8
    assert holds(faulty, "app:1")
    assert faulty.sessions == {}, "no upload was left"
