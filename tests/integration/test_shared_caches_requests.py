"""What shared caches ask of registries, and what they make of bad answers: the build is right, and one
line says why (the issue of the cache, 4 and "Bad input"; reliability B14). The registry is in this
process; a machine is a store of its own."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from assembler.oci.descriptor import CACHE_CONFIG, CACHE_LISTINGS
from assembler.testing.distribution import sha256
from assembler.testing.memory import MemoryRegistry
from assembler.testing.server import Answer, Asked
from tests.conftest import Assemble, environment

pytestmark = pytest.mark.integration

DOCKERFILE = "FROM scratch\nCOPY a /a\nWORKDIR /made\nCOPY b /b\n"
NAME = "team/app-cache"


@dataclass
class Shared:
    """A registry with the cache `NAME:main` of one machine, whose image has the digest `image`."""

    registry: MemoryRegistry
    directory: Path
    image: str = ""

    @property
    def ref(self) -> str:
        return f"{self.registry.host}/{NAME}:main"

    def build(self, machine: str, *options: str, code: int = 0) -> Any:
        """Build on `machine`, whose image has the same times as everywhere."""
        env = environment(self.directory / machine, SOURCE_DATE_EPOCH="1700000000")
        command = ("build", "--progress", "plain", *options, str(self.directory / "context"))
        return Assemble(env)(*command, code=code)

    def asked(self) -> list[str]:
        """The requests since the last call, without what every client asks first."""
        found = [f"{one.method} {one.path}" for one in self.registry.asked]
        self.registry.asked.clear()
        return [one for one in found if not one.endswith(" /v2/")]

    def change(self) -> None:
        """Change the file that is copied last."""
        context = self.directory / "context"
        files = {path.name: path.read_bytes() for path in context.iterdir()}
        context.unlink()
        context.mkdir()
        for name, content in (files | {"b": b"changed"}).items():
            (context / name).write_bytes(content)

    @property
    def manifest(self) -> dict[str, Any]:
        """The cache's manifest."""
        found: dict[str, Any] = json.loads(self.registry.manifests[NAME, "main"][1])
        return found

    @property
    def layers(self) -> list[str]:
        """The digests of its layers."""
        kinds = [one for one in self.manifest["layers"] if "image.layer" in one["mediaType"]]
        return [one["digest"] for one in kinds]

    @property
    def listings(self) -> str:
        """The digest of its listings."""
        (found,) = (one for one in self.manifest["layers"] if one["digest"] not in self.layers)
        assert found["mediaType"] == CACHE_LISTINGS
        return str(found["digest"])

    @property
    def document(self) -> dict[str, Any]:
        """Its configuration."""
        digest = self.manifest["config"]["digest"]
        found: dict[str, Any] = json.loads(self.registry.blobs[digest])
        return found

    def publish(self, content: bytes, kind: str = CACHE_CONFIG, **fields: Any) -> None:
        """Let the tag mean a manifest with the configuration `content`."""
        self.registry.add_blob(NAME, content)
        manifest = self.manifest | fields
        described = {"mediaType": kind, "digest": sha256(content), "size": len(content)}
        manifest |= {"config": described}
        media_type = "application/vnd.oci.image.manifest.v1+json"
        self.registry.add_manifest(NAME, "main", media_type, json.dumps(manifest).encode())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    directory = tmp_path_factory.mktemp("shared")
    context = directory / "context"
    context.mkdir()
    (context / "a").write_bytes(bytes(range(256)) * 100)
    (context / "b").write_bytes(bytes(reversed(range(256))) * 100)
    (context / "Dockerfile").write_text(DOCKERFILE)
    with MemoryRegistry() as registry:
        shared = Shared(registry, directory)
        done = shared.build("one", "--cache-to", f"type=registry,ref={shared.ref},mode=max")
        shared.image = done.stdout.strip()
        yield shared


@pytest.fixture
def shared(made: Shared, tmp_path: Path) -> Iterator[Shared]:
    """What was made once, in a registry of the test's own."""
    with MemoryRegistry() as registry:
        for digest, content in made.registry.blobs.items():
            registry.add_blob(NAME, content)
            assert sha256(content) == digest
        for (_, name), (kind, content) in made.registry.manifests.items():
            registry.add_manifest(NAME, name, kind, content)
        (tmp_path / "context").symlink_to(made.directory / "context")
        yield Shared(registry, tmp_path, made.image)


