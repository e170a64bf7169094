"""The distribution client against a registry that misbehaves on request."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import NotFound, ProtocolViolation, RateLimited, Unauthorized, Unreachable
from assembler.net.retry import RetryPolicy
from assembler.oci.config import Execution, ImageConfig
from assembler.oci.descriptor import LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer
from assembler.oci.platform import Platform
from assembler.oci.reference import Reference
from assembler.registry.client import RegistryClient
from assembler.registry.configuration import RegistryConfiguration
from assembler.registry.download import fetch_blob
from assembler.registry.pull import resolve
from assembler.registry.push import push as publish
from assembler.registry.push import would_send
from assembler.testing import Answer, Asked, MemoryRegistry

LINUX = Platform("linux", "amd64")
BIG = os.urandom(1_000_000)
SMALL = b"a small layer"
QUICK = RetryPolicy(first=0.001, cap=0.002)


def image(*contents: bytes) -> tuple[Image, dict[Digest, bytes]]:
    """An image of these layers, and its blobs."""
    blobs = {Digest.of(content): content for content in contents}
    layers = tuple(
        Layer(Descriptor(LAYER_TAR, digest, len(content)), digest)
        for digest, content in blobs.items()
    )
    config = ImageConfig(LINUX, Execution(cmd=("x",)), tuple(blobs))
    made = Image.create(config, layers)
    blobs[made.manifest.config.digest] = made.config_content
    return made, blobs


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment.read({"HOME": str(tmp_path)})


@pytest.fixture
def cancellation() -> Iterator[Cancellation]:
    with Cancellation() as found:
        yield found


@pytest.fixture
def client(environment: Environment, cancellation: Cancellation) -> Iterator[RegistryClient]:
    configuration = RegistryConfiguration.read(environment, frozenset())
    with RegistryClient(
        environment, configuration, cancellation=cancellation, policy=QUICK
    ) as found:
        yield found


def push(client: RegistryClient, name: str, *contents: bytes, mount_from: str = "") -> Image:
    made, blobs = image(*contents)
    publish(
        client,
        [Reference.parse(name)],
        made.manifest,
        lambda blob: io.BytesIO(blobs[blob.digest]),
        mount_from=lambda blob: [Reference.parse(mount_from)] if mount_from else [],
        cancellation=client.cancellation,
    )
    return made


def pull(client: RegistryClient, name: str) -> dict[Digest, bytes]:
    """Every layer's bytes."""
    reference = Reference.parse(name)
    found = {}
    for layer in resolve(client, reference, LINUX).manifest.layers:
        pieces = bytearray()
        fetch_blob(
            client,
            reference,
            layer,
            pieces.extend,
            progress=lambda current, total: None,
            cancellation=client.cancellation,
        )
        found[layer.digest] = bytes(pieces)
    return found


def test_what_is_pushed_comes_back(client: RegistryClient) -> None:
    with MemoryRegistry() as registry:
        push(client, f"{registry.host}/team/app:1", BIG, SMALL)
        assert set(pull(client, f"{registry.host}/team/app:1").values()) == {BIG, SMALL}


def test_a_blob_that_is_there_is_not_sent_again(client: RegistryClient) -> None:
    with MemoryRegistry() as registry:
        push(client, f"{registry.host}/a:1", BIG)
        registry.asked.clear()
        push(client, f"{registry.host}/a:2", BIG)
        assert sum(len(asked.body) for asked in registry.asked) < 10_000


def test_R9_a_blob_of_another_repository_is_mounted(client: RegistryClient) -> None:
    with MemoryRegistry() as registry:
        push(client, f"{registry.host}/base:1", BIG)
        registry.asked.clear()
        push(client, f"{registry.host}/app:1", BIG, mount_from=f"{registry.host}/base:1")
        assert sum(len(asked.body) for asked in registry.asked) < 10_000
        assert pull(client, f"{registry.host}/app:1") == {Digest.of(BIG): BIG}