def steps(done: Any) -> tuple[int, int]:
    """How many steps were taken from a cache only, and how many were not."""
    lines = [line.split() for line in done.stderr.splitlines() if line.startswith("#")]
    ours = {line[0] for line in lines if {"COPY", "WORKDIR"} & set(line)}
    executed = {line[0] for line in lines if line[1] == "DONE"} & ours
    return len(ours - executed), len(executed)


def warnings(done: Any) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("WARNING")]


def test_what_is_in_order_is_used(shared: Shared) -> None:
    done = shared.build("two", "--cache-from", shared.ref)
    assert (steps(done), warnings(done)) == ((3, 0), [])
    assert done.stdout.strip() == shared.image


def test_79_lazily_a_cache_is_read_and_none_of_its_layers(shared: Shared) -> None:
    shared.build("two", "--cache-from", shared.ref, "-o", "type=cacheonly")
    config = shared.manifest["config"]["digest"]
    assert shared.asked() == [
        f"GET /v2/{NAME}/manifests/main",
        f"GET /v2/{NAME}/blobs/{config}",
    ]
    shared.build("two", "--cache-from", shared.ref, "-o", "type=cacheonly")
    assert shared.asked() == []  # the store knows it
    shared.build("two")
    layers = [f"GET /v2/{NAME}/blobs/{digest}" for digest in shared.layers]
    assert sorted(shared.asked()) == sorted(
        layers
    )  # the image is kept here: where they are is known
    shared.build("two")
    assert shared.asked() == []


def test_79_a_registry_is_given_layers_of_its_own_by_name(shared: Shared) -> None:
    image = f"{shared.registry.host}/team/app:1"
    shared.build("two", "--cache-from", shared.ref, "--push", "-t", image)
    asked = shared.asked()
    layers = shared.layers
    assert not any(f"GET /v2/{NAME}/blobs/{digest}" in asked for digest in layers)
    assert all(("team/app", digest) in shared.registry.where for digest in layers)
    assert not [one for one in asked if one.startswith("PATCH")]


def test_79_another_registry_is_sent_them(shared: Shared) -> None:
    with MemoryRegistry() as other:
        image = f"{other.host}/team/app:1"
        done = shared.build("two", "--cache-from", shared.ref, "--push", "-t", image)
        assert done.stdout.strip() == shared.image == sha256(other.manifests["team/app", "1"][1])
        for digest in shared.layers:
            assert sha256(other.blobs[digest]) == digest


def test_an_export_that_changes_nothing_moves_nothing(shared: Shared) -> None:
    target = ("--cache-to", f"type=registry,ref={shared.ref},mode=max")
    shared.build("two", "--cache-from", shared.ref, *target)
    shared.asked()
    shared.build("two", *target)
    assert shared.asked() == [f"HEAD /v2/{NAME}/manifests/main"]


def test_an_export_sends_what_is_new_once_and_moves_the_tag_last(shared: Shared) -> None:
    target = ("--cache-to", f"type=registry,ref={shared.ref},mode=max")
    shared.change()
    before = set(shared.layers)
    shared.build("two", "--cache-from", shared.ref, "-o", "type=cacheonly", *target)
    asked = shared.asked()
    assert len(set(shared.layers) - before) == 1
    uploads = [one for one in asked if one.startswith("PUT") and "/blobs/uploads/" in one]
    assert len(uploads) == 3  # the layer, the listings, and the configuration
    manifest = sha256(shared.registry.manifests[NAME, "main"][1])
    puts = [one for one in asked if one.startswith("PUT")]
    assert puts[-2:] == [f"PUT /v2/{NAME}/manifests/{manifest}", f"PUT /v2/{NAME}/manifests/main"]


def said(shared: Shared, machine: str) -> str:
    """Why the last COPY of the last build ran."""
    explained = Assemble(environment(shared.directory / machine))("explain", "--json").stdout
    return str(json.loads(explained)["steps"][-1]["because"][0]["text"])


def test_files_that_changed_are_named_by_what_was_asked_for_once(shared: Shared) -> None:
    shared.change()
    source = ("--cache-from", shared.ref, "--cache-from", shared.ref, "-o", "type=cacheonly")
    done = shared.build("two", *source)
    assert re.fullmatch(r"COPY b: b changed \(sha256 .{12} → .{12}\)", said(shared, "two"))
    assert re.search("^#[0-9]+ RUN: b changed$", done.stderr, re.MULTILINE)
    assert shared.asked().count(f"GET /v2/{NAME}/blobs/{shared.listings}") == 1
    # what was told stays: the next build asks nobody
    (shared.directory / "context/b").write_bytes(b"changed again")
    shared.build("two", *source)
    assert shared.listings not in str(shared.asked())


def gone(shared: Shared) -> None:
    del shared.registry.blobs[shared.listings]


def of_another_digest(shared: Shared) -> None:
    content = shared.registry.blobs[shared.listings]
    shared.registry.blobs[shared.listings] = bytes([content[0] ^ 1]) + content[1:]


def refused(shared: Shared) -> None:
    path = f"/v2/{NAME}/blobs/{shared.listings}"
    shared.registry.fault = lambda asked: Answer(503) if asked.path == path else None


def with_listings(change: Callable[[dict[str, Any]], None], content: bytes) -> Any:
    """The cache says of its listings what `change` makes of it, and that each is `content`."""

    def break_it(shared: Shared) -> None:
        document, old = shared.document, shared.listings
        names = [name for name, _ in document["listings"]["sizes"]]
        whole = content * len(names)
        blob = {"digest": sha256(whole), "size": len(whole)}
        document["listings"]["blob"] |= blob
        document["listings"]["sizes"] = [[name, len(content)] for name in names]
        change(document["listings"])
        layers = [one | (blob if one["digest"] == old else {}) for one in shared.manifest["layers"]]
        shared.registry.add_blob(NAME, whole)
        shared.publish(json.dumps(document).encode(), layers=layers)

    return break_it


def nothing_else(listings: dict[str, Any]) -> None:
    """As it is."""


def with_too_much(listings: dict[str, Any]) -> None:
    listings["blob"]["size"] = 1 << 40


@pytest.mark.parametrize(
    ("break_it", "asked"),
    [
        (gone, True),
        (of_another_digest, True),
        (refused, True),
        (with_listings(nothing_else, b"garbled"), True),
        (with_listings(nothing_else, zlib.compress(bytes(100 << 20))), True),
        (with_listings(nothing_else, zlib.compress(b"../../etc/passwd\0- 644 0:0  ")), True),
        (with_listings(with_too_much, b"garbled"), False),
        (with_listings(dict.clear, b"garbled"), False),
    ],
)
def test_B14_listings_that_cannot_be_used_cost_words_only(
    shared: Shared, break_it: Callable[[Shared], None], asked: bool
) -> None:
    break_it(shared)
    path = f"GET /v2/{NAME}/blobs/{shared.listings}"
    shared.change()
    done = shared.build("two", "--cache-from", shared.ref, "-o", "type=cacheonly")
    assert (steps(done), warnings(done)) == ((2, 1), [])
    assert said(shared, "two") == "COPY b: its files changed"
    assert (path in shared.asked()) == asked


def test_B14_what_a_cache_calls_files_is_shown_escaped(shared: Shared) -> None:
    content = zlib.compress(b"\x1b[2J\n#9 DONE\0- 644 0:0  ")
    with_listings(nothing_else, content)(shared)
    shared.change()
    done = shared.build("two", "--cache-from", shared.ref, "-o", "type=cacheonly")
    assert "\x1b" not in done.stderr and "\n#9 DONE\n" not in done.stderr
    assert r" RUN: \x1b[2J\n#9 DONE removed (and 1 more)" in done.stderr


def test_a_registry_that_takes_no_listings_has_the_cache_without_them(shared: Shared) -> None:
    def strict(asked: Asked) -> Answer | None:
        unknown = asked.method == "PUT" and "/manifests/" in asked.path
        return Answer(400) if unknown and CACHE_LISTINGS.encode() in asked.body else None

    shared.registry.fault = strict
    other = f"{shared.registry.host}/team/other:1"
    done = shared.build("one", "--cache-to", f"type=registry,ref={other},mode=max")
    assert warnings(done) == []
    taken = shared.build("two", "--cache-from", other, "-o", "type=cacheonly")
    assert (steps(taken), warnings(taken)) == ((3, 0), [])