def test_R9_a_blob_is_read_only_when_no_repository_has_it(client: RegistryClient) -> None:
    made, blobs = image(BIG, SMALL)
    blobs.pop(Digest.of(BIG))  # as of a base whose blob is in its registry only
    with MemoryRegistry() as registry:
        push(client, f"{registry.host}/base:1", BIG)
        base = Reference.parse(f"{registry.host}/base:1")
        publish(
            client,
            [Reference.parse(f"{registry.host}/{name}:1") for name in ("app", "copy")],
            made.manifest,
            lambda blob: io.BytesIO(blobs[blob.digest]),
            mount_from=lambda blob: [base] if blob.digest == Digest.of(BIG) else [],
            cancellation=client.cancellation,
        )
        assert set(pull(client, f"{registry.host}/copy:1").values()) == {BIG, SMALL}
        sent = [asked for asked in registry.asked if SMALL in asked.body]
        assert len(sent) == 1  # to the first repository; the second has it from there


def test_R9_a_blob_is_mounted_from_the_mirror_that_it_came_from(
    environment: Environment, cancellation: Cancellation
) -> None:
    made, blobs = image(BIG)
    with MemoryRegistry() as registry:
        text = (
            f'[[registry]]\nprefix="docker.io"\n[[registry.mirror]]\nlocation="{registry.host}"\n'
        )
        path = Path(environment.home, "registries.conf")
        path.write_text(text)
        there = replace(environment, registries_conf=str(path))
        configuration = RegistryConfiguration.read(there, frozenset())
        with RegistryClient(there, configuration, cancellation=cancellation) as client:
            push(client, f"{registry.host}/library/base:1", BIG)
            registry.asked.clear()
            publish(
                client,
                [Reference.parse(f"{registry.host}/app:1")],
                made.manifest,
                lambda blob: io.BytesIO(blobs[blob.digest]),
                mount_from=lambda blob: [Reference.parse("docker.io/library/base:1")],
                cancellation=cancellation,
            )
        mounts = [asked.query["from"] for asked in registry.asked if "mount" in asked.query]
        assert "library/base" in mounts
        assert sum(len(asked.body) for asked in registry.asked) < 10_000


def test_whether_a_blob_will_be_sent_is_told_without_writing(client: RegistryClient) -> None:
    big = Descriptor(LAYER_TAR, Digest.of(BIG), len(BIG))
    with MemoryRegistry() as registry:
        push(client, f"{registry.host}/base:1", BIG)
        base = Reference.parse(f"{registry.host}/base:1")
        registry.asked.clear()

        def sends(*names: str, sources: tuple[Reference, ...] = ()) -> bool:
            references = [Reference.parse(f"{registry.host}/{name}") for name in names]
            return would_send(client, references, big, lambda blob: sources, client.cancellation)

        assert not sends("base:2")
        assert sends("app:1") and sends("base:2", "app:1")
        assert not sends("app:1", sources=(base,))
        assert not sends("app:1", "other:1", sources=(base,))
        assert {asked.method for asked in registry.asked} == {"HEAD"}


def test_the_tag_moves_last(client: RegistryClient) -> None:
    with MemoryRegistry() as registry:
        push(client, f"{registry.host}/a:tag", BIG, SMALL)
        writes = [asked.path for asked in registry.asked if asked.method == "PUT"]
        assert writes[-1].endswith("/manifests/tag")
        assert "/manifests/sha256:" in writes[-2]


def test_R6_a_broken_download_goes_on_where_it_broke(client: RegistryClient) -> None:
    broken: list[Asked] = []

    def fault(asked: Asked) -> Answer | None:
        if "/blobs/" in asked.path and asked.method == "GET" and not broken:
            if Digest.of(BIG).hex not in asked.path:
                return None
            broken.append(asked)
            return Answer(200, {}, BIG, broken=600_000)
        return None

    with MemoryRegistry() as registry:
        push(client, f"{registry.host}/a:1", BIG)
        registry.fault = fault
        assert pull(client, f"{registry.host}/a:1") == {Digest.of(BIG): BIG}
        ranges = [asked.headers["range"] for asked in registry.asked if "range" in asked.headers]
        assert ranges == ["bytes=600000-"]


def test_R8_a_broken_upload_goes_on_where_the_registry_stands(client: RegistryClient) -> None:
    with MemoryRegistry() as registry:
        failed: list[Asked] = []

        def fault(asked: Asked) -> Answer | None:
            if asked.method == "PUT" and "/uploads/" in asked.path and len(asked.body) == len(BIG):
                failed.append(asked)
                registry.uploads[asked.path.rpartition("/")[2]] = BIG[:400_000]
                return Answer(503)
            return None

        registry.fault = fault
        push(client, f"{registry.host}/a:1", BIG)
        assert len(failed) == 1
        resumed = [asked for asked in registry.asked if asked.method == "PATCH"]
        assert [len(asked.body) for asked in resumed] == [len(BIG) - 400_000]
        registry.fault = None
        assert pull(client, f"{registry.host}/a:1") == {Digest.of(BIG): BIG}