def test_caches_are_asked_in_order_until_one_knows(shared: Shared) -> None:
    empty, main = f"{shared.registry.host}/team/none:1", ("--cache-from", shared.ref)
    done = shared.build("two", "--cache-from", empty, *main, "-o", "type=cacheonly")
    assert [one.rpartition("/")[2] for one in shared.asked()][:2] == ["1", "main"]
    assert steps(done) == (3, 0)
    assert len(warnings(done)) == 1
    first = shared.build("three", *main, "--cache-from", empty, "-o", "type=cacheonly")
    assert "GET /v2/team/none/manifests/1" not in shared.asked()
    assert (steps(first), warnings(first)) == ((3, 0), [])


def test_a_registry_that_is_down_when_a_layer_is_needed_costs_a_line(shared: Shared) -> None:
    shared.build("two", "--cache-from", shared.ref, "-o", "type=cacheonly")
    shared.registry.fault = lambda asked: Answer(503)
    done = shared.build("two")
    assert done.stdout.strip() == shared.image
    (line,) = warnings(done)
    assert f"the cache {shared.registry.host}/{NAME} is not used any more: " in line
    assert (steps(shared.build("two")), warnings(shared.build("two"))) == ((3, 0), [])


def test_S12_who_wants_no_cache_asks_none(shared: Shared) -> None:
    done = shared.build("two", "--cache-from", shared.ref, "--no-cache", "-o", "type=cacheonly")
    assert (steps(done), shared.asked()) == ((0, 3), [])


def test_nothing_listens_there(shared: Shared, free_port: int) -> None:
    cache = f"127.0.0.1:{free_port}/team/cache:main"
    done = shared.build("two", "--cache-from", cache)
    assert (steps(done), done.stdout.strip()) == ((0, 3), shared.image)
    (line,) = warnings(done)
    assert f"the cache {cache} is not used" in line
    assert "refused" in line or "nothing listens" in line


def test_a_registry_that_takes_nothing_fails_the_build_unless_that_is_ignored(
    shared: Shared,
) -> None:
    def refuse(asked: Asked) -> Answer | None:
        return None if asked.method in ("GET", "HEAD") else Answer(403)

    shared.registry.fault = refuse
    target = f"type=registry,ref={shared.registry.host}/team/other:1"
    failed = shared.build("two", "--cache-to", target, code=1)
    (error,) = [line for line in failed.stderr.splitlines() if line.startswith("ERROR: ")]
    assert f"the cache could not be exported to {shared.registry.host}/team/other:1: " in error
    done = shared.build("two", "--cache-to", f"{target},ignore-error=true")
    (line,) = warnings(done)
    assert f"the cache could not be exported to {shared.registry.host}/team/other:1: " in line
    assert done.stdout.strip() == shared.image


def test_credentials_are_the_usual_ones(shared: Shared) -> None:
    shared.registry.users = {"me": "secret"}
    done = shared.build("two", "--cache-from", shared.ref, "-o", "type=cacheonly")
    assert steps(done) == (0, 3)
    assert "401" in warnings(done)[0]
    docker = shared.directory / "home/.docker"
    docker.mkdir()
    auth = b64encode(b"me:secret").decode()
    config = {"auths": {shared.registry.host: {"auth": auth}}}
    (docker / "config.json").write_text(json.dumps(config))
    target = f"type=registry,ref={shared.registry.host}/team/other:1,mode=max"
    done = shared.build("three", "--cache-from", shared.ref, "--cache-to", target)
    assert (steps(done), warnings(done)) == ((3, 0), [])
    assert ("team/other", "1") in shared.registry.manifests


def test_what_is_pruned_is_had_again(shared: Shared) -> None:
    env = environment(shared.directory / "two")
    shared.build("two", "--cache-from", shared.ref)
    Assemble(env)("prune", "--force")
    again = shared.build("two")
    assert (steps(again), again.stdout.strip()) == ((3, 0), shared.image)
    Assemble(env)("prune", "--all", "--force")
    shared.asked()
    anew = shared.build("two")
    assert (steps(anew), shared.asked()) == ((0, 3), [])  # all was given up, where it is too


def answering(status: int) -> Callable[[Shared], None]:
    def break_it(shared: Shared) -> None:
        shared.registry.fault = lambda asked: (
            Answer(status) if "/manifests/" in asked.path else None
        )

    return break_it


def without_tag(shared: Shared) -> None:
    del shared.registry.manifests[NAME, "main"]


def garbled_manifest(shared: Shared) -> None:
    kind, content = shared.registry.manifests[NAME, "main"]
    shared.registry.manifests[NAME, "main"] = kind, content[:-9]


def garbled_document(shared: Shared) -> None:
    shared.publish(b'{"version": 1, "steps": [{]}')


def other_document(shared: Shared) -> None:
    digest = shared.manifest["config"]["digest"]
    shared.registry.blobs[digest] = shared.registry.blobs[digest].replace(b"steps", b"stepz")


def newer_version(shared: Shared) -> None:
    shared.publish(b'{"version": 2, "steps": []}')


def of_buildkit(shared: Shared) -> None:
    shared.publish(b"{}", "application/vnd.buildkit.cacheconfig.v0")


def image_without(shared: Shared) -> None:
    content = b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}'
    shared.publish(content, "application/vnd.oci.image.config.v1+json")


def layer_of(shared: Shared) -> str:
    found: str = shared.document["layers"][0]["blob"]["digest"]
    return found


def missing_blob(shared: Shared) -> None:
    del shared.registry.blobs[layer_of(shared)]


def other_bytes(shared: Shared) -> None:
    digest = layer_of(shared)
    content = shared.registry.blobs[digest]
    shared.registry.blobs[digest] = content[:-1] + bytes([content[-1] ^ 1])


def shorter_blob(shared: Shared) -> None:
    digest = layer_of(shared)
    shared.registry.blobs[digest] = shared.registry.blobs[digest][:-5]


def other_diff_id(shared: Shared) -> None:
    document = shared.document
    document["layers"][0]["diff_id"] = sha256(b"something else")
    shared.publish(json.dumps(document).encode())


def exchanged_layers(shared: Shared) -> None:
    """The right keys lead to wrong bytes, all of which have their digests."""
    document = shared.document
    one, other = document["layers"][:2]
    one["blob"], other["blob"] = other["blob"], one["blob"]
    shared.publish(json.dumps(document).encode())


def no_layer(shared: Shared) -> None:
    document, blob = shared.document, b"no tar in any compression"
    shared.registry.add_blob(NAME, blob)
    described = document["layers"][0]["blob"] | {"digest": sha256(blob), "size": len(blob)}
    document["layers"][0]["blob"] = described
    layers = [*shared.manifest["layers"], described]
    shared.publish(json.dumps(document).encode(), layers=layers)


def larger_than_disks(shared: Shared) -> None:
    document, layers = shared.document, shared.manifest["layers"]
    for blob in (document["layers"][0]["blob"], layers[0]):
        blob["size"] = 1 << 60
    shared.publish(json.dumps(document).encode(), layers=layers)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (answering(500), "500"),
        (answering(403), "403|denied"),
        (without_tag, "not found|no such|has no"),
        (garbled_manifest, "JSON|digest"),
        (garbled_document, "JSON"),
        (other_document, "other bytes than its digest"),
        (newer_version, "version 2, this assemble knows 1"),
        (of_buildkit, "a cache of BuildKit's"),
        (image_without, "an image without a cache in it"),
        (missing_blob, "is not used any more: .*not found"),
        (other_bytes, "is not used any more: .*other bytes than its digest"),
        (shorter_blob, "is not used any more: .*bytes, not"),
        (other_diff_id, "is not used any more: .*diff_id"),
        (exchanged_layers, "is not used any more: .*diff_id"),
        (no_layer, "is not used any more: "),
        (larger_than_disks, "is not used any more: no space left"),
    ],
    ids=lambda value: getattr(value, "__qualname__", "").split(".")[0] or None,
)
def test_B14_what_cannot_be_used_is_one_line_and_the_steps_run(
    shared: Shared, break_it: Callable[[Shared], None], said: str
) -> None:
    break_it(shared)
    done = shared.build("two", "--cache-from", shared.ref)
    assert done.stdout.strip() == shared.image
    (line,) = warnings(done)
    assert re.search(said, line), line
    if "any more" not in said:
        assert steps(done) == (0, 3)
    else:  # what is known and lacks its bytes is put together again; and nothing wrong was kept
        again = shared.build("two", "--cache-from", shared.ref)
        assert (steps(again), warnings(again)) == ((3, 0), [])


def test_B14_what_was_refused_is_not_kept(shared: Shared) -> None:
    """The next build would find it in the store, and not look into it."""
    no_layer(shared)
    shared.build("two", "--cache-from", shared.ref)
    assert not (shared.directory / "two/blobs/sha256" / layer_of(shared).partition(":")[2]).exists()