def test_R8_a_lost_upload_is_started_anew(client: RegistryClient) -> None:
    lost: list[Asked] = []

    def fault(asked: Asked) -> Answer | None:
        if asked.method == "PUT" and "/uploads/" in asked.path and not lost:
            lost.append(asked)
            return Answer(404)
        return Answer(404) if asked.method == "GET" and "/uploads/" in asked.path else None

    with MemoryRegistry(fault) as registry:
        push(client, f"{registry.host}/a:1", BIG)
        assert Digest.of(BIG) in {Digest.parse(name) for name in registry.blobs}


def test_R5_passing_failures_are_tried_again(client: RegistryClient) -> None:
    answers = [Answer(503), Answer(429, {"Retry-After": "0"}), Answer(500)]

    def fault(asked: Asked) -> Answer | None:
        return answers.pop(0) if answers and asked.method == "HEAD" else None

    with MemoryRegistry(fault) as registry:
        push(client, f"{registry.host}/a:1", SMALL)
        assert answers == []


def test_a_rate_limit_that_stays_says_what_to_do(client: RegistryClient) -> None:
    with MemoryRegistry(lambda asked: Answer(429, {"Retry-After": "0"})) as registry:
        with pytest.raises(RateLimited) as caught:
            pull(client, f"{registry.host}/a:1")
        assert "mirror" in caught.value.hint and caught.value.status == 429


@pytest.mark.parametrize("status", [400, 413, 507])
def test_R13_a_refusal_is_not_tried_again(client: RegistryClient, status: int) -> None:
    with MemoryRegistry(lambda asked: Answer(status, {}, b"<html>\x1b[31mno</html>")) as registry:
        with pytest.raises(ProtocolViolation) as caught:
            push(client, f"{registry.host}/a:1", SMALL)
        asked = [one.path for one in registry.asked]  # of its two blobs, side by side
        assert len(asked) == len(set(asked)) <= 2
        assert "\x1b" not in caught.value.message and str(status) in caught.value.message


def test_a_missing_image_is_not_found(client: RegistryClient) -> None:
    with MemoryRegistry() as registry, pytest.raises(NotFound, match="manifest"):
        pull(client, f"{registry.host}/no/such:1")


def test_an_index_without_the_platform_says_what_it_has(client: RegistryClient) -> None:
    with MemoryRegistry() as registry:
        made = push(client, f"{registry.host}/a:1", SMALL)
        entry = made.manifest.descriptor.to_document()
        entry["platform"] = {"os": "linux", "architecture": "s390x"}
        kind = "application/vnd.oci.image.index.v1+json"
        index = {"schemaVersion": 2, "mediaType": kind, "manifests": [entry]}
        registry.manifests["a", "multi"] = (kind, json.dumps(index).encode())
        with pytest.raises(NotFound) as caught:
            pull(client, f"{registry.host}/a:multi")
        assert "linux/s390x" in caught.value.hint


def test_M1_a_manifest_with_another_digest_is_refused(client: RegistryClient) -> None:
    with MemoryRegistry() as registry:
        made = push(client, f"{registry.host}/a:1", SMALL)
        kind, content = registry.manifests["a", "1"]
        registry.manifests["a", str(made.digest)] = (kind, content + b" ")
        with pytest.raises(ProtocolViolation, match="other bytes than its digest"):
            pull(client, f"{registry.host}/a@{made.digest}")


def test_M1_a_blob_with_other_bytes_is_refused(client: RegistryClient) -> None:
    with MemoryRegistry() as registry:
        push(client, f"{registry.host}/a:1", BIG)
        registry.blobs[str(Digest.of(BIG))] = BIG[:-1] + bytes([BIG[-1] ^ 1])
        with pytest.raises(ProtocolViolation, match="other bytes"):
            pull(client, f"{registry.host}/a:1")


def login(environment: Environment, host: str, pair: str) -> None:
    directory = Path(environment.docker_config)
    directory.mkdir(parents=True, exist_ok=True)
    auth = base64.b64encode(pair.encode()).decode()
    (directory / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))


def test_basic_authorization_is_given_when_asked_for(
    client: RegistryClient, environment: Environment
) -> None:
    with MemoryRegistry(users={"me": "pass:word"}) as registry:
        login(environment, registry.host, "me:pass:word")
        push(client, f"{registry.host}/a:1", SMALL)
        assert "authorization" not in registry.asked[0].headers


def test_without_a_credential_the_message_says_how_to_log_in(client: RegistryClient) -> None:
    with MemoryRegistry(users={"me": "pw"}) as registry:
        with pytest.raises(Unauthorized) as caught:
            push(client, f"{registry.host}/a:1", SMALL)
        assert "login" in caught.value.hint


def test_R10_a_token_that_expires_is_replaced_once(
    client: RegistryClient, environment: Environment
) -> None:
    with MemoryRegistry(token="first") as registry:
        login(environment, registry.host, "me:secret-canary")
        push(client, f"{registry.host}/a:1", SMALL)
        registry.token = "second"
        push(client, f"{registry.host}/a:2", SMALL, BIG)
        tokens = [asked for asked in registry.asked if asked.path == "/token"]
        assert 2 <= len(tokens) <= 8, "one for each scope and expiry, more only for parallel blobs"


def test_R1_a_redirect_takes_no_credential_to_another_origin(
    client: RegistryClient, environment: Environment
) -> None:
    with MemoryRegistry() as elsewhere, MemoryRegistry(users={"me": "secret-canary"}) as registry:
        login(environment, registry.host, "me:secret-canary")
        push(client, f"{registry.host}/a:1", BIG)

        def fault(asked: Asked) -> Answer | None:
            if Digest.of(BIG).hex in asked.path and "authorization" in asked.headers:
                return Answer(307, {"Location": f"http://{elsewhere.host}/data"})
            return None

        registry.fault = fault
        elsewhere.fault = lambda asked: Answer(200, {}, BIG)
        assert pull(client, f"{registry.host}/a:1") == {Digest.of(BIG): BIG}
        assert elsewhere.asked
        for asked in elsewhere.asked:
            assert "authorization" not in asked.headers
            assert "canary" not in repr(asked.headers)


def test_an_upload_location_at_another_origin_gets_no_credential(
    client: RegistryClient, environment: Environment
) -> None:
    with MemoryRegistry() as elsewhere, MemoryRegistry(users={"me": "secret-canary"}) as registry:
        login(environment, registry.host, "me:secret-canary")

        def fault(asked: Asked) -> Answer | None:
            if asked.method == "POST" and "authorization" in asked.headers:
                return Answer(202, {"Location": f"http://{elsewhere.host}/upload?x=1"})
            return None

        registry.fault = fault
        elsewhere.fault = lambda asked: Answer(403)
        with pytest.raises(Unauthorized):
            push(client, f"{registry.host}/a:1", SMALL)
        assert elsewhere.asked
        assert all("authorization" not in asked.headers for asked in elsewhere.asked)


def test_a_mirror_that_is_down_is_passed_over(
    environment: Environment, cancellation: Cancellation, tmp_path: Path
) -> None:
    with MemoryRegistry() as registry, MemoryRegistry(lambda asked: Answer(500)) as down:
        config = tmp_path / "registries.conf"
        config.write_text(
            f'[[registry]]\nprefix = "example.com"\nlocation = "{registry.host}"\n'
            f'[[registry.mirror]]\nlocation = "{down.host}"\n'
        )
        found = Environment.read({"HOME": str(tmp_path), "CONTAINERS_REGISTRIES_CONF": str(config)})
        configuration = RegistryConfiguration.read(found, frozenset())
        with RegistryClient(
            found, configuration, cancellation=cancellation, policy=QUICK
        ) as client:
            push(client, f"{registry.host}/team/app:1", SMALL)
            assert pull(client, "example.com/team/app:1") == {Digest.of(SMALL): SMALL}
        assert down.asked


def test_a_dead_port_is_unreachable_and_says_so(client: RegistryClient, free_port: int) -> None:
    with pytest.raises(Unreachable) as caught:
        pull(client, f"127.0.0.1:{free_port}/a:1")
    assert f"127.0.0.1:{free_port}" in caught.value.message and caught.value.hint