@pytest.mark.parametrize(
    ("break_it", "before"), [(other_diff_id, False), (other_bytes, False), (missing_blob, True)]
)
def test_B14_what_only_passes_through_to_another_registry_is_compared(
    shared: Shared, break_it: Callable[[Shared], None], before: bool
) -> None:
    """The push has begun by then; with `before` an earlier build took what the cache tells."""
    source: tuple[str, ...] = ("--cache-from", shared.ref)
    if before:
        shared.build("two", *source, "-o", "type=cacheonly")
        source = ()
    break_it(shared)
    with MemoryRegistry() as other:
        done = shared.build("two", *source, "--push", "-t", f"{other.host}/team/app:1")
        assert done.stdout.strip() == shared.image
        assert sha256(other.manifests["team/app", "1"][1]) == shared.image
        (line,) = warnings(done)
        assert "is not used any more: " in line


def test_74_a_cache_in_an_image_is_not_carried_on_by_what_is_built_on_it(shared: Shared) -> None:
    image = f"{shared.registry.host}/team/base:1"
    inline = ("--push", "-t", image, "--cache-to", "type=inline")
    first = shared.build("one", *inline)
    assert "assembler.cache.v1" in config_of(shared, "team/base", "1")
    assert shared.build("other", *inline).stdout == first.stdout  # the same at the same epoch
    (shared.directory / "on").mkdir()
    (shared.directory / "on/Dockerfile").write_text(f"FROM {image}\nLABEL a=b\n")
    env = environment(shared.directory / "two")
    above = f"{shared.registry.host}/team/above:1"
    Assemble(env)("build", "--push", "-t", above, str(shared.directory / "on"))
    config = config_of(shared, "team/above", "1")
    assert config["config"]["Labels"] == {"a": "b"}
    assert "assembler.cache.v1" not in config


def config_of(shared: Shared, repository: str, tag: str) -> dict[str, Any]:
    manifest = json.loads(shared.registry.manifests[repository, tag][1])
    found: dict[str, Any] = json.loads(shared.registry.blobs[manifest["config"]["digest"]])
    return found


def test_an_image_whose_layers_are_in_a_cache_can_be_pushed_later(shared: Shared) -> None:
    env = environment(shared.directory / "two")
    image = f"{shared.registry.host}/team/later:1"
    shared.build("two", "--cache-from", shared.ref, "-o", "type=cacheonly", "-t", image)
    Assemble(env)("push", image)
    assert sha256(shared.registry.manifests["team/later", "1"][1]) == shared.image


def test_a_cache_for_another_platform_is_none(shared: Shared) -> None:
    arm, other = f"{shared.registry.host}/{NAME}:arm", ("--platform", "linux/arm64")
    done = shared.build("two", *other, "--cache-from", shared.ref, "-o", "type=cacheonly")
    assert (steps(done), warnings(done)) == ((0, 3), [])
    shared.build("two", *other, "--cache-to", f"type=registry,ref={arm},mode=max")
    both = ("--cache-from", arm, "--cache-from", shared.ref, "-o", "type=cacheonly")
    assert steps(shared.build("three", *both)) == (3, 0)
    assert steps(shared.build("three", *both, *other)) == (3, 0)


def test_the_image_of_its_platform_tells_its_cache(shared: Shared) -> None:
    digests = {}
    for platform in ("linux/amd64", "linux/arm64"):
        image = f"{shared.registry.host}/team/app:{platform[-5:]}"
        options = ("--platform", platform, "--cache-to", "type=inline", "--push", "-t", image)
        digests[platform] = shared.build("one", *options).stdout.strip()
    entries = [
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest,
            "size": len(shared.registry.manifests["team/app", digest][1]),
            "platform": dict(zip(("os", "architecture"), platform.split("/"), strict=True)),
        }
        for platform, digest in digests.items()
    ]
    index = {"schemaVersion": 2, "manifests": entries}
    kind = "application/vnd.oci.image.index.v1+json"
    shared.registry.add_manifest("team/app", "both", kind, json.dumps(index).encode())
    both = ("--cache-from", f"{shared.registry.host}/team/app:both", "-o", "type=cacheonly")
    for platform in digests:
        assert steps(shared.build("two", *both, "--platform", platform)) == (3, 0)
